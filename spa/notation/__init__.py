"""What an operator's entry is written in: dims, rules, operations."""

from __future__ import annotations
