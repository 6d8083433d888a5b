"""How If, Loop and Scan hand tensors between a graph and their bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

Pair = tuple[ir.Value, ir.Value]


@dataclass(slots=True)
class Links:
    """Tensors that are the same on both sides of a body's boundary.

    Attributes:
        entering: (outer, inner) pairs; inner is an input of the body.
        leaving: pairs that are one tensor once the body has run.
        stacked: (outer, inner, axis): the outer tensor holds one inner tensor for each round, along that axis.
        opaque: tensors that nothing is known of: they stay as they are.
    """

    entering: list[Pair] = field(default_factory=list)
    leaving: list[Pair] = field(default_factory=list)
    stacked: list[tuple[ir.Value, ir.Value, int]] = field(default_factory=list)
    opaque: list[ir.Value] = field(default_factory=list)

    @property
    def linked(self) -> set[ir.Value]:
        """Inputs of the body that an outer tensor is handed to, whole or in rounds."""
        return {inner for _, inner in self.entering} | {inner for _, inner, _ in self.stacked}


def passes_through(node: ir.Node, body: ir.Graph) -> Links:
    """What a body shares with the node that holds it; nothing is assumed of operators not known here."""
    describe = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if describe is None:
        return Links(opaque=[value for value in (*node.inputs, *node.outputs, *body.outputs) if value is not None])
    return describe(node, body)


@dataclass(frozen=True, slots=True)
class State:
    """Where a loop's state lies: so many inputs of the node and the body, and outputs of the body, come before it.

    Attributes:
        count: how many tensors it is of; they are the node's first results.
    """

    before: int
    returned: int
    count: int


def state_of(node: ir.Node) -> State | None:
    """The state that a node hands from round to round; None: it has no rounds."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Loop":  # (trip count, condition, state...) -> (state..., stacked...)
        return State(2, 1, len(node.inputs) - 2)
    if node.op_type == "Scan":  # (state..., unstacked...) -> (state..., stacked...)
        return State(0, 0, len(node.inputs) - node.attributes["num_scan_inputs"].as_int())
    return None


def _branch(node: ir.Node, body: ir.Graph) -> Links:
    return Links(leaving=list(zip(node.outputs, body.outputs, strict=True)))


def _loop(node: ir.Node, body: ir.Graph) -> Links:
    state = _state(node)
    links = _carried(node, body, state)
    results, rounds = node.outputs[state.count :], body.outputs[state.returned + state.count :]
    links.stacked += [(outer, inner, 0) for outer, inner in zip(results, rounds, strict=False)]
    return links


def _scan(node: ir.Node, body: ir.Graph) -> Links:
    state = _state(node)
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


def _state(node: ir.Node) -> State:
    state = state_of(node)
    assert state is not None  # asked of loops alone
    return state


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


_OPERATORS: dict[str, Callable[[ir.Node, ir.Graph], Links]] = {"If": _branch, "Loop": _loop, "Scan": _scan}
