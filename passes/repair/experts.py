"""Measure what the outputs lose without each expert of a mixture, on samples held out.

An expert that is seldom chosen may be one that nothing works without: its outputs are so large that all the others
live off them ("super experts"). Neither how often it is chosen nor the size of its weights tells; what is lost does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spa.analysis.group import Group
from spa.passes.choose.allocation import Curve

SAMPLES = 256
"""On which each expert is measured, at most: it has to be chosen often enough."""

FENCE = 3.0
"""Times the distance between the quartiles of all losses, above the upper one, beyond which an expert stands apart and
never goes (the outer fence of Tukey 1977)."""


def expert_curve(group: Group, lost: Callable[[np.ndarray], tuple[float, float]]) -> tuple[Curve, list[int]]:
    """The curve of experts, the least missed first, and those that stand apart by either measure.

    Args:
        lost: what the outputs lose without some units, and the square of the relative L2 by which they move: what is
            lost of probabilities is bounded, and would hide the size of an outlier.
    """
    measured = np.array([lost(np.array([unit])) for unit in range(group.size)])
    measured = np.where(np.isfinite(measured), measured, np.inf)
    apart = sorted({unit for losses in measured.T for unit in beyond_fence(losses)})
    losses = measured[:, 0]
    ranked = [unit for unit in np.argsort(losses, kind="stable") if unit not in apart]
    order = np.array(ranked[: group.size - group.least], int)
    return Curve(group, order, np.concatenate([[0.0], np.cumsum(losses[order])])), apart


def beyond_fence(losses: np.ndarray) -> list[int]:
    """The units whose loss lies beyond the outer fence of all losses."""
    low, high = (float(np.quantile(losses, share, method="nearest")) for share in (0.25, 0.75))
    fence = high + FENCE * (high - low)
    return [int(unit) for unit in np.flatnonzero(losses > fence)] if fence > 0 else []
