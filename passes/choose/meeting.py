"""The least that reaches a budget: the beginning of a schedule, without the steps that it can do without.

A score says what a unit costs for what it frees, so that a step loses its score times what it frees. The shortest
beginning of the schedule that reaches the budget may end with a step that frees far more than was missing (a head, a
block of sixteen channels): where later, finer steps make up for it at less loss, those are taken instead. Then every
group gets back its last steps as far as the budget allows, those that lose most first. A time is met from both sides
(`spa.passes.choose.trading`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spa.passes.choose.budget import LATENCY
from spa.passes.choose.problem import ROUNDING, Problem
from spa.passes.choose.tracks import Schedule, schedule
from spa.passes.choose.trading import nearest

_COARSE = 16
"""So many steps that free too much are passed over."""
_LEAST = 0.02
"""Of what a unit frees in the dense model: it frees less where others are gone, but hardly ever less than this."""


@dataclass(frozen=True, slots=True)
class _Way:
    """Units that go of each track, and what those beyond a common beginning lose."""

    counts: list[int]
    loss: float


def meet(problem: Problem) -> list[int] | None:
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
    return nearest(problem, counts, freed) if options.of == LATENCY else counts


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
