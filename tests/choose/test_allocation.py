"""Loss curves, and how a budget is shared out over them."""

from __future__ import annotations

import numpy as np
import pytest

from spa.analysis.plan import Plan
from spa.passes.choose.allocation import Curve, allocate, convex_slopes, scores, through
from spa.passes.choose.budget import Budget
from spa.passes.choose.selection import select
from tests.grouped import chain, mlp


@pytest.mark.parametrize(
    ("curve", "slopes"),
    [
        ([0, 1, 2, 3], [1, 1, 1]),
        ([0, 1, 3, 6], [1, 2, 3]),
        ([0, 3, 4, 6], [2, 2, 2]),
        ([0, 0, 0, 5], [0, 0, 5]),
        ([0, 4, 1, 9], [0.5, 0.5, 8]),
        ([0, 7], [7]),
    ],
)
def test_slopes_of_the_convex_curve_below(curve: list[float], slopes: list[float]) -> None:
    actual = convex_slopes(np.array(curve, float))
    assert actual == pytest.approx(slopes)
    assert (np.diff(actual) >= -1e-12).all()
    assert actual.sum() == pytest.approx(curve[-1])


def test_scale_goes_through_what_was_measured_and_on() -> None:
    scale = through([0.2, 0.1], [0.3, 0.05])
    mapped = scale.of(np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.4]))
    assert mapped == pytest.approx([0.0, 0.025, 0.05, 0.175, 0.3, 0.8])
    falling = through([0.1, 0.2], [0.3, 0.1]).of(np.array([0.1, 0.2, 0.3]))
    assert falling == pytest.approx([0.3, 0.3, 0.45]), "noise may not make a larger cut cheaper"


@pytest.mark.parametrize("points", [([], []), ([0.0], [1.0]), ([1.0], [0.0])])
def test_nothing_measured_leaves_losses_as_they_are(points: tuple[list[float], list[float]]) -> None:
    assert through(*points).of(np.array([0.3, 2.0])) == pytest.approx([0.3, 2.0])


def test_scores_follow_loss_over_what_is_freed() -> None:
    model = chain(8, 6, 6, 2)
    first, second = model.groups
    losses = np.arange(6.0)
    curves = {g.name: Curve(g, np.arange(5), losses) for g in (first, second)}
    by_group = scores(curves, model.groups, model.cost, "params", Plan({}, {}))
    # a unit of the first frees 8 + 6 numbers, one of the second 6 + 2
    assert by_group[0][0] / by_group[1][0] == pytest.approx(8 / 14, rel=1e-6)
    assert all(score[5] > score[:5].max() for score in by_group), "what is in no order never goes"
    assert all((np.diff(score[:5]) > 0).all() for score in by_group), "ties leave in order"


def test_groups_without_a_curve_score_zero() -> None:
    model = mlp()
    assert scores({}, model.groups, model.cost, "params", Plan({}, {}))[0].tolist() == [0.0] * 6


def test_allocation_takes_where_it_hurts_least() -> None:
    model = chain(8, 6, 6, 2)
    cheap, dear = model.groups
    curves = {
        cheap.name: Curve(cheap, np.arange(5), 0.01 * np.arange(6.0)),
        dear.name: Curve(dear, np.arange(5), 10 * np.arange(6.0)),
    }

    def choose(by_group: list[np.ndarray]) -> Plan:
        return select(model.groups, by_group, model.cost, Budget(ratio=0.4, min_keep=0)).plan

    plan = allocate(curves, model.groups, model.cost, "params", choose)
    assert list(plan.removed) == [cheap.name]
    assert plan.removed[cheap.name] == tuple(range(len(plan.removed[cheap.name])))
