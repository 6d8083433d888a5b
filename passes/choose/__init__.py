"""Which units go: scores, candidates, budgets."""

from __future__ import annotations
