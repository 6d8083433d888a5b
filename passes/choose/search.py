"""The least that reaches a budget: the beginning of a schedule, without the steps that it can do without.

A score says what a unit costs for what it frees, so that a step loses its score times what it frees. The shortest
beginning of the schedule that reaches the budget may end with a step that frees far more than was missing (a head, a
block of sixteen channels): where later, finer steps make up for it at less loss, those are taken instead. Then every
group gets back its last steps as far as the budget allows, those that lose most first. Of time, whose steps are coarse,
steps of two groups are traded besides, until hardly more goes than was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spa.passes.choose.budget import LATENCY
from spa.passes.choose.problem import ROUNDING, Problem
from spa.passes.choose.tracks import Schedule, schedule

_COARSE = 16
"""So many steps that free too much are passed over."""
_NEAR = 0.01
"""Of what stays: so much more may go before steps are traded."""
_TRADES = 8
"""Steps that are traded at most, each for another's."""
_MOST_TRACKS = 48
"""With more groups than this, steps are fine enough."""
_LEAST = 0.02
"""Of what a unit frees in the dense model: it frees less where others are gone, but hardly ever less than this."""


@dataclass(frozen=True, slots=True)
class _Way:
    """Units that go of each track, and what those beyond a common beginning lose."""

    counts: list[int]
    loss: float


def search(problem: Problem) -> list[int] | None:
    """How many units of each track go; None if all that may go does not reach the budget."""
    if not problem.may_suffice:
        return None
    options, tracks = problem.options, problem.tracks
    steps = schedule(tracks, [problem.scores[number] for number in problem.candidates.active], options.scope)
    last = _shortest(problem, steps)
    counts = steps.counts(last, len(tracks))
    if options.scope != "global":  # equal shares are what was asked for
        return counts
    if _reached(problem, counts) <= options.ratio + ROUNDING:
        return counts
    freed = problem.freed()
    counts = _given_back(problem, steps, _finer(problem, steps, last, freed), freed)
    return _traded(problem, counts, freed) if options.of == LATENCY else counts


def _reached(problem: Problem, counts: Sequence[int]) -> float:
    return problem.share(counts, problem.options.of)


def _meets(problem: Problem, counts: Sequence[int]) -> bool:
    return _reached(problem, counts) >= problem.options.ratio - ROUNDING


def _shortest(problem: Problem, steps: Schedule, low: int = 0) -> int:
    """How many steps reach the budget, which `low` steps do not and all do."""
    high, tracks = len(steps.count), len(problem.tracks)
    while high - low > 1:
        middle = (low + high) // 2
        if _meets(problem, steps.counts(middle, tracks)):
            high = middle
        else:
            low = middle
    return high


def _finer(problem: Problem, steps: Schedule, last: int, freed: np.ndarray) -> list[int]:
    """The units that go when the last step is passed over for finer ones, if that loses less.

    Args:
        freed: (tracks,) what a unit frees.
    """
    tracks, start = len(problem.tracks), last - 1
    before = _reached(problem, steps.counts(start, tracks))
    least = min(0.0, float(steps.when[0]))  # losses are counted from the smallest score on
    best = _way(problem, steps, start, last, before, least, freed)
    for _ in range(_COARSE):
        steps = steps.without(int(steps.track[last - 1]), last - 1)
        if last > len(steps.count) or not _meets(problem, steps.counts(len(steps.count), tracks)):
            break
        last = _shortest(problem, steps, last - 1)
        way = _way(problem, steps, start, last, before, least, freed)
        if way.loss < best.loss:
            best = way
        if float(steps.when[last - 1] - least) * (problem.options.ratio - before) >= best.loss:
            break  # what follows loses more, however little it frees
    return best.counts


def _way(
    problem: Problem, steps: Schedule, start: int, last: int, before: float, least: float, freed: np.ndarray
) -> _Way:
    """What the steps from `start` to `last` lose: their mean score, by the units that go, for what they free."""
    tracks = len(problem.tracks)
    counts, gone = steps.counts(last, tracks), np.array(steps.counts(start, tracks))
    units = np.empty(last - start)
    for at in range(start, last):
        units[at - start] = steps.count[at] - gone[steps.track[at]]
        gone[steps.track[at]] = steps.count[at]
    weights = units * freed[steps.track[start:last]]
    mean = float(np.sum(weights * (steps.when[start:last] - least)) / max(float(np.sum(weights)), 1e-300))
    return _Way(counts, mean * (_reached(problem, counts) - before))


def _given_back(problem: Problem, steps: Schedule, counts: list[int], freed: np.ndarray) -> list[int]:
    """The counts with steps undone while the budget stays met, those of the highest score first."""
    over = _reached(problem, counts) - problem.options.ratio
    for at in range(len(steps.count) - 1, -1, -1):
        track = int(steps.track[at])
        if counts[track] != steps.count[at]:
            continue
        allowed = problem.tracks[track].allowed
        before = int(allowed[np.searchsorted(allowed, counts[track]) - 1])
        if _LEAST * freed[track] * (counts[track] - before) > over:
            continue
        trial = [*counts[:track], before, *counts[track + 1 :]]
        if any(trial) and _meets(problem, trial):
            counts, over = trial, _reached(problem, trial) - problem.options.ratio
    return counts


def _traded(problem: Problem, counts: list[int], freed: np.ndarray) -> list[int]:
    """The counts with one group's last step undone for another's next, while less goes that nobody asked for."""
    ratio = problem.options.ratio
    near = _NEAR * (1 - ratio)
    if len(counts) > _MOST_TRACKS:
        return counts
    for _ in range(_TRADES):
        over = _reached(problem, counts) - ratio
        if over <= near:
            break
        found = [
            (max(left - near, 0.0), loss, trial)
            for trial, loss in _trades(problem, counts, freed)
            if -ROUNDING <= (left := _reached(problem, trial) - ratio) < over - ROUNDING
        ]
        if not found:
            break
        counts = min(found)[2]
    return counts


def _trades(problem: Problem, counts: list[int], freed: np.ndarray) -> Iterator[tuple[list[int], float]]:
    """Counts with one step back and another on, and what that loses besides."""
    back, on = {}, {}
    for number, (track, count) in enumerate(zip(problem.tracks, counts, strict=True)):
        scores = problem.scores[problem.candidates.active[number]][track.order] * freed[number]
        at = int(np.searchsorted(track.allowed, count))
        if at:
            before = int(track.allowed[at - 1])
            back[number] = before, float(scores[before:count].sum())
        if at + 1 < len(track.allowed):
            after = int(track.allowed[at + 1])
            on[number] = after, float(scores[count:after].sum())
    for a, (before, gained) in back.items():
        for b, (after, lost) in on.items():
            if a != b:
                trial = list(counts)
                trial[a], trial[b] = before, after
                yield trial, lost - gained
