"""Measure what the outputs lose without each expert of a mixture, on samples held out.

An expert that is seldom chosen may be one that nothing works without: its outputs are so large that all the others
live off them ("super experts"). Neither how often it is chosen nor the size of its weights tells; what is lost does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spa.analysis.group import Group
from spa.passes.choose.allocation import Curve
from spa.passes.repair.pieces import Batch
from spa.passes.repair.routed import routed
from spa.passes.repair.session import Session
from spa.passes.secondorder.experts import Routed, beyond_fence, far_out

SAMPLES = 256
"""On which each expert is measured, at most: it has to be chosen often enough."""


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


def routed_in(session: Session, group: Group) -> Routed | None:
    """What each expert of a group adds to the tokens of the samples; None: it cannot be seen."""
    return session.once(f"routed {group.name}", lambda: _routed(session, group))


def _routed(session: Session, group: Group) -> Routed | None:
    batches, count = list[Batch](), 0
    for batch in session.batches:
        if count < SAMPLES:
            batches.append(batch)
            count += session.data.count(batch)
    return routed(session.network.model, session.network.coupling, group, batches)


def name_super_experts(session: Session, groups: Sequence[Group]) -> None:
    """Say which experts add extreme numbers to tokens: nothing may work without them."""
    mixtures = {group.name: routed_in(session, group) for group in groups if group.barred}
    seen = {name: each for name, each in mixtures.items() if each is not None}
    for (name, each), units in zip(seen.items(), far_out(list(seen.values())), strict=True):
        if units:
            said = super_experts(each, units)
            session.notes.append(
                f"{name}: super experts, whose outputs are extreme: {said}; --protect outliers keeps them"
            )


def super_experts(routed: Routed, units: Sequence[int]) -> str:
    """Some experts and by how much the largest number that they add to a token exceeds the median of all, in words."""
    usual = float(np.median(routed.peaks)) or 1.0
    return ", ".join(f"{unit} ({routed.peaks[unit] / usual:.0f} times the median)" for unit in units)
