"""Writing and reading at constant positions: ScatterND, ScatterElements and GatherND become Slice, Concat and Gather.

``y[:, :8] = f(y[:, :8])`` is exported as a scatter with a table of all positions. Where the table is the product of a
list for each axis, it is the updates between what comes before and behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from spa.passes.normalize.builder import Builder
from spa.passes.normalize.fold import LISTED_INITIALIZERS, Names, constant
from spa.shapes import Shapes, infer_static
from spa.shapes.types import STANDARD

_OPERATORS = ("GatherND", "Scatter", "ScatterElements", "ScatterND")
_END = np.iinfo(np.int64).max


class PlaceAssignments(ir.passes.InPlacePass):
    """Scatters and gathers at positions that are the product of a constant list for each axis are written plainly."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        old = (model.ir_version or 0) <= LISTED_INITIALIZERS
        nodes = [
            node
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if node.op_type in _OPERATORS
            and node.domain in STANDARD
            and not (old and node.graph is not model.graph)
            and constant(node.inputs[1]) is not None
        ]
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        shapes, names = infer_static(model), Names(model)
        modified = False
        for node in nodes:
            modified |= _place(Builder(model, node, names), shapes)
        return ir.passes.PassResult(model, modified=modified)


def _place(builder: Builder, shapes: Shapes) -> bool:
    node = builder.node
    data, table = node.inputs[0], constant(node.inputs[1])
    dims = None if data is None else shapes.dims.get(data)
    if data is None or table is None or not dims or not table.size or _combines(node):
        return False
    if node.op_type in ("Scatter", "ScatterElements"):
        lists = _along(table.numpy(), node.attributes.get_int("axis", 0) % len(dims), dims)
    elif node.attributes.get_int("batch_dims", 0):
        return False
    else:
        lists = _product(table.numpy(), dims)
    if lists is None:
        return False
    builder.finish(
        [_picked(builder, data, lists) if node.op_type == "GatherND" else _written(builder, data, lists, dims)]
    )
    return True


def _combines(node: ir.Node) -> bool:
    """Whether what is written is put together with what was there."""
    return node.attributes.get_string("reduction", "none") != "none"


Lists = dict[int, list[int]]
"""The positions on each axis; an axis that is not there is taken whole."""


def _product(table: np.ndarray, dims: Sequence[int | str | None]) -> Lists | None:
    """The lists whose product a table (*lengths, axes) is; None: it is none, or an axis is open."""
    count = table.shape[-1]
    if table.ndim != count + 1 or count > len(dims):
        return None
    lists: Lists = {}
    for axis in range(count):
        size = dims[axis]
        along = np.moveaxis(table[..., axis], axis, 0).reshape(table.shape[axis], -1)
        if not isinstance(size, int) or np.any(along != along[:, :1]):
            return None
        lists[axis] = (along[:, 0] % size).tolist()
    return _checked(lists, dims)


def _along(table: np.ndarray, axis: int, dims: Sequence[int | str | None]) -> Lists | None:
    """The positions on one axis, if they are the same for all others, of which none is left out."""
    others = [at for at in range(len(dims)) if at != axis]
    size = dims[axis]
    if not isinstance(size, int) or any(dims[at] != table.shape[at] for at in others):
        return None
    along = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    return None if np.any(along != along[:, :1]) else _checked({axis: (along[:, 0] % size).tolist()}, dims)


def _checked(lists: Lists, dims: Sequence[int | str | None]) -> Lists | None:
    """The lists of axes that are not taken whole; None where a position stands twice: which one counts is open."""
    if any(len(set(positions)) < len(positions) for positions in lists.values()):
        return None
    return {axis: positions for axis, positions in lists.items() if positions != list(range(int(dims[axis] or 0)))}


def _picked(builder: Builder, data: ir.Value, lists: Lists) -> ir.Value:
    for axis, positions in lists.items():
        data = _taken(builder, data, axis, positions)
    return data


def _taken(builder: Builder, data: ir.Value, axis: int, positions: list[int]) -> ir.Value:
    first, last = positions[0], positions[-1]
    if positions == list(range(first, last + 1)):
        return _cut(builder, data, axis, first, last + 1)
    return builder.add("Gather", [data, builder.constant("positions", np.array(positions, np.int64))], axis=axis)[0]


def _cut(builder: Builder, data: ir.Value, axis: int, start: int, end: int) -> ir.Value:
    return builder.sized("Slice", data, starts=[start], ends=[end], axes=[axis])[0]


def _written(builder: Builder, data: ir.Value, lists: Lists, dims: Sequence[int | str | None]) -> ir.Value:
    """The data with the updates at the product of the lists: axis by axis, inside what the first axes pick."""
    updates = builder.node.inputs[2]
    assert updates is not None
    if not lists:
        return updates
    axis, positions = next(iter(lists.items()))
    further = {other: indices for other, indices in lists.items() if other != axis}
    inner = _written(builder, _taken(builder, data, axis, positions), further, dims) if further else updates
    size, first, end = int(dims[axis] or 0), positions[0], positions[-1] + 1
    if positions == list(range(first, end)):
        before = [_cut(builder, data, axis, 0, first)] if first else []
        behind = [_cut(builder, data, axis, end, _END)] if end < size else []
        return builder.add("Concat", [*before, inner, *behind], axis=axis)[0]
    order = np.arange(size)
    order[positions] = size + np.arange(len(positions))
    both = builder.add("Concat", [data, inner], axis=axis)[0]
    return builder.add("Gather", [both, builder.constant("order", order)], axis=axis)[0]
