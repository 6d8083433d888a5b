"""Experts with weights of their own: what a graph computes for one position of a choice, and leaves out without it.

    marks -> Gather(e) -> NonZero -> Gather(tokens, .) -> expert -> ScatterElements(so far, ., .)    gone: so far stands
    gates -> Slice(e) -> Mul(expert, .) -> Add(so far, .)

An expert whose score is minus infinity is never chosen, so its marks and gates are zero. From there zeros, and tensors
that have no elements because nothing was marked, are followed from operator to operator, to the sums where they add
nothing. What is read on the way by nothing else goes with the expert.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from spa.analysis.application import Application
from spa.analysis.branch import Branch
from spa.analysis.coupling import Coupling
from spa.analysis.reading import readers, reads
from spa.analysis.unread import Edge, is_unread, unread
from spa.notation.dims import ONE, Factor, leaves
from spa.notation.operation import Moves, entry_of
from spa.notation.rule import Positions
from spa.operators.reduce import VANISHES


def find_apart(graph: ir.Graph, coupling: Coupling, dim: Factor) -> list[Branch] | None:
    """The branches of the experts that a dim counts, whose gates are its leaves; None: some do not end in sums.

    Args:
        dim: what is chosen among, cut into single positions.
    """
    own = list(leaves(dim))
    if ONE in own:
        return None
    finder = _Finder(graph, coupling, own)
    branches = []
    for leaf, starts in finder.picked().items():
        edges = finder.ends(starts)
        if not edges:
            return None
        branches.append(finder.branch(leaf, edges))
    return branches


@dataclass(slots=True)
class _Followed:
    """What is known of values where a position is not chosen.

    Attributes:
        zero: they hold nothing but zeros.
        empty: they hold no element.
        sizes: they list the sizes of such values.
        counted: axes along which values are empty.
        edges: operands of sums that add nothing.
    """

    zero: set[ir.Value] = field(default_factory=set)
    empty: set[ir.Value] = field(default_factory=set)
    sizes: set[ir.Value] = field(default_factory=set)
    counted: set[Factor] = field(default_factory=set)
    edges: list[Edge] = field(default_factory=list)

    def at(self, node: ir.Node, values: set[ir.Value]) -> set[int]:
        return {position for position, value in enumerate(node.inputs) if value is not None and value in values}


class _Finder:
    def __init__(self, graph: ir.Graph, coupling: Coupling, own: Sequence[Factor]) -> None:
        self.graph, self.axes, self.weights, self.own = graph, coupling.axes, coupling.weights, list(own)
        self.applications = {application.node: application for application in coupling.applications}
        self.order = {node: number for number, node in enumerate(graph)}
        self.read = readers(graph)

    # ------------------------------------------------------------------------------------------------- starts
    def picked(self) -> dict[Factor, list[ir.Value]]:
        """For each leaf the values that hold its position alone, and zeros where it is not chosen."""
        holders: dict[Factor, list[ir.Value]] = defaultdict(list)
        vanishing: set[ir.Value] = set()
        for node, application in self.applications.items():
            if node.graph is not self.graph:
                continue
            if self.begins(application) or self.marks(application):
                vanishing.add(node.outputs[0])
                continue
            at = {position for position, value in enumerate(node.inputs) if value is not None and value in vanishing}
            moved = self.moved(node, at, vanishing)
            for result, name in application.rule.holds:
                leaf = application.factors[name].root
                if leaf in self.own and (moved or entry_of(node).compares):
                    holders[leaf].append(node.outputs[result])
            if moved or (at and self.gone_terms(application, at) == "all"):
                vanishing.update(value for value in node.outputs if self.held(value) == set(self.own))
        return holders

    def begins(self, application: Application) -> bool:
        """Whether what a node gives is zero at positions that are not chosen."""
        node, rule, mine = application.node, application.rule, set(self.own)
        for name, reason in rule.statistic.items():
            if reason == VANISHES and any(mine.intersection(leaves(dim)) for dim in application.named(name)):
                return self.held(node.outputs[0]) == mine
        blank = entry_of(node).blank
        looked = any(mine.intersection(leaves(dim)) for _, name in rule.looks for dim in application.named(name))
        return looked and blank is not None and self.is_zero(node.inputs[blank[0]], blank[1])

    def marks(self, application: Application) -> bool:
        """Whether a node compares numbers of the choice with all of them, along an axis."""
        counts = any(isinstance(follow, Positions) for follow in application.rule.follows)
        whole = self.held(application.node.outputs[0]) == set(self.own)
        return counts and whole and entry_of(application.node).compares

    def content(self, value: ir.Value | None) -> np.ndarray | None:
        return None if value is None or value.const_value is None else value.const_value.numpy()

    def is_zero(self, value: ir.Value | None, count: int | None = None) -> bool:
        """Whether a value, or so many of its first elements, are nothing but zeros, in every run."""
        array, node = self.content(value), None if value is None else value.producer()
        if array is not None:
            return not array.reshape(-1)[:count].any()
        if node is None or count is not None:
            return False
        entry = entry_of(node)
        if entry.fills:
            filled = node.attributes.get(entry.fills)
            return filled is None or not filled.as_tensor().numpy().any()
        return (entry.moves is Moves.FIRST or entry.casts or entry.copies) and self.is_zero(node.inputs[0])

    def held(self, value: ir.Value) -> set[Factor]:
        """The leaves of the choice along the axes of a value."""
        return {leaf for dim in self.axes.get(value, ()) for leaf in leaves(dim)} & set(self.own)

    # ---------------------------------------------------------------------------------------------- following
    def moved(self, node: ir.Node, at: set[int], known: set[ir.Value]) -> bool:
        """Whether all that a node gives are elements of some operands."""
        entry = entry_of(node)
        if entry.moves is Moves.ALL:
            return all(value is None or value in known for value in node.inputs)
        return 0 in at and (entry.moves is Moves.FIRST or entry.casts or entry.copies)

    def gone_terms(self, application: Application, at: set[int]) -> str:
        """Which of the products that a node sums are zero with some operands: all, some, or it is none that sums."""
        terms = application.linear_terms
        left = [term for term in terms if not at.intersection(term)]
        return "none" if not terms else "some" if left else "all"

    def ends(self, starts: Iterable[ir.Value]) -> list[Edge] | None:
        """The operands of sums that add nothing where some values are zero; None: something else reads them."""
        known = _Followed(zero=set(starts))
        waiting: list[int] = []
        nodes = list(self.graph)
        queued: set[ir.Node] = set()

        def push(values: Iterable[ir.Value]) -> bool:
            for value in values:
                if value.is_graph_output() or any(at is None for _, at in self.read.get(value, ())):
                    return False
                for reader, _ in self.read.get(value, ()):
                    if reader not in queued:
                        queued.add(reader)
                        heapq.heappush(waiting, self.order[reader])
            return True

        if not push(known.zero):
            return None
        while waiting:
            node = nodes[heapq.heappop(waiting)]
            made = self.step(node, known)
            if made is None or not push(made):
                return None
        return known.edges

    def step(self, node: ir.Node, known: _Followed) -> list[ir.Value] | None:
        """The values that a node gives of such operands, of which is noted what they are; None: nothing is known."""
        application = self.applications.get(node)
        if application is None:
            return None
        zero, empty = known.at(node, known.zero), known.at(node, known.empty)
        entry, given = entry_of(node), [value for value in node.outputs if value.name]
        if entry.lists:
            known.sizes.update(given)
        elif entry.finds and zero:
            known.empty.update(given)
            known.counted.update(leaf for leaf in leaves(self.axes[given[0]][1]) if leaf is not ONE)
        elif empty or not zero:
            return self.step_empty(application, known, zero, empty, given)
        elif self.moved(node, zero, known.zero) or self.gone_terms(application, zero) == "all":
            known.zero.update(given)
        elif entry.adds and all(self.shape(node.inputs[at]) == self.shape(given[0])
                                for at in range(len(node.inputs)) if at not in zero):  # fmt: skip
            known.edges += [(node, at) for at in sorted(zero)]
            return []
        else:
            return None
        return given

    def step_empty(
        self, application: Application, known: _Followed, zero: set[int], empty: set[int], given: list[ir.Value]
    ) -> list[ir.Value] | None:
        node = application.node
        along = [
            bool(known.counted.intersection(leaf for dim in self.axes.get(v, ()) for leaf in leaves(dim)))
            for v in given
        ]
        if given and all(along):
            known.empty.update(given)
        elif not zero and not empty:
            known.sizes.update(given)
        elif (0, 0) in entry_of(node).continues and 0 not in zero | empty:
            known.edges += [(node, at) for at in range(1, len(node.inputs)) if node.inputs[at] not in self.weights]
            return []
        elif self.gone_terms(application, zero | empty) == "all":
            known.zero.update(given)
        else:
            return None
        return given

    def shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        axes = None if value is None else self.axes.get(value)
        return None if axes is None else tuple(dim.size for dim in axes)

    def branch(self, leaf: Factor, edges: Sequence[Edge]) -> Branch:
        inside = unread(self.read, set(edges), {})
        nodes = sorted(inside, key=self.order.__getitem__)
        stored = dict.fromkeys(value for node in nodes for value in reads(node) if value.is_initializer())
        own = tuple(value for value in stored if is_unread(self.read, set(edges), inside, value))
        return Branch(leaf, tuple(edges), tuple(nodes), own, ())
