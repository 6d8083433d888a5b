"""The `spa` command: app.py runs it; pruning.py, looking.py, converting.py and measuring.py hold the commands."""

from __future__ import annotations

from spa.cli import converting, looking, measuring, pruning  # noqa: F401 - they add their commands
from spa.cli.app import app, main

__all__ = ["app", "main"]
