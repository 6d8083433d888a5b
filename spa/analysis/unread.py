"""Find the nodes and caches that nobody reads any more once some addends of sums are gone.

present = Concat(past, keys), which only an attention reads: both go with the attention
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import onnx_ir as ir

from spa.analysis.caches import continued
from spa.analysis.reading import Use, readers, reads
from spa.notation.operation import entry_of

Edge = tuple[ir.Node, int]
"""A node and the position of an operand."""

Pairs = Mapping[ir.Value, Sequence[ir.Value]]
"""Outputs that hold what inputs do, and more, with these inputs."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What goes when some branches do.

    Attributes:
        edges: addends that are no more: those of the branches, and sums of which nothing is left.
        nodes: what nobody reads then.
        ends: names of inputs and outputs that go.
    """

    edges: Set[Edge]
    nodes: Set[ir.Node]
    ends: Set[str]


def gone_with(graph: ir.Graph, addends: Iterable[Edge]) -> Gone:
    """What goes with some addends of sums of a graph."""
    read = readers(graph)
    edges = set(addends)
    pairs = cache_pairs(graph)
    for node in graph:  # a sum of which nothing is left is an addend of another
        addends = [(node, position) for position in range(len(node.inputs))]
        if entry_of(node).adds and edges.issuperset(addends):
            edges |= {(reader, at) for reader, at in read[node.outputs[0]] if at is not None}
    nodes = unread(read, edges, pairs)
    return Gone(edges, nodes, ends_of(read, edges, nodes, pairs))


def cache_pairs(graph: ir.Graph) -> dict[ir.Value, list[ir.Value]]:
    """Outputs that hold what an input does, and more, with these inputs."""
    pairs: dict[ir.Value, list[ir.Value]] = {}
    for value in graph.inputs:
        if not value.is_initializer():
            for end in continued(value):
                if end is not value:
                    pairs.setdefault(end, []).append(value)
    return pairs


def unread(read: Mapping[ir.Value, Sequence[Use]], edges: Set[Edge], pairs: Pairs) -> set[ir.Node]:
    """The nodes whose results nobody reads but over these edges; caches are no results."""
    beside = only_to_caches(read, pairs)
    while True:
        gone = _closure(read, edges, pairs, beside)
        mixed = {node for node in gone & beside if any(producer(v) not in (*gone, None) for v in reads(node))}
        if not mixed:
            return gone
        beside -= mixed  # what packs the caches of several layers


def _closure(
    read: Mapping[ir.Value, Sequence[Use]],
    edges: Set[Edge],
    pairs: Pairs,
    beside: Set[ir.Node],
) -> set[ir.Node]:
    gone: set[ir.Node] = set()
    waiting = [producer(node.inputs[position]) for node, position in edges]
    while waiting:
        node = waiting.pop()
        if node is None or node in gone:
            continue
        uses = [use for value in node.outputs for use in read.get(value, ())]
        if any(value.is_graph_output() and value not in pairs for value in node.outputs):
            continue
        if all(reader in gone or reader in beside or (reader, at) in edges for reader, at in uses):
            gone.add(node)
            waiting += [producer(value) for value in reads(node)]
            waiting += [reader for reader, _ in uses if reader in beside]
    return gone


def only_to_caches(read: Mapping[ir.Value, Sequence[Use]], pairs: Pairs) -> set[ir.Node]:
    """The nodes whose results become caches and nothing else."""
    nodes: set[ir.Node] = set()
    waiting = [producer(value) for value in pairs]
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes or any(v.is_graph_output() and v not in pairs for v in node.outputs):
            continue
        if all(reader in nodes for value in node.outputs for reader, _ in read.get(value, ())):
            nodes.add(node)
            waiting += [producer(value) for value in reads(node)]
    return nodes


def ends_of(
    read: Mapping[ir.Value, Sequence[Use]],
    edges: Set[Edge],
    nodes: Set[ir.Node],
    pairs: Pairs,
) -> set[str]:
    """The names of caches that nodes leave behind, with the inputs that nobody reads then."""
    names: set[str] = set()
    for node in nodes:
        for value in node.outputs:
            if value.is_graph_output():
                names.add(str(value.name))
                names.update(str(past.name) for past in pairs[value] if is_unread(read, edges, nodes, past))
    return names


def is_unread(read: Mapping[ir.Value, Sequence[Use]], edges: Set[Edge], nodes: Set[ir.Node], value: ir.Value) -> bool:
    """Whether all that reads a value is among some nodes, or reads it over one of these edges."""
    return all(reader in nodes or (reader, at) in edges for reader, at in read.get(value, ()))


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a value; None: there is none, or no value."""
    return None if value is None else value.producer()
