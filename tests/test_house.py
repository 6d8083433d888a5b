"""What holds of every file: none is long without a reason."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("spa", "passes", "frontends", "models", "tests")
LONG = 320
"""About 300."""


def test_a_long_file_says_why() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):  # links are not followed
            text = path.read_text()
            docstring = ast.get_docstring(ast.parse(text)) or ""
            lines = len(text.splitlines())
            assert lines <= LONG or "One file: " in docstring, (
                f"{path.relative_to(ROOT)} has {lines} lines: make it two, or say `One file: REASON` in its docstring"
            )
