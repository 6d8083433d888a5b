"""The notation of operators' entries: dims, rules, operations."""

from __future__ import annotations
