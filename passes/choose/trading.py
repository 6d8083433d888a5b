"""Plans near a budget of time, whose steps are coarse: what goes too much is time that nobody asked for.

Steps of two groups are traded, one back for another on, until hardly more goes than was asked for. Where that does not
do and plans are few, all of them are looked at. A plan that is a little slower than asked for is taken only where every
faster one is too fast by more than `MET`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import numpy as np

from spa.passes.choose.problem import ROUNDING, Problem

MET = 0.05
"""Of a time that was asked for: so far from it a plan may be."""
_NEAR = 0.01
"""Of a time that was asked for: so much faster a plan may be before steps are traded."""
_TRADES = 8
"""Steps that are traded at most, each for another's."""
_MOST_TRACKS = 48
"""With more groups than this, steps are fine enough."""
_FEW = 1024
"""So many plans are looked at, all of them."""


def nearest(problem: Problem, counts: list[int], freed: np.ndarray) -> list[int]:
    """How many units of each track go, so that the time is near to what was asked for.

    Args:
        counts: units that go in a plan that is no slower.
        freed: (tracks,) what a unit frees.
    """
    if _faster(problem, counts) <= _NEAR or len(counts) > _MOST_TRACKS:
        return counts
    counts = _traded(problem, counts, freed)
    if _faster(problem, counts) <= _NEAR:
        return counts
    ways = [
        [count] if track.group.branch is not None else track.allowed.tolist()
        for track, count in zip(problem.tracks, counts, strict=True)
    ]
    if prod(map(len, ways)) <= _FEW:
        trials = [list(trial) for trial in product(*ways) if any(trial)]
        return min(trials, key=lambda trial: _rank(problem, trial, freed))
    back = [[*counts[:n], before, *counts[n + 1 :]] for n, (before, _) in _steps(problem, counts, freed, on=False)]
    return min([counts, *filter(any, back)], key=lambda trial: _rank(problem, trial, freed))


def _faster(problem: Problem, counts: Sequence[int]) -> float:
    """By which share of the time that was asked for a plan is faster than that; below zero: slower."""
    ratio = problem.options.ratio
    return (problem.share(counts, problem.options.of) - ratio) / (1 - ratio)


def _rank(problem: Problem, counts: Sequence[int], freed: np.ndarray) -> tuple[int, float]:
    """Lower is better: near and not slower, by what is lost; a little faster; a little slower; by how much."""
    faster = _faster(problem, counts)
    if -ROUNDING <= faster <= _NEAR:
        return 0, sum(_losses(problem, n, freed)[count] for n, count in enumerate(counts))
    if faster < -MET:
        return 4, -faster
    if faster < 0:
        return 2, -faster
    return 1 if faster <= MET else 3, faster


def _traded(problem: Problem, counts: list[int], freed: np.ndarray) -> list[int]:
    """The counts with one group's last step undone for another's next, while less goes that nobody asked for."""
    for _ in range(_TRADES):
        faster = _faster(problem, counts)
        if faster <= _NEAR:
            break
        trades = [
            (max(left - _NEAR, 0.0), loss, trial)
            for trial, loss in _trades(problem, counts, freed)
            if -ROUNDING <= (left := _faster(problem, trial)) < faster - ROUNDING
        ]
        if not trades:
            break
        counts = min(trades)[2]
    return counts


def _trades(problem: Problem, counts: list[int], freed: np.ndarray) -> Iterator[tuple[list[int], float]]:
    """Counts with one step back and another on, and what that loses besides."""
    ahead = list(_steps(problem, counts, freed, on=True))
    for a, (before, gained) in _steps(problem, counts, freed, on=False):
        for b, (after, lost) in ahead:
            if a != b:
                trial = list(counts)
                trial[a], trial[b] = before, after
                yield trial, lost + gained


def _steps(
    problem: Problem, counts: Sequence[int], freed: np.ndarray, *, on: bool
) -> Iterator[tuple[int, tuple[int, float]]]:
    """The number of each track that has a next step, or a last one, the units that go by then, and what that loses."""
    for number, (track, count) in enumerate(zip(problem.tracks, counts, strict=True)):
        if track.group.branch is not None:  # a whole layer more or less is no matter of being near
            continue
        at = int(np.searchsorted(track.allowed, count)) + (1 if on else -1)
        if 0 <= at < len(track.allowed):
            losses = _losses(problem, number, freed)
            there = int(track.allowed[at])
            yield number, (there, float(losses[there] - losses[count]))


def _losses(problem: Problem, number: int, freed: np.ndarray) -> np.ndarray:
    """(units + 1,) what is lost when the first units of a track go: their scores for what they free."""
    track = problem.tracks[number]
    scores = problem.scores[problem.candidates.active[number]][track.order]
    return np.concatenate([[0.0], np.cumsum(scores * freed[number])])
