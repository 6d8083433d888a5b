"""Rows of operators that get no rule, and say why."""

# A rule is one line of text, however long.

from __future__ import annotations

from spa.operators.opaque import REASONS
from tests.soundness import Row, row

OTHERS = {
    "a constant of its own, which normalising makes an initializer": "Constant",
    "chooses positions by value when the graph runs": "NonMaxSuppression Unique",
    "control flow that has no body": "If Loop Scan",
}

ROWS: list[Row] = [
    row(name, [(2, 3)], f"refused: {reason}", engine="", shapes=[(2, 3)])
    for reason, names in (REASONS | OTHERS).items()
    for name in names.split()
]
