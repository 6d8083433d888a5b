"""Sort nodes into an order in which they can be computed."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable

import onnx_ir as ir

from spa.errors import ModelError


def in_order(graph: ir.Graph) -> Iterable[ir.Node]:
    """The nodes such that each comes after what it reads, also where the file lists them otherwise.

    onnx_ir's Graph.sort gives the same order, but in place and without the names of a cycle's nodes.

    Raises ModelError where nodes wait for each other.
    """
    before = {node: _producers(node, graph) for node in graph}
    done: set[ir.Node] = set()
    for node, producers in before.items():
        if not done.issuperset(producers):
            break
        done.add(node)
    else:
        return before
    try:
        return list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError as error:
        names = " -> ".join(repr(node.name or node.op_type) for node in error.args[1])
        raise ModelError(f"the graph has a cycle: {names}") from None


def _producers(node: ir.Node, graph: ir.Graph) -> list[ir.Node]:
    """Nodes of the graph whose results a node, or a subgraph of it, reads."""
    readers = [node]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            readers.extend(ir.traversal.RecursiveGraphIterator(attribute.as_graph()))
    produced = (value.producer() for reader in readers for value in reader.inputs if value is not None)
    return list(dict.fromkeys(producer for producer in produced if producer is not None and producer.graph is graph))
