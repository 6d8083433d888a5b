"""What a graph's rules say together: coupled axes, groups of units, cost, plans."""

from __future__ import annotations
