"""What each expert of a mixture adds to the tokens that it is chosen for, measured on samples.

    routed(model, coupling, group, batches)      `spa.passes.secondorder.experts.Routed`; None: it cannot be seen

A mixture is found by the graph: it begins at the stored weights that lie along the axis of the experts, but for the
router's, and ends at the first value that all that is made of these, and of the choice, goes through. From what it
reads to there it runs once for each expert, with the weights of all others zero. So it is one way for stacked weights,
one-hot numbers, branches and fused operators, and the gates are those that the model mixes with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group, Slice
from spa.analysis.reading import readers, reads
from spa.notation.dims import Factor, leaves
from spa.notation.operation import entry_of
from spa.operators.reduce import BARRED
from spa.passes.repair.own import values_of
from spa.passes.repair.pieces import piece
from spa.passes.secondorder.experts import Routed

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Where a choice among experts becomes one value.

    Attributes:
        weights: the slices of the stored tensors that hold them, the router's left out.
        nodes: on the ways from these to the result, in graph order.
        result: what all of them add.
        width: the axes of the result along which the numbers of one token lie.
    """

    weights: Sequence[Slice]
    nodes: Sequence[ir.Node]
    result: ir.Value
    width: tuple[int, ...]


def find_mixture(coupling: Coupling, group: Group) -> Mixture | None:
    """The mixture whose experts a group is; None: it does not come together in one value."""
    graph = coupling.graph
    if graph is None:
        return None
    mine = set(group.leaves)
    routers = _read_for(graph, _scores(coupling, mine))
    weights = [
        piece for piece in group.slices
        if piece.value not in routers and piece.value.dtype is not None and piece.value.dtype.is_floating_point()
    ]  # fmt: skip
    meeting = _meeting(graph, [piece.value for piece in weights], _chosen(coupling, mine)) if weights else None
    if meeting is None:
        return None
    result, nodes = meeting
    axes = coupling.axes.get(result, ())
    inside = {leaf for piece in weights for dim in coupling.axes[piece.value] for leaf in leaves(dim)} - mine
    width = tuple(axis for axis, dim in enumerate(axes) if inside.intersection(leaves(dim)))
    return Mixture(weights, nodes, result, width or (-1,))


def _scores(coupling: Coupling, mine: set[Factor]) -> list[ir.Value]:
    """The computed values by which experts are chosen."""
    return [
        value
        for application in coupling.applications
        if any(
            reason in BARRED and any(mine.intersection(leaves(dim)) for dim in application.named(name))
            for name, reason in application.rule.statistic.items()
        )
        for value in application.node.inputs
        if value is not None and value not in coupling.weights
        and any(mine.intersection(leaves(dim)) for dim in coupling.axes.get(value, ()))
    ]  # fmt: skip


def _chosen(coupling: Coupling, mine: set[Factor]) -> list[ir.Value]:
    """What the nodes that choose among experts give."""
    return [
        value
        for application in coupling.applications
        if any(mine.intersection(leaves(dim)) for _, name in application.rule.picks for dim in application.named(name))
        for value in application.node.outputs
    ]


def _read_for(graph: ir.Graph, values: Iterable[ir.Value]) -> set[ir.Value]:
    """The stored tensors that some values are computed from."""
    stored: set[ir.Value] = set()
    waiting, seen = list(values), set[ir.Value]()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            waiting += reads(producer)
        elif value.is_initializer():
            stored.add(value)
    return stored


def _meeting(
    graph: ir.Graph, stored: Sequence[ir.Value], chosen: Sequence[ir.Value]
) -> tuple[ir.Value, list[ir.Node]] | None:
    """The first value through which all goes that is made of tensors and of a choice, and the nodes before it."""
    read = readers(graph)

    def uses(value: ir.Value) -> int:
        return sum(not entry_of(node).lists for node, _ in read.get(value, ()))

    left = {value: uses(value) for value in stored}
    choice, nodes = set(chosen), list[ir.Node]()
    for node in graph:
        mine = [value for value in reads(node) if value in left]
        if mine and not entry_of(node).lists:
            nodes.append(node)
            for value in mine:
                left[value] -= sum(reader is node for reader, _ in read[value])
        elif choice.isdisjoint(node.outputs):
            continue
        left |= {value: uses(value) for value in node.outputs if mine or value in choice}
        waiting = [value for value, count in left.items() if count > 0]
        if mine and len(waiting) == 1 and waiting[0] in node.outputs:
            return waiting[0], _before(nodes, waiting[0])
    return None


def _before(nodes: Sequence[ir.Node], result: ir.Value) -> list[ir.Node]:
    """Those of some nodes that a value is computed with."""
    needed, before = {result}, list[ir.Node]()
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(reads(node))
            before.append(node)
    return before[::-1]


# ------------------------------------------------------------------------------------------------- measuring
def routed(model: ir.Model, coupling: Coupling, group: Group, batches: Sequence[Feeds]) -> Routed | None:
    """What each expert of a group adds to tokens on some batches; None: it cannot be seen.

    Args:
        model: normalised, the one that was coupled.
    """
    mixture = find_mixture(coupling, group)
    if mixture is None or not batches:
        return None
    weights = {str(piece.value.name): piece.value.const_value.numpy() for piece in mixture.weights
               if piece.value.const_value is not None}  # fmt: skip
    made = {value for node in mixture.nodes for value in node.outputs}
    known = model.graph.initializers
    names = [
        str(value.name)
        for value in dict.fromkeys(value for node in mixture.nodes for value in reads(node))
        if value not in made and value.name not in known
    ]
    inside = [name for name in names if name not in batches[0]]
    computed = values_of(model, inside, batches) if inside else {}
    fed = [{n: computed[n][at] if n in computed else batch[n] for n in names} for at, batch in enumerate(batches)]
    fixed = {n for n in names if fed[0][n].ndim == 1 and fed[0][n].dtype.kind == "i"
             and len({each[n].shape for each in fed}) == 1}  # fmt: skip
    result = str(mixture.result.name)
    session = runtime.session(
        piece(model, mixture.nodes, fed[0] | weights, [result], {}, fixed | weights.keys()), optimize=True
    )

    def run(unit: int) -> list[np.ndarray]:
        alone = {str(piece.value.name): _only(weights[str(piece.value.name)], piece, unit) for piece in mixture.weights}
        return [runtime.run(session, batch | alone)[result].astype(np.float64) for batch in fed]

    nothing = run(-1)
    tokens, norms, peaks = np.zeros((3, group.size))
    for unit in range(group.size):
        for with_one, without in zip(run(unit), nothing, strict=True):
            added = with_one - without
            lengths = np.sqrt(np.sum(added**2, axis=mixture.width))
            tokens[unit] += np.count_nonzero(lengths)
            norms[unit] += float(lengths.sum())
            peaks[unit] = max(peaks[unit], float(np.abs(added).max(initial=0.0)))
    return Routed(tokens, norms, peaks) if norms.any() else None


def _only(array: np.ndarray, piece: Slice, unit: int) -> np.ndarray:
    """A stored tensor with zeros for all experts but one."""
    shape = [1] * array.ndim
    shape[piece.axis] = -1
    return np.where((piece.unit_of == unit).reshape(shape), array, np.zeros((), array.dtype))
