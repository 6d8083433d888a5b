"""Loops that hand on what they never change: such tensors are read from outside instead."""

from __future__ import annotations

import onnx_ir as ir

from spa.notation.bodies import State
from spa.notation.operation import entry_of
from spa.operators.control import state_of


class LiftInvariants(ir.passes.InPlacePass):
    """State that a body of Loop or Scan returns as it was given becomes an outer value that the body reads.

    Exporters carry the weights of a recurrence round by round; read from outside, they are weights like any other.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply to ``model``."""
        modified = False
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if (state := state_of(node)) is not None:
                modified |= _lift(node, state)
        return ir.passes.PassResult(model, modified=modified)


def _lift(node: ir.Node, state: State) -> bool:
    body = node.attributes["body"].as_graph()
    before, returned = state.before, state.returned
    constant = [
        k
        for k in range(state.count)
        if _source(body.outputs[returned + k]) is body.inputs[before + k] and node.inputs[before + k] is not None
    ]
    if not constant:
        return False
    for k in constant:
        outer = node.inputs[before + k]
        assert outer is not None  # seen above
        for reader, position in list(body.inputs[before + k].uses()):  # what the body returns stays until it goes below
            reader.replace_input_with(position, outer)
        if k < len(node.outputs) and not node.outputs[k].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[k], outer)
    gone = {k for k in constant if k >= len(node.outputs) or not node.outputs[k].is_graph_output()}
    if not gone:
        return False
    for graph_values, first in ((body.inputs, before), (body.outputs, returned)):
        graph_values[:] = [value for at, value in enumerate(graph_values) if at - first not in gone]
    _replace(node, [at for at in range(len(node.inputs)) if at - before not in gone], gone)
    return True


def _source(value: ir.Value) -> ir.Value:
    """What a value is a copy of."""
    while (node := value.producer()) is not None and entry_of(node).copies:
        source = node.inputs[0]
        if source is None:
            break
        value = source
    return value


def _replace(node: ir.Node, inputs: list[int], gone: set[int]) -> None:
    """Put a node with some of the inputs and without the outputs that are gone in a node's place."""
    assert node.graph is not None  # it was found in one
    kept = [value for at, value in enumerate(node.outputs) if at not in gone]
    operands = [node.inputs[at] for at in inputs]
    attributes = dict(node.attributes)
    node.attributes.clear()  # the body moves on with its owner
    made = ir.Node(
        node.domain, node.op_type, operands, attributes.values(), num_outputs=len(kept), name=node.name,
        version=node.version, metadata_props=dict(node.metadata_props),
    )  # fmt: skip
    node.graph.insert_before(node, made)
    for old, new in zip(kept, made.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
