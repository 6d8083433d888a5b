"""What holds of every file: none is long without a reason."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("spa", "passes", "frontends", "models", "tests")
LONG = 320
"""About 300."""


def test_a_long_file_says_why() -> None:
    long = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):  # links are not followed
            text = path.read_text()
            lines = len(text.splitlines())
            if lines > LONG and "One file: " not in (ast.get_docstring(ast.parse(text)) or ""):
                long[str(path.relative_to(ROOT))] = lines
    assert not long, "make these two, or say `One file: REASON` in their docstrings"
