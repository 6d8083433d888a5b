"""Removing what was chosen, and checking the result."""

from __future__ import annotations
