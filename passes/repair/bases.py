"""Groups without axes of their own: where everything between two weights is linear, any basis between them is as good.

For every invertible R, x W_V R and R^-1 W_O give what W_V and W_O gave (values of an attention, a residual stream
without activations, a product of two matrices), and (x W_Q R)(x W_K R^-T)^T what the scores were. What carries a
factor of the graph is followed node by node: a change of basis is the same on both sides of a node, or meets its
inverse transpose where the factor is summed away (`Application.passes`). So the places where a factor lies fall
into connected parts of two sides each: R on one, R^-T on the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import networkx as nx
import onnx_ir as ir

from spa.analysis.application import Application
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group
from spa.analysis.matching import expand
from spa.notation.dims import ONE, Factor, leaves
from spa.notation.linearity import Passing
from spa.notation.patterns import Compound, Term, names_of
from spa.passes.repair.basis import Basis, Meeting, NotFree, Place, is_stack, parts_of, rows_of


def find_bases(model: ir.Model, coupling: Coupling, groups: Sequence[Group]) -> dict[str, list[Basis]]:
    """For each group (by name) that has no axes of its own, the bases that may be chosen."""
    touching: dict[Factor, list[Application]] = defaultdict(list)
    for application in coupling.applications:
        for leaf in {leaf for dim in application.factors.values() for leaf in leaves(dim)}:
            touching[leaf].append(application)
    bases = {}
    for group in groups:
        if len(group.leaves) == 1 and group.size > 1 and group.off is None:
            try:
                bases[group.name] = _Walk(model, coupling, group.leaves[0]).bases(touching[group.leaves[0]])
            except NotFree:
                continue
    return bases


class _Walk:
    """All the places of one factor, and which of them share a basis."""

    def __init__(self, model: ir.Model, coupling: Coupling, leaf: Factor) -> None:
        self.model, self.coupling, self.leaf = model, coupling, leaf
        self.same: nx.Graph[Place] = nx.Graph()
        self.meetings: list[Meeting] = []
        self.beside: dict[Place, set[Factor]] = {}  # what passes, index by index, wherever a place is passed on

    def bases(self, applications: Sequence[Application]) -> list[Basis]:
        for application in applications:
            if application.node.graph is not self.model.graph:
                raise NotFree
            self.pass_through(application)
        sides = [frozenset(side) for side in nx.connected_components(self.same)]
        side_of = {place: number for number, side in enumerate(sides) for place in side}
        graph = nx.Graph()
        graph.add_nodes_from(range(len(sides)))
        graph.add_edges_from((side_of[m.first], side_of[m.second]) for m in self.meetings)
        if nx.number_of_selfloops(graph):
            raise NotFree
        return [self.basis(sides, part, side_of) for part in nx.connected_components(graph)]

    # ------------------------------------------------------------------------------------------- one node
    def pass_through(self, application: Application) -> None:
        """Note what a node does with the factor's places."""
        node, rule = application.node, application.rule
        operands = self.named(node.inputs, application.terms, application)
        made = [
            expand(pattern, len(self.coupling.axes[value]))
            if pattern is not None and value in self.coupling.axes
            else ()
            for pattern, value in zip(rule.results, node.outputs, strict=False)
        ]
        results = self.named(node.outputs, made, application)
        for key in operands.keys() | results.keys():
            before, after = operands.get(key, []), results.get(key, [])
            how = application.passes(key[0])
            if how is Passing.MEETS:
                (_, first, terms), (_, second, terms_behind) = before
                if self.stacks(first) or self.stacks(second):
                    raise NotFree
                left, right = Place(*first), Place(*second)
                self.same.add_nodes_from((left, right))
                self.note(left, right, _shared(application, terms, terms_behind))
                self.meetings.append(Meeting(application, left, right))
            elif how is Passing.SAME:
                for _, place, terms in before:
                    for _, behind, terms_behind in after:
                        shared = _shared(application, terms, terms_behind)
                        self.join(place, terms, behind, terms_behind, shared)
            elif how is None:
                raise NotFree

    def note(self, left: Place, right: Place, shared: set[Factor]) -> None:
        """Only these factors pass beside the leaf, index by index, between two places."""
        for place in (left, right):
            self.beside[place] = self.beside.get(place, shared) & shared

    def named(
        self, values: Sequence[ir.Value | None], patterns: Sequence[Sequence[Term]], application: Application
    ) -> dict[tuple[str, int], list[tuple[int, tuple[ir.Value, int, int], Sequence[Term]]]]:
        """By name of the rule, and appearance in it: operand or result, place without slot, and the pattern."""
        places: dict[tuple[str, int], list[tuple[int, tuple[ir.Value, int, int], Sequence[Term]]]] = defaultdict(list)
        for at, (value, terms) in enumerate(zip(values, patterns, strict=False)):
            for axis, term in enumerate(terms if value is not None else ()):
                assert value is not None
                number = 0
                for name in names_of(term):
                    for k in range(self.count(application.factors[name.name])):
                        places[name.name, k].append((at, (value, axis, number), terms))
                        number += 1
                if number and number != self.count(self.coupling.axes[value][axis]):
                    raise NotFree
        return places

    def count(self, dim: Factor) -> int:
        return sum(leaf is self.leaf for leaf in leaves(dim))

    def join(
        self,
        place: tuple[ir.Value, int, int],
        terms: Sequence[Term],
        behind: tuple[ir.Value, int, int],
        terms_behind: Sequence[Term],
        shared: set[Factor],
    ) -> None:
        """Two places share a basis, slot by slot; where the axis of the slots is cut, the slot that goes on."""
        before, after = self.stacks(place), self.stacks(behind)
        if before is None and after is None:
            pairs = [(0, 0)]
        elif before is not None and before is after:
            pairs = [(slot, slot) for slot in range(before.size)]
        elif before is not None and after is None:
            self.same.add_nodes_from(Place(*place, slot) for slot in range(before.size))
            pairs = [(self.taken(place[0], before, terms, terms_behind), 0)]
        else:
            raise NotFree
        for left, right in pairs:
            self.same.add_edge(Place(*place, left), Place(*behind, right))
            self.note(Place(*place, left), Place(*behind, right), shared)

    def stacks(self, place: tuple[ir.Value, int, int]) -> Factor | None:
        """The axis of single positions beside the factor, if there is one."""
        stacks = {part for dim in self.coupling.axes[place[0]] for part in parts_of(dim) if is_stack(part)}
        if len(stacks) > 1:
            raise NotFree
        return stacks.pop() if stacks else None

    def taken(self, value: ir.Value, stack: Factor, terms: Sequence[Term], behind: Sequence[Term]) -> int:
        """Which position of a stack goes on, by the rule's names for it."""
        kept = {name.name for term in behind for name in names_of(term)}
        for term, dim in zip(terms, self.coupling.axes[value], strict=True):
            if dim.root is stack and isinstance(term, Compound) and len(term.parts) == stack.size:
                goes_on = [at for at, part in enumerate(term.parts) if {name.name for name in names_of(part)} & kept]
                goes_on = goes_on or [at for at, part in enumerate(term.parts) if part == 1]
                if len(goes_on) == 1:
                    return goes_on[0]
        raise NotFree

    # ------------------------------------------------------------------------------------------- one basis
    def basis(self, sides: Sequence[frozenset[Place]], part: set[int], side_of: Mapping[Place, int]) -> Basis:
        """What may be chosen for some sides that meet each other."""
        meetings = [m for m in self.meetings if side_of[m.first] in part]
        computed = [number for number in part if any(not self.stored(place) for place in sides[number])]
        if not meetings or len(computed) not in (1, 2) or (len(computed) == 2 and len(part) > 2):
            raise NotFree
        first = computed[0]
        others = [number for number in part if number != first]
        same = self.tensors(sides[first])
        inverse = self.tensors([place for number in others for place in sides[number]])
        if not same or not inverse:
            raise NotFree
        heads = self.heads([place for number in part for place in sides[number]])
        met = [Meeting(m.application, *self.ordered(m, first, side_of)) for m in meetings] if len(computed) == 2 else []
        basis = Basis(self.leaf, heads, same, inverse, tuple(met))
        for place in (*same, *inverse):
            self.check(place, basis)
        return basis

    def ordered(self, meeting: Meeting, first: int, side_of: Mapping[Place, int]) -> tuple[Place, Place]:
        pair = (meeting.first, meeting.second)
        return pair if side_of[meeting.first] == first else pair[::-1]

    def stored(self, place: Place) -> bool:
        return place.value in self.coupling.weights

    def tensors(self, places: Sequence[Place] | frozenset[Place]) -> tuple[Place, ...]:
        initializers = [place for place in places if place.value.is_initializer()]
        for place in initializers:
            tensor = place.value.const_value
            if tensor is None or not tensor.dtype.is_floating_point():
                raise NotFree
        return tuple(sorted(initializers, key=lambda p: (str(p.value.name), p.axis, p.number, p.slot)))

    def heads(self, places: Sequence[Place]) -> tuple[Factor, ...]:
        """Factors that stand beside this one in every tensor that has it; in stored ones along the same axis."""
        common: dict[Factor, None] | None = None
        for place in dict.fromkeys(places):
            axes = self.coupling.axes[place.value]
            along = [leaf for leaf in leaves(axes[place.axis]) if leaf is not ONE and leaf is not self.leaf]
            across = [leaf for at, dim in enumerate(axes) if at != place.axis for leaf in leaves(dim)]
            neighbours = (
                along if self.stored(place) else [*along, *(leaf for leaf in across if across.count(leaf) == 1)]
            )
            passes = self.beside.get(place, set(neighbours))
            neighbours = [leaf for leaf in neighbours if leaf in passes and not (leaf in along and leaf in across)]
            common = (
                dict.fromkeys(neighbours) if common is None else {leaf: None for leaf in common if leaf in neighbours}
            )
        return tuple(common or ())

    def check(self, place: Place, basis: Basis) -> None:
        """That a basis can be written into a stored tensor."""
        rows_of(basis, self.coupling.axes[place.value][place.axis], number=place.number, slot=place.slot)
        stack = self.stacks((place.value, place.axis, place.number))
        if stack is not None and stack not in parts_of(self.coupling.axes[place.value][place.axis]):
            raise NotFree


def _shared(application: Application, first: Sequence[Term], second: Sequence[Term]) -> set[Factor]:
    """Factors that two patterns of a rule share by name: the same index in one is the same index in the other."""
    left, right = ({name.name for term in terms for name in names_of(term)} for terms in (first, second))
    return {leaf for name in left & right for leaf in leaves(application.factors[name]) if leaf is not ONE}
