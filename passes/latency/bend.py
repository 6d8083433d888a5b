"""Foretell how long a whole run takes from the times of its units.

    Bend(-0.2).share(0.5)      # 0.45: units say half of the dense model's time, a run takes 5 % of it less
    Bend(-0.2).asked(0.45)     # 0.5

With all of its weights the dense model leaves the caches, and each of its units takes longer than beside narrower ones.
One number, fitted to settings that were timed, says by how much: where units foretell a share f, a run takes
f + beta f (1 - f).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from spa.analysis.cost import Cost
from spa.analysis.group import Group
from spa.passes.latency.variants import plan_of
from spa.record import Variant

MOST = 0.6
"""Of beta, either way, so that less is foretold wherever units take less."""


@dataclass(frozen=True, slots=True)
class Bend:
    """What lies between shares that units foretell and shares of the dense model's time.

    Attributes:
        beta: how far the curve is from the straight line; below zero where smaller models are faster than foretold.
    """

    beta: float = 0.0

    @classmethod
    def of(cls, cost: Cost, measure: str, variants: Sequence[Variant], groups: Sequence[Group]) -> Bend:
        """The curve that is nearest to settings that were timed, by least squares.

        Args:
            measure: the one of `cost` that units foretell.
            variants: the dense model first.
        """
        whole = cost.of(measure)
        if len(variants) < 2 or not whole or not variants[0].milliseconds:
            return cls()
        foretold = np.array([cost.of(measure, plan_of(groups, v.removed).masks(groups)) for v in variants[1:]]) / whole
        timed = np.array([v.milliseconds for v in variants[1:]]) / variants[0].milliseconds
        bent = foretold * (1 - foretold)
        beta = float(bent @ (timed - foretold)) / max(float(bent @ bent), 1e-12)
        return cls(min(max(beta, -MOST), MOST))

    def share(self, foretold: float) -> float:
        """The share of the dense model's time, by the share that units foretell."""
        return foretold + self.beta * foretold * (1 - foretold)

    def asked(self, share: float) -> float:
        """The share that units have to foretell for a share of the dense model's time."""
        if abs(self.beta) < 1e-9:
            return share
        return ((1 + self.beta) - sqrt((1 + self.beta) ** 2 - 4 * self.beta * share)) / (2 * self.beta)
