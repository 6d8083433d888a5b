"""How much each group gives: loss curves over cost, as scores that the selection can merge.

Every group has a curve, what it costs the outputs to lose its first k units. A budget is met at least loss where the
next unit of every group costs the same loss for each parameter or FLOP that it frees (the Lagrangian of the knapsack,
exact for convex curves). So a unit's score is the slope of its curve's convex hull over what it frees at the present
widths; widths and slopes are iterated, because what a channel frees depends on how many others are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from spa.analysis.cost import Cost, unit_costs
from spa.analysis.group import Group
from spa.analysis.plan import Plan

ROUNDS = 4
CHEAP = 0.25
"""Of what units free on average: scores of weights are those of units that free more."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Local losses as differences of the outputs: straight lines between points, and on beyond the last.

    A power law through two points near the origin looked finer, and sent groups far beyond them to ruin: it is the
    large removals that have to be measured.

    Attributes:
        losses, measured: the points, both ascending from zero.
    """

    losses: tuple[float, ...] = (0.0, 1.0)
    measured: tuple[float, ...] = (0.0, 1.0)

    def of(self, losses: np.ndarray) -> np.ndarray:
        """(any shape) the differences that losses make."""
        x, y = np.array(self.losses), np.array(self.measured)
        steepest = max(y[-1] / x[-1], (y[-1] - y[-2]) / max(x[-1] - x[-2], 1e-12))
        return np.asarray(np.interp(losses, x, y) + steepest * np.maximum(losses - x[-1], 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What a group loses.

    Attributes:
        order: units, the first to go first; those that are not in it never go.
        losses: (len(order) + 1,) summed relative error of the group's readers when the first k units are gone.
        scale: what losses of its readers are as differences of the model's outputs.
    """

    group: Group
    order: np.ndarray
    losses: np.ndarray
    scale: Scale = field(default_factory=lambda: Scale())

    def without(self, kept: Sequence[int]) -> Curve:
        """The curve without some units, which stay: each of the others adds the loss that it did."""
        if not len(kept):
            return self
        goes = ~np.isin(self.order, kept)
        losses = np.concatenate([[0.0], np.cumsum(np.diff(self.losses)[goes])])
        return Curve(self.group, self.order[goes], losses, self.scale)

    @property
    def predicted(self) -> np.ndarray:
        """(len(order) + 1,) expected squared relative difference of the outputs."""
        return self.scale.of(np.maximum(self.losses, 0.0))

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


def through(losses: Sequence[float], measured: Sequence[float]) -> Scale:
    """The scale through points that were measured: pieces of straight lines, from zero on, that never fall."""
    pairs = sorted((x, y) for x, y in zip(losses, measured, strict=True) if x > 0 and 0 < y < np.inf)
    if not pairs:
        return Scale()
    x, y = np.array(pairs).T
    return Scale((0.0, *map(float, x)), (0.0, *map(float, np.maximum.accumulate(y))))


def allocate(
    curves: Mapping[str, Curve],
    groups: Sequence[Group],
    cost: Cost,
    of: str,
    select: Callable[[list[np.ndarray]], Plan],
    steps: Mapping[str, int] | None = None,
) -> Plan:
    """A plan whose expected loss is small for what it frees.

    Args:
        of: what is freed; channels: every unit counts the same.
        select: the plan for some scores.
        steps: by group, so many units go at once where the cost has steps; one unless told.
    """
    plan = Plan({}, {})
    for _ in range(ROUNDS):
        before, plan = plan, select(scores(curves, groups, cost, of, plan, steps=steps))
        if before.removed == plan.removed:
            break
    return plan


def expected_loss(curves: Mapping[str, Curve], plan: Plan) -> float:
    """The squared relative difference of the outputs that a plan is expected to make: a sum over groups."""
    gone = {name: len(units) for name, units in plan.removed.items()}
    return float(sum(curve.predicted[min(gone.get(name, 0), len(curve.order))] for name, curve in curves.items()))


def weighed(norms: Sequence[np.ndarray], groups: Sequence[Group], cost: Cost, of: str) -> list[np.ndarray]:
    """Scores of weights, higher for units that free next to nothing.

    Norms brought to one scale by their group's largest are no losses, and divided by what units free they do far more
    damage than as they are (tests/benchmarks/weighing.md). But a unit that frees a hundredth of what others do is not
    worth as much: below `CHEAP` of the mean, its score grows as what it frees falls.

    Args:
        norms: for each group (units,).
        of: what is freed; channels: scores stay as they are.
    """
    if of not in cost.terms:
        return list(norms)
    freed = unit_costs(groups, cost, of)
    sizes = np.array([group.size if group.off is None else 0 for group in groups])
    mean = float(sizes @ freed) / max(int(sizes.sum()), 1)
    factors = np.maximum(1.0, CHEAP * mean / np.maximum(freed, 1e-9 * mean or 1.0))
    return [score * factor for score, factor in zip(norms, factors, strict=True)]


def scores(
    curves: Mapping[str, Curve],
    groups: Sequence[Group],
    cost: Cost,
    of: str,
    plan: Plan,
    *,
    steps: Mapping[str, int] | None = None,
) -> list[np.ndarray]:
    """For each group (units,): the loss of each unit over what it frees while `plan` is gone; zeros without a curve."""
    by_group = []
    for group in groups:
        curve = curves.get(group.name)
        if curve is None or not len(curve.order):
            by_group.append(np.zeros(group.size))
            continue
        slopes = curve.slopes() / max(_freed(curve, groups, cost, of, plan, (steps or {}).get(group.name, 1)), 1e-12)
        top = float(slopes[-1])
        mine = np.full(group.size, 2.0 * top + 1.0)
        mine[curve.order] = slopes + top * 1e-9 * np.arange(1, len(slopes) + 1) / len(slopes)  # ties leave in order
        by_group.append(mine)
    return by_group


def _freed(curve: Curve, groups: Sequence[Group], cost: Cost, of: str, plan: Plan, step: int) -> float:
    """What a unit of a group frees at the present widths, as a mean over the next few, from one step to another."""
    if of not in cost.terms:
        return 1.0
    name, size = curve.group.name, curve.group.size
    few = -(-max(1, size // 16) // step) * step
    later = min(len(plan.removed.get(name, ())) + few, len(curve.order))
    if step > 1:
        kept = min(size // step * step, -(-(size - later) // step) * step)
        later = size - kept if size - kept else min(size % step + few, len(curve.order))
    earlier = max(0, later - few)
    costs = []
    for count in (earlier, later):
        removed = {**plan.removed, name: curve.order[:count].tolist()}
        costs.append(cost.of(of, Plan.of(groups, removed).masks(groups)))
    return (costs[0] - costs[1]) / (later - earlier)
