"""Group the columns of an output by kind: boxes in pixels beside scores from 0 to 1, say.

No graph says it, but the numbers do: along some axis everything on one side of a boundary varies many times as much as
anything on the other. One number for how far such an output moved would be that of the boxes alone. Columns are what
weights make: along an axis of positions, the rim of a map of text varies less than its middle, and is of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.notation.dims import ONE, leaves

BLOCK = 1 << 20
"""Numbers that are looked at together: an output of all samples, as float64, may not fit into memory."""

GAP = 8.0
"""How many times as much columns of another kind vary: those of one kind (logits, features) hardly differ more."""
MOST_KINDS, MOST_COLUMNS = 8, 4096
LONELY = 8
"""Columns of an axis from which on no kind is made of one column: a class that no sample shows is no kind."""
SAID = 1e-12
"""Variances below this share of the mean square are rounding: what does not vary is of any kind."""


@dataclass(frozen=True, slots=True)
class Part:
    """Columns of one kind: `start` to `stop` along an axis of an output; all of it where `axis` is None."""

    axis: int | None = None
    start: int = 0
    stop: int = 0

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of an output, with the same number of axes."""
        return array if self.axis is None else array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]

    def __str__(self) -> str:
        """As an index: [:, 4:84]; nothing for all of an output."""
        return "" if self.axis is None else f"[{':, ' * self.axis}{self.start}:{self.stop}]"


WHOLE = (Part(),)


def column_axes(coupling: Coupling) -> Callable[[ir.Value], frozenset[int]]:
    """What tells of a value the axes along which some weight says how many columns there are; others hold positions."""
    made = {
        leaf
        for value, axes in coupling.axes.items()
        if value in coupling.weights or value.is_initializer()
        for dim in axes
        for leaf in leaves(dim)
    } - {ONE}

    def columns(value: ir.Value) -> frozenset[int]:
        axes = enumerate(coupling.axes.get(value, ()))
        return frozenset(axis for axis, dim in axes if not made.isdisjoint(leaves(dim)))

    return columns


def parts_of(arrays: Sequence[np.ndarray], columns: Container[int] | None = None) -> Sequence[Part]:
    """The parts of an output that are of one kind each; all of it, where there is but one.

    Args:
        arrays: of the dense network, a batch each, samples along the first axis.
        columns: the axes along which kinds may lie, as `column_axes` tells them; None: any.
    """
    if not len(arrays) or len({array.shape[1:] for array in arrays}) > 1 or arrays[0].dtype.kind != "f":
        return WHOLE
    best: tuple[float, Sequence[Part]] = (GAP, WHOLE)
    for axis in range(1, arrays[0].ndim):
        if not 2 <= arrays[0].shape[axis] <= MOST_COLUMNS or (columns is not None and axis not in columns):
            continue
        spread = _deviations(arrays, axis)
        gap, _ = _boundary(spread, 0, len(spread))
        if gap > best[0]:
            cuts = [0, *_boundaries(spread), len(spread)]
            best = gap, [Part(axis, start, stop) for start, stop in pairwise(cuts)]
    return best[1]


def _deviations(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """(columns,) standard deviation along an axis, over all else; NaN where nothing varies or is finite."""
    sums = squares = count = np.zeros(arrays[0].shape[axis])
    for array in arrays:
        for rows in blocks_of(np.moveaxis(array, axis, -1)):
            block = rows.astype(np.float64)
            there = np.isfinite(block)
            block = np.where(there, block, 0.0)
            sums, squares, count = sums + block.sum(0), squares + (block**2).sum(0), count + there.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = squares / count - (sums / count) ** 2
        return np.where(variance > SAID * squares / count, np.sqrt(np.maximum(variance, 0.0)), np.nan)


def blocks_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """(rows, columns) pieces of an array along all but its last axis, of `BLOCK` numbers or one row."""
    inner = array[:1].size
    if array.ndim > 2 and inner > BLOCK:
        for part in array:
            yield from blocks_of(part)
        return
    step = max(1, BLOCK // max(inner, 1))
    for start in range(0, len(array), step):
        yield array[start : start + step].reshape(-1, array.shape[-1])


def _boundaries(spread: np.ndarray) -> list[int]:
    """Where kinds meet, ascending."""
    pieces = [(0, len(spread))]
    for _ in range(MOST_KINDS - 1):
        boundaries = [(*_boundary(spread, *piece), piece) for piece in pieces]
        gap, at, piece = max(boundaries, key=lambda entry: entry[0])
        if gap <= GAP:
            break
        pieces.remove(piece)
        pieces += [(piece[0], at), (at, piece[1])]
    return sorted(start for start, _ in pieces if start)


def _boundary(spread: np.ndarray, start: int, stop: int) -> tuple[float, int]:
    """By how much the columns on one side of the best boundary outdo those on the other at least, and where it is."""
    part = spread[start:stop]
    least = 2 if len(spread) >= LONELY else 1
    ats = np.arange(least, len(part) - least + 1)
    if not len(ats) or np.all(np.isnan(part)):
        return 1.0, start
    low, high = np.where(np.isnan(part), np.inf, part), np.where(np.isnan(part), 0.0, part)
    left_low, left_high = np.minimum.accumulate(low)[ats - 1], np.maximum.accumulate(high)[ats - 1]
    right_low, right_high = np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high[::-1])[::-1]
    right_low, right_high = right_low[ats % len(part)], right_high[ats % len(part)]
    with np.errstate(invalid="ignore", divide="ignore"):
        gaps = np.maximum(left_low / right_high, right_low / left_high)
    gaps = np.where(np.isfinite(gaps), gaps, 1.0)  # one side does not vary at all
    best = int(np.argmax(gaps))
    return float(gaps[best]), start + int(ats[best])
