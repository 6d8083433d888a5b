"""Anything -> graph. One file a framework, the same few functions in each; nothing here knows of pruning."""

from __future__ import annotations
