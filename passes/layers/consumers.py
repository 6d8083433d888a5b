"""Mixing consumers: the layers that multiply what a group makes with a stored weight, each one least-squares problem.

A layer computes `rows x matrix + bias`: rows are the elements of its data that meet a column of weights, for every
sample and position (for a convolution the patch under its window, zeros of the padding included). That form is read off
the rule of the node, so a matrix product, a grouped convolution and an Einsum are one case here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from spa.analysis.application import Mixing
from spa.analysis.group import Group, leaf_positions
from spa.analysis.neighbours import added_behind
from spa.notation.dims import Factor, leaves, product
from spa.notation.patterns import Pattern, Term, names_of
from spa.passes.layers.window import patches, places, slid_over


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A node that multiplies data with a stored weight.

    Names are sorted into four sorts: `blocks` stand in data, weight and result (convolution groups, experts), and each
    index of theirs is a problem of its own; `contracted` are summed over; `outputs` stand in the weight only; what else
    the data have are samples and positions.

    Attributes:
        data: what it reads.
        bias: the stored tensor that is added to the result, None where there is none.
        shared: the weight is read by other nodes too.
    """

    node: ir.Node
    mixing: Mixing
    data: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    factors: Mapping[str, Factor]
    blocks: tuple[str, ...]
    contracted: tuple[str, ...]
    outputs: tuple[str, ...]
    shared: bool = False

    @property
    def name(self) -> str:
        """What reports call it."""
        return str(self.node.name or self.weight.name)

    @property
    def after(self) -> ir.Value:
        """The value that has to be there before the layer may be refitted: the last one before its node runs."""
        value = self.node.inputs[0] if self.mixing.steps is not None else self.data
        assert value is not None
        return value

    @property
    def result(self) -> ir.Value:
        """What it gives, the bias included where another node adds it."""
        value = self.node.outputs[0]
        behind = added_behind(value)
        return behind[0].outputs[0] if behind is not None and self.bias in behind[0].inputs else value

    @property
    def block_count(self) -> int:
        """How many problems it consists of."""
        return self._total(self.blocks)

    @property
    def width(self) -> int:
        """Length of a row."""
        return self._total(self.contracted)

    @property
    def taps(self) -> int:
        """How many elements of each channel are in a row."""
        return prod(self.mixing.window.kernel) if self.mixing.window is not None else 1

    @property
    def output_width(self) -> int:
        """Number of outputs of a block."""
        return self._total(self.outputs)

    @property
    def input_key(self) -> tuple[object, ...]:
        """Layers with the same key read the same rows."""
        widths = tuple(self.factors[name].size for name in (*self.blocks, *self.contracted))
        axes = tuple(str(term) for term in self.mixing.data_axes or ())
        return (self.data, self.mixing.window, widths, axes if self.mixing.window is None else (), self.mixing.steps)

    def unit_of(self, group: Group) -> np.ndarray:
        """The unit of the group that each element of a row belongs to, (blocks, width); -1: none."""
        inside = {leaf for name in self.contracted for leaf in leaves(self.factors[name])}
        wanted = {leaf: start for leaf, start in group.offsets.items() if leaf in inside}
        dims = [self.factors[name] for name in (*self.blocks, *self.contracted)]
        units = np.full(prod(dim.size for dim in dims), -1)
        for leaf, index in leaf_positions(product(*dims), wanted):
            units = np.where(index >= 0, index + wanted[leaf], units)
        return units.reshape(self.block_count, self.width)

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """The weight as (blocks, width, outputs), scaled as the node scales it."""
        array = self._split(weight, self.mixing.weight_axes)
        axes = self._weight_order()
        array = array.transpose(axes).reshape(self.block_count, self.width, self.output_width)
        return array * self.mixing.product.scale if self.mixing.product.scale != 1.0 else array

    def weight_of(self, matrix: np.ndarray) -> np.ndarray:
        """What `matrix` was made of."""
        names = (*self.blocks, *self.contracted, *self.outputs)
        scale = self.mixing.product.scale
        array = (matrix if scale == 1.0 else matrix / scale).reshape([self.factors[name].size for name in names])
        order = np.argsort(self._weight_order())
        return array.transpose(order).reshape([self._size(term) for term in self.mixing.weight_axes or ()])

    def bias_vector(self, bias: np.ndarray | None) -> np.ndarray:
        """The bias as (blocks, outputs); zeros where there is none."""
        shape = (self.block_count, self.output_width)
        if bias is None:
            return np.zeros(shape)
        said, part = self.mixing.product, bias.reshape(-1)
        if said.parts > 1:
            part = bias.reshape(*bias.shape[:-1], said.parts, -1)[..., said.part, :].reshape(-1)
        if part.size == 1:
            part = np.broadcast_to(part, prod(shape))
        array = part.reshape(self._bias_sizes()).transpose(self._bias_order()).reshape(shape)
        return np.asarray(array * said.bias_scale)

    def bias_of(self, vector: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The stored bias that is `vector` (blocks, outputs); `before` gives its shape, and its other parts."""
        said = self.mixing.product
        sizes = [self.factors[name].size for name in (*self.blocks, *self.outputs)]
        part = (vector / said.bias_scale).reshape(sizes).transpose(np.argsort(self._bias_order())).reshape(-1)
        if said.parts > 1:
            whole = before.astype(np.float64).reshape(*before.shape[:-1], said.parts, -1)
            whole[..., said.part, :] = part.reshape(whole.shape[:-2] + whole.shape[-1:])
            return np.asarray(whole.reshape(before.shape))
        return part.reshape(before.shape if before.size == part.size else self.bias_shape())

    def bias_shape(self) -> tuple[int, ...]:
        """The shape of a bias made new."""
        parts = self.mixing.product.parts
        *outer, last = (self._size(term) for term in self.mixing.bias_axes or ())
        return (*outer, last * parts)

    # ---------------------------------------------------------------------------------------------- rows
    def rows(self, data: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Rows of some data, (blocks, positions, width).

        Args:
            positions: numbers of the rows that are wanted, in the order of samples and places; None: all.
        """
        if self.mixing.window is not None:
            flat = patches(data, self.mixing.window, positions)
            return np.moveaxis(flat.reshape(len(flat), self.block_count, self.width), 1, 0)
        if self.mixing.steps is not None:
            data = self._earlier(data)
        axes = self.mixing.data_axes or ()
        array = self._split(data, axes)
        names = names_along(axes)
        free = [at for at, name in enumerate(names) if name not in self.blocks and name not in self.contracted]
        order = [*map(names.index, self.blocks), *free, *map(names.index, self.contracted)]
        rows = array.transpose(order).reshape(self.block_count, -1, self.width)
        return rows if positions is None else rows[:, positions]

    def row_count(self, shape: Sequence[int]) -> int:
        """How many rows data of that shape give."""
        if self.mixing.window is not None:
            return int(shape[0]) * prod(places(self.mixing.window, slid_over(self.mixing.window, shape)))
        total = prod(shape) // (self.block_count * self.width)
        if self.mixing.steps is not None:
            total -= total // int(shape[self.mixing.steps])
        return total

    def output_rows(self, result: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """What the node gives, in the order of `rows`: (blocks, positions, outputs)."""
        axes = self.mixing.result_axes or ()
        names = names_along(axes)
        free = [at for at, name in enumerate(names) if name not in self.blocks and name not in self.outputs]
        order = [*map(names.index, self.blocks), *free, *map(names.index, self.outputs)]
        rows = self._split(result, axes).transpose(order).reshape(self.block_count, -1, self.output_width)
        return rows if positions is None else rows[:, positions]

    def _earlier(self, data: np.ndarray) -> np.ndarray:
        """States before each step but the first, of every direction."""
        mixing = self.mixing
        assert mixing.steps is not None
        names = names_along(mixing.data_axes or ())
        axis = names.index(self.blocks[0])  # directions
        parts = []
        for direction, back in enumerate(mixing.product.back):
            part = np.take(data, [direction], axis)
            steps = slice(1, None) if back else slice(None, -1)
            parts.append(part[(slice(None),) * mixing.steps + (steps,)])
        return np.concatenate(parts, axis)

    # -------------------------------------------------------------------------------------------- layout
    def _total(self, names: Iterable[str]) -> int:
        return prod(self.factors[name].size for name in names)

    def _size(self, term: Term) -> int:
        return 1 if isinstance(term, int) else self._total(name.name for name in names_of(term))

    def _split(self, array: np.ndarray, axes: Pattern) -> np.ndarray:
        """One axis for each name; axes of length one that have no name go."""
        known = {*self.blocks, *self.contracted, *self.outputs}
        shape: list[int] = []
        for size, term in zip(array.shape, axes or (), strict=True):
            shape += [self.factors[n.name].size if n.name in known else size for n in names_of(term)]
        return array.reshape(shape)

    def _weight_order(self) -> list[int]:
        names = names_along(self.mixing.weight_axes)
        return [names.index(name) for name in (*self.blocks, *self.contracted, *self.outputs)]

    def _bias_sizes(self) -> list[int]:
        return [self.factors[name].size for name in self._bias_names()]

    def _bias_names(self) -> list[str]:
        return names_along(self.mixing.bias_axes)

    def _bias_order(self) -> list[int]:
        names = self._bias_names()
        return [names.index(name) for name in (*self.blocks, *self.outputs)]


def names_along(axes: Pattern) -> list[str]:
    """The names of a tensor's axes, in order."""
    return [name.name for term in axes or () for name in names_of(term)]
