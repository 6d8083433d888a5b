"""The values that nodes read, and the readers of a value, bodies of If, Loop and Scan included."""

from __future__ import annotations

from collections import defaultdict

import onnx_ir as ir

Use = tuple[ir.Node, int | None]
"""A node and the position of an operand; None: a body in the node reads it."""


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads, what its bodies take from outside included."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            values += _outside(attribute.value)
        elif attribute.type == ir.AttributeType.GRAPHS:
            values += [value for body in attribute.value for value in _outside(body)]
    return list(dict.fromkeys(values))


def _outside(body: ir.Graph) -> list[ir.Value]:
    """What a body, and bodies inside it, read of the graphs around it."""
    own = {*body.inputs, *body.initializers.values(), *(value for node in body for value in node.outputs)}
    needed = [value for node in body for value in reads(node)] + list(body.outputs)
    return [value for value in needed if value not in own]


def readers(graph: ir.Graph) -> dict[ir.Value, list[Use]]:
    """For each value, where the nodes of a graph read it."""
    uses: dict[ir.Value, list[Use]] = defaultdict(list)
    for node in graph:
        for position, value in enumerate(node.inputs):
            if value is not None:
                uses[value].append((node, position))
        given = set(node.inputs)
        for value in reads(node) if node.attributes else ():
            if value not in given:
                uses[value].append((node, None))
    return uses


def inner(node: ir.Node) -> list[ir.Node]:
    """The nodes of the bodies in a node."""
    bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [inner for body in bodies for inner in ir.traversal.RecursiveGraphIterator(body)]
