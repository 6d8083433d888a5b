"""The `spa` command: app.py runs it, the modules that are imported here add its commands."""

from __future__ import annotations

from spa.cli import converting, looking, measuring, profiling, pruning, sweeping  # noqa: F401
from spa.cli.app import app, main

__all__ = ["app", "main"]
