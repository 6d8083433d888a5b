"""The graph that everything starts from: folded, each node with constants of its own."""

from __future__ import annotations
