"""Find the residual branches that have to be there for a node or a stored tensor to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import onnx_ir as ir

from spa.analysis.branch import Branch
from spa.analysis.reading import inner, readers, reads
from spa.analysis.unread import Edge, cache_pairs, only_to_caches
from spa.notation.dims import Factor, product, total


class Liveness:
    """Which branches have to be there for a node or a stored tensor to be read, as a dim of gates."""

    def __init__(self, graph: ir.Graph | None, branches: Sequence[Branch]) -> None:
        self.nodes: dict[ir.Node, frozenset[frozenset[Factor]]] = {}
        self.values: dict[ir.Value, frozenset[frozenset[Factor]]] = {}
        self.dims: dict[frozenset[frozenset[Factor]], Factor] = {}
        if graph is not None and branches:
            self.find(graph, {edge: branch.gate for branch in branches for edge in branch.edges})

    def find(self, graph: ir.Graph, gates: Mapping[Edge, Factor]) -> None:
        """What each node waits for, from the outputs on."""
        read, pairs = readers(graph), cache_pairs(graph)

        beside = only_to_caches(read, pairs)

        def of(value: ir.Value) -> set[frozenset[Factor]]:
            ways = {frozenset[Factor]()} if value.is_graph_output() and value not in pairs else set()
            for reader, at in read.get(value, ()):
                if reader in beside:
                    continue
                gate = None if at is None else gates.get((reader, at))
                ways |= {way if gate is None else way | {gate} for way in self.nodes[reader]}
            return ways

        for node in reversed(graph):
            waits = set[frozenset[Factor]]().union(*map(of, node.outputs))
            self.nodes[node] = _fewest(waits or {frozenset()})
        for node in graph:
            producers = [producer for value in reads(node) if (producer := value.producer()) is not None]
            made = [self.nodes[producer] for producer in producers if producer in self.nodes]
            if node in beside and made:
                self.nodes[node] = _fewest(frozenset().union(*made))
            self.nodes.update(dict.fromkeys(inner(node), self.nodes[node]))
        self.values = {value: _fewest(of(value) or {frozenset()}) for value in read if value.is_initializer()}

    def of(self, place: ir.Node | ir.Value) -> Factor | None:
        """The dim that is empty where nothing reads it; None: it is always read."""
        ways = self.nodes.get(place) if isinstance(place, ir.Node) else self.values.get(place)
        if ways is None or frozenset() in ways:
            return None
        if ways not in self.dims:
            parts = [product(*sorted(way, key=lambda gate: gate.serial)) for way in ways]
            self.dims[ways] = total(*sorted(parts, key=lambda part: part.serial))
        return self.dims[ways]


def _fewest(ways: Set[frozenset[Factor]]) -> frozenset[frozenset[Factor]]:
    """Ways that no other is a part of."""
    return frozenset(way for way in ways if not any(other < way for other in ways))
