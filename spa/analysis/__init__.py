"""Solve the rules of a graph together: coupled axes, groups of units, cost, plans."""

from __future__ import annotations
