"""The table of rows that every rule is checked by, a file a family."""

from __future__ import annotations

from tests.rows import (
    attention,
    generate,
    indexing,
    linear,
    microsoft,
    movement,
    norm,
    opaque,
    pointwise,
    pool,
    quantize,
    recurrent,
    reduce,
)
from tests.soundness import Row

FAMILIES = (
    attention, generate, indexing, linear, microsoft, movement, norm, opaque, pointwise, pool, quantize, recurrent,
    reduce,
)  # fmt: skip
ROWS: list[Row] = [row for family in FAMILIES for row in family.ROWS]
