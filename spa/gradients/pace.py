"""The learning rate over a training: one that was given, or the better of two that are tried first.

    pace = Pace.of(None)
    pace.rate(0.1)                   # of the first trial
    pace.choose([0.31, 0.27])        # held-out losses at the end of the trials: the second rate goes on
    pace.rate(0.7)

A network that was just repaired lies in a minimum of the samples that it was fitted to: steps that train a network cut
by weights in an epoch throw it out. Which of the two it is, a fifth of the budget tells, and that work is not lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi

RATES, TRIAL = (1e-3, 1e-4), 0.2
"""That are tried, and the share of the budget that each gets."""

WARM_UP = 0.05
"""Share of a stretch in which the learning rate rises."""


@dataclass(slots=True)
class Pace:
    """Learning rates by the share of the budget that is spent; in each stretch they rise, then fall as a cosine.

    Attributes:
        rates: that are tried one after another; one: there is no trial.
        chosen: number of the one that the last stretch has.
    """

    rates: Sequence[float]
    chosen: int = 0

    @classmethod
    def of(cls, rate: float | None) -> Pace:
        """One rate for all, or those that are tried."""
        return cls(RATES if rate is None else (rate,))

    @property
    def tries(self) -> int:
        """How many trials there are."""
        return len(self.rates) if len(self.rates) > 1 else 0

    @property
    def highest(self) -> float:
        """Of the rates."""
        return max(self.rates)

    @property
    def last(self) -> float:
        """The rate of the last stretch, at its top."""
        return self.rates[self.chosen]

    def trials_before(self, share: float) -> int:
        """How many trials are over when that share of the budget is spent."""
        return min(self.tries, int(share / TRIAL + 1e-9))

    def choose(self, losses: Sequence[float]) -> int:
        """The number of the rate that did best, with which it goes on.

        Args:
            losses: on samples held out at the end of each trial.
        """
        self.chosen = min(range(len(losses)), key=lambda number: losses[number])
        return self.chosen

    def rate(self, share: float) -> float:
        """The learning rate when that share of the budget is spent."""
        over = self.trials_before(share)
        start = TRIAL * over
        stop = TRIAL * (over + 1) if over < self.tries else 1.0
        within = min((share - start) / (stop - start), 1.0)
        top = self.rates[over] if over < self.tries else self.last
        return top * min(1.0, (within + 1e-3) / WARM_UP) * 0.5 * (1.0 + cos(pi * within))
