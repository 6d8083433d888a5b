"""Moments of the rows that mixing layers read, collected batch by batch from one stream or from two at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.passes.consumers import Layer
from spa.passes.secondorder.moments import Moments, is_held_out

MULTIPLE, LEAST_MULTIPLE, LEAST_ROWS = 30, 4, 4096
"""Rows that are enough: so many times the width of a row, at least that many times, and at least so many in all."""

ENOUGH_FLOPS = 3e11
"""Above this a Gram matrix of `MULTIPLE` times its width in rows is made of fewer."""

Fetch = Callable[[ir.Value, int], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Moments of the rows of one layer, for each block: of samples that are fitted, and of those held out."""

    fitted: Sequence[Moments]
    held_out: Sequence[Moments]


def enough_rows(width: int) -> int:
    """How many rows are looked at; where there are more, so many of them are drawn."""
    return max(LEAST_ROWS, LEAST_MULTIPLE * width, min(MULTIPLE * width, int(ENOUGH_FLOPS / (4 * width * width))))


def collect(
    layers: Iterable[Layer], count: int, dense: Fetch, pruned: Fetch | None = None, *, weights: Fetch | None = None
) -> dict[tuple[object, ...], Statistics]:
    """Statistics of some layers, one for all that read the same rows.

    Args:
        count: how many batches there are; the last of every six is held out, where there are six.
        dense, pruned: a value of a batch in the dense and in the pruned network; without the second, of one network.
    """
    readers = {layer.input_key: layer for layer in layers}
    every = 6 if count >= 6 else max(2, count)
    found = {key: _Collector(layer, count, symmetric=pruned is None) for key, layer in readers.items()}
    for number in range(count):
        held_out = count > 1 and is_held_out(number, every=every)
        for layer, collector in zip(readers.values(), found.values(), strict=True):
            collector.add(number, dense(layer.data, number), None if pruned is None else pruned(layer.data, number), held_out)
    return {key: collector.statistics for key, collector in found.items()}


class _Collector:
    def __init__(self, layer: Layer, count: int, *, symmetric: bool) -> None:
        dense_width = None if symmetric else layer.width
        self.layer = layer
        self.share = -(-enough_rows(layer.width) // count)  # rows of a batch

        def moments() -> list[Moments]:
            return [Moments(layer.width, dense_width=dense_width, name=layer.name) for _ in range(layer.block_count)]

        self.statistics = Statistics(moments(), moments())

    def add(self, number: int, dense: np.ndarray, pruned: np.ndarray | None, held_out: bool) -> None:
        total = self.layer.row_count(dense.shape)
        positions = None
        if total > self.share:  # the same rows of both networks, in any run
            positions = np.random.default_rng(number).choice(total, self.share, replace=False)
        rows = self.layer.rows(dense, positions)
        into = self.statistics.held_out if held_out else self.statistics.fitted
        if pruned is None:
            for moments, block in zip(into, rows, strict=True):
                moments.update(block)
            return
        for moments, block, other in zip(into, rows, self.layer.rows(pruned, positions), strict=True):
            moments.update(other, block)
