"""Published criteria and repairs, by their formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spa.errors import BudgetError
from spa.passes.secondorder import BASELINES, Consumer, prune
from spa.passes.secondorder.system import System
from tests.secondorder.made import (
    Array,
    correlated,
    family,
    moments_of,
)


def test_baseline_scores_follow_their_formulas() -> None:
    rng = np.random.default_rng(25)
    rows = correlated(rng, 300, 9)
    units = np.array([0, 0, 1, 2, 2, 2, 1, 3, -1])
    first = Consumer(moments_of(rows[:200]), rng.standard_normal((9, 5)), units, held_out=moments_of(rows[200:]))
    second = Consumer(first.moments, rng.standard_normal((9, 2)), units, held_out=first.held_out)
    hessian = rows.T @ rows / 300
    hessian += np.eye(9) * 1e-2 * np.diagonal(hessian).mean()
    inverse_diagonal = np.diagonal(np.linalg.inv(hessian))
    expected: dict[str, Array] = {name: np.zeros(4) for name in ("magnitude", "wanda-sp", "flap", "obspa")}
    for weight in (first.weight, second.weight):
        for unit in range(4):
            for row in np.flatnonzero(units == unit):
                expected["magnitude"][unit] += np.sum(weight[row] ** 2)
                expected["wanda-sp"][unit] += np.sum(np.abs(weight[row]) * np.sqrt(np.mean(rows[:, row] ** 2)))
                expected["flap"][unit] += np.var(rows[:, row]) * np.sum(weight[row] ** 2)
                expected["obspa"][unit] += np.sum(weight[row] ** 2 / inverse_diagonal[row])
    expected["magnitude"] = np.sqrt(expected["magnitude"])
    for name, scores in expected.items():
        np.testing.assert_allclose(BASELINES[name].score([first, second], 4), scores, rtol=1e-9)
    inside = [np.flatnonzero(units == unit) for unit in range(4)]
    norms = [np.sqrt(np.mean(np.sum(rows[:, mine] ** 2, axis=1))) for mine in inside]
    np.testing.assert_allclose(BASELINES["activation"].score([first, second], 4), norms, rtol=1e-9)
    readers = (first.weight, second.weight)
    energies = [sum(np.mean(np.sum((rows[:, mine] @ w[mine]) ** 2, axis=1)) for w in readers) for mine in inside]
    np.testing.assert_allclose(BASELINES["amp"].score([first, second], 4), np.sqrt(energies), rtol=1e-9)
    one_shot = BASELINES["one-shot-obs"].score([replace(first, held_out=None)], 4)
    system = System([replace(first, held_out=None)], 1e-2)
    system.factorise(np.ones(4, np.bool_))
    np.testing.assert_allclose(one_shot, system.saliency(np.ones(4, np.bool_)))


def test_baseline_repairs_follow_their_formulas() -> None:
    rng = np.random.default_rng(26)
    rows = correlated(rng, 300, 8)
    consumer = Consumer(moments_of(rows), rng.standard_normal((8, 3)), np.arange(8), bias=rng.standard_normal(3))
    kept, gone = np.array([0, 3, 4, 6]), np.array([1, 2, 5, 7])
    flap = BASELINES["flap"].repair(consumer, kept)
    assert consumer.bias is not None
    np.testing.assert_allclose(flap.bias, consumer.bias + rows[:, gone].mean(0) @ consumer.weight[gone])
    np.testing.assert_array_equal(BASELINES["wanda-sp"].repair(consumer, kept).bias, consumer.bias)
    hessian = rows.T @ rows / 300
    hessian += np.eye(8) * 1e-2 * np.diagonal(hessian).mean()
    best = np.linalg.solve(hessian[np.ix_(kept, kept)], hessian[kept] @ consumer.weight)
    obspa = BASELINES["obspa"].repair(consumer, kept)
    np.testing.assert_allclose(obspa.weight, best, atol=1e-9)
    np.testing.assert_array_equal(obspa.bias, consumer.bias)
    for layer in (flap, obspa):
        errors = rows @ consumer.weight + consumer.bias - rows[:, kept] @ layer.weight - layer.bias
        outputs = (rows - rows.mean(0)) @ consumer.weight
        assert layer.loss == pytest.approx(np.sum(errors**2) / np.sum(outputs**2))


def test_baselines_remove_the_lowest_that_may_go() -> None:
    consumers = family(27)
    for baseline in BASELINES.values():
        scores = baseline.score(consumers, 8)
        removable = np.ones(8, np.bool_)
        removable[int(np.argmin(scores))] = False
        kept, layers = prune(baseline, consumers, units=8, remove=3, removable=removable)
        assert scores[np.setdiff1d(np.flatnonzero(removable), kept)].max() <= scores[kept[removable[kept]]].min()
        assert int(np.argmin(scores)) in kept
        assert [len(layer.rows) for layer in layers] == [len(consumer.kept_rows(kept)) for consumer in consumers]
        with pytest.raises(BudgetError, match="removable"):
            prune(baseline, consumers, units=8, remove=8, removable=removable)
