"""The table of rows that every rule is checked by, a file a family."""

from __future__ import annotations

from tests.rows import attention as attention
from tests.rows import generate as generate
from tests.rows import indexing as indexing
from tests.rows import linear as linear
from tests.rows import microsoft as microsoft
from tests.rows import movement as movement
from tests.rows import norm as norm
from tests.rows import opaque as opaque
from tests.rows import pointwise as pointwise
from tests.rows import pool as pool
from tests.rows import quantize as quantize
from tests.rows import recurrent as recurrent
from tests.rows import reduce as reduce
from tests.soundness import Row

ROWS: list[Row] = [
    *attention.ROWS,
    *generate.ROWS,
    *indexing.ROWS,
    *linear.ROWS,
    *microsoft.ROWS,
    *movement.ROWS,
    *norm.ROWS,
    *opaque.ROWS,
    *pointwise.ROWS,
    *pool.ROWS,
    *quantize.ROWS,
    *recurrent.ROWS,
    *reduce.ROWS,
]
