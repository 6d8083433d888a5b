"""The reference for exactness: the dense model in which removed units are read as zero.

Exactness theorem: for a plan without statistic factors, the pruned model computes what the dense model
computes when, at every node that sums over a removed position, that position of an operand is zero.  The
reference is made from the rules' contracted names and from nothing else: no weight is cut, no shape
changes, so that an error in slicing shows as a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import onnx_ir as ir

from spa.analysis.application import Application, Sum
from spa.analysis.coupling import EXPERTS, Coupling
from spa.analysis.group import Masks, keep_mask
from spa.notation.dims import Kind, leaves
from spa.notation.patterns import Compound, Name, Term
from spa.operators.reduce import BARRED
from spa.passes.cut.forwarding import gone_branches
from spa.passes.normalize.fold import Names
from spa.passes.normalize.normalize import RemoveUnusedInitializers


def mask_consumers(
    model: ir.Model, coupling: Coupling, masks: Masks, *, dtypes: Mapping[ir.Value, ir.DataType] | None = None
) -> None:
    """Zero what consumers read of removed units, in the coupled model, in place; it stays as large as it was.

    Args:
        dtypes: of values that do not tell their own.
    """
    names = Names(model)
    known = dict(dtypes or {})
    for branch in gone_branches(coupling, masks):
        if branch in coupling.apart:
            continue  # its scores read minus infinity, so that it adds nothing
        for edge in branch.edges:
            _shut(*edge, names, known)
    for application in coupling.applications:
        done: set[str] = set()
        for summed in sorted(application.sums(), key=lambda summed: not _is_stored(application, summed)):
            if summed.names <= done and not summed.again:
                continue
            position = summed.operand
            mask = _term_mask(application, summed.term, summed.names, masks)
            if mask is not None:
                rank = len(application.operand_axes(position))
                point = _zero_point(application, position, rank)
                _zero(application.node, position, summed.axis, rank, mask, names, point, known)
            if not summed.again:
                done |= summed.names
        _bar(application, coupling, masks, names, known)
    RemoveUnusedInitializers()(model)


def bar(model: ir.Model, coupling: Coupling, masks: Masks) -> None:
    """Let scores of experts read minus infinity where one is gone, in place; nothing else changes."""
    names, known = Names(model), dict[ir.Value, ir.DataType]()
    for application in coupling.applications:
        _bar(application, coupling, masks, names, known)


def _shut(node: ir.Node, position: int, names: Names, dtypes: dict[ir.Value, ir.DataType]) -> None:
    """Let an addition read zeros in place of a residual branch."""
    value, graph = node.inputs[position], node.graph
    assert value is not None
    assert isinstance(graph, ir.Graph)
    what, dtype = f"{node.outputs[0].name}/{position}", value.dtype or dtypes.get(value, ir.DataType.FLOAT)
    shut = _stored(graph, names.free(f"{what}/there"), ir.Tensor(np.array(False)))
    zero = _stored(graph, names.free(f"{what}/zero"), ir.Tensor(np.zeros((), dtype.numpy()), dtype=dtype))
    where = ir.node("Where", [shut, value, zero], name=names.free(f"{what}/forwarded"))
    where.outputs[0].name = where.name
    where.outputs[0].type, where.outputs[0].shape = value.type, value.shape
    dtypes[where.outputs[0]] = dtype
    graph.insert_before(node, where)
    node.replace_input_with(position, where.outputs[0])


def _bar(
    application: Application, coupling: Coupling, masks: Masks, names: Names, dtypes: dict[ir.Value, ir.DataType]
) -> None:
    """Let a choice among experts read minus infinity where one is gone."""
    rule = application.rule
    barred = {
        name
        for name, reason in rule.statistic.items()
        if reason in BARRED
        and any(EXPERTS in coupling.kinds.get(leaf, ()) for dim in application.named(name) for leaf in leaves(dim))
    }
    for position, value in enumerate(application.node.inputs if barred else ()):
        if value is None or position in application.weights or value.const_value is not None:
            continue
        terms = application.operand_axes(position)
        for axis, term in enumerate(terms):
            mask = _term_mask(application, term, barred, masks)
            if mask is not None:
                _zero(application.node, position, axis, len(terms), mask, names, None, dtypes, fill=-np.inf)


def _is_stored(application: Application, summed: Sum) -> bool:
    """Whether zeroing one stored operand is enough."""
    value = application.node.inputs[summed.operand]
    return value is not None and value.const_value is not None


def _term_mask(application: Application, term: Term, names: Set[str], masks: Masks) -> np.ndarray | None:
    """Which positions of an axis stay, counting the given names only; None: all."""
    if isinstance(term, int):
        return None
    if isinstance(term, Name):
        return keep_mask(application.factors[term.name], masks) if term.name in names else None
    assert isinstance(term, Compound)
    parts = [_term_mask(application, part, names, masks) for part in term.parts]
    if all(part is None for part in parts):
        return None
    sizes = [application.factor(part).size for part in term.parts]
    whole = [np.ones(size, bool) if part is None else part for part, size in zip(parts, sizes, strict=True)]
    if term.kind is Kind.SUM:
        return np.concatenate(whole)
    result = whole[0]
    for part in whole[1:]:
        result = (result[:, None] & part[None, :]).reshape(-1)
    return result


def _zero_point(application: Application, position: int, rank: int) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What stands for zero in an operand, and the shape in which it broadcasts against it; None: zero does."""
    at = dict(application.rule.zeros).get(position)
    point = None if at is None else application.node.inputs[at]
    if at is None or point is None:
        return None
    terms, shape = application.operand_axes(position), [1] * rank
    for term in application.operand_axes(at):
        if term in terms:
            shape[terms.index(term)] = application.factor(term).size
    return point, tuple(shape)


def _zero(
    node: ir.Node,
    position: int,
    axis: int,
    rank: int,
    mask: np.ndarray,
    names: Names,
    point: tuple[ir.Value, tuple[int, ...]] | None,
    dtypes: dict[ir.Value, ir.DataType],
    fill: float = 0.0,
) -> None:
    value = node.inputs[position]
    graph = node.graph
    assert value is not None
    assert isinstance(graph, ir.Graph)
    what = f"{node.outputs[0].name}/{position}.{axis}"
    told = None if point is None or point[0].const_value is None else point[0].const_value.numpy().reshape(point[1])
    if value.const_value is not None and (point is None or told is not None):
        node.replace_input_with(
            position, _stored(graph, names.free(f"{what}/read"), _without(value.const_value, axis, mask, told))
        )
        return
    shape = [1] * rank
    shape[axis] = mask.size
    dtype = value.dtype or dtypes.get(value, ir.DataType.FLOAT)
    keep = _stored(graph, names.free(f"{what}/keep"), ir.Tensor(mask.reshape(shape)))
    if point is not None and told is None:
        zero = point[0]  # computed when the graph runs: a scalar
    else:
        nothing = np.full((), fill).astype(dtype.numpy()) if told is None else told.astype(dtype.numpy())
        zero = _stored(graph, names.free(f"{what}/zero"), ir.Tensor(nothing, dtype=dtype))
    where = ir.node("Where", [keep, value, zero], name=names.free(f"{what}/masked"))
    where.outputs[0].name = where.name
    dtypes[where.outputs[0]] = dtype
    if value.type is not None:
        where.outputs[0].type, where.outputs[0].shape = value.type, value.shape
    graph.insert_before(node, where)
    node.replace_input_with(position, where.outputs[0])


def _without(tensor: ir.TensorProtocol, axis: int, mask: np.ndarray, zero: np.ndarray | None) -> ir.TensorProtocol:
    """The tensor with zeros, or what stands for them, where the mask is false; made when it is read."""

    def made() -> ir.TensorProtocol:
        array = tensor.numpy().copy()
        removed = np.moveaxis(array, axis, 0)
        removed[~mask] = 0 if zero is None else np.moveaxis(np.broadcast_to(zero, array.shape), axis, 0)[~mask]
        return ir.Tensor(array, dtype=tensor.dtype)

    return ir.LazyTensor(made, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()))


def _stored(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A new stored tensor."""
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    graph.initializers[name] = value
    return value
