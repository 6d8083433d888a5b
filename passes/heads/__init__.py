"""Measure where the heads of attentions look, and how often experts are chosen."""

from __future__ import annotations
