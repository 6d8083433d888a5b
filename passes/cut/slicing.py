"""Removing units: every tensor, shape, attribute and number that follows from them, in one pass.

The slicing knows no operator: stored tensors are cut along the dims of their axes, and the numbers that
have to change are the ones that the nodes' rules name (`Sizes`, `Positions`, `Observed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from spa.analysis.application import Application
from spa.analysis.coupling import Coupling
from spa.analysis.group import Masks, keep_mask
from spa.errors import ModelError
from spa.mapped import map_of, release
from spa.notation.dims import Factor, show
from spa.notation.patterns import Term
from spa.notation.rule import Observed, Positions, Sizes
from spa.passes.cut.boundary import resized
from spa.passes.cut.forwarding import gone_branches
from spa.passes.normalize.fold import Names
from spa.shapes import Shapes

_LARGE_NBYTES = 1 << 22


def slice_model(model: ir.Model, coupling: Coupling, shapes: Shapes, masks: Masks) -> None:
    """Remove what `masks` drop from a coupled model, in place.

    Weights that lie outside the file (memory-mapped) are cut when they are read, so they never pile up.

    Raises:
        ModelError: nothing would be left of an axis.
    """
    _Slicer(model, coupling, shapes, masks).run()


class _Slicer:
    def __init__(self, model: ir.Model, coupling: Coupling, shapes: Shapes, masks: Masks) -> None:
        self.shapes = shapes
        self.coupling = coupling
        self.masks = masks
        self.known: dict[Factor, np.ndarray | None] = {}
        self.names = Names(model)
        self.gone = {node for branch in gone_branches(coupling, masks) for node in branch.nodes}

    def run(self) -> None:
        for value, axes in self.coupling.axes.items():
            if value.producer() in self.gone:
                continue
            cuts = [self.mask(dim) for dim in axes]
            for dim, cut in zip(axes, cuts, strict=True):  # a term of a rule may become empty: zeros put in front
                if cut is not None and cut.size and not cut.any():
                    raise ModelError(f"the plan leaves nothing of an axis of size {dim.size}: {show(dim)}")
            if any(cut is not None for cut in cuts):
                _cut_value(value, cuts)
        for application in self.coupling.applications:
            for follow in application.rule.follows if application.node not in self.gone else ():
                if isinstance(follow, Sizes):
                    self.resize(application, follow)
                elif isinstance(follow, Positions):
                    self.renumber(application, follow)
                else:
                    self.restore(application, follow)

    def mask(self, dim: Factor) -> np.ndarray | None:
        root = dim.root
        if root not in self.known:
            self.known[root] = keep_mask(root, self.masks)
        return self.known[root]

    def sizes(self, application: Application, terms: Sequence[Term | None]) -> list[tuple[int, int] | None]:
        """(size before, size after) of each term; None where nothing changes."""
        sizes: list[tuple[int, int] | None] = []
        for term in terms:
            dim = None if term is None else application.factor(term)
            sizes.append(None if dim is None or self.mask(dim) is None else (dim.size, self.kept(dim)))
        return sizes

    # ------------------------------------------------------------------------------ numbers that follow
    def resize(self, application: Application, follow: Sizes) -> None:
        changes = self.sizes(application, follow.terms)
        if not any(changes):
            return
        node = application.node
        if follow.instead:
            node.attributes.pop(follow.instead, None)
        if isinstance(follow.target, str):
            if not follow.scalar and follow.target not in node.attributes:
                node.attributes[follow.target] = ir.AttrInt64s(follow.target, self.dense_sizes(application, follow))
            _set_attribute(node, follow, changes)
            return
        value = node.inputs[follow.target] if follow.target < len(node.inputs) else None
        if value is None:
            dense = np.array(self.dense_sizes(application, follow), np.int64)
            value = _constant(self.names, node, f"operand{follow.target}", dense)
            node.resize_inputs(max(len(node.inputs), follow.target + 1))
            node.replace_input_with(follow.target, value)
        if value.const_value is not None and value.is_initializer():
            numbers = value.const_value.numpy().copy()
            flat = numbers.reshape(-1)
            for at, term in enumerate(follow.terms):
                if term is not None:
                    flat[at] = self.number_after(application, follow, at, int(flat[at]), application.factor(term))
            _replace_input(node, follow.target, _own_initializer(self.names, node, value, numbers))
            return
        content = self.shapes.values.get(value)
        stored = [None] * len(changes) if content is None else [int(n) for n in content.reshape(-1)]
        factors = [
            Fraction(1) if change is None or number not in (None, change[0]) else Fraction(change[1], change[0])
            for change, number in zip(changes, stored, strict=True)
        ]
        _replace_input(node, follow.target, _scaled(self.names, node, value, factors, before=node))

    @staticmethod
    def dense_sizes(application: Application, follow: Sizes) -> list[int]:
        return [application.factor(term).size for term in follow.terms if term is not None]

    def number_after(self, application: Application, follow: Sizes, at: int, number: int, dim: Factor) -> int:
        """What a stored number becomes that is the size of a dim, or a marker for it (-1, 0, 1)."""
        kept = self.kept(dim)
        if follow.markers and number != dim.size:
            data = application.node.inputs[0]
            axes = self.coupling.axes.get(data, ()) if data is not None else ()
            copies = number == 0 and at < len(axes)  # as long as that axis of the operand
            return kept if copies and self.kept(axes[at]) != kept else number
        return number if kept == dim.size else _number(follow, kept)

    def kept(self, dim: Factor) -> int:
        mask = self.mask(dim)
        return dim.size if mask is None else int(mask.sum())

    def renumber(self, application: Application, follow: Positions) -> None:
        dim = application.factor(follow.term)
        mask = self.mask(dim)
        if mask is None:
            return
        node = application.node
        value = node.inputs[follow.operand]
        assert value is not None
        assert value.const_value is not None
        old = value.const_value.numpy()
        new = (np.cumsum(mask) - 1)[old % dim.size].astype(old.dtype)
        _replace_input(node, follow.operand, _own_initializer(self.names, node, value, new))

    def restore(self, application: Application, follow: Observed) -> None:
        """Whoever reads a size was written for the size before; give it back."""
        changes = self.sizes(application, follow.terms)
        if not any(changes):
            return
        result = application.node.outputs[follow.result]
        factors = [Fraction(1) if change is None else Fraction(*change) for change in changes]
        users = list(result.uses())
        restored = _scaled(self.names, application.node, result, factors, before=None)
        for user, position in users:
            user.replace_input_with(position, restored)


# -------------------------------------------------------------------------------------------------- tensors
def _cut_value(value: ir.Value, cuts: Sequence[np.ndarray | None]) -> None:
    sizes = [None if cut is None else int(cut.sum()) for cut in cuts]
    if value.shape is not None:
        value.shape = resized(value.shape, sizes)
    tensor = value.const_value
    if tensor is None:
        return
    dense: ir.TensorProtocol = tensor
    shape = ir.Shape([old if size is None else size for old, size in zip(dense.shape.numpy(), sizes, strict=True)])

    def cut() -> ir.TensorProtocol:
        array = dense.numpy()
        for axis, mask in enumerate(cuts):
            if mask is not None:
                array = np.compress(mask, array, axis=axis)
        if array.nbytes >= _LARGE_NBYTES:  # what lies in a file is read again when it is wanted again
            release(dense)
        return ir.Tensor(np.ascontiguousarray(array), dtype=dense.dtype, name=value.name)

    lazy = ir.LazyTensor(cut, dtype=dense.dtype, shape=shape, name=value.name)
    value.const_value = lazy if map_of(dense) is not None else cut()


# ------------------------------------------------------------------------------------------ nodes and numbers
def _set_attribute(node: ir.Node, follow: Sizes, changes: Sequence[tuple[int, int] | None]) -> None:
    name = str(follow.target)
    if follow.scalar:
        change = changes[0]
        assert change is not None
        node.attributes[name] = ir.AttrInt64(name, change[1])
        return
    numbers = [int(n) for n in node.attributes[name].value]
    for at, change in enumerate(changes):
        if change is not None:
            numbers[at] = _number(follow, change[1])
    node.attributes[name] = ir.AttrInt64s(name, numbers)


def _number(follow: Sizes, size: int) -> int:
    """How a size is written; none from the end of an axis is the end itself."""
    if not follow.back:
        return size
    return -size if size else np.iinfo(np.int32).max


def _own_initializer(names: Names, node: ir.Node, value: ir.Value, numbers: np.ndarray) -> ir.Value:
    """The value with new content: in place where this node alone uses it, else a copy of the node's own."""
    if len(value.uses()) == 1 and not value.is_graph_output():
        value.const_value = ir.Tensor(numbers, name=value.name)
        return value
    return _constant(names, node, str(value.name), numbers)


def _constant(names: Names, node: ir.Node, tag: str, numbers: np.ndarray) -> ir.Value:
    """A new stored tensor for one node."""
    name = names.free(f"{node.outputs[0].name}/{tag}")
    tensor = ir.Tensor(numbers, name=name)
    made = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(numbers.shape), const_value=tensor)
    _graph_of(node).initializers[name] = made
    return made


def _graph_of(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)  # normalised models have no functions
    return node.graph


def _replace_input(node: ir.Node, position: int, value: ir.Value) -> None:
    if node.inputs[position] is not value:
        node.replace_input_with(position, value)


def _scaled(
    names: Names, node: ir.Node, value: ir.Value, factors: Sequence[Fraction], *, before: ir.Node | None
) -> ir.Value:
    """A vector of sizes times exact fractions: two nodes, put before a node, or behind the one given."""
    up = np.array([factor.numerator for factor in factors], np.int64)
    down = np.array([factor.denominator for factor in factors], np.int64)
    if value.shape is not None and len(value.shape) == 0:
        up, down = up.reshape(()), down.reshape(())
    base = f"{node.outputs[0].name}/{value.name}"
    constants = [
        _constant(names, node, f"{value.name}/{tag}", numbers) for tag, numbers in (("kept", up), ("whole", down))
    ]
    times = ir.node("Mul", [value, constants[0]], name=names.free(f"{base}/times"))
    over = ir.node("Div", [times.outputs[0], constants[1]], name=names.free(f"{base}/over"))
    for made in (times, over):
        made.outputs[0].name = made.name
        made.outputs[0].type, made.outputs[0].shape = value.type, value.shape
    if before is not None:
        _graph_of(node).insert_before(before, [times, over])
    else:
        _graph_of(node).insert_after(node, [times, over])
    return over.outputs[0]
