"""Lists of tensors whose elements are known: SplitToSequence and SequenceAt become Split, and their likes go, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from spa.passes.normalize.builder import Builder
from spa.passes.normalize.fold import LISTED_INITIALIZERS, Names, constant
from spa.shapes import Shapes, infer_static
from spa.shapes.types import STANDARD

MOST = 1024  # elements of a list that are written out

Elements = list[ir.Value]
Lists = dict[ir.Value, Elements]


class UnrollSequences(ir.passes.InPlacePass):
    """Nodes that make and read lists of known length at known positions become nodes on the elements.

    A list that something else reads too (a loop, a graph output, a position found at run time) stays as it is.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _operator(node) in _MAKE]
        old = (model.ir_version or 0) <= LISTED_INITIALIZERS
        nodes = [
            node for node in nodes if not (old and node.graph is not model.graph) and _is_followed(node.outputs[0])
        ]
        if not nodes:
            return ir.passes.PassResult(model, modified=False)
        shapes, names = infer_static(model), Names(model)
        lists: Lists = {}
        modified = False
        for node in nodes:
            elements = _MAKE[node.op_type](Builder(model, node, names), lists, shapes)
            if elements is not None and 0 < len(elements) <= MOST:
                lists[node.outputs[0]] = elements
        for value, elements in lists.items():
            for reader in [use.node for use in value.uses()]:
                if (read := _READ.get(reader.op_type)) is not None:
                    modified |= read(Builder(model, reader, names), elements)
        return ir.passes.PassResult(model, modified=modified)


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in STANDARD else ""


def _number(value: ir.Value | None, default: int) -> int | None:
    """A position; the default where it is omitted, None where it is not known."""
    if value is None:
        return default
    tensor = constant(value)
    return None if tensor is None else int(tensor.numpy().reshape(()))


def _operand(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if position < len(node.inputs) else None


def _is_followed(value: ir.Value) -> bool:
    """Whether all that reads a list is known."""
    if value.is_graph_output():
        return False
    for node, position in value.uses():
        operator = _operator(node)
        if node.graph is not _graph_of(value) or position != 0:
            return False
        if operator in ("SequenceInsert", "SequenceErase"):
            at = _operand(node, 2 if operator == "SequenceInsert" else 1)
            if _number(at, -1) is None or not _is_followed(node.outputs[0]):
                return False
        elif operator == "SequenceAt":
            if _number(node.inputs[1], 0) is None:
                return False
        elif operator not in _READ:
            return False
    return True


def _graph_of(value: ir.Value) -> object:
    node = value.producer()
    return None if node is None else node.graph


# ------------------------------------------------------------------------------------------------------- making
def _construct(builder: Builder, _lists: Lists, _shapes: Shapes) -> Elements | None:
    return [value for value in builder.node.inputs if value is not None]


def _split(builder: Builder, _lists: Lists, shapes: Shapes) -> Elements | None:
    node = builder.node
    data = node.inputs[0]
    dims = None if data is None else shapes.dims.get(data)
    if data is None or not dims:
        return None
    axis = node.attributes.get_int("axis", 0) % len(dims)
    size, given = dims[axis], _operand(node, 1)
    sizes = constant(given) if given is not None else ir.tensor(np.array(1))
    if not isinstance(size, int) or sizes is None or not size:
        return None
    numbers = sizes.numpy()
    step = int(numbers.reshape(-1)[0])
    lengths = [min(step, size - at) for at in range(0, size, step)] if numbers.ndim == 0 else numbers.tolist()
    if len(lengths) > MOST:
        return None
    parts = [data]
    if len(lengths) > 1:
        parts = builder.sized("Split", data, count=len(lengths), axis=axis, split=lengths)
    if given is None and not node.attributes.get_int("keepdims", 1):
        parts = [builder.sized("Squeeze", part, axes=[axis])[0] for part in parts]
    return parts


def _insert(builder: Builder, lists: Lists, _shapes: Shapes) -> Elements | None:
    sequence, element = builder.node.inputs[:2]
    elements = list(lists.get(sequence, ())) if sequence is not None else []
    if element is None or not (elements or _is_empty(sequence)):
        return None
    at = _number(_operand(builder.node, 2), len(elements))
    assert at is not None  # asked before
    elements.insert(at + len(elements) if at < 0 else at, element)
    return elements


def _is_empty(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    return node is not None and _operator(node) == "SequenceEmpty"


def _erase(builder: Builder, lists: Lists, _shapes: Shapes) -> Elements | None:
    sequence = builder.node.inputs[0]
    elements = list(lists.get(sequence, ())) if sequence is not None else []
    at = _number(_operand(builder.node, 1), -1)
    if at is None or not -len(elements) <= at < len(elements):
        return None
    del elements[at]
    return elements


_MAKE: Mapping[str, Callable[[Builder, Lists, Shapes], Elements | None]] = {
    "SequenceConstruct": _construct,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SplitToSequence": _split,
}


# ------------------------------------------------------------------------------------------------------ reading
def _at(builder: Builder, elements: Elements) -> bool:
    at = _number(builder.node.inputs[1], 0)
    if at is None or not -len(elements) <= at < len(elements):
        return False
    builder.finish([elements[at]])
    return True


def _length(builder: Builder, elements: Elements) -> bool:
    builder.finish([builder.constant("length", np.array(len(elements), np.int64))])
    return True


def _concat(builder: Builder, elements: Elements) -> bool:
    axis = builder.node.attributes["axis"].as_int()
    if builder.node.attributes.get_int("new_axis", 0):
        elements = [builder.sized("Unsqueeze", element, axes=[axis])[0] for element in elements]
    builder.finish(builder.add("Concat", elements, axis=axis))
    return True


_READ: Mapping[str, Callable[[Builder, Elements], bool]] = {
    "ConcatFromSequence": _concat,
    "SequenceAt": _at,
    "SequenceLength": _length,
}
