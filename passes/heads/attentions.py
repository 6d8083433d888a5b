"""Find the attentions of a graph: softmaxes whose result weighs computed values, and fused operators that do both.

    scores -> Softmax -> MatMul(., values)          the probabilities are a value of the graph
    GroupQueryAttention(queries, keys, values)      they are what it gives for values that name positions

`spa.passes.heads.probabilities` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from spa.analysis.application import Application
from spa.analysis.caches import HEADS
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group
from spa.analysis.macs import macs
from spa.notation.dims import Factor, leaves
from spa.notation.operation import entry_of
from spa.notation.patterns import Name
from spa.notation.values import Values
from spa.operators.attention import SOFTMAX

_FURTHEST = 8
"""Nodes between a softmax and the product that it weighs: casts, reshapes, dropout."""


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """One place of a graph where queries attend to keys.

    Attributes:
        value: the probabilities; of a fused operator its first result.
        heads: the leaves that count its heads, major first; none where it has no heads that could go.
        keys: the axis of the probabilities along which they sum to one.
        values: of a fused operator, where its values are.
    """

    node: ir.Node
    value: ir.Value
    heads: tuple[Factor, ...]
    keys: int = -1
    values: Values | None = None

    @property
    def count(self) -> int:
        """How many heads it has."""
        return prod(leaf.size for leaf in self.heads)

    @property
    def name(self) -> str:
        """What the graph calls it."""
        return str(self.node.name or self.value.name)

    def units(self, group: Group) -> dict[int, list[int]]:
        """The heads that each unit of a group is, by unit; empty where the group is not of these heads."""
        by_unit: dict[int, list[int]] = {}
        for head in range(self.count):
            rest = head
            for leaf in reversed(self.heads):
                rest, index = divmod(rest, leaf.size)
                if leaf in group.offsets:
                    by_unit.setdefault(group.offsets[leaf] + index, []).append(head)
        return by_unit


def find_attentions(coupling: Coupling) -> list[Attention]:
    """The attentions of a coupled graph, in graph order; what lies in If, Loop and Scan is left out."""
    by_node = {application.node: application for application in coupling.applications}
    stored = {leaf for value in coupling.weights for dim in coupling.axes.get(value, ()) for leaf in leaves(dim)}
    attentions = []
    for application in coupling.applications:
        node = application.node
        if node.graph is not coupling.graph:
            continue
        values = entry_of(node).values
        if values is not None:
            attentions.append(
                Attention(node, node.outputs[0], _heads(coupling, node.outputs[0], stored), values=values)
            )
        elif (axis := _softmax_axis(application)) is not None:
            weighed = _weighed(application, axis, coupling, by_node)
            if weighed:
                positions = set(leaves(coupling.axes[node.outputs[0]][axis]))  # of which some are stored, too
                heads = _heads(coupling, node.outputs[0], stored & weighed - positions)
                attentions.append(Attention(node, node.outputs[0], heads, axis))
    return attentions


def _heads(coupling: Coupling, value: ir.Value, stored: Set[Factor]) -> tuple[Factor, ...]:
    """The leaves of a value's axes that count heads: stored tensors have them too, unlike samples."""
    candidates = (leaf for dim in coupling.axes.get(value, ()) for leaf in leaves(dim) if leaf in stored)
    return tuple(leaf for leaf in candidates if not HEADS.isdisjoint(coupling.kinds.get(leaf, ())))


def _softmax_axis(application: Application) -> int | None:
    """The axis of the first result along which a node's results sum to one; None: there is none, or several."""
    names = [name for name, text in application.rule.statistic.items() if text == SOFTMAX]
    result = application.rule.results[0] if application.rule.results else None
    if len(names) != 1 or result is None or macs(application):
        return None
    operand = application.operand_axes(0)
    axes = [at for at, term in enumerate(operand) if isinstance(term, Name) and term.name == names[0]]
    return axes[0] - len(operand) if len(axes) == 1 else None


def _weighed(
    application: Application, axis: int, coupling: Coupling, by_node: dict[ir.Node, Application]
) -> set[Factor]:
    """The leaves of computed values that what a softmax gives weighs: multiplied, and summed along its own axis."""
    start = application.node.outputs[0]
    dims = coupling.axes.get(start, ())
    if not dims:
        return set()
    wanted = set(leaves(dims[axis]))
    for value in _onward(start):
        for use in value.uses():
            reader = by_node.get(use.node)
            if reader is None or not macs(reader) or reader.weights & {0, 1}:
                continue
            summed = {
                leaf
                for each in reader.sums()
                if each.operand == use.idx
                for name in each.names
                for leaf in leaves(reader.factors[name])
            }
            if wanted & summed:
                others = [each for at, each in enumerate(use.node.inputs) if at != use.idx and each is not None]
                return {leaf for each in others for dim in coupling.axes.get(each, ()) for leaf in leaves(dim)}
    return set()


def _onward(value: ir.Value) -> Iterator[ir.Value]:
    """A value, and what it becomes in nodes that read nothing else that is computed: casts, NaN made zeros."""
    seen: list[ir.Value] = [value]
    for reached in seen:
        yield reached
        for use in reached.uses():
            computed = {each for each in use.node.inputs if each is not None and each.const_value is None}
            if len(seen) < _FURTHEST and computed.issubset(seen) and use.node.outputs[0] not in seen:
                seen.append(use.node.outputs[0])


def shapes_of(coupling: Coupling, value: ir.Value) -> Sequence[tuple[Factor, ...]]:
    """For each axis of a value the leaves that it is the product of."""
    return [tuple(leaves(dim)) for dim in coupling.axes[value]]
