"""Which units go, so that a share of the model goes and no more than it takes.

Every group has a fixed order in which its units would leave (`spa.passes.choose.tracks`).  A scope merges these
orders into one for the whole model; a selection is its shortest beginning that reaches the budget, less what it took
too much (`spa.passes.choose.meeting`).  What is reached exceeds what was asked for by less than any step that was
taken: a unit, or as many as `align` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np

from spa.analysis.cost import Cost
from spa.analysis.group import DEPTH, Frozen, Group
from spa.analysis.plan import Plan
from spa.errors import BudgetError, NothingToPrune, UsageError
from spa.passes.choose.budget import AUTO, BUDGETS, CHANNELS, LATENCY, Budget
from spa.passes.choose.candidates import EXCLUDED, NESTED, OFF, opened, reasons, what_stays
from spa.passes.choose.meeting import meet
from spa.passes.choose.problem import ROUNDING, Problem, Terms
from spa.passes.choose.widths import given_up, multiples, near_multiples, search_aligned

_SHOWN = 0.0005  # shares below this are not worth a word


@dataclass(frozen=True, slots=True)
class Selection:
    """A plan, how far it goes, and what held it back.

    Attributes:
        reached: the share (0..1) that goes of the model's params, flops and bytes, and as `channels` of the
            units of all groups that take part.
        limits: groups that take no part or went as far as they may, and why, in words.
        given_up: of these, groups that are cut to other widths than the hardware likes.
    """

    plan: Plan
    reached: Mapping[str, float]
    limits: tuple[str, ...]
    given_up: tuple[str, ...] = ()


def select(
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    cost: Cost,
    budget: Budget,
    *,
    unread: Iterable[str] = (),
    first: Mapping[str, int] | None = None,
    norms: bool = False,
    frozen: Sequence[Frozen] = (),
    whole: Mapping[str, float] | None = None,
    device: int | None = None,
) -> Selection:
    """Choose the units to remove.

    Args:
        scores: for each group (units,); the smallest go first, ties by the order of groups and units.
        budget: how much is to go, of what, and from where.
        first: by group, the units that it had before it was ever cut: the least that stays is a share of those.
        unread: names of groups that no weight reads which could make up for them: they stay.
        norms: groups that are off for a norm of their own alone (`Group.own_norm`) take part. Otherwise they are opened
            where nothing else meets the budget; a larger ratio then may remove other units than a smaller one.
        frozen: what stays and why, for messages.
        whole: what shares are of, by measure, where the cost has more than the model came with (biases that a repair
            adds); by default the cost itself.
        device: channels that the convolutions of the device compute at once, whose time is what the budget counts:
            kept widths stay multiples of what it likes. A budget of anything else gives them up where it has to.

    Raises:
        UsageError: a pattern matches nothing.
        NothingToPrune: no group may be cut.
        BudgetError: not that much can go; says how much could, and what holds the rest.
    """
    aligned = multiples(groups, budget.align, device=device)
    yields = budget.align == AUTO and budget.of != LATENCY
    free = (1,) * len(groups) if yields else aligned  # what yields holds nothing back
    terms = Terms(budget, frozenset(unread), norms, free, whole, first or {})
    problem = Problem.of(groups, scores, cost, terms)
    needed = not norms and not problem.may_suffice and any(group.own_norm for group in groups)
    if needed:
        problem = Problem.of(groups, scores, cost, replace(problem.terms, norms=True))
    if not problem.tracks:
        why = [*reasons(groups, problem.candidates), what_stays(groups, frozen)]
        said = "; ".join(filter(None, why)) or "the model stores no weights"
        by_option = EXCLUDED in problem.candidates.left.values()
        raise NothingToPrune(f"nothing can be removed: {said}", by_option=by_option)
    if budget.of != CHANNELS and not problem.dense.get(budget.of):
        raise UsageError(f"of {budget.of!r}: this model has no {budget.of}; choose another of {', '.join(BUDGETS)}")
    _check_branches(problem)
    if budget.of == CHANNELS:
        _check_large_enough(problem)
        near = near_multiples(problem, aligned)
        counts = _uniform(near)
        problem, counts = (problem, _uniform(problem)) if counts is None else (near, counts)
    elif yields:
        problem, counts = search_aligned(problem, aligned)
    else:
        counts = meet(problem)
    if counts is None or not any(counts):
        most, held = _why(problem, frozen)
        message = f"ratio {budget.ratio:g} of {budget.of} cannot be met: {most}; the rest is held by {held}"
        raise BudgetError(message, most=_plan(problem, problem.all_that_may), held=held)
    plan = replace(_plan(problem, counts), align=max(aligned, default=1))
    reached = {measure: problem.share(counts, measure) for measure in (*problem.cost.terms, CHANNELS)}
    notes = (*opened(groups, problem.candidates, needed), *reasons(groups, problem.candidates))
    unaligned = given_up(problem, aligned, counts)
    return Selection(plan, reached, (*notes, *unaligned, *_at_their_end(problem, counts)), tuple(unaligned))


def _plan(problem: Problem, counts: Sequence[int]) -> Plan:
    removed = {t.group.name: t.order[:n].tolist() for t, n in zip(problem.tracks, counts, strict=True)}
    return Plan.of(problem.groups, removed)


def _check_branches(problem: Problem) -> None:
    """Raise UsageError where each group is to lose a share, and some are residual branches, which go or stay."""
    local = problem.options.of == CHANNELS or problem.options.scope == "local"
    if local and any(track.group.branch is not None for track in problem.tracks):
        raise UsageError(
            f"{DEPTH} goes branch by branch, and no share of each can: leave it out of include, or give of params, "
            "flops or latency with scope global"
        )


def _check_large_enough(problem: Problem) -> None:
    """Raise BudgetError where a share of channels is so small that it rounds to no unit in all groups."""
    ratio, tracks = problem.options.ratio, problem.tracks
    smallest = min((0.5 * t.allowed[1] / t.group.size for t in tracks if t.allowed[-1]), default=0.0)
    if ratio < smallest - ROUNDING:
        raise BudgetError(
            f"ratio {ratio:g} of channels is less than half a step of every group: nothing would go; "
            f"the smallest ratio at which something does is {smallest:.4g}"
        )


def _uniform(problem: Problem) -> list[int] | None:
    """The same share of every group; None if bounds keep the whole further from it than rounding does."""
    ratio, tracks = problem.options.ratio, problem.tracks
    counts = [track.nearest(ratio * track.group.size) for track in tracks]
    missing = sum(ratio * track.group.size - count for track, count in zip(tracks, counts, strict=True))
    return counts if missing <= 0.5 * sum(track.step for track in tracks) + ROUNDING else None


# ------------------------------------------------------------------------------------------------- in words
def _why(problem: Problem, frozen: Sequence[Frozen]) -> tuple[str, str]:
    """What could be reached at most, and what each bound holds back: how much more would go without it."""
    measure, best = problem.options.of, problem.share(problem.all_that_may, problem.options.of)
    held, reach = [], best
    for text, terms in _relaxations(problem):
        relaxed = Problem.of(problem.groups, problem.scores, problem.cost, terms)
        further = relaxed.share(relaxed.all_that_may, measure)
        if further - reach >= _SHOWN:
            held.append(f"{text} ({_percent(further - reach)})")
            reach = further
    if 1 - reach >= _SHOWN:
        held.append(_last(problem, 1 - reach, frozen))
    most = _percent(max(0.0, floor(1000 * best + ROUNDING) / 1000))  # rounded down, so that asking for it succeeds
    return f"at most {most} can go", ", ".join(held)


def _last(problem: Problem, share: float, frozen: Sequence[Frozen]) -> str:
    """What holds a share that no bound does."""
    measure = problem.options.of
    if measure == LATENCY:
        return f"calls, what no width shortens, and the last unit of each group ({_percent(share)})"
    stays = "" if measure == CHANNELS else what_stays(problem.groups, frozen)
    tensors = "tensors that stay and " if stays else ""
    return f"{tensors}the last unit of each group ({_percent(share)}{f': {stays}' if stays else ''})"


def _relaxations(problem: Problem) -> Iterator[tuple[str, Terms]]:
    """The bounds of a selection, each with the terms in which it and those before it are lifted."""
    terms = problem.terms
    if problem.options.kept:
        terms = replace(terms, budget=replace(terms.budget, kept={}))
        yield f"protect={terms.budget.protect}", terms
    budget = replace(terms.budget, min_keep=0.0)
    yield f"min_keep={problem.options.min_keep:g}", replace(terms, budget=budget)
    terms = replace(terms, multiples=(1,) * len(terms.multiples))
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


def _at_their_end(problem: Problem, counts: Sequence[int]) -> list[str]:
    """Groups that lost all they may while others went on."""
    options = problem.options
    widths = [(t, n) for t, n in zip(problem.tracks, counts, strict=True) if t.group.branch is None]
    ends = [t.group.name for t, n in widths if n and n == t.allowed[-1]]
    whole = [t.group.name for t in problem.tracks if t.allowed[-1] == 0]
    lines = []
    if ends:
        lines.append(f"{_listed(ends)} lost all that min_keep={options.min_keep:g} lets go")
    if whole:
        lines.append(f"{_listed(whole)} can lose nothing under min_keep={options.min_keep:g} and align={options.align}")
    return lines


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
