"""What experts of a mixture add to tokens, and which of them go by published ways.

reap(routed)        (experts,) the lowest go
far_out([routed])   of each mixture the experts that nothing works without
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from spa.passes.secondorder.linalg import Array

FENCE = 3.0
"""Times the distance between the quartiles, above the upper one, beyond which a number stands apart (the outer fence of
Tukey 1977)."""

LEAST_PEAK, LEAST_RATIO = 0.1, 5.0
"""Of the largest peak of all mixtures, and of the median of its own: below it an expert is no super expert."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What each expert of a mixture adds to the tokens that it is chosen for: its output times its gate.

    Attributes:
        tokens: (experts,) how many they are.
        norms: (experts,) the sum of the Euclidean norms of what it adds to them.
        peaks: (experts,) the largest absolute number that it adds to one.
    """

    tokens: Array
    norms: Array
    peaks: Array

    @property
    def loads(self) -> Array:
        """(experts,) of all choices the share that fell on each; they sum to one."""
        return np.asarray(self.tokens / max(1.0, float(self.tokens.sum())))


def reap(routed: Routed) -> Array:
    """(1 / n_e) sum_t g_e(t) ||f_e(t)||, (experts,), over the n_e tokens that an expert e is chosen for.

    Router-weighted expert activation pruning: REAP (Lasby et al., arXiv 2510.13999, 2025). The gate g is the one that
    the model mixes with, renormalised over the chosen experts where the model does so.
    """
    return np.asarray(routed.norms / np.maximum(routed.tokens, 1.0))


def frequency(routed: Routed) -> Array:
    """How many tokens an expert is chosen for, (experts,)."""
    return np.asarray(routed.tokens)


EXPERT_SCORES: Mapping[str, Callable[[Routed], Array]] = MappingProxyType({"reap": reap, "frequency": frequency})
"""Ways to score experts, by name."""


def beyond_fence(numbers: Array) -> list[int]:
    """Which numbers lie beyond the outer fence of them all."""
    low, high = (float(np.quantile(numbers, share, method="nearest")) for share in (0.25, 0.75))
    fence = high + FENCE * (high - low)
    return [int(number) for number in np.flatnonzero(numbers > fence)] if fence > 0 else []


def far_out(mixtures: Sequence[Routed]) -> list[list[int]]:
    """Of each mixture of a model the super experts: those that add extreme numbers to tokens.

    Su et al., Unveiling Super Experts in Mixture-of-Experts Large Language Models (arXiv 2507.23279, 2025), find them
    by extreme outputs of the down projection: beyond a quantile of those of all experts, and a tenth of the largest.
    Of few experts a quantile says nothing; here it is the outer fence, of the mixture or of the whole model.
    """
    peaks = [routed.peaks for routed in mixtures]
    if not peaks:
        return []
    everywhere = np.concatenate(peaks)
    starts = np.cumsum([0, *map(len, peaks)])
    of_all = set(beyond_fence(everywhere))
    least = LEAST_PEAK * float(everywhere.max(initial=0.0))
    return [
        [
            unit
            for unit in sorted({*beyond_fence(own), *(n - start for n in of_all if start <= n < start + len(own))})
            if own[unit] > max(least, LEAST_RATIO * float(np.median(own)))
        ]
        for own, start in zip(peaks, starts, strict=False)
    ]
