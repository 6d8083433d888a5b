"""Removing residual branches: the sum becomes what is left of it, and what only the branch reached goes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from spa.analysis.branch import Branch
from spa.analysis.branches import operator_alone
from spa.analysis.coupling import Coupling
from spa.analysis.group import Masks
from spa.analysis.unread import Edge, Gone, gone_with
from spa.notation.operation import entry_of
from spa.passes.normalize.fold import Names
from spa.passes.normalize.normalize import RemoveUnusedInitializers


def gone_branches(coupling: Coupling, masks: Masks) -> list[Branch]:
    """The branches whose gate is closed: residual ones, and experts with weights of their own."""
    return [branch for branch in coupling.gated if not masks.get(branch.gate, _OPEN)[0]]


_OPEN = (True,)


def forward(model: ir.Model, coupling: Coupling, masks: Masks) -> None:
    """Remove the branches that masks drop from a coupled model, in place, with their caches."""
    branches = gone_branches(coupling, masks)
    if not branches:
        return
    gone = gone_with(model.graph, [edge for branch in branches for edge in branch.edges])
    names = Names(model)
    for node in list(dict.fromkeys(node for node, _ in gone.edges)):
        left = [(node, at) for at in range(len(node.inputs)) if (node, at) not in gone.edges]
        if entry_of(node).continues:
            _replaced(model.graph, node, node.outputs[0], [node.inputs[0]], names)
        elif not entry_of(node).adds:
            _alone(model.graph, node, gone, names)
        elif left:
            _sum_of(model.graph, node, left, names)
    _drop(model.graph, gone)
    RemoveUnusedInitializers()(model)


def _sum_of(graph: ir.Graph, node: ir.Node, left: Sequence[Edge], names: Names) -> None:
    """An addition of what is left of its operands."""
    values = [node.inputs[at] for _, at in left]
    _replaced(graph, node, node.outputs[0], values, names)


def _replaced(
    graph: ir.Graph, node: ir.Node, result: ir.Value, values: Sequence[ir.Value | None], names: Names
) -> None:
    """Let all that reads a result read a value instead, or the sum of several."""
    (value, *others) = values
    assert value is not None
    if others or result.is_graph_output():
        kind = "Sum" if others else "Identity"
        made = ir.node(kind, list(values), name=names.free(f"{node.name or result.name}/left"))
        graph.insert_before(node, made)
        value = made.outputs[0]
        value.type, value.shape = result.type, result.shape
        value.name = names.free(f"{result.name}/left")
        if result.is_graph_output():
            name, result.name = result.name, names.free(f"{result.name}/whole")
            value.name = name
            for at, output in enumerate(graph.outputs):
                if output is result:
                    graph.outputs[at] = value
    for reader, position in list(result.uses()):
        reader.replace_input_with(position, value)


def _alone(graph: ir.Graph, node: ir.Node, gone: Gone, names: Names) -> None:
    """What a node does behind its addition, of the operand that is left."""
    joins, operator = entry_of(node).joins, operator_alone(graph, node)
    assert joins is not None
    assert operator is not None
    kept = [at for at in joins.operands if (node, at) not in gone.edges]
    assert len(kept) == 1, "of two operands one is the residual"
    value = node.inputs[kept[0]]
    assert value is not None
    bias = node.inputs[joins.bias] if joins.bias < len(node.inputs) else None
    if bias is not None:
        added = ir.node("Add", [value, bias], name=names.free(f"{node.name or value.name}/biased"))
        graph.insert_before(node, added)
        added.outputs[0].name = names.free(f"{value.name}/biased")
        added.outputs[0].type, added.outputs[0].shape = value.type, value.shape
        value = added.outputs[0]
    affine = [node.inputs[at] for at in entry_of(node).affine or () if at is not None and at < len(node.inputs)]
    attributes = [ir.AttrInt64("axis", -1), *(a for a in node.attributes.values() if a.name == "epsilon")]
    made = ir.node(operator, [value, *affine], name=names.free(f"{node.name or value.name}/alone"))
    made.attributes.update({attribute.name: attribute for attribute in attributes})
    if "epsilon" not in made.attributes:
        made.attributes["epsilon"] = ir.AttrFloat32("epsilon", EPSILON)
    graph.insert_before(node, made)
    made.outputs[0].name = names.free(f"{node.outputs[0].name}/alone")
    made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    _replaced(graph, node, node.outputs[0], [made.outputs[0]], names)
    if joins.total < len(node.outputs):
        _replaced(graph, node, node.outputs[joins.total], [value], names)


EPSILON = 1e-12
"""Of onnxruntime's own norms, where a node gives none."""


def _drop(graph: ir.Graph, gone: Gone) -> None:
    """Take out what nobody reads, and the inputs and outputs that go."""
    for ends in (graph.inputs, graph.outputs):
        for value in [value for value in ends if value.name in gone.ends]:
            ends.remove(value)
    summed = {node for node, _ in gone.edges if all(not v.uses() and not v.is_graph_output() for v in node.outputs)}
    graph.remove([node for node in graph if node in gone.nodes or node in summed], safe=True)
