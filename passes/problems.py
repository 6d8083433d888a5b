"""A mixing layer as least-squares problems of a size that can be solved, and the way back to its weight.

Exactly, a row of a convolution is the patch under its window, channels times taps long. Where that is too long, rows
are the channels at one position: the kept channels are fitted to give all channels back, weighted by how much the
layer's taps make of them, and the fit is multiplied into the taps. That is exact for windows of one element, and a
constrained fit otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.passes.consumers import Layer
from spa.passes.secondorder import Consumer, Moments, Refit

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Moments of the rows of one layer, for each block: of samples that are fitted, and of those held out.

    Attributes:
        dense, pruned: some rows of the dense network, (blocks, rows, width), where the moments are of another one, and
            the same rows of that: they tell how much outputs vary.
    """

    fitted: Sequence[Moments]
    held_out: Sequence[Moments]
    dense: np.ndarray | None = None
    pruned: np.ndarray | None = None

    @property
    def seen(self) -> bool:
        """Whether there are rows to fit: none reach a layer behind a decision that no sample takes."""
        return all(moments.count for moments in self.fitted)


@dataclass(frozen=True, slots=True)
class Problem:
    """A layer, and whether its rows are channels only."""

    layer: Layer
    coarse: bool = False

    @classmethod
    def of(cls, layer: Layer, *, widest: int) -> Problem:
        """The exact problem of a layer, or the coarse one where its rows would be longer than `widest`."""
        return cls(layer, layer.mixing.window is not None and layer.width > widest and layer.taps > 1)

    @property
    def key(self) -> Key:
        """Problems with the same key have the same rows."""
        layer = self.layer
        return (layer.data, "channels", layer.block_count, self.width) if self.coarse else layer.input_key

    @property
    def data(self) -> ir.Value:
        """What the layer reads."""
        return self.layer.data

    @property
    def width(self) -> int:
        """Length of a row."""
        return self.layer.width // self.layer.taps if self.coarse else self.layer.width

    def row_count(self, shape: Sequence[int]) -> int:
        """How many rows data of that shape give."""
        return int(shape[0] * np.prod(shape[2:])) if self.coarse else self.layer.row_count(shape)

    def rows(self, data: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Rows of some data, (blocks, positions, width)."""
        if not self.coarse:
            return self.layer.rows(data, positions)
        rows = np.moveaxis(data, 1, -1)
        index = slice(None) if positions is None else np.unravel_index(positions, rows.shape[:-1])
        rows = rows[index].reshape(-1, self.layer.block_count, self.width)
        return np.moveaxis(rows, 1, 0)

    def units(self, units: np.ndarray) -> np.ndarray:
        """(blocks, width) the unit of each element of a row, from those of the exact rows."""
        return units.reshape(self.layer.block_count, self.width, -1)[..., 0] if self.coarse else units

    def consumers(
        self, statistics: Statistics, matrix: np.ndarray, bias: np.ndarray, units: np.ndarray, drift: float = 0.0
    ) -> list[Consumer]:
        """One least-squares problem for each block.

        Args:
            matrix, bias: the layer's dense weight (blocks, layer width, outputs) and bias (blocks, outputs).
            units: of the elements of a row, (blocks, width); -1: stays.
            drift: the share of the drift in the statistics, if there is any, that the layer makes up for.
        """
        found = []
        for b, moments in enumerate(statistics.fitted):
            held_out = statistics.held_out[b] if statistics.held_out[b].count else None
            free = self.layer.bias is not None
            taps = matrix[b].reshape(self.width, -1)
            energy = sample = None
            if statistics.dense is not None and statistics.pruned is not None:
                energy = float(np.sum(np.var(statistics.dense[b] @ taps, axis=0)))
                sample = statistics.dense[b], statistics.pruned[b]
            if self.coarse:
                found.append(
                    Consumer(
                        moments,
                        np.eye(self.width),
                        units[b],
                        np.zeros(self.width),
                        held_out=held_out,
                        output_weight=taps @ taps.T,
                        energy=energy,
                        free_bias=free,
                    )
                )
            else:
                share = drift if moments.drift_width else 0.0
                found.append(
                    Consumer(
                        moments,
                        taps,
                        units[b],
                        bias[b],
                        held_out=held_out,
                        energy=energy,
                        sample=sample,
                        drift=share,
                        free_bias=free,
                    )
                )
        return found

    def assembled(self, refits: Sequence[Refit], matrix: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The layer's weight and bias from what its blocks were refitted to; `matrix` and `bias` are the dense ones."""
        new, shifted = np.zeros_like(matrix), bias.copy()
        for b, found in enumerate(refits):
            if self.coarse:
                taps = matrix[b].reshape(self.width, self.layer.taps, -1)
                whole = np.zeros_like(taps)
                whole[found.rows] = np.tensordot(found.weight, taps, 1)
                new[b] = whole.reshape(matrix[b].shape)
                shifted[b] += found.bias @ taps.sum(1)
            else:
                new[b, found.rows], shifted[b] = found.weight, found.bias
        return new, shifted
