"""Times as functions of widths: for every fused unit a sum of products of its sizes, fitted to what was measured.

Which sizes a unit's time depends on is read off its shapes: an axis is that dim of the graph which has, in every
setting that was timed, the axis's size (or that size rounded up to what kernels hold at once). Units alike in operator
and shapes share one fit (a table's key in HALP, Shen et al. 2022), whose coefficients are not negative (Lawson, Hanson
1974): a constant, every size, and the products of two. The times of a setting's units are brought to the sum that the
whole model took without the profiler. The terms are those of FLOPs (`spa.analysis.cost.Term`): selections know no time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from re import sub

import numpy as np

from spa.analysis.cost import EXACT, Cost, IsMultiple, Padded, Step, Term, measure
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group, Masks
from spa.analysis.liveness import Liveness
from spa.errors import ModelError
from spa.notation.dims import Factor
from spa.passes.latency.bend import Bend
from spa.passes.latency.variants import plan_of
from spa.record import Profile, Unit, Variant

LATENCY = "latency"
PADDED = (1, 4, 8, 16, 32)
_MANY = 3
"""With more dims than this, a unit's time has no products: it copies, as Concat does."""
_SLIGHT = 1e-3
"""Of the longest time that is fitted: shorter ones weigh as this."""
_EXPLAINED = 0.5
"""Of the variance of times over settings: what units leave unexplained at most, or the graph is taken as a whole."""
_RIDGE = 1e-3
"""Of a fit's weight: what draws coefficients that two sizes could share to both."""

Axis = tuple[Factor, Step]


@dataclass(frozen=True, slots=True)
class _Sample:
    """A unit at one setting."""

    setting: int
    milliseconds: float
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Fused:
    """A unit at all settings that run it.

    Attributes:
        name: the operator and what the profile calls it.
        axes: the dims of its axes that vary, each once, in order.
        gate: it runs only where the first of these is a multiple, or none: as kernels of a fast path do.
        key: what units that share a fit have in common.
    """

    name: str
    samples: tuple[_Sample, ...]
    axes: tuple[Axis, ...]
    squared: tuple[bool, ...]
    gate: tuple[Factor, IsMultiple] | None
    key: object


@dataclass(frozen=True, slots=True)
class Foretold:
    """The time of a fused unit, in milliseconds, as terms over the dims of a graph.

    Attributes:
        name: the operator, and what the profile calls the unit.
    """

    name: str
    terms: Sequence[Term]


def foretold_units(
    profile: Profile, groups: Sequence[Group], coupling: Coupling, *, without: int | None = None
) -> list[Foretold]:
    """What each unit of a run takes.

    Args:
        without: the number of a setting that is left out, to see how well it is foretold.

    Raises:
        ModelError: the profile was made for another model.
    """
    check_made_for(profile, groups)
    variants = [variant for number, variant in enumerate(profile.variants) if number != without]
    settings = _Settings.of(variants, groups, coupling)
    shared: dict[object, list[_Fused]] = defaultdict(list)
    reached = _reached(coupling)
    for unit in _fused_units(variants, settings, profile.device.block):
        shared[unit.key].append(unit)
    predicted = [_alive(foretold, reached) for units in shared.values() for foretold in _fitted(units, settings)]
    masks = [plan_of(groups, variant.removed).masks(groups) for variant in variants]
    whole = np.array([variant.milliseconds for variant in variants])
    cost = Cost({LATENCY: [term for unit in predicted for term in unit.terms]})
    off = whole - [cost.of(LATENCY, mask) for mask in masks]
    return predicted if np.var(off) <= _EXPLAINED * np.var(whole) else [_as_a_whole(whole, masks, coupling)]


def _reached(coupling: Coupling) -> dict[str, Factor | None]:
    """The branches that have to be there for a node to run, by the node's name; None: it always runs."""
    liveness = Liveness(coupling.graph, coupling.gated)
    branch_of: dict[str, Factor | None] = {}
    for node in coupling.graph if coupling.graph is not None and coupling.gated else ():
        name = node.name or next((value.name for value in node.outputs if value.name), None)
        if name:
            branch_of[name] = liveness.of(node)
    return branch_of


def _alive(unit: Foretold, reached: Mapping[str, Factor | None]) -> Foretold:
    """A unit that takes no time without the branch that it lies in: fusions keep the name of one of their nodes."""
    inside = [name for name in reached if name in unit.name]
    if not inside:
        return unit
    return replace(unit, terms=[term.while_any(reached[max(inside, key=len)]) for term in unit.terms])


def _as_a_whole(whole: np.ndarray, masks: Sequence[Masks], coupling: Coupling) -> Foretold:
    """The time of all of a run by its FLOPs and stored numbers, where a provider runs the graph as a node or two."""
    known = measure(coupling).terms
    kinds = [[Term(1.0, ())], known["flops"], known["params"]]
    rows = np.array([[Cost({LATENCY: terms}).of(LATENCY, mask) for terms in kinds] for mask in masks])
    coefficients = _least_squares(rows, whole)
    terms = [
        replace(term, weight=float(coefficient) * term.weight)
        for coefficient, kind in zip(coefficients, kinds, strict=True)
        for term in kind
        if coefficient > 0
    ]
    return Foretold("the whole graph", terms)


def with_latency(cost: Cost, terms: Sequence[Term]) -> Cost:
    """A cost with time as one more measure."""
    return Cost({**cost.terms, LATENCY: terms}, cost.copies)


def check_made_for(profile: Profile, groups: Sequence[Group]) -> None:
    """Refuse a profile of another model.

    Raises:
        ModelError: a group that it varied is not there, or has another size.
    """
    sizes = {group.name: group.size for group in groups}
    for name, size in profile.model["groups"].items():
        if sizes.get(name) != size:
            actual = f"this model has {sizes[name]}" if name in sizes else "this model has no such group"
            raise ModelError(
                f"the profile was made for another model: it expects {size} units in {name!r}, {actual}; "
                "`spa profile` makes one for this"
            )


def leave_one_out(profile: Profile, groups: Sequence[Group], coupling: Coupling) -> np.ndarray:
    """(settings - 1,) how far the time of each setting is from what the others foretell, relative."""
    errors = []
    for number, variant in enumerate(profile.variants[1:], start=1):
        units = foretold_units(profile, groups, coupling, without=number)
        cost = Cost({LATENCY: [term for unit in units for term in unit.terms]})
        others = [other for at, other in enumerate(profile.variants) if at != number]
        foretold = cost.of(LATENCY, plan_of(groups, variant.removed).masks(groups)) / cost.of(LATENCY)
        share = Bend.of(cost, LATENCY, others, groups).share(foretold)
        errors.append(share * profile.milliseconds / variant.milliseconds - 1)
    return np.array(errors)


# ------------------------------------------------------------------------------------------------ sizes of dims
@dataclass(frozen=True, slots=True)
class _Settings:
    """What was timed.

    Attributes:
        sizes: for each dim of the graph that varies, (settings,).
        scale: (settings,) by which the times of units are multiplied.
    """

    sizes: Mapping[Factor, np.ndarray]
    scale: np.ndarray

    @classmethod
    def of(cls, variants: Sequence[Variant], groups: Sequence[Group], coupling: Coupling) -> _Settings:
        roots = list({dim.root: None for axes in coupling.axes.values() for dim in axes})
        cost = Cost({str(number): [Term(1.0, (root,))] for number, root in enumerate(roots)})
        masks = [plan_of(groups, variant.removed).masks(groups) for variant in variants]
        table = np.array([[cost.of(measure, mask) for measure in cost.terms] for mask in masks]).astype(int)
        sizes = {root: table[:, at] for at, root in enumerate(roots) if len(set(table[:, at].tolist())) > 1}
        sums = np.array([sum(unit.milliseconds for unit in variant.units) for variant in variants])
        whole = np.array([variant.milliseconds for variant in variants])
        return cls(sizes, whole / np.maximum(sums, 1e-9))

    def axis(self, numbers: Sequence[int], sizes: Sequence[int]) -> Axis | None:
        """The dim that has these sizes in these settings, and how it counts; None: it varies by nothing known."""
        wanted, at = np.array(sizes), np.array(numbers)
        for block in PADDED:
            for root, by_setting in self.sizes.items():
                dims = by_setting[at]
                if np.array_equal(-(-dims // block) * block, wanted):
                    return root, Padded(block)
        return None


# ------------------------------------------------------------------------------------------------- fused units
def _fused_units(variants: Sequence[Variant], settings: _Settings, block: int) -> Iterator[_Fused]:
    """The units of all settings, each with its samples, and what does not fit any shape as one that never varies."""
    samples: dict[str, list[_Sample]] = defaultdict(list)
    operators: dict[str, str] = {}
    for number, variant in enumerate(variants):
        for name, unit in _named(variant.units):
            scaled = unit.milliseconds * float(settings.scale[number])
            samples[name].append(_Sample(number, scaled, (*unit.inputs, *unit.outputs)))
            operators[name] = unit.operator
    for name, of_unit in samples.items():
        yield _fused(name, operators[name], of_unit, settings, block, len(variants))


def _named(units: Sequence[Unit]) -> Iterator[tuple[str, Unit]]:
    """Units by names that are the same in every setting: what has but a number is named after what runs before."""
    seen: dict[str, int] = defaultdict(int)
    before = ""
    for unit in units:
        name = unit.name.partition("#")[0]
        if name.partition("_token_")[0] == unit.operator or name == unit.operator:
            name = f"{unit.operator} after {before}"
        else:
            name = before = sub(r"_token_\d+$", "", name)
        seen[name] += 1
        yield f"{name} {seen[name]}", unit


def _fused(name: str, operator: str, samples: Sequence[_Sample], settings: _Settings, block: int, count: int) -> _Fused:
    numbers = [sample.setting for sample in samples]
    times_seen: dict[Axis, int] = {}
    pattern = []
    ranks = {tuple(map(len, sample.shapes)) for sample in samples}
    for shape in range(len(samples[0].shapes)) if len(ranks) == 1 else ():
        for axis in range(len(samples[0].shapes[shape])):
            sizes = [sample.shapes[shape][axis] for sample in samples]
            dim = settings.axis(numbers, sizes) if len(set(sizes)) > 1 else None
            if dim is not None:
                times_seen[dim] = times_seen.get(dim, 0) + 1
            pattern.append(None if dim is None else list(times_seen).index(dim))
    axes = tuple(times_seen)
    gate = _gate(numbers, settings, block, count) if len(numbers) < count else None
    key = operator, samples[0].shapes if 0 in numbers else id(samples), tuple(pattern), gate is None or gate[1].wanted
    squared = tuple(times > 1 for times in times_seen.values())
    called = name.removesuffix(" 1")
    called = called if called.startswith(f"{operator} ") else f"{operator} {called}"
    return _Fused(called, tuple(samples), axes, squared, gate, key)


def _gate(numbers: Sequence[int], settings: _Settings, block: int, count: int) -> tuple[Factor, IsMultiple] | None:
    """The dim whose being a multiple, or none, tells in which settings a unit runs."""
    runs = np.isin(np.arange(count), numbers)
    for root, sizes in settings.sizes.items():
        for wanted in (True, False):
            if np.array_equal((sizes % block == 0) == wanted, runs):
                return root, IsMultiple(block, wanted)
    return None


# --------------------------------------------------------------------------------------------------------- fits
def _fitted(units: Sequence[_Fused], settings: _Settings) -> list[Foretold]:
    """The times of units that share a fit."""
    features = _features(units[0].axes, units[0].squared)
    rows, times = [], []
    for unit in units:
        for sample in unit.samples:
            sizes = [step(int(settings.sizes[root][sample.setting])) for root, step in unit.axes]
            rows.append([prod(sizes[at] for at in feature) for feature in features])
            times.append(sample.milliseconds)
    coefficients = _least_squares(np.array(rows), np.array(times))
    return [Foretold(unit.name, _terms(unit, features, coefficients, len(settings.scale))) for unit in units]


def _features(axes: Sequence[Axis], squared: Sequence[bool]) -> list[tuple[int, ...]]:
    """Products of axes, by their numbers: none, each alone, and pairs."""
    numbers = range(len(axes))
    products: list[tuple[int, ...]] = [(), *((at,) for at in numbers)]
    if len(axes) <= _MANY:
        products += [(at, at) for at in numbers if squared[at]]
        products += combinations(numbers, 2)
    return products


def _least_squares(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(features,) coefficients, none below zero, of (samples, features) rows; long times weigh as their roots."""
    from scipy.optimize import nnls

    scale = np.maximum(rows.max(axis=0), 1e-12)
    weight = 1 / np.sqrt(np.maximum(times, _SLIGHT * times.max() + 1e-9))
    ridge = _RIDGE * np.sqrt(len(times) * float(times.mean()) + 1e-12) / max(float(times.mean()), 1e-9)
    design = np.vstack([rows / scale * weight[:, None], ridge * np.eye(rows.shape[1])])
    solution, _ = nnls(design, np.concatenate([times * weight, np.zeros(rows.shape[1])]))
    return np.asarray(solution / scale)


def _terms(unit: _Fused, features: Sequence[tuple[int, ...]], coefficients: np.ndarray, settings: int) -> list[Term]:
    """The fit as terms; a unit that runs in some settings, nobody knows why, counts for its share of them."""
    factor = 1.0 if unit.gate is not None else len(unit.samples) / settings
    terms = []
    for feature, coefficient in zip(features, coefficients, strict=True):
        if coefficient > 0:
            axes = [unit.axes[at] for at in feature] + ([] if unit.gate is None else [unit.gate])
            steps = tuple(step for _, step in axes)
            exact = all(step == EXACT for step in steps)
            weight = factor * float(coefficient)
            terms.append(Term(weight, tuple(root for root, _ in axes), () if exact else steps))
    return terms
