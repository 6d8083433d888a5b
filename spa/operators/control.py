"""If, Loop and Scan: how tensors pass between a graph and their bodies."""

from __future__ import annotations

import onnx_ir as ir

from spa.notation.bodies import Bodies, Links, Runs, State
from spa.notation.operation import Operation, Refusal, entry_of, operator
from spa.notation.rule import Rule


def passes_through(node: ir.Node, body: ir.Graph) -> Links:
    """What a body shares with the node that holds it; nothing is assumed of operators that are not known."""
    bodies = entry_of(node).bodies
    if bodies is None:
        return Links(opaque=[value for value in (*node.inputs, *node.outputs, *body.outputs) if value is not None])
    return bodies.links(node, body)


def state_of(node: ir.Node) -> State | None:
    """The state that a node hands from round to round; None: it has no rounds."""
    bodies = entry_of(node).bodies
    return bodies.state(node) if bodies is not None and bodies.state is not None else None


def _loop_state(node: ir.Node) -> State:
    """(trip count, condition, state...) -> (state..., stacked...)"""
    return State(2, 1, len(node.inputs) - 2)


def _scan_state(node: ir.Node) -> State:
    """(state..., unstacked...) -> (state..., stacked...)"""
    return State(0, 0, len(node.inputs) - node.attributes["num_scan_inputs"].as_int())


def _branch(node: ir.Node, body: ir.Graph) -> Links:
    return Links(leaving=list(zip(node.outputs, body.outputs, strict=True)))


def _loop(node: ir.Node, body: ir.Graph) -> Links:
    state = _loop_state(node)
    links = _carried(node, body, state)
    results, rounds = node.outputs[state.count :], body.outputs[state.returned + state.count :]
    links.stacked += [(outer, inner, 0) for outer, inner in zip(results, rounds, strict=False)]
    return links


def _scan(node: ir.Node, body: ir.Graph) -> Links:
    state = _scan_state(node)
    links, carried = _carried(node, body, state), state.count
    for name, outers, inners in (
        ("scan_input_axes", node.inputs[carried:], body.inputs[carried:]),
        ("scan_output_axes", node.outputs[carried:], body.outputs[carried:]),
    ):
        axes = node.attributes.get_ints(name, [0] * len(inners))
        links.stacked += [
            (outer, inner, axis) for outer, inner, axis in zip(outers, inners, axes, strict=False) if outer is not None
        ]
    return links


def _carried(node: ir.Node, body: ir.Graph, state: State) -> Links:
    links = Links()
    initial = node.inputs[state.before : state.before + state.count]
    inner = body.inputs[state.before : state.before + state.count]
    final = body.outputs[state.returned : state.returned + state.count]
    for start, value, end, result in zip(initial, inner, final, node.outputs, strict=False):
        if start is None:
            links.opaque += [value, end, result]
            continue
        links.entering.append((start, value))
        links.leaving += [(end, value), (result, end)]
    return links


@operator("If", bodies=Bodies(Runs.BRANCH, ("then_branch", "else_branch"), _branch))
@operator("Loop", bodies=Bodies(Runs.ROUNDS, ("body",), _loop, _loop_state))
@operator("Scan", bodies=Bodies(Runs.SEQUENCE, ("body",), _scan, _scan_state))
def without_body(_: Operation) -> Rule:
    """None: control flow that has no body."""
    raise Refusal("control flow that has no body")
