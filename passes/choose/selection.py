"""Which units go, so that a share of the model goes and no more than it takes.

Every group has a fixed order in which its units would leave (`spa.passes.choose.tracks`).  A scope merges these
orders into one for the whole model; a selection is its shortest beginning that reaches the budget, found by
bisection on the exact cost.  So a larger ratio removes a superset, and what is reached exceeds what was
asked for by less than one step: a unit, or as many as `align` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np

from spa.analysis.cost import MEASURES, Cost, Term
from spa.analysis.group import Frozen, Group
from spa.analysis.plan import Plan
from spa.errors import BudgetError, NothingToPrune, UsageError
from spa.notation.dims import Factor, leaves
from spa.passes.choose.budget import BUDGETS, CHANNELS, Budget
from spa.passes.choose.candidates import NESTED, OFF, Candidates, find_candidates, opened, reasons, what_stays
from spa.passes.choose.tracks import Track, find_tracks, masks_of, schedule

_ROUNDING = 1e-9  # of a share
_SHOWN = 0.0005  # shares below this are not worth a word


@dataclass(frozen=True, slots=True)
class Selection:
    """A plan, how far it goes, and what held it back.

    Attributes:
        reached: the share (0..1) that goes of the model's params, flops and bytes, and as `channels` of the
            units of all groups that take part.
        limits: groups that take no part or went as far as they may, and why, in words.
    """

    plan: Plan
    reached: Mapping[str, float]
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a selection has to keep to: `select` says what each is."""

    budget: Budget
    unread: frozenset[str]
    norms: bool
    whole: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class _Problem:
    """A selection to be made: what does not depend on how far it goes."""

    groups: Sequence[Group]
    scores: Sequence[np.ndarray]
    cost: Cost
    terms: _Terms
    candidates: Candidates
    tracks: Sequence[Track]
    dense: Mapping[str, float]
    condensed: Cost

    @classmethod
    def of(cls, groups: Sequence[Group], scores: Sequence[np.ndarray], cost: Cost, terms: _Terms) -> _Problem:
        options = terms.budget

        def tracks_of(numbers: Sequence[int]) -> list[Track]:
            chosen = [groups[number] for number in numbers]
            mine = [scores[number] for number in numbers]
            return find_tracks(chosen, mine, min_keep=options.min_keep, align=options.align)

        def reaches(number: int) -> bool:
            (track,) = tracks_of([number])
            return track.nearest(options.ratio * track.group.size) >= 0.5 * options.ratio * track.group.size

        candidates = find_candidates(
            groups, include=options.include, exclude=options.exclude, only=options.only, unread=terms.unread,
            norms=terms.norms, reaches=reaches,
        )  # fmt: skip
        tracks = tracks_of(candidates.active)
        dense = terms.whole or {name: cost.before(name) for name in MEASURES}
        return cls(groups, scores, cost, terms, candidates, tracks, dense, _condensed(cost, tracks))

    @property
    def options(self) -> Budget:
        return self.terms.budget

    @property
    def all_that_may(self) -> list[int]:
        return [int(track.allowed[-1]) for track in self.tracks]

    @property
    def may_suffice(self) -> bool:
        """Whether all that may go meets the budget; a share of the groups that take part needs groups."""
        if self.options.of == CHANNELS or not self.dense[self.options.of]:
            return bool(self.tracks)
        return self.share(self.all_that_may, self.options.of) >= self.options.ratio - _ROUNDING

    def share(self, counts: Sequence[int], measure: str) -> float:
        """What goes when each group loses its first `counts` units."""
        if measure == CHANNELS:
            return sum(counts) / max(1, sum(track.group.size for track in self.tracks))
        whole = self.dense[measure]
        return 1 - self.condensed.of(measure, masks_of(self.tracks, counts)) / whole if whole else 0.0


def select(
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    cost: Cost,
    budget: Budget,
    *,
    unread: Iterable[str] = (),
    norms: bool = False,
    frozen: Sequence[Frozen] = (),
    whole: Mapping[str, float] | None = None,
) -> Selection:
    """Choose the units to remove.

    Args:
        scores: for each group (units,); the smallest go first, ties by the order of groups and units.
        budget: how much is to go, of what, and from where.
        unread: names of groups that no weight reads which could make up for them: they stay.
        norms: groups that are off for a norm of their own alone (`Group.own_norm`) take part. Otherwise they are opened
            where nothing else meets the budget; a larger ratio then may remove other units than a smaller one.
        frozen: what stays and why, for messages.
        whole: what shares are of, by measure, where the cost has more than the model came with (biases that a repair
            adds); by default the cost itself.

    Raises:
        UsageError: a pattern matches nothing.
        NothingToPrune: no group may be cut.
        BudgetError: not that much can go; says how much could, and what holds the rest.
    """
    terms = _Terms(budget, frozenset(unread), norms, whole)
    problem = _Problem.of(groups, scores, cost, terms)
    needed = not norms and not problem.may_suffice and any(group.own_norm for group in groups)
    if needed:
        problem = _Problem.of(groups, scores, cost, replace(terms, norms=True))
    if not problem.tracks:
        why = [*reasons(groups, problem.candidates), what_stays(groups, frozen)]
        raise NothingToPrune(f"nothing can be removed: {'; '.join(filter(None, why)) or 'the model stores no weights'}")
    if budget.of != CHANNELS and not problem.dense[budget.of]:
        raise UsageError(f"of {budget.of!r}: this model has no {budget.of}; choose another of {', '.join(BUDGETS)}")
    counts = _uniform(problem) if budget.of == CHANNELS else _search(problem)
    if counts is None or not any(counts):
        raise BudgetError(_why(problem, frozen))
    plan = Plan.of(groups, {t.group.name: t.order[:n].tolist() for t, n in zip(problem.tracks, counts, strict=True)})
    reached = {measure: problem.share(counts, measure) for measure in BUDGETS}
    notes = (*opened(groups, problem.candidates, needed), *reasons(groups, problem.candidates))
    return Selection(plan, reached, (*notes, *_at_their_end(problem, counts)))


def _uniform(problem: _Problem) -> list[int] | None:
    """The same share of every group; None if bounds keep the whole further from it than rounding does.

    Raises:
        BudgetError: the share is so small that it rounds to no unit in all groups.
    """
    ratio, tracks = problem.options.ratio, problem.tracks
    smallest = min((0.5 * t.allowed[1] / t.group.size for t in tracks if t.allowed[-1]), default=0.0)
    if ratio < smallest - _ROUNDING:
        raise BudgetError(
            f"ratio {ratio:g} of channels is less than half a step of every group: nothing would go; "
            f"the smallest ratio at which something does is {smallest:.4g}"
        )
    counts = [track.nearest(ratio * track.group.size) for track in tracks]
    missing = sum(ratio * track.group.size - count for track, count in zip(tracks, counts, strict=True))
    return counts if missing <= 0.5 * sum(track.step for track in tracks) + _ROUNDING else None


def _search(problem: _Problem) -> list[int] | None:
    """The shortest beginning of the schedule that reaches the budget; None if all of it does not."""
    options, tracks = problem.options, problem.tracks
    enough = options.ratio - _ROUNDING
    if not problem.may_suffice:
        return None
    steps = schedule(tracks, [problem.scores[number] for number in problem.candidates.active], options.scope)
    low, high = 0, len(steps.count)  # `low` steps do not reach it, `high` do
    while high - low > 1:
        middle = (low + high) // 2
        if problem.share(steps.counts(middle, len(tracks)), options.of) < enough:
            low = middle
        else:
            high = middle
    return steps.counts(high, len(tracks))


def _condensed(cost: Cost, tracks: Sequence[Track]) -> Cost:
    """The same cost as a function of the tracks alone, in fewer terms: what cannot change becomes a weight."""
    free = {leaf for track in tracks for leaf in track.group.leaves}
    changes: dict[Factor, bool] = {}
    terms = {}
    for measure, found in cost.terms.items():
        weights: dict[tuple[Factor, ...], float] = {}
        for term in found:
            weight, dims = term.weight, []
            for dim in term.dims:
                root = dim.root
                if root not in changes:
                    changes[root] = not free.isdisjoint(leaves(root))
                if changes[root]:
                    dims.append(root)
                else:
                    weight *= root.size
            weights[tuple(dims)] = weights.get(tuple(dims), 0.0) + weight
        terms[measure] = [Term(weight, dims) for dims, weight in weights.items()]
    return Cost(terms)


# ------------------------------------------------------------------------------------------------- in words
def _why(problem: _Problem, frozen: Sequence[Frozen]) -> str:
    """What could be reached at most, and what each bound holds back: how much more would go without it."""
    measure, best = problem.options.of, problem.share(problem.all_that_may, problem.options.of)
    held, reach = [], best
    for text, terms in _relaxations(problem):
        relaxed = _Problem.of(problem.groups, problem.scores, problem.cost, terms)
        further = relaxed.share(relaxed.all_that_may, measure)
        if further - reach >= _SHOWN:
            held.append(f"{text} ({_percent(further - reach)})")
            reach = further
    if 1 - reach >= _SHOWN:
        stays = "" if measure == CHANNELS else what_stays(problem.groups, frozen)
        tensors = "tensors that stay and " if stays else ""
        held.append(f"{tensors}the last unit of each group ({_percent(1 - reach)}{f': {stays}' if stays else ''})")
    most = _percent(floor(1000 * best + _ROUNDING) / 1000)  # rounded down, so that asking for it succeeds
    return (
        f"ratio {problem.options.ratio:g} of {measure} cannot be met: at most {most} can go; "
        f"the rest is held by {', '.join(held)}"
    )


def _relaxations(problem: _Problem) -> Iterator[tuple[str, _Terms]]:
    """The bounds of a selection, each with the terms in which it and those before it are lifted."""
    terms, budget = problem.terms, replace(problem.options, min_keep=0.0)
    yield f"min_keep={problem.options.min_keep:g}", replace(terms, budget=budget)
    budget = replace(budget, align=1)
    yield f"align={problem.options.align}", replace(terms, budget=budget)
    if budget.of == CHANNELS:  # a share of the groups that take part
        return
    for reason, text in ((NESTED, "groups nested with others that are cut"), (OFF, "groups that are off")):
        names = (problem.groups[n].name for n, why in problem.candidates.left.items() if why == reason)
        budget = replace(budget, include=(*budget.include, *names))
        yield f"{text} unless included", replace(terms, budget=budget)
    terms = replace(terms, unread=frozenset())
    yield "groups that nothing could make up for", replace(terms, budget=budget)
    yield "groups left out by exclude or only", replace(terms, budget=replace(budget, exclude=(), only=()))


def _at_their_end(problem: _Problem, counts: Sequence[int]) -> list[str]:
    """Groups that lost all they may while others went on."""
    options = problem.options
    ends = [t.group.name for t, n in zip(problem.tracks, counts, strict=True) if n and n == t.allowed[-1]]
    whole = [t.group.name for t in problem.tracks if t.allowed[-1] == 0]
    found = []
    if ends:
        found.append(f"{_listed(ends)} lost all that min_keep={options.min_keep:g} lets go")
    if whole:
        found.append(f"{_listed(whole)} can lose nothing under min_keep={options.min_keep:g} and align={options.align}")
    return found


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
