"""Runs of models by turns, so that a machine that drifts drifts for all of them.

    times = undisturbed([dense, pruned], [feeds, feeds], seconds=2.0)
    ratio, interval = ratio_of(times)       # time of the second over that of the first

Every round runs each model once, in an order that is turned from round to round; the first rounds do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spa import ondevice, runtime
from spa.presets import Progress

WARM_UP = 5
"""Rounds that do not count."""
LEAST_ROUNDS = 10
LONGEST, PATIENCE = 4, 8
"""Times as long as was asked for: where the ratio is not certain by then, and where too few rounds were undisturbed."""
CERTAIN = 0.0075
"""Half the interval of a ratio of times, of that ratio: narrower, and no more runs are needed."""
RESAMPLINGS, CONFIDENCE = 1000, 0.95


def by_turns(
    sessions: Sequence[Any],
    feeds: Sequence[Mapping[str, np.ndarray]],
    seconds: float,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """(rounds, models) seconds of each run, of `LEAST_ROUNDS` rounds or more.

    A short run follows one of the same model that does not count, see `spa.ondevice.SHORT`.
    """
    rounds: list[list[float]] = []
    again = [False] * len(sessions)
    start = time.perf_counter()
    number = -WARM_UP
    while number < LEAST_ROUNDS or time.perf_counter() - start < seconds:
        if number == 0:
            start = time.perf_counter()
        taken = [0.0] * len(sessions)
        for step in range(len(sessions)):
            at = (step + number) % len(sessions)
            if again[at]:
                runtime.run(sessions[at], feeds[at])
            before, wall = clock(), time.perf_counter()
            runtime.run(sessions[at], feeds[at])
            taken[at] = clock() - before
            again[at] = time.perf_counter() - wall < ondevice.SHORT if number < 0 else again[at]
        if number >= 0:
            rounds.append(taken)
            if progress is not None:
                progress("bench", min(1.0, (time.perf_counter() - start) / max(seconds, 1e-9)))
        number += 1
    return np.array(rounds)


def undisturbed(
    sessions: Sequence[Any],
    feeds: Sequence[Mapping[str, np.ndarray]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    *,
    fast: float | None = None,
) -> np.ndarray:
    """(rounds, models) seconds of the rounds in which the machine did nothing else, see `spa.ondevice.calm`.

    Args:
        seconds: that the runs take, about; `LONGEST` times so long where the ratio of the second model to the first is
            uncertain, and `PATIENCE` times where hardly a round counts: a busy host may be slow for half a minute.
        fast: seconds that the first model takes on a machine that does nothing else, where that is known.
    """
    times = by_turns(sessions, feeds, seconds, clock=clock)
    for taken in range(1, PATIENCE):
        counted = times[ondevice.calm(times, fast)]
        if len(counted) >= LEAST_ROUNDS and (taken >= LONGEST or len(sessions) < 2 or _is_certain(counted)):
            break
        times = np.vstack([times, by_turns(sessions, feeds, seconds, clock=clock)])
    return np.asarray(times[ondevice.calm(times, fast, LEAST_ROUNDS)])


def _is_certain(times: np.ndarray) -> bool:
    ratio, (low, high) = ratio_of(times)
    return (high - low) / 2 <= CERTAIN * ratio


def ratio_of(times: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The time of the second model over that of the first, by (rounds, 2) times, and the interval in which it lies.

    The median of the ratios of rounds, and where it lies in 95 % of 1,000 resamplings of the rounds (Efron 1979). A run
    too short for the clock took as long as the shortest that it saw.
    """
    shortest = float(np.min(times, where=times > 0, initial=np.inf))
    seen = np.where(times > 0, times, shortest if shortest < np.inf else 1.0)
    ratios = seen[:, 1] / seen[:, 0]
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(ratios, (RESAMPLINGS, len(ratios))), axis=1)
    edge = (1 - CONFIDENCE) / 2
    low, high = (float(np.quantile(drawn, share)) for share in (edge, 1 - edge))
    return float(np.median(ratios)), (low, high)
