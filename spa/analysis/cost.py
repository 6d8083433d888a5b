"""The cost of a graph in parameters, bytes and FLOPs, as a function of how much of each factor stays.

Parameters and bytes are sums over stored tensors of products of axis sizes; floating-point operations are
sums over contractions (matrix products, convolutions ...) of products of factor sizes, read off the rules.
One multiply-accumulate counts as two operations.  Open axes count as `spa.shapes.sizes` says, whatever numbers the
coupling bound them to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod

import numpy as np
import onnx_ir as ir

from spa.analysis.application import Application
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group, Masks
from spa.analysis.liveness import Liveness
from spa.analysis.macs import macs
from spa.analysis.matching import expand
from spa.analysis.neighbours import GATE
from spa.analysis.stored import NUMBERS
from spa.notation.dims import Factor, Kind
from spa.notation.patterns import Compound, Name, names_of
from spa.notation.patterns import Term as Expression
from spa.shapes.sizes import Sizes

MEASURES = ("params", "flops", "bytes")


@dataclass(frozen=True, slots=True)
class Padded:
    """A size rounded up to a multiple of `block`, as kernels compute it that hold so many channels at once."""

    block: int

    def __call__(self, size: int) -> float:
        return float(-(-size // self.block) * self.block)


@dataclass(frozen=True, slots=True)
class IsMultiple:
    """1 where a size is a multiple of `block` or, with `wanted` False, where it is none; else 0."""

    block: int
    wanted: bool = True

    def __call__(self, size: int) -> float:
        return float((size % self.block == 0) == self.wanted)


@dataclass(frozen=True, slots=True)
class IsThere:
    """1 where anything is left, else 0."""

    def __call__(self, size: int) -> float:
        return float(size > 0)


EXACT = Padded(1)
"""A size as it is."""

Step = Padded | IsMultiple | IsThere


@dataclass(frozen=True, slots=True)
class Term:
    """`weight` times the product of the sizes of some dims.

    Attributes:
        steps: for each dim how its size counts; empty: all as they are.
    """

    weight: float
    dims: tuple[Factor, ...]
    steps: tuple[Step, ...] = ()

    def of(self, size_of: Callable[[Factor], int]) -> float:
        """The term at some sizes."""
        if not self.steps:
            return self.weight * prod(map(size_of, self.dims))
        return self.weight * prod(step(size_of(dim)) for dim, step in zip(self.dims, self.steps, strict=True))

    def while_any(self, reached: Factor | None) -> Term:
        """The term while any of a dim is left, the branches that reach what costs it; None: always."""
        if reached is None:
            return self
        steps = self.steps or (EXACT,) * len(self.dims)
        return Term(self.weight, (*self.dims, reached), (*steps, IsThere()))


@dataclass(frozen=True, slots=True)
class Cost:
    """The terms of each measure.

    Attributes:
        copies: what is stored several times over, of params and bytes: each reader of a small tensor has its own copy.
    """

    terms: Mapping[str, Sequence[Term]]
    copies: Mapping[str, float] = field(default_factory=dict)

    def before(self, measure: str) -> float:
        """What the model's file stores, before anything is removed: of several copies of a tensor, one."""
        return self.of(measure) - self.copies.get(measure, 0.0)

    def of(self, measure: str, masks: Masks | None = None) -> float:
        """Parameters, flops or bytes that are left when `masks` stay."""
        sizes = _Sizes(masks or {})
        return sum(term.of(sizes.of) for term in self.terms[measure])

    def of_index(self, measure: str) -> dict[Factor, float]:
        """What one index of each leaf frees while all others stay."""
        sizes = _Sizes({})
        freed: dict[Factor, float] = {}
        for term in self.terms[measure]:
            whole = term.of(sizes.of)
            for at, dim in enumerate(term.dims):
                slope = 1.0 if not term.steps else _slope(term.steps[at], sizes.of(dim))
                for leaf, share in sizes.shares(dim.root).items():
                    freed[leaf] = freed.get(leaf, 0.0) + whole * slope * share
        return freed


def _slope(step: Step, size: int) -> float:
    """The share of a term that goes with all of a dim, by what goes with its second half."""
    whole = step(size)
    return (whole - step(size // 2)) / whole * size / (size - size // 2) if whole else 0.0


class _Sizes:
    """Sizes of dims under one set of masks, each computed once."""

    def __init__(self, masks: Masks) -> None:
        self.kept = {leaf: int(np.count_nonzero(mask)) for leaf, mask in masks.items()}
        self.known: dict[Factor, int] = {}
        self.parts: dict[Factor, dict[Factor, float]] = {}

    def of(self, dim: Factor) -> int:
        root = dim.root
        size = self.known.get(root)
        if size is None:
            if root.kind is Kind.LEAF:
                size = self.kept.get(root, root.size)
            else:
                parts = map(self.of, root.parts)
                size = prod(parts) if root.kind is Kind.PRODUCT else sum(parts)
            self.known[root] = size
        return size

    def shares(self, root: Factor) -> dict[Factor, float]:
        """The share of a dim that goes with one index of each of its leaves."""
        if root.kind is Kind.LEAF:
            return {root: 1 / max(root.size, 1)}
        if root not in self.parts:
            shares: dict[Factor, float] = {}
            for part in (part.root for part in root.parts):
                weight = 1.0 if root.kind is Kind.PRODUCT else self.of(part) / max(self.of(root), 1)
                for leaf, share in self.shares(part).items():
                    shares[leaf] = shares.get(leaf, 0.0) + weight * share
            self.parts[root] = shares
        return self.parts[root]


def measure(coupling: Coupling, sizes: Sizes | None = None) -> Cost:
    """The cost of a coupled graph.

    Args:
        sizes: what its axes count as; None: what they are bound to.
    """
    params: list[Term] = []
    stored: list[Term] = []
    copies = {"params": 0.0, "bytes": 0.0}
    seen: set[int] = set()
    liveness = Liveness(coupling.graph, coupling.gated)
    for value, axes in coupling.axes.items():
        tensor = value.const_value
        if tensor is None or value not in coupling.weights or GATE in value.meta:
            continue
        for name, terms, weight in (
            ("bytes", stored, 0.0 if tensor.dtype == ir.DataType.STRING else tensor.dtype.bitwidth / 8),  # text: any
            ("params", params, 0.0 if tensor.dtype in NUMBERS else 1.0),
        ):
            if weight:
                terms.append(Term(weight, axes).while_any(liveness.of(value)))
                copies[name] += weight * tensor.size * (id(tensor) in seen)
        seen.add(id(tensor))
    flops = []
    for application in coupling.applications:
        contractions = macs(application)
        counted = _counted(application, sizes) if sizes is not None and sizes.of and contractions else {}
        for names in contractions:
            share = prod((counted.get(name, Fraction(1)) for name in names), start=Fraction(2))
            term = Term(float(share), tuple(application.factors[name] for name in names))
            flops.append(term.while_any(liveness.of(application.node)))
    return Cost({"params": params, "bytes": stored, "flops": flops}, copies)


def _counted(application: Application, sizes: Sizes) -> dict[str, Fraction]:
    """For each factor of a node by which it is larger where it is counted than where it was coupled, as a quotient."""
    known: dict[str, int] = {}
    axes = list(_axes(application, sizes))
    for _ in range(2):  # a product may be told from what stands alone further on
        for term, size in axes:
            names = list(names_of(term))
            open_ = [name.name for name in names if name.name not in known]
            if len(open_) == 1:
                known[open_[0]] = _rest(term, size, known, application)
    return {
        name: Fraction(size, application.factors[name].size)
        for name, size in known.items()
        if size > 0 and application.factors[name].size > 0
    }


def _axes(application: Application, sizes: Sizes) -> Iterator[tuple[Expression, int]]:
    """The term of each axis of a node's operands and results, and what the axis counts as; alone ones first."""
    axes = []
    for position, value in enumerate(application.node.inputs):
        if value is not None and value in sizes.of:
            axes += list(zip(application.operand_axes(position), sizes.of[value], strict=False))
    for value, pattern in zip(application.node.outputs, application.rule.results, strict=False):
        if pattern is not None and value in sizes.of:
            axes += list(zip(expand(pattern, len(sizes.of[value])), sizes.of[value], strict=True))
    return iter(sorted(axes, key=lambda pair: isinstance(pair[0], Compound)))


def _rest(term: Expression, size: int, known: Mapping[str, int], application: Application) -> int:
    """The size that is left for the one name of a term that is not known; as it was where the term is too deep."""
    if isinstance(term, Name):
        return size
    assert isinstance(term, Compound)
    (name,) = (unknown.name for unknown in names_of(term) if unknown.name not in known)
    if not all(isinstance(part, Name) for part in term.parts):
        return application.factors[name].size
    others = [known[part.name] for part in term.parts if isinstance(part, Name) and part.name != name]
    return size - sum(others) if term.kind is Kind.SUM else size // max(1, prod(others))


def unit_costs(groups: Sequence[Group], cost: Cost, measure: str) -> np.ndarray:
    """(groups,) what one unit of each group frees of a measure while all others stay, as a mean over its units."""
    freed = cost.of_index(measure)
    return np.array(
        [sum(freed.get(leaf, 0.0) * leaf.size for leaf in group.leaves) / max(group.size, 1) for group in groups]
    )


def stored_bytes(model: ir.Model) -> float:
    """The bytes of all stored tensors."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return float(sum(tensor.nbytes for tensor in tensors if tensor is not None))
