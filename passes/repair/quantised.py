"""Weights of integers opened into plain ones, so that they can be cut and refitted, and closed again.

    DequantizeLinear(levels, scale) -> Conv        Conv with a plain weight
    QLinearConv(x, levels, ...)                    DequantizeLinear(x) -> Conv with a plain weight -> QuantizeLinear

What quantises activations stays as it is. A plain weight keeps the name of its integers, and so does a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from spa.notation.operation import MICROSOFT
from spa.passes.layers.consumers import Layer
from spa.passes.secondorder.grid import Form, on_grid, same, scale_for_all, scaled

Array = npt.NDArray[np.float64]

OPEN, CLOSE = "DequantizeLinear", "QuantizeLinear"
_WIDTHS = {
    ir.DataType.INT4: 4, ir.DataType.UINT4: 4, ir.DataType.INT8: 8, ir.DataType.UINT8: 8, ir.DataType.INT16: 16,
    ir.DataType.UINT16: 16, ir.DataType.INT32: 32,
}  # fmt: skip
_SIGNED = (ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32)

ALIKE = 1e-3
"""Share by which the scale of a bias may be off from that of what it is added to, and follow it."""


@dataclass(frozen=True, slots=True)
class Fused:
    """Where a node that computes with integers has what a plain one does; None: it has none.

    Attributes:
        plain: the operator that does the same with plain numbers.
        data, weight: positions of numbers, of their scale and of their zero point.
        result: positions of the scale and the zero point of what it gives; `plain_too`: it may give plain numbers.
        outputs: the axis of the weight along which it has scales; None: the last, or the first of a transposed one.
        scaled: whether it has scales; else what it gives are sums of integers.
    """

    plain: str
    data: tuple[int, int | None, int]
    weight: tuple[int, int | None, int]
    result: tuple[int, int] | None
    bias: int | None = None
    scaled: bool = True
    outputs: int | None = None
    plain_too: bool = False


FUSED: Mapping[tuple[str, str], Fused] = {
    ("", "QLinearConv"): Fused("Conv", (0, 1, 2), (3, 4, 5), (6, 7), 8, outputs=0),
    ("", "QLinearMatMul"): Fused("MatMul", (0, 1, 2), (3, 4, 5), (6, 7)),
    (MICROSOFT, "QLinearMatMul"): Fused("MatMul", (0, 1, 2), (3, 4, 5), (6, 7)),
    (MICROSOFT, "QGemm"): Fused("Gemm", (0, 1, 2), (3, 4, 5), (7, 8), 6, plain_too=True),
    ("", "MatMulInteger"): Fused("MatMul", (0, None, 2), (1, None, 3), None, scaled=False),
    ("", "ConvInteger"): Fused("Conv", (0, None, 2), (1, None, 3), None, scaled=False, outputs=0),
}

_BIASED = {said.plain for said in FUSED.values() if said.bias is not None}
WITHOUT_BIAS = {said.plain for said in FUSED.values()} - _BIASED
"""Plain operators that none of these gives a bias."""


@dataclass(frozen=True, slots=True)
class Levels:
    """Integers in the layout of their tensor.

    Attributes:
        numbers: as they are stored.
        scales, zeros: one for all, one for each position of an axis, or one for each block along it.
        block: how many positions along the axis share a scale; 0: it has one for each position, or for all.
    """

    numbers: npt.NDArray[np.int64]
    scales: Array
    zeros: npt.NDArray[np.int64]
    axis: int = 0
    block: int = 0

    def spread(self, array: np.ndarray) -> np.ndarray:
        """What has the shape of the scales, in a shape that broadcasts against the integers."""
        if array.ndim == 0 or array.size == 1:
            return array.reshape(())
        if self.block:
            wide = np.repeat(array, self.block, axis=self.axis)
            return wide[tuple(slice(size) for size in self.numbers.shape)]
        shape = [1] * self.numbers.ndim
        shape[self.axis] = -1
        return array.reshape(shape)

    def values(self) -> Array:
        """What they stand for."""
        return np.asarray((self.numbers - self.spread(self.zeros)) * self.spread(self.scales), np.float64)

    def part(self, keep: Sequence[np.ndarray]) -> Levels | None:
        """Those at some positions of every axis; None: blocks would end elsewhere."""
        if self.block and not keep[self.axis].all():
            return None
        numbers = self.numbers[np.ix_(*keep)] if self.numbers.ndim else self.numbers
        if self.scales.size == 1:
            return replace(self, numbers=numbers)
        if self.block:
            apart = [each if at != self.axis else np.ones(self.scales.shape[at], bool) for at, each in enumerate(keep)]
            return replace(self, numbers=numbers, scales=self.scales[np.ix_(*apart)], zeros=self.zeros[np.ix_(*apart)])
        mine = keep[self.axis]
        return replace(self, numbers=numbers, scales=self.scales[mine], zeros=self.zeros[mine])


@dataclass(frozen=True, slots=True)
class Quantised:
    """How a weight or a bias of integers was stored.

    Attributes:
        levels: as it was.
        dtype: of the integers.
        plain: the type of what they stand for.
        scale, zero: names of what is stored beside it; None: there is none.
        result: the value that a node made of it; None: a fused node read it.
        attributes: of that node.
        own: nothing else reads the scale and the zero point.
        follows: of a bias the weight beside it, and the scale of the data, which its scale is a multiple of.
        fused: the domain and operator of the nodes that read it; None: it stood alone.
        node: the name of the node that made the value of it.
    """

    levels: Levels
    dtype: ir.DataType
    plain: ir.DataType
    scale: str | None
    zero: str | None
    result: str | None
    attributes: tuple[ir.Attr, ...] = ()
    domain: str = ""
    own: bool = True
    follows: tuple[str, float] | None = None
    fused: tuple[str, str] | None = None
    node: str = ""

    @property
    def bits(self) -> int:
        """Of a number."""
        return _WIDTHS[self.dtype]

    @property
    def offset(self) -> int:
        """The level, counted from the lowest of the type, of the integer zero."""
        return 1 << (self.bits - 1) if self.dtype in _SIGNED else 0

    @property
    def is_symmetric(self) -> bool:
        """Whether the level in the middle stands for zero, everywhere."""
        return bool(np.all(self.levels.zeros + self.offset == 1 << (self.bits - 1)))

    def unchanged(self, weight: Array, keep: Sequence[np.ndarray]) -> Levels | None:
        """The integers at some positions, where they still stand for the weight; None: it is another."""
        part = self.levels.part(keep)
        return part if part is not None and same(part.values(), weight) else None

    def rounded(
        self,
        weight: Array,
        keep: Sequence[np.ndarray],
        layer: Layer | None,
        grams: Sequence[Array] | None,
        known: Mapping[str, Levels],
    ) -> Levels:
        """A weight or a bias on the grid of its type.

        Args:
            weight: in the layout of the tensor, without what is cut.
            keep: of each axis the positions that stayed.
            layer: what multiplies with it, in the cut model; None: nothing that is known.
            grams: for each block of the layer sums of products of what it reads; None: all inputs count alike.
            known: weights that are rounded already, by name.
        """
        if self.bits == 32:
            return self._line(weight, keep, known)
        part = self.levels.part(keep)
        if part is None:
            return self._in_blocks(weight, layer, grams)
        part = replace(part, numbers=np.zeros(weight.shape, np.int64))
        matrix, index, back = _as_matrices(weight, part, layer)
        form = self.form(matrix.shape[1])
        known_grams: Sequence[Array | None] = [None] * len(matrix) if grams is None else grams
        counted = [None if gram is None else np.diagonal(gram) for gram in known_grams]
        each = len(np.unique(index[:, 0])) == index[:, 0].size == part.scales.size and bool(
            np.all(index == index[:, :1])
        )
        if self.own and each and part.scales.size > 1:
            chosen = [scaled(block.T, form, counts) for block, counts in zip(matrix, counted, strict=True)]
            scales, zeros = part.scales.copy(), part.zeros.copy()
            scales[index[:, 0]] = self._storable(np.stack([scale for scale, _ in chosen]))
            zeros[index[:, 0]] = np.stack([zero for _, zero in chosen]).astype(np.int64) - self.offset
            part = replace(part, scales=scales, zeros=zeros)
        elif self.own and part.scales.size == 1:
            weighed = [(block.T, counts) for block, counts in zip(matrix, counted, strict=True)]
            scale, zero = scale_for_all(weighed, form)
            scales = self._storable(np.full(part.scales.shape, scale))
            part = replace(part, scales=scales, zeros=np.full(part.zeros.shape, int(zero) - self.offset))
        by, points = part.scales.reshape(-1)[index], part.zeros.reshape(-1)[index] + float(self.offset)
        fine = replace(form, block=1)
        grids = [
            on_grid(block.T, fine, gram, (scale.T, zero.T))
            for block, gram, scale, zero in zip(matrix, known_grams, by, points, strict=True)
        ]
        return replace(part, numbers=back(np.stack([grid.levels.T for grid in grids])) - self.offset)

    def form(self, block: int) -> Form:
        """The levels that may be used: of the whole type, or of half of it where the dense weight kept to these."""
        half = 1 << (self.bits - 1)
        used = self.levels.numbers + self.offset
        low, high = (int(used.min(initial=half)), int(used.max(initial=half)))
        if self.is_symmetric:
            reach = half // 2 if max(half - low, high - half) <= half // 2 else half - 1
            return Form(self.bits, block, symmetric=True, low=half - reach, high=half + reach)
        if self.dtype in _SIGNED:
            narrow = low >= half // 2 and high <= half + half // 2
            return Form(self.bits, block, symmetric=False, low=half // 2 if narrow else 0,
                        high=half + half // 2 if narrow else 2 * half - 1)  # fmt: skip
        return Form(self.bits, block, symmetric=False, high=half - 1 if high < half else 2 * half - 1)

    def _in_blocks(self, weight: Array, layer: Layer | None, grams: Sequence[Array] | None) -> Levels:
        """Blocks along the inputs, laid anew."""
        axis, block = self.levels.axis, self.levels.block
        turned = axis == 0
        matrix = weight.T if turned else weight
        blockwise = layer is not None and layer.block_count == 1 and layer.width == matrix.shape[1]
        grid = on_grid(matrix, self.form(block), grams[0] if grams and blockwise else None)
        scales, zeros = self._storable(grid.scales), grid.zeros.astype(np.int64) - self.offset
        fine = on_grid(matrix, self.form(block), grams[0] if grams and blockwise else None, (scales, grid.zeros))
        numbers = fine.levels.astype(np.int64) - self.offset
        if turned:
            return Levels(numbers.T, scales.T, zeros.T, axis, block)
        return Levels(numbers, scales, zeros, axis, block)

    def _line(self, bias: Array, keep: Sequence[np.ndarray], known: Mapping[str, Levels]) -> Levels:
        """A bias, whose scale is that of its weight times that of the data."""
        part = self.levels.part(keep)
        assert part is not None
        scales = part.scales
        if self.follows is not None and self.follows[0] in known:
            name, data = self.follows
            scales = known[name].scales.reshape(-1) * data
            scales = scales.reshape(()) if scales.size == 1 and part.scales.ndim == 0 else scales
        scales = self._storable(scales)
        limits = np.iinfo(np.int32)
        numbers = np.clip(np.round(bias / scales), limits.min, limits.max).astype(np.int64)
        return Levels(numbers, scales, np.zeros(scales.shape, np.int64), 0)

    def _storable(self, scales: Array) -> Array:
        """Scales as their type holds them."""
        stored = scales.astype(self.plain.numpy()).astype(np.float64)
        return np.where(stored > 0, stored, 1.0)


def _as_matrices(
    weight: Array, levels: Levels, layer: Layer | None
) -> tuple[Array, npt.NDArray[np.int64], Callable[[np.ndarray], np.ndarray]]:
    """(blocks, width, outputs) of a weight, the number of the scale of each element, and what lays such levels back."""
    numbers = np.arange(levels.scales.size).reshape(levels.scales.shape)
    index = np.broadcast_to(levels.spread(numbers), weight.shape)
    if layer is None:
        axis = levels.axis if levels.scales.size > 1 else 0
        moved = np.moveaxis(weight, axis, 0) if weight.ndim else weight.reshape(1)

        def flat(array: np.ndarray) -> np.ndarray:
            turned = np.moveaxis(array, axis, 0) if array.ndim else array.reshape(1)
            return turned.reshape(1, len(turned), -1).swapaxes(1, 2)

        def unflat(array: np.ndarray) -> np.ndarray:
            turned = array.swapaxes(1, 2).reshape(moved.shape)
            return (np.moveaxis(turned, 0, axis) if weight.ndim else turned.reshape(())).astype(np.int64)

        return flat(weight), flat(index), unflat
    scale = layer.mixing.product.scale

    def back(array: np.ndarray) -> np.ndarray:
        return np.round(layer.weight_of(array * scale)).astype(np.int64)

    return layer.matrix(weight) / scale, np.round(layer.matrix(index) / scale).astype(np.int64), back


def known_type(dtype: ir.DataType) -> bool:
    """Whether integers of a type can be opened."""
    return dtype in _WIDTHS
