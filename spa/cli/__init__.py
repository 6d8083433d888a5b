"""The `spa` command."""

from __future__ import annotations

from spa.cli.app import app, main

__all__ = ["app", "main"]
