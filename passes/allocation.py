"""How much each group gives: loss curves over cost, as scores that the selection can merge.

Every group has a curve, what it costs the outputs to lose its first k units. A budget is met at least loss where the
next unit of every group costs the same loss for each parameter or FLOP that it frees (the Lagrangian of the knapsack,
exact for convex curves). So a unit's score is the slope of its curve's convex hull over what it frees at the present
widths; widths and slopes are iterated, because what a channel frees depends on how many others are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spa.cost import Cost
from spa.group import Group
from spa.plan import Plan

ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What a group loses.

    Attributes:
        order: units, the first to go first; those that are not in it never go.
        losses: (len(order) + 1,) summed relative error of the group's readers when the first k units are gone.
        scale, power: losses become differences of the model's outputs as scale * losses ** power.
    """

    group: Group
    order: np.ndarray
    losses: np.ndarray
    scale: float = 1.0
    power: float = 1.0

    @property
    def predicted(self) -> np.ndarray:
        """(len(order) + 1,) expected squared relative difference of the outputs."""
        return np.asarray(self.scale * np.maximum(self.losses, 0.0) ** self.power)

    def slopes(self) -> np.ndarray:
        """(len(order),) loss that each unit adds, ascending: slopes of the largest convex curve below."""
        return convex_slopes(self.predicted)


def convex_slopes(curve: np.ndarray) -> np.ndarray:
    """Slopes (n,) of the greatest convex minorant of a curve (n + 1,)."""
    hull = [0]
    for k in range(1, len(curve)):
        while len(hull) > 1:
            last, before = hull[-1], hull[-2]
            if (curve[last] - curve[before]) * (k - last) < (curve[k] - curve[last]) * (last - before):
                break
            hull.pop()
        hull.append(k)
    slopes = np.empty(len(curve) - 1)
    for left, right in pairwise(hull):
        slopes[left:right] = (curve[right] - curve[left]) / (right - left)
    return slopes


def fit_scale(losses: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """(scale, power) of `measured = scale * losses ** power`, the power between one half and two."""
    pairs = [(x, y) for x, y in zip(losses, measured, strict=True) if x > 0 and y > 0]
    if not pairs:
        return 1.0, 1.0
    x, y = (np.log(values) for values in np.array(pairs).T)
    spread = float(np.sum((x - x.mean()) ** 2))
    power = float(np.clip(np.sum((x - x.mean()) * (y - y.mean())) / spread, 0.5, 2.0)) if spread > 1e-6 else 1.0
    return float(np.exp(np.mean(y - power * x))), power


def allocate(
    curves: Mapping[str, Curve],
    groups: Sequence[Group],
    cost: Cost,
    of: str,
    select: Callable[[list[np.ndarray]], Plan],
) -> Plan:
    """A plan whose expected loss is small for what it frees.

    Args:
        of: what is freed; channels: every unit counts the same.
        select: the plan for some scores.
    """
    plan = Plan({}, {})
    for _ in range(ROUNDS):
        before, plan = plan, select(scores(curves, groups, cost, of, plan))
        if before.removed == plan.removed:
            break
    return plan


def scores(curves: Mapping[str, Curve], groups: Sequence[Group], cost: Cost, of: str, plan: Plan) -> list[np.ndarray]:
    """For each group (units,): the loss of each unit over what it frees while `plan` is gone; zeros without a curve."""
    found = []
    for group in groups:
        curve = curves.get(group.name)
        if curve is None or not len(curve.order):
            found.append(np.zeros(group.size))
            continue
        slopes = curve.slopes() / max(_freed(curve, groups, cost, of, plan), 1e-12)
        top = float(slopes[-1])
        mine = np.full(group.size, 2.0 * top + 1.0)
        mine[curve.order] = slopes + top * 1e-9 * np.arange(1, len(slopes) + 1) / len(slopes)  # ties leave in order
        found.append(mine)
    return found


def _freed(curve: Curve, groups: Sequence[Group], cost: Cost, of: str, plan: Plan) -> float:
    """What a unit of a group frees at the present widths, as a mean over the next few."""
    if of not in cost.terms:
        return 1.0
    name, size = curve.group.name, curve.group.size
    later = min(len(plan.removed.get(name, ())) + max(1, size // 16), len(curve.order))
    earlier = max(0, later - max(1, size // 16))
    costs = []
    for count in (earlier, later):
        removed = {**plan.removed, name: curve.order[:count].tolist()}
        costs.append(cost.of(of, Plan.of(groups, removed).masks(groups)))
    return (costs[0] - costs[1]) / (later - earlier)
