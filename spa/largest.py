"""The largest share that can go within a limit: a search over ratios, each of which is tried and judged.

Losses grow with the ratio, about as a power of it, but not strictly: what a plan takes is chosen anew for each. The
search keeps the largest ratio that was judged within the limit and the smallest that was not, and tries between them,
nearer to where the straight line through both in log-log reaches the limit (regula falsi, kept off the ends).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import Generic, TypeVar

from spa.errors import BudgetError, NothingToPrune

FIRST, LEAST, MOST = 0.3, 0.01, 0.95
"""Ratios: where the search begins, and its bounds."""

STEP = 0.01
"""Between ratios, below which a search goes no further."""

TRIALS = 9

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Trial:
    """A ratio that was tried.

    Attributes:
        loss: None where nothing came of it.
        said: why.
    """

    ratio: float
    loss: float | None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Largest(Generic[Result]):
    """What goes within a limit.

    Attributes:
        result: of the last trial that kept to the limit.
        trials: all of them, in order.
    """

    ratio: float
    loss: float
    result: Result
    trials: tuple[Trial, ...]


class TooLossy(BudgetError):
    """No share keeps to the limit; the message says the smallest loss that was reached."""


def largest(attempt: Callable[[float], tuple[float, Result]], limit: float) -> Largest[Result]:
    """The largest ratio whose loss is at most a limit, to within `STEP` or `TRIALS` trials.

    Args:
        attempt: makes a result for a ratio, and says its loss; BudgetError: not that much can go.

    Raises:
        TooLossy: none does; says the smallest loss and at which ratio.
        NothingToPrune: nothing can go.
    """
    trials: list[Trial] = []
    best: tuple[float, float, Result] | None = None
    above: tuple[float, float | None] | None = None
    ratio = FIRST
    while len(trials) < TRIALS:
        try:
            loss, result = attempt(ratio)
        except NothingToPrune:
            raise
        except BudgetError as error:
            trials.append(Trial(ratio, None, str(error)))
            above = (ratio, None)
        else:
            trials.append(Trial(ratio, loss))
            if isfinite(loss) and loss <= limit:
                if best is None or ratio > best[0]:
                    best = (ratio, loss, result)
            else:
                above = (ratio, loss)
        low, high = best[0] if best else 0.0, above[0] if above else MOST
        if high - low <= STEP or (best and above is None and best[0] >= MOST) or (best is None and ratio <= LEAST):
            break
        ratio = _next(limit, (best[0], best[1]) if best else None, above)
    if best is None:
        known = {trial.ratio: trial.loss for trial in trials if trial.loss is not None}
        if not known:
            raise BudgetError(trials[-1].said)
        at = min(known, key=lambda ratio: (known[ratio] if isfinite(known[ratio]) else inf, ratio))
        raise TooLossy(
            f"a loss of at most {limit:g} cannot be met: the smallest reached is {known[at]:.3g}, at ratio "
            f"{at:g}; allow more, or give better samples"
        )
    return Largest(*best, tuple(trials))


def _next(limit: float, below: tuple[float, float] | None, above: tuple[float, float | None] | None) -> float:
    """The ratio to try next, between what keeps to the limit and what does not."""
    if above is None:
        assert below is not None
        return round(below[0] + 0.25, 4) if below[0] < MOST - 0.3 else MOST
    low, high = (below[0] if below else 0.0), above[0]
    middle = 0.5 * (low + high)
    if below is None:
        return max(LEAST, round(middle, 4))
    if above[1] is None or not isfinite(above[1]) or below[1] <= 0 or low <= 0:
        return round(middle, 4)
    slope = log(above[1] / below[1]) / log(high / low)
    if slope <= 0:
        return round(middle, 4)
    guess: float = low * (limit / below[1]) ** (1 / slope)
    return round(min(max(guess, low + 0.2 * (high - low)), high - 0.2 * (high - low)), 4)
