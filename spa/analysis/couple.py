"""Solve the rules of all nodes together: which index sets the axes of a graph's tensors share.

Every axis of every tensor gets a dim (`spa.notation.dims.Factor`); the rules unify them, node by node.  What must
not be touched is noted on the way, with the reason, and read off the leaves at the end.

One file: the notes (frozen, statistic, kinds) are made while the equations are solved, and need their state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from math import ceil, prod
from typing import Any

import numpy as np
import onnx_ir as ir

import spa.operators  # noqa: F401  (fills the registry)
from spa.analysis.apart import find_apart
from spa.analysis.application import Application
from spa.analysis.branch import Branch
from spa.analysis.branches import find_branches
from spa.analysis.caches import cached_heads
from spa.analysis.coupling import EXPERTS, INPUT, OUTPUT, Axes, Coupling, Reason, called, named
from spa.analysis.matching import build, expand, meet
from spa.analysis.numbering import Numbering, Pick
from spa.notation.dims import ONE, Factor, Kind, Misfit, leaves
from spa.notation.equations import unify
from spa.notation.operation import Operation, Refusal, rule_of
from spa.notation.patterns import Pattern, Term, parse_terms
from spa.notation.rule import Positions, Rule
from spa.operators.movement import pieces_of
from spa.operators.reduce import RANKED
from spa.shapes import Shapes


def couple(model: ir.Model, shapes: Shapes) -> Coupling:
    """Solve the rules of all nodes of a normalised model."""
    return _Solver(model, shapes).solve()


class _Solver:
    def __init__(self, model: ir.Model, shapes: Shapes) -> None:
        self.model = model
        self.shapes = shapes
        self.result = Coupling()
        self.axes = self.result.axes
        self.weights = self.result.weights
        self.notes: dict[str, list[tuple[Factor, Reason]]] = {"frozen": [], "statistic": []}
        self.kinds: list[tuple[Factor, str]] = []
        self.numbering = Numbering()
        self.least: list[tuple[Factor, int]] = []
        self.versions = dict(model.graph.opset_imports)

    def solve(self) -> Coupling:
        graph = self.model.graph
        for value in graph.inputs:
            if not value.is_initializer():
                self.freeze(value, Reason(INPUT, named(value)))
        self.couple_graph(graph)
        for value in graph.outputs:
            self.freeze(value, Reason(OUTPUT, named(value)))
        self.settle_choices()
        for factor, reason in self.notes["statistic"]:
            for leaf in leaves(factor):
                self.result.reasons.setdefault(leaf, set()).add(reason.text)
        for factor, kind in self.kinds:
            for leaf in leaves(factor):
                self.result.kinds.setdefault(leaf, set()).add(kind)
        self.result.cached = cached = cached_heads(graph, self.axes, self.result.kinds)
        self.notes["statistic"].sort(key=lambda note: note[1].weight)  # of several, the one that says most counts
        for word, reasons in (("frozen", self.result.frozen), ("statistic", self.result.statistic)):
            for factor, reason in self.notes[word]:
                for leaf in leaves(factor):
                    if leaf is not ONE and not (leaf in cached and reason.text in (INPUT, OUTPUT)):
                        reasons.setdefault(leaf, reason)
        self.freeze_open_sums()
        self.result.graph, self.result.branches = graph, find_branches(graph, self.result)
        return self.result

    def settle_choices(self) -> None:
        """What is chosen among by value may go where the numbers of the choice do nothing but look up.

        Of experts in groups, of which some groups are chosen first, whole groups may go, or places in all groups.
        """
        grouped: set[Factor] = set()
        for pick in sorted(self.numbering.picks, key=lambda pick: pick.is_unread):
            dim = pick.factor.root
            apart = self.apart(pick) if pick.is_closed and dim.kind is Kind.SUM else None
            plain = all(part.root.kind is Kind.LEAF for part in dim.parts) and dim.kind is not Kind.SUM
            if (pick.is_closed and plain) or apart:
                self.kinds.append((dim, EXPERTS))
                self.result.apart += apart or []
                self.result.choices += [list(leaves(dim))] if apart else []
                grouped.update(leaves(dim) if plain else ())
            elif not (pick.is_unread and grouped.issuperset(leaves(dim))):
                reason = Reason(RANKED, called(pick.node))
                self.notes["frozen"] += [(factor, reason) for factor in (pick.factor, *pick.looked)]
        self.settle_least()

    def settle_least(self) -> None:
        """How many positions of each leaf stay at least, of what so many are chosen among."""
        least = self.result.least
        products = [each for each in self.least if each[0].root.kind is Kind.PRODUCT]
        for factor, number in [each for each in self.least if each not in products]:
            for leaf in leaves(factor):
                least[leaf] = max(number, least.get(leaf, 1))
        for factor, number in products:  # of 2 groups at least, with 3 places each, 6 may be chosen
            parts = list(leaves(factor))
            for leaf in reversed(parts):
                beside = prod(least.get(other, 1) for other in parts if other is not leaf)
                least[leaf] = max(ceil(number / beside), least.get(leaf, 1))

    def apart(self, pick: Pick) -> list[Branch] | None:
        """The experts of a choice that have weights of their own; None: it is not known what goes with each."""
        return find_apart(self.model.graph, self.result, pick.factor.root)

    def freeze_open_sums(self) -> None:
        """What lies beside positions whose number no stored tensor tells (learned tokens before a sequence) stays.

        A size that is computed when the graph runs could not be corrected: by how much depends on that number.
        """
        dims = {dim.root for value in self.weights for dim in self.axes.get(value, ())}
        stored = {leaf for dim in dims for leaf in leaves(dim)} | {ONE}
        seen: set[Factor] = set()
        for value, axes in self.axes.items():
            waiting = list(axes)
            while waiting:
                root = waiting.pop().root
                if root.kind is Kind.LEAF or root in seen:
                    continue
                seen.add(root)
                waiting.extend(root.parts)
                if root.kind is Kind.SUM and not stored.issuperset(leaves(root)):
                    reason = Reason("joined with positions whose number is not stored", named(value))
                    for leaf in set(leaves(root)) - {ONE}:
                        self.result.frozen.setdefault(leaf, reason)

    def couple_graph(self, graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            self.weights.add(value)
            self.known(value)
        for node in graph:
            self.couple_node(node)

    # ------------------------------------------------------------------------------------------ values
    def known(self, value: ir.Value | None) -> Axes | None:
        """The dims of a tensor, made new if it has none yet; None if its shape is unknown."""
        if value is None:
            return None
        axes = self.axes.get(value)
        if axes is None:
            shape = self.shapes.of.get(value)
            if shape is None:
                return None
            axes = self.axes[value] = tuple(ONE if size == 1 else Factor(size) for size in shape)
        return axes

    def freeze(self, value: ir.Value | None, reason: Reason) -> None:
        self.notes["frozen"] += [(dim, reason) for dim in self.known(value) or ()]

    def equate(self, left: ir.Value, right: ir.Value, reason: Reason) -> None:
        """Two tensors with the same axes: what a body hands in or out."""
        left_axes, right_axes = self.known(left), self.known(right)
        if not self.equate_axes(left_axes, right_axes, reason):
            self.freeze(left, reason)
            self.freeze(right, reason)

    def equate_rounds(self, outer: ir.Value, inner: ir.Value, axis: int, reason: Reason) -> None:
        """A tensor that holds another once for each round of a loop; the rounds stay."""
        axes = self.known(outer)
        if not axes or not self.equate_axes(_without(axes, axis), self.known(inner), reason):
            self.freeze(outer, reason)
            self.freeze(inner, reason)
            return
        self.notes["frozen"].append((axes[axis], Reason("rounds of a loop", reason.where)))

    def equate_axes(self, left_axes: Axes | None, right_axes: Axes | None, reason: Reason) -> bool:
        """Make axes one; False if that cannot be, because their number differs or is unknown."""
        if left_axes is None or right_axes is None or len(left_axes) != len(right_axes):
            return False
        for x, y in zip(left_axes, right_axes, strict=True):
            try:
                unify(x, y)
            except Misfit:
                self.notes["frozen"] += [(x, reason), (y, reason)]
        return True

    # ------------------------------------------------------------------------------------------- nodes
    def couple_node(self, node: ir.Node) -> None:
        bodies = [attribute for attribute in node.attributes.values() if _is_body(attribute)]
        if bodies:
            self.couple_bodies(node, bodies)
            self.numbering.follow(node, None, set())
            return
        if any(value is not None for value in node.inputs) and all(
            value is None or value in self.weights for value in node.inputs
        ):
            self.weights.update(node.outputs)
        try:
            operation, factors = self.operation(node), dict[str, Factor]()
            rule = self.marking(node, rule_of(operation), factors)
            application = self.apply(node, rule, operation.weights, factors)
        except (Refusal, Misfit) as reason:
            self.opaque(node, str(reason))
            self.numbering.follow(node, None, set())
        else:
            self.result.applications.append(application)

    def opaque(self, node: ir.Node, text: str) -> None:
        """Nothing is known of how this node's axes pass: all of them stay."""
        reason = Reason(text, called(node))
        for value in (*node.inputs, *node.outputs):
            self.freeze(value, reason)

    def couple_bodies(self, node: ir.Node, bodies: Sequence[Any]) -> None:
        """Control flow: bodies take part in the coupling where they hand tensors through unchanged."""
        from spa.operators.control import passes_through  # the operators' semantics live with them

        reason = Reason("handed through control flow", called(node))
        for attribute in bodies:
            graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else attribute.value
            for body in graphs:
                links = passes_through(node, body)
                for outer, inner in links.entering:
                    if outer in self.axes and inner not in self.axes:
                        self.axes[inner] = self.axes[outer]
                for outer, inner, axis in links.stacked:
                    if outer in self.axes and inner not in self.axes:
                        self.axes[inner] = _without(self.axes[outer], axis)
                for value in body.inputs:
                    if value not in links.linked:
                        self.freeze(value, reason)
                self.couple_graph(body)
                for left, right in (*links.entering, *links.leaving):
                    self.equate(left, right, reason)
                for outer, inner, axis in links.stacked:
                    self.equate_rounds(outer, inner, axis, reason)
                for value in links.opaque:
                    self.freeze(value, reason)

    def operation(self, node: ir.Node) -> Operation:
        constants: dict[int, np.ndarray] = {}
        bound: dict[int, np.ndarray] = {}
        weights = []
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            if value in self.weights:
                weights.append(position)
            content = self.shapes.values.get(value)
            if content is not None:
                bound[position] = content
                if value in self.weights:
                    constants[position] = content
        version = node.version if node.version is not None else self.versions.get(node.domain, 1)
        return Operation(
            node.op_type,
            "" if node.domain == "ai.onnx" else node.domain,
            version,
            [None if value is None else self.shapes.of.get(value) for value in node.inputs],
            [self.shapes.of.get(value) for value in node.outputs],
            {name: attribute.value for name, attribute in node.attributes.items()},
            constants,
            frozenset(weights),
            bound,
            frozenset(at for at, value in enumerate(node.inputs) if self.floats(value)),
            singles=self.is_chosen_among(node.inputs[0] if node.inputs else None),
        )

    def is_chosen_among(self, value: ir.Value | None) -> bool:
        """Whether an axis counts what was chosen among, whose positions may go one by one."""
        roots = {pick.factor.root for pick in self.numbering.picks}
        return bool(roots) and value is not None and any(dim.root in roots for dim in self.axes.get(value, ()))

    def floats(self, value: ir.Value | None) -> bool:
        """Whether a tensor is known to hold floating-point numbers."""
        dtype = None if value is None else value.dtype or self.shapes.dtypes.get(value)
        return dtype is not None and dtype.is_floating_point()

    def marking(self, node: ir.Node, rule: Rule, factors: dict[str, Factor]) -> Rule:
        """The rule of a node that may compare the numbers of a choice with a stored one, which counts positions too."""
        compared = self.numbering.compared(node)
        if compared is None:
            return rule
        pick, number, other = compared
        pick.looked.append(pick.factor)
        pick.marked.add(node)
        if number is None:
            value = node.inputs[other]
            (axis,) = (dim for dim in self.known(value) or () if dim.size == pick.factor.size)
            unify(axis, pick.factor)
            factors["zz"] = pick.factor
            return replace(rule, follows=(*rule.follows, Positions(other, parse_terms("zz")[0])))
        terms = pieces_of(np.array([number]), pick.factor.size, "zz", "zzb")
        assert terms is not None
        whole, _, sizes = terms
        (term,) = parse_terms(whole)
        meet(term, pick.factor, factors, sizes)
        return replace(rule, follows=(*rule.follows, Positions(other, term)), holds=((0, "zzb"),))

    def apply(self, node: ir.Node, rule: Rule, weights: frozenset[int], factors: dict[str, Factor]) -> Application:
        operands: list[tuple[Term, ...]] = []
        for value, pattern in zip_longest(node.inputs, rule.operands):
            operands.append(() if value is None else self.operand_axes(node, value, pattern, factors, rule.sizes))
        for value, pattern in zip_longest(node.outputs, rule.results):
            if pattern is None:
                self.freeze(value, Reason("its rule says nothing of it", called(node)))
                continue
            self.result_axes(value, pattern, factors, rule.sizes)
        application = Application(node, rule, factors, operands, weights)
        looked = self.numbering.looked_up(application)
        self.numbering.follow(node, application, looked)
        self.least += [(dim, number) for name, number in rule.least.items() for dim in application.named(name)]
        for word, reasons in (("frozen", rule.frozen), ("statistic", rule.statistic)):
            for name, text in reasons.items():
                if word == "frozen" and name in looked:
                    continue
                self.notes[word] += [(dim, Reason(text, called(node))) for dim in application.named(name)]
        self.kinds += [(dim, kind) for name, kind in rule.kinds.items() for dim in application.named(name)]
        return application

    def operand_axes(
        self, node: ir.Node, value: ir.Value, pattern: Pattern, factors: dict[str, Factor], sizes: Mapping[str, int]
    ) -> tuple[Term, ...]:
        """An operand meets its pattern; the terms of its axes."""
        if pattern is None:  # sizes, axes, scales: numbers that say how the node works
            self.freeze(value, Reason("read as a whole", called(node)))
            return ()
        axes = self.known(value)
        if axes is None:
            raise Refusal(f"the shape of {named(value)} is unknown")
        terms = expand(pattern, len(axes))
        for term, dim in zip(terms, axes, strict=True):
            meet(term, dim, factors, sizes)
        return terms

    def result_axes(
        self, value: ir.Value, pattern: Pattern, factors: dict[str, Factor], sizes: Mapping[str, int]
    ) -> None:
        shape = self.shapes.of.get(value)
        if shape is None:
            if value.uses():
                raise Refusal(f"the shape of {named(value)} is unknown")
            if value.is_graph_output():  # the rule tells, where all of its names are known from operands
                terms = expand(pattern or (), len(pattern or ()))
                self.axes[value] = tuple(build(term, None, factors, sizes) for term in terms)
            return
        terms = expand(pattern or (), len(shape))
        dims = tuple(build(term, size, factors, sizes) for term, size in zip(terms, shape, strict=True))
        for dim, size in zip(dims, shape, strict=True):
            if dim.size != size:
                raise Refusal(f"{named(value)} has size {size} where its rule gives {dim.size}")
        if value in self.axes:  # a loop handed it in before
            for mine, dim in zip(self.axes[value], dims, strict=True):
                unify(mine, dim)
        else:
            self.axes[value] = dims


def _without(axes: Axes, axis: int) -> Axes:
    at = axis % len(axes) if axes else 0
    return axes[:at] + axes[at + 1 :]


def _is_body(attribute: Any) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
