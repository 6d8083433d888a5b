"""Prepare graphs for verification: the outputs that a cut reaches, and random numbers with seeds."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from spa.notation.operation import entry_of


def reached(model: ir.Model, names: Collection[str]) -> set[str]:
    """The outputs of a model that depend on some stored tensors."""
    touched: set[ir.Value | None] = {v for v in model.graph.initializers.values() if v.name in names}
    for node in model.graph:
        read = {*node.inputs, *_read_inside(node)}
        if read & touched or any(value is not None and value.name in names for value in read):
            touched.update(node.outputs)
    return {str(value.name) for value in model.graph.outputs if value in touched}


def _read_inside(node: ir.Node) -> set[ir.Value | None]:
    """What the nodes of a node's bodies read."""
    bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return {value for body in bodies for each in ir.traversal.RecursiveGraphIterator(body) for value in each.inputs}


def seeded(model: ir.Model) -> ir.Model:
    """The model with a seed at every node that draws random numbers, so that two runs draw the same."""
    copy = model.clone()
    for number, node in enumerate(ir.traversal.RecursiveGraphIterator(copy.graph)):
        draws = entry_of(node).draws
        if draws is not None and (draws.trains is None or any(node.inputs[draws.trains : draws.trains + 1])):
            seed = ir.AttrInt64("seed", number) if draws.whole else ir.AttrFloat32("seed", float(number))
            node.attributes["seed"] = seed
    return copy
