"""Find the groups of a graph: which units compete, and where each unit lies in the stored tensors.

A *unit* is the smallest set of indices that must be removed together everywhere: one index of one leaf
factor of the solved graph.  A *group* is all units of one factor (and of the pieces it was cut into);
they compete with each other.  Each group knows its slices: which positions of which axis of which
constant belong to which unit, and whether that constant makes the unit or reads it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
import onnx_ir as ir

from spa.analysis.branch import ADDED, Branch
from spa.analysis.coupling import EXPERTS, Coupling, Reason, called, named
from spa.analysis.pieces import gather_pieces, pieces_of_axes
from spa.analysis.stream import is_stream
from spa.analysis.unit_layers import UnitLayers, dims_with, thin_axes
from spa.notation.dims import ONE, Factor, Kind, leaves, show
from spa.notation.positions import Masks, keep_mask, leaf_positions
from spa.operators.norm import AVERAGES
from spa.operators.quantize import RANGE
from spa.operators.reduce import BARRED

__all__ = ["Frozen", "Group", "Masks", "Slice", "find_frozen", "find_groups", "keep_mask", "leaf_positions"]

DEPTH = "depth"
"""The kind of a residual branch, a group of one unit that goes as a whole."""

KINDS = ("experts", "heads", "kv_heads", "head_dim", "conv_groups", "hidden", "channels", "ffn")
WIDTH = "width"
"""The kind of a group whose units enter a norm, mean or softmax: removing them is valid but not exact."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Where a group's units lie along one axis of one constant.

    Attributes:
        unit_of: (axis size,) the unit each position belongs to, -1 for none.
        producer: the constant makes the units (its other axes are what a unit is computed from).
        consumer: some node sums over this axis: the constant reads the units.
        uses: the nodes that read the constant, with the operand's position.
    """

    value: ir.Value
    axis: int
    unit_of: np.ndarray
    producer: bool
    consumer: bool
    uses: tuple[tuple[ir.Node, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """All units of one prunable factor.

    Attributes:
        name: a producing constant and its axis, unique in the model and the same in every run.
        kind: what users call it: channels, heads, head_dim, ffn, conv_groups, hidden, experts, width.
        leaf, index: (units,) the factor and the index in it that each unit is.
        off: why the group is left alone unless asked for; None: pruned by default.
        outer: names of groups whose units contain whole copies of this one (heads for head_dim).
        thin: the axes, of constants or computed, that factors of one index and loose ones could leave empty, by their
            dim: (axis size,) the unit each position belongs to, -1 for none; once for each layer of units.
        loose: leaves that are pieces of an axis and never stand alone: all of one may go, as long as the axis stays.
        cached: names of inputs and outputs that hold the units too, and change with them (`spa.analysis.caches`).
        own_norm: it is off for a norm or mean of its own alone (the units are no residual stream): a selection may
            open it, and does where nothing else meets the budget.
        barred: what it is off for knows nothing of units that read minus infinity, so that removing them is exact.
        least: how many units stay at least; 0: the group may go as a whole.
        branch: the residual branch that its unit is.
        ranged: with others the units set the range of numbers that are quantised when the graph runs: without them what
            stays is rounded otherwise.
    """

    name: str
    kind: str
    leaves: tuple[Factor, ...]
    slices: tuple[Slice, ...]
    off: Reason | None = None
    outer: frozenset[str] = frozenset()
    offsets: Mapping[Factor, int] = field(default_factory=dict)
    thin: tuple[tuple[Factor, np.ndarray], ...] = ()
    loose: Set[Factor] = frozenset()
    cached: tuple[str, ...] = ()
    own_norm: bool = False
    ranged: bool = False
    barred: bool = False
    least: int = 1
    branch: Branch | None = None

    @property
    def exact(self) -> bool:
        """Whether what stays computes what it did when the units of the group were read as nothing."""
        return self.off is None or self.barred or self.branch is not None

    @property
    def size(self) -> int:
        """The number of units."""
        return sum(leaf.size for leaf in self.leaves)

    def __repr__(self) -> str:
        return f"Group({self.name!r}, {self.kind}, {self.size} units)"


@dataclass(frozen=True, slots=True)
class Frozen:
    """An index set that stays, with the reason, and the share of parameters that it holds on to."""

    name: str
    size: int
    reason: Reason
    params: int


# --------------------------------------------------------------------------------------------------- groups
def find_groups(coupling: Coupling) -> list[Group]:
    """The groups of a coupled graph, in graph order."""
    constants = _constants(coupling)
    free = _free_leaves(coupling, constants)
    pieces = [*pieces_of_axes(coupling, free), *coupling.choices]
    members = gather_pieces(free, pieces)
    unit_of_leaf = {leaf: (number, offset) for number, group in enumerate(members) for leaf, offset in group.items()}
    slices: list[list[Slice]] = [[] for _ in members]
    consumed = _consumed(coupling)
    uses = _uses(coupling)
    layers = UnitLayers(unit_of_leaf)
    for value in constants:
        for axis, dim in enumerate(coupling.axes[value]):
            read = {leaf for at, leaf in consumed.get(value, ()) if at in (None, axis)}
            for number, consumer, unit_of in layers.of(dim, read):
                piece = Slice(value, axis, unit_of, not consumer, consumer, uses.get(value, ()))
                slices[number].append(piece)
    for expert in coupling.apart:
        number, unit = unit_of_leaf.get(expert.gate, (-1, 0))
        for value in expert.parameters if number >= 0 else ():
            if coupling.axes.get(value):
                whole = np.full(coupling.axes[value][0].size, unit)
                slices[number].append(Slice(value, 0, whole, producer=True, consumer=False, uses=uses.get(value, ())))
    loose = {leaf for axis in pieces for leaf in axis}
    thin = thin_axes(coupling, layers, loose)
    outer = _nesting(coupling, unit_of_leaf)
    named: list[Group] = []
    names = _names(coupling, slices)
    for number, group in enumerate(members):
        reasons = [coupling.statistic[leaf] for leaf in group if leaf in coupling.statistic]
        statistic = min(reasons, key=lambda reason: reason.weight, default=None)
        ranged = statistic is not None and statistic.text == RANGE
        statistic = None if ranged else statistic
        called = set().union(*(coupling.kinds.get(leaf, set()) for leaf in group))
        experts = EXPERTS in called
        barred = experts and all(coupling.reasons.get(leaf, set()) <= BARRED for leaf in group)
        named_so = next((kind for kind in KINDS if kind in called), "channels")
        kind = WIDTH if statistic and not experts else named_so
        outside = frozenset(names[k] for k in outer[number])
        leaves_and_slices = tuple(group), tuple(slices[number])
        own = statistic is not None and statistic.text in AVERAGES and not is_stream(coupling, slices[number])
        held = loose & group.keys()
        named.append(
            Group(
                names[number], kind, *leaves_and_slices, statistic, outside, dict(group), tuple(thin[number]), held,
                cached=_cached(coupling, group), own_norm=own, ranged=ranged, barred=barred,
                least=max((coupling.least.get(leaf, 1) for leaf in group), default=1),
            )
        )  # fmt: skip
    return [*named, *_depth(coupling, {group.name for group in named})]


def _depth(coupling: Coupling, taken: set[str]) -> Iterator[Group]:
    """The residual branches, each a group of one unit."""
    for branch in coupling.branches:
        name, number = branch.name, 1
        while name in taken:
            number += 1
            name = f"{branch.name}#{number}"
        taken.add(name)
        uses = {value: tuple((use.node, use.idx) for use in value.uses()) for value in branch.stored}
        axes = {value: coupling.axes[value] for value in branch.parameters if coupling.axes.get(value)}
        slices = tuple(
            Slice(value, 0, np.zeros(dims[0].size, int), producer=True, consumer=False, uses=uses[value])
            for value, dims in axes.items()
        )
        node, position = branch.edge
        reason = Reason("a branch", f"operand {position} of {called(node)}")
        yield Group(
            name, DEPTH, (branch.gate,), slices, reason, offsets={branch.gate: 0}, cached=branch.ends, least=0,
            branch=branch,
        )  # fmt: skip


def _cached(coupling: Coupling, members: Iterable[Factor]) -> tuple[str, ...]:
    """The names of the inputs and outputs that hold some leaves."""
    return tuple(dict.fromkeys(str(value.name) for leaf in members for value in coupling.cached.get(leaf, ())))


def _constants(coupling: Coupling) -> list[ir.Value]:
    """The stored tensors, in graph order of first use."""
    return [value for value in coupling.axes if value.const_value is not None and value in coupling.weights]


def _free_leaves(coupling: Coupling, constants: Iterable[ir.Value]) -> dict[Factor, None]:
    """Leaves that may go, in graph order."""
    free: dict[Factor, None] = {}
    for dim in {dim.root: None for value in constants for dim in coupling.axes[value]}:
        for leaf in leaves(dim):
            if leaf is not ONE and leaf.size and leaf not in coupling.frozen:
                free[leaf] = None
    own = {leaf for choice in coupling.choices for leaf in choice}  # axes of theirs alone go with their expert
    singles = {leaf for leaf in free if leaf.size == 1 and leaf not in own}
    for dim, held in dims_with(coupling, singles).items():
        for leaf in held & _covering(dim):
            coupling.frozen[leaf] = Reason("without it an axis would be empty", show(dim))
            free.pop(leaf, None)
    return free


def _covering(dim: Factor) -> set[Factor]:
    """The leaves that lie in every position of a dim."""
    root = dim.root
    if root.kind is Kind.LEAF:
        return {root}
    parts = map(_covering, root.parts)
    return set().union(*parts) if root.kind is Kind.PRODUCT else set.intersection(*parts)


def _consumed(coupling: Coupling) -> dict[ir.Value, set[tuple[int | None, Factor]]]:
    """For each constant, the leaves that some node sums over along an axis of it.

    Seen through nodes on constants alone; then the axis may be another, and None stands for it.
    """
    consumed: dict[ir.Value, set[tuple[int | None, Factor]]] = defaultdict(set)
    for application in reversed(coupling.applications):
        node = application.node
        constants = [at for at, value in enumerate(node.inputs) if value is not None and value in coupling.weights]
        if not constants:
            continue
        for summed in application.sums():
            value = node.inputs[summed.operand]
            if value is not None and summed.operand in constants:
                dims = (application.factors[name] for name in summed.names)
                consumed[value].update((summed.axis, leaf) for dim in dims for leaf in leaves(dim))
        derived = [value for value in node.outputs if value in consumed]
        for position in constants:
            value = node.inputs[position]
            assert value is not None
            for result in derived:
                consumed[value].update((None, leaf) for _, leaf in consumed[result])
    return consumed


def _uses(coupling: Coupling) -> dict[ir.Value, tuple[tuple[ir.Node, int], ...]]:
    uses_of: dict[ir.Value, list[tuple[ir.Node, int]]] = defaultdict(list)
    for application in coupling.applications:
        for position, value in enumerate(application.node.inputs):
            if value is not None and value in coupling.weights:
                uses_of[value].append((application.node, position))
    return {value: tuple(uses) for value, uses in uses_of.items()}


def _nesting(coupling: Coupling, unit_of_leaf: Mapping[Factor, tuple[int, int]]) -> list[set[int]]:
    """For each group, the groups that stand outside it in some product (heads outside head_dim)."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from({number for number, _ in unit_of_leaf.values()})

    def visit(dim: Factor) -> set[int]:
        root = dim.root
        if root.kind is Kind.LEAF:
            return {unit_of_leaf[root][0]} if root in unit_of_leaf else set()
        seen: set[int] = set()
        for part in root.parts:
            inside = visit(part)
            if root.kind is Kind.PRODUCT:
                graph.add_edges_from((a, b) for a in seen for b in inside if a != b)
            seen |= inside
        return seen

    for dim in {dim.root: None for axes in coupling.axes.values() for dim in axes if dim.root.kind is not Kind.LEAF}:
        visit(dim)
    size = max(graph.nodes, default=-1) + 1
    return [set(graph.predecessors(number)) if number in graph else set() for number in range(size)]


def _names(coupling: Coupling, slices: list[list[Slice]]) -> list[str]:
    """A name for each group: the first constant that makes it and the axis, of those that the model came with.

    Every group has slices: what may go stands in a constant.
    """
    taken: dict[str, int] = {}
    names = []
    for of_group in slices:
        best = min(of_group, key=lambda s: (ADDED in s.value.meta, not s.producer, len(coupling.axes[s.value]) < 2))
        name = f"{best.value.name}:{best.axis}"
        taken[name] = taken.get(name, 0) + 1
        names.append(name if taken[name] == 1 else f"{name}#{taken[name]}")
    return names


# --------------------------------------------------------------------------------------------------- frozen
def find_frozen(coupling: Coupling) -> list[Frozen]:
    """What stays, axis by axis of the stored float tensors, largest first; one entry for each axis and reason."""
    rows = []
    for value in _constants(coupling):
        shape = tuple(dim.size for dim in coupling.axes[value])
        for axis, dim in enumerate(coupling.axes[value]):
            reasons = {coupling.frozen[leaf]: None for leaf in leaves(dim) if leaf in coupling.frozen}
            if reasons and all(leaf in coupling.frozen or leaf is ONE for leaf in leaves(dim)):
                rows.append(Frozen(f"{named(value)}:{axis}", dim.size, next(iter(reasons)), int(np.prod(shape))))
    return sorted(rows, key=lambda entry: -entry.params)
