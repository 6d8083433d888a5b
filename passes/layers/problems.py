"""A mixing layer as least-squares problems of a size that can be solved, and the way back to its weight.

Exactly, a row of a convolution is the patch under its window, channels times taps long. Where that is too long, rows
are the channels at one position: the kept channels are fitted to give all channels back, weighted by how much the
layer's taps make of them, and the fit is multiplied into the taps. That is exact for windows of one element, and a
constrained fit otherwise. The same goes for a matrix behind a flattening, whose row is channels times places.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx_ir as ir

from spa.notation.dims import Factor, Kind, leaves
from spa.passes.layers.consumers import Layer
from spa.passes.layers.window import channels_behind, slid_over
from spa.passes.secondorder import Consumer, Moments, Refit, columns_of

Key = tuple[object, ...]

LONGEST = 4096
"""Rows of flattened data that are longer are channels only: a problem's cost grows as the cube of its length."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Moments of the rows of one layer, for each block: of samples that are fitted, and of those held out.

    Attributes:
        drifting: moments with the drift of each layer that has one, as `fitted` and `held_out`: layers that read the
            same rows may be added to different branches.
        dense, pruned: some rows of the dense network, (blocks, rows, width), where the moments are of another one, and
            the same rows of that: they tell how much outputs vary.
    """

    fitted: Sequence[Moments]
    held_out: Sequence[Moments]
    dense: np.ndarray | None = None
    pruned: np.ndarray | None = None
    drifting: Mapping[Layer, tuple[Sequence[Moments], Sequence[Moments]]] = field(default_factory=dict)

    def of(self, layer: Layer) -> tuple[Sequence[Moments], Sequence[Moments]]:
        """Moments for one of the layers that read these rows, with its drift: fitted, held out."""
        return self.drifting.get(layer, (self.fitted, self.held_out))

    def taking(self, other: Statistics) -> Statistics:
        """Those of the samples of both, in one network, without drift; these are not to be used any more."""
        sides = ((self.fitted, other.fitted), (self.held_out, other.held_out))
        fitted, held_out = ([moments.taking(more) for moments, more in zip(*side, strict=True)] for side in sides)
        return Statistics(fitted, held_out)

    def lay(self, keep: Callable[[np.ndarray], np.ndarray]) -> None:
        """Let the moments lie where `keep` puts them, once nothing is to be added any more."""
        for moments in (*self.fitted, *self.held_out):
            moments.lay(keep)

    @property
    def seen(self) -> bool:
        """Whether there are rows to fit: none reach a layer behind a decision that no sample takes."""
        return all(moments.count for moments in self.fitted)


def joined(uses: Sequence[tuple[Layer, Statistics]]) -> Statistics:
    """Statistics of one weight in all its uses, each of which has a bias of its own: rows are about their means."""
    parts = [statistics.of(layer) for layer, statistics in uses]
    blocks = range(len(parts[0][0]))
    fitted, held_out = ([Moments.within([part[k][b] for part in parts]) for b in blocks] for k in (0, 1))
    rows = [(s.dense, s.pruned) for _, s in uses if s.dense is not None and s.pruned is not None]
    if not rows:
        return Statistics(fitted, held_out)
    dense, pruned = (
        np.concatenate([r - r.mean(1, keepdims=True) for r in side], 1) for side in zip(*rows, strict=True)
    )
    return Statistics(fitted, held_out, dense, pruned)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A layer, and what its rows are made of.

    Attributes:
        layout: (channels, places) numbers of a row's elements, where rows are channels only, and places are the taps of
            a window or those of flattened data; None: rows are whole.
    """

    layer: Layer
    layout: np.ndarray | None = None

    @classmethod
    def of(cls, layer: Layer, *, widest: int, removable: Container[Factor] = ()) -> Problem:
        """The exact problem of a layer, or the coarse one where its rows would be long.

        Args:
            widest: elements of a row of a convolution.
            removable: leaves of which something may go: channels, the others being places.
        """
        if layer.mixing.window is not None:
            return cls.coarsely(layer) if layer.width > widest and layer.taps > 1 else cls(layer)
        if layer.width <= max(widest, LONGEST) or layer.mixing.steps is not None:
            return cls(layer)
        parts = list(_parts(layer.factors[name] for name in layer.contracted))
        chosen = [at for at, part in enumerate(parts) if any(leaf in removable for leaf in leaves(part))]
        if not chosen:
            return cls(layer)
        order = [*chosen, *(at for at in range(len(parts)) if at not in chosen)]
        numbers = np.arange(layer.width).reshape([part.size for part in parts]).transpose(order)
        layout = numbers.reshape(prod(parts[at].size for at in chosen), -1)
        return cls(layer, layout) if layout.shape[1] > 1 else cls(layer)

    @classmethod
    def coarsely(cls, layer: Layer) -> Problem:
        """The problem of a convolution whose rows are channels only."""
        return cls(layer, np.arange(layer.width).reshape(-1, layer.taps))

    @property
    def coarse(self) -> bool:
        """Whether rows are channels only."""
        return self.layout is not None

    @property
    def places(self) -> int:
        """How many elements of a whole row each element stands for."""
        return 1 if self.layout is None else self.layout.shape[1]

    @property
    def key(self) -> Key:
        """Problems with the same key have the same rows."""
        layer = self.layer
        if not self.coarse:
            return layer.input_key
        kind = "channels" if layer.mixing.window is not None else "flattened channels"
        return (layer.data, kind, layer.block_count, self.width)

    @property
    def data(self) -> ir.Value:
        """What the layer reads."""
        return self.layer.data

    @property
    def width(self) -> int:
        """Length of a row."""
        return self.layer.width // self.places

    def row_count(self, shape: Sequence[int]) -> int:
        """How many rows data of that shape give."""
        if self.coarse and self.layer.mixing.window is not None:
            return int(shape[0]) * prod(slid_over(self.layer.mixing.window, shape))
        return self.layer.row_count(shape) * self.places

    def rows(self, data: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Rows of some data, (blocks, positions, width)."""
        if self.layout is None:
            return self.layer.rows(data, positions)
        if self.layer.mixing.window is None:
            whole = self.layer.rows(data)
            numbers = np.arange(whole.shape[1] * self.places) if positions is None else positions
            row, place = np.divmod(numbers, self.places)
            return whole[:, row[:, None], self.layout.T[place]]
        rows = channels_behind(self.layer.mixing.window, data)
        index = slice(None) if positions is None else np.unravel_index(positions, rows.shape[:-1])
        rows = rows[index].reshape(-1, self.layer.block_count, self.width)
        return np.moveaxis(rows, 1, 0)

    def units(self, units: np.ndarray) -> np.ndarray:
        """(blocks, width) the unit of each element of a row, from those of the whole rows."""
        return units if self.layout is None else units[:, self.layout[:, 0]]

    def consumers(
        self,
        statistics: Statistics,
        matrix: np.ndarray,
        bias: np.ndarray,
        units: np.ndarray,
        drift: float = 0.0,
        prior: np.ndarray | None = None,
    ) -> list[Consumer]:
        """One least-squares problem for each block.

        Args:
            matrix, bias: the layer's dense weight (blocks, layer width, outputs) and bias (blocks, outputs).
            units: of the elements of a row, (blocks, width); -1: stays.
            drift: the share of the drift in the statistics, if there is any, that the layer makes up for.
            prior: (blocks, width, width) covariance of the rows that is believed in besides, as `Consumer.prior`.
        """
        consumers = []
        fitted, unseen = statistics.of(self.layer)
        for b, moments in enumerate(fitted):
            held_out = unseen[b] if unseen[b].count else None
            free = self.layer.bias is not None
            energy = sample = None
            believed = None if prior is None else prior[b]
            if self.layout is not None:
                taps = matrix[b][self.layout].reshape(self.width, -1)
                square = taps @ taps.T
                if statistics.dense is not None:
                    energy = float(np.sum(np.cov(statistics.dense[b], rowvar=False, ddof=0) * square))
                consumers.append(
                    Consumer(
                        moments,
                        np.eye(self.width),
                        units[b],
                        np.zeros(self.width),
                        held_out=held_out,
                        output_weight=square,
                        energy=energy,
                        free_bias=free,
                        prior=believed,
                    )
                )
            else:
                if statistics.dense is not None and statistics.pruned is not None:
                    rows = statistics.dense[b]
                    some = [np.var(rows @ matrix[b][:, columns], axis=0) for columns in columns_of(matrix[b])]
                    energy = float(np.sum(np.concatenate(some)))
                    sample = statistics.dense[b], statistics.pruned[b]
                share = drift if moments.drift_width else 0.0
                consumers.append(
                    Consumer(
                        moments,
                        matrix[b],
                        units[b],
                        bias[b],
                        held_out=held_out,
                        energy=energy,
                        sample=sample,
                        drift=share,
                        free_bias=free,
                        prior=believed,
                    )
                )
        return consumers

    def bias_for(
        self, statistics: Statistics, new: np.ndarray, matrix: np.ndarray, bias: np.ndarray, drift: float = 0.0
    ) -> np.ndarray:
        """(blocks, outputs) the bias that keeps the means of the outputs beside a new weight; the dense one if fixed.

        Args:
            new, matrix, bias: the new weight (blocks, layer width, outputs), and the dense weight and bias.
            drift: the share of the drift in the statistics, if there is any, that the layer makes up for.
        """
        if self.layer.bias is None:
            return bias
        shifted = bias.copy()
        for b, (moments, unseen) in enumerate(zip(*statistics.of(self.layer), strict=True)):
            total = moments.weight + unseen.weight
            mean, dense_mean, drift_mean = (
                (moments.weight * getattr(moments, name) + unseen.weight * getattr(unseen, name)) / total
                for name in ("mean", "dense_mean", "drift_mean")
            )
            shifted[b] += self._whole(dense_mean) @ matrix[b] - self._whole(mean) @ new[b]
            if moments.drift_width:
                shifted[b] += drift * drift_mean
        return shifted

    def _whole(self, row: np.ndarray) -> np.ndarray:
        """(layer width,) a row of the layer from one of the problem: every place of a channel has its mean."""
        if self.layout is None:
            return row
        whole = np.zeros(self.layer.width)
        whole[self.layout] = row[:, None]
        return whole

    def assembled(
        self, refits: Sequence[Refit], bias: np.ndarray, matrix: Callable[[], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The layer's weight and bias from what its blocks were refitted to.

        Args:
            bias: the dense one.
            matrix: gives the dense weight, where it is needed.
        """
        shape = self.layer.block_count, self.layer.width, self.layer.output_width
        if self.layout is None:
            shifted = np.stack([refit.bias for refit in refits])
            if len(refits) == 1 and np.array_equal(refits[0].rows, np.arange(self.layer.width)):  # no copy of a head
                return refits[0].weight[None], shifted
            new = np.zeros(shape)
            for b, refit in enumerate(refits):
                new[b, refit.rows] = refit.weight
            return new, shifted
        new, shifted = np.zeros(shape), bias.copy()
        dense = matrix()
        for b, refit in enumerate(refits):
            taps = dense[b][self.layout]
            new[b][self.layout[refit.rows]] = np.tensordot(refit.weight, taps, 1)
            shifted[b] += refit.bias @ taps.sum(1)
        return new, shifted


def _parts(dims: Iterable[Factor]) -> Iterator[Factor]:
    """The factors of a product of dims, as far as they are products themselves."""
    for dim in dims:
        if dim.root.kind is Kind.PRODUCT:
            yield from _parts(dim.root.parts)
        else:
            yield dim.root
