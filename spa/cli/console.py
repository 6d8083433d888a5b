"""Where a command writes: tables to stdout, progress and messages to stderr."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False, emoji=False)


def say(text: Any, *, quiet: bool = False, beside: bool = False) -> None:
    """A line for a person.

    Args:
        quiet: nothing is written.
        beside: stdout carries a model or JSON, so that the line goes to stderr.
    """
    if not quiet:
        (err if beside else out).print(text, markup=False, soft_wrap=True)
