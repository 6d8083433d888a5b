"""Residual branches: what lies between a value and an addition to that value, so that without it the value stands.

    x -> LayerNormalization -> Attention -> MatMul -> Add(x, .)      gone: x is handed on

Found by the graph alone. An addend is a branch if it is computed from another addend of the same sum (or from what that
was before nothing but its form changed), if nothing in between is read elsewhere, and if something in between is
multiplied and summed: else it is a part of an activation. Caches of an attention that goes go with it.

A branch is there or not: a factor of one index, its gate, stands in the cost of all that only it reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from spa.analysis.branch import Branch
from spa.analysis.coupling import Coupling
from spa.analysis.macs import macs
from spa.analysis.reading import inner, readers, reads
from spa.analysis.unread import Edge, cache_pairs, ends_of, is_unread, producer, unread
from spa.notation.dims import Factor
from spa.notation.operation import Moves, entry_of

BLOCKS = "spa.blocks"
"""Mark in the metadata of a graph whose blocks go whole only: for each how the names of its stored tensors begin."""


def find_branches(graph: ir.Graph, coupling: Coupling) -> list[Branch]:
    """The residual branches of a coupled graph, in the order of the additions; where blocks are marked, these."""
    finder = _Finder(graph, coupling)
    branches = list(finder.branches())
    return list(finder.blocks(branches, graph.meta[BLOCKS])) if BLOCKS in graph.meta else branches


class _Finder:
    def __init__(self, graph: ir.Graph, coupling: Coupling) -> None:
        self.graph, self.axes, self.weights = graph, coupling.axes, coupling.weights
        self.order = {node: number for number, node in enumerate(graph)}
        self.read = readers(graph)
        self.pairs = cache_pairs(graph)
        multiplying = {application.node for application in coupling.applications if macs(application)}
        self.multiplies = {node for node in graph if node in multiplying or not multiplying.isdisjoint(inner(node))}

    def branches(self) -> Iterator[Branch]:
        """The branches; of a sum of sums each addend."""
        for node in self.graph:
            entry = entry_of(node)
            if entry.joins is not None and self.has_operator_alone(node):
                addends = [edge for at in entry.joins.operands for edge in self.addends(node, at)]
            elif entry.adds and not self.is_addend(node):
                addends = [edge for at in range(len(node.inputs)) for edge in self.addends(node, at)]
            else:
                continue
            whole = self.shape(node.outputs[0])
            addends = [edge for edge in addends if whole is not None and self.shape(_at(edge)) == whole]
            for edge in addends:
                branch = self.branch(edge, addends)
                if branch is not None:
                    yield branch

    def has_operator_alone(self, node: ir.Node) -> bool:
        """Whether the graph may hold an operator that does the rest of what a node does, without the addition."""
        return operator_alone(self.graph, node) is not None

    def is_addend(self, node: ir.Node) -> bool:
        """Whether a sum is nothing but a part of another one."""
        uses = self.read[node.outputs[0]]
        reader, at = uses[0] if len(uses) == 1 else (node, None)
        if at is None or node.outputs[0].is_graph_output():
            return False
        joins = entry_of(reader).joins
        adds = entry_of(reader).adds or (joins is not None and at in joins.operands and self.has_operator_alone(reader))
        return adds and self.is_split(reader, at)

    def is_split(self, node: ir.Node, position: int) -> bool:
        """Whether an operand of a sum is a sum of computed values, as large as each, that nothing else reads."""
        value = node.inputs[position]
        inner = producer(value)
        if value is None or inner is None or not entry_of(inner).adds or len(self.read[value]) != 1:
            return False
        whole = self.shape(value)
        return whole is not None and not value.is_graph_output() and all(
            operand is not None and operand not in self.weights and self.shape(operand) == whole
            for operand in inner.inputs
        )  # fmt: skip

    def addends(self, node: ir.Node, position: int) -> Iterator[Edge]:
        """The operand itself, or what it is the sum of."""
        inner = producer(node.inputs[position])
        if inner is not None and self.is_split(node, position):
            for at in range(len(inner.inputs)):
                yield from self.addends(inner, at)
        elif node.inputs[position] is not None:
            yield node, position

    def branch(self, edge: Edge, addends: Sequence[Edge]) -> Branch | None:
        """One addend of several as a branch of another; None: it is none.

        What it has in common with the others alone (a norm before parallel branches) need not be its own.
        """
        value = _at(edge)
        if value in self.weights or value.producer() not in self.order:
            return None
        inside: set[ir.Node] | None = None
        for other in (other for other in addends if other != edge):
            for source in self.forms(_at(other)):
                between = self.between(source, value)
                if not between or between.isdisjoint(self.multiplies):
                    continue
                inside = unread(self.read, {edge}, self.pairs) if inside is None else inside
                multiplied = between & inside & self.multiplies
                beside = unread(self.read, set(addends) - {other}, self.pairs)
                if multiplied and between <= beside and self.caches_go(edge, inside):
                    return self.made([edge], inside)
        return None

    def blocks(self, branches: Sequence[Branch], starts: Sequence[str]) -> Iterator[Branch]:
        """The branches of each block as one, if nothing of the block is left without them."""
        for start in starts:
            named = {value for value in self.graph.initializers.values() if str(value.name).startswith(start)}
            mine = [branch for branch in branches if not named.isdisjoint(branch.parameters)]
            if mine:
                edges = [edge for branch in mine for edge in branch.edges]
                block = self.made(edges, unread(self.read, set(edges), self.pairs), start)
                if named.issubset(block.stored):
                    yield block

    def made(self, edges: Sequence[Edge], inside: set[ir.Node], block: str = "") -> Branch:
        nodes, without = sorted(inside, key=self.order.__getitem__), set(edges)
        stored = dict.fromkeys(value for node in nodes for value in reads(node) if value.is_initializer())
        own = tuple(value for value in stored if is_unread(self.read, without, inside, value))
        ends = ends_of(self.read, without, inside, self.pairs)
        return Branch(Factor(1), tuple(edges), tuple(nodes), own, tuple(sorted(ends)), block)

    def caches_go(self, edge: Edge, inside: set[ir.Node]) -> bool:
        """Whether inputs that caches continue are read by nothing else."""
        ends = (value for node in inside for value in node.outputs if value in self.pairs)
        return all(is_unread(self.read, {edge}, inside, past) for value in ends for past in self.pairs[value])

    def forms(self, value: ir.Value) -> Iterator[ir.Value]:
        """A value, and what it was before nothing but its form changed, or was rounded."""
        while True:
            yield value
            node = value.producer()
            source = None if node is None or not node.inputs else node.inputs[0]
            if node is None or source is None or node not in self.order:
                return
            entry = entry_of(node)
            keeps = entry.copies or entry.casts or entry.quantises or entry.moves is Moves.FIRST
            if not keeps or self.count(source) != self.count(value):
                return
            value = source

    def between(self, source: ir.Value, value: ir.Value) -> set[ir.Node]:
        """The nodes on the ways from a value to another, sizes apart."""
        made_by = source.producer()
        start = -1 if made_by is None else self.order.get(made_by, -1)
        before: set[ir.Node] = set()
        waiting = [value]
        while waiting:
            node = waiting.pop().producer()
            if node is None or node in before or self.order.get(node, -1) <= start or entry_of(node).lists:
                continue
            before.add(node)
            waiting += reads(node)
        reached = {source}
        joins = None if made_by is None else entry_of(made_by).joins
        if made_by is not None and joins is not None and source in made_by.outputs[joins.total :]:
            reached.update(made_by.outputs)  # what the sum is handed on beside is computed from it
        nodes = set()
        for node in sorted(before, key=self.order.__getitem__):
            if not reached.isdisjoint(reads(node)):
                reached.update(node.outputs)
                nodes.add(node)
        return nodes if value in reached else set()

    def shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        axes = None if value is None else self.axes.get(value)
        return None if axes is None else tuple(dim.size for dim in axes)

    def count(self, value: ir.Value) -> int | None:
        shape = self.shape(value)
        if shape is None:
            return None
        number = 1
        for size in shape:
            number *= size
        return number


def _at(edge: Edge) -> ir.Value:
    value = edge[0].inputs[edge[1]]
    assert value is not None
    return value


def operator_alone(graph: ir.Graph, node: ir.Node) -> str | None:
    """The operator that does what a node does behind the addition, as a graph may hold it; None: there is none."""
    joins = entry_of(node).joins
    version = graph.opset_imports.get("", 0)
    for name, first in joins.alone if joins is not None else ():
        if version >= first > 0 or (not first and any(other.op_type == name and not other.domain for other in graph)):
            return name
    return None
