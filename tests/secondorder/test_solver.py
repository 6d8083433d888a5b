"""The refit of one consumer against brute force in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spa.passes.secondorder import DAMPINGS, Consumer, Moments, problem, refit, remove_units, solver
from spa.passes.secondorder.damping import default_damping, ridge
from spa.passes.secondorder.problem import energy, normal_equations, shrinkage, squared_error
from spa.passes.secondorder.solver import (
    MOST_WIDENED,
    choose_damping,
    held_out_losses,
    widened,
)
from tests.secondorder.made import (
    Array,
    asymmetric,
    correlated,
    few_samples,
    low_rank,
    moments_of,
)


def test_refit_is_least_squares_with_a_column_of_ones() -> None:
    rng = np.random.default_rng(5)
    dense = correlated(rng, 400, 9)
    rows, drift = dense + 0.3 * rng.standard_normal((400, 9)), rng.standard_normal((400, 4))
    weight, bias = rng.standard_normal((9, 4)), rng.standard_normal(4)
    consumer = Consumer(moments_of(rows, dense, drift=drift), weight, np.arange(9), bias=bias, drift=0.5)
    kept = consumer.kept_rows(np.array([0, 2, 3, 7]))
    layer = refit(consumer, kept, dampings=[1e-13])
    wanted = dense @ weight + bias + 0.5 * drift
    exact = np.linalg.lstsq(np.column_stack([rows[:, kept], np.ones(400)]), wanted, rcond=None)[0]
    np.testing.assert_allclose(layer.weight, exact[:-1], atol=1e-9)
    np.testing.assert_allclose(layer.bias, exact[-1], atol=1e-9)
    fixed = refit(replace(consumer, free_bias=False), kept, dampings=[1e-13])
    np.testing.assert_allclose(fixed.weight, np.linalg.lstsq(rows[:, kept], wanted - bias, rcond=None)[0], atol=1e-9)
    np.testing.assert_array_equal(fixed.bias, bias)


def test_damping_pulls_towards_the_anchor() -> None:
    rng = np.random.default_rng(6)
    dense, rows = correlated(rng, 60, 7), correlated(rng, 60, 5)
    anchor, weight = rng.standard_normal((5, 3)), rng.standard_normal((7, 3))
    consumer = Consumer(moments_of(rows, dense), weight, np.arange(5), anchor=anchor)
    strength = np.sqrt(60 * ridge(consumer.moments.gram, 0.3))
    centred = rows - rows.mean(0)
    augmented = np.vstack([centred, np.diag(strength)])
    wanted = np.vstack([(dense - dense.mean(0)) @ weight, strength[:, None] * anchor])
    layer = refit(consumer, np.arange(5), dampings=[0.3])
    np.testing.assert_allclose(layer.weight, np.linalg.lstsq(augmented, wanted, rcond=None)[0], atol=1e-10)
    np.testing.assert_allclose(refit(consumer, np.arange(5), dampings=[1e9]).weight, anchor, atol=1e-6)


@pytest.mark.parametrize(
    "square", [None, np.array([1.0, 0.0, 3.0]), np.cov(np.random.default_rng(7).standard_normal((3, 9)))]
)
def test_reported_losses_are_those_of_the_rows(square: Array | None) -> None:
    rng = np.random.default_rng(8)
    rows, held = correlated(rng, 100, 6), correlated(rng, 40, 6)
    weight, bias = rng.standard_normal((6, 3)), rng.standard_normal(3)
    consumer = Consumer(
        moments_of(rows), weight, np.arange(6), bias=bias, held_out=moments_of(held), output_weight=square
    )
    kept = np.array([0, 1, 4])
    layer = refit(consumer, kept)
    full = np.eye(3) if square is None else np.diag(square) if square.ndim == 1 else square

    def share(inputs: Array, kernel: Array, offset: Array) -> float:
        errors = (inputs @ weight + bias) - (inputs[:, kept] @ kernel + offset)
        outputs = (inputs - inputs.mean(0)) @ weight
        return float(np.trace(full @ errors.T @ errors) / np.trace(full @ outputs.T @ outputs))

    assert layer.loss == pytest.approx(share(np.vstack([rows, held]), layer.weight, layer.bias))
    alone = refit(replace(consumer, held_out=None), kept, dampings=[layer.damping or 0.0])
    assert layer.held_out_loss == pytest.approx(share(held, alone.weight, alone.bias))
    losses = held_out_losses(consumer, kept, DAMPINGS)
    assert layer.damping == DAMPINGS[int(np.argmin(losses[1:]))]
    np.testing.assert_array_equal(
        layer.weight, refit(replace(consumer, output_weight=None), kept, dampings=[layer.damping]).weight
    )


@pytest.mark.parametrize(("spread", "given"), [(0.0, False), (0.5, False), (1.0, False), (1.0, True)])
def test_outputs_get_back_some_of_the_variance_that_a_fit_takes(spread: float, given: bool) -> None:
    rng = np.random.default_rng(18)
    rows = correlated(rng, 400, 6)
    weight, bias = rng.standard_normal((6, 3)), rng.standard_normal(3)
    wanted = rows @ weight + bias
    consumer = Consumer(moments_of(rows), weight, np.arange(6), bias=bias)
    if given:
        consumer = replace(consumer, sample=(rows, rows))
    kept = np.array([0, 1, 3, 4, 5])
    plain, layer = (refit(consumer, kept, dampings=[1e-6], spread=share) for share in (0.0, spread))
    actual, shrunk = (rows[:, kept] @ fit.weight + fit.bias for fit in (layer, plain))
    expected = shrunk.std(0) * (wanted.std(0) / shrunk.std(0)) ** spread
    np.testing.assert_allclose(actual.std(0), expected, rtol=1e-5)
    np.testing.assert_allclose(actual.mean(0), wanted.mean(0), atol=1e-6)
    assert (layer.loss > plain.loss) is (spread > 0)
    everything = refit(consumer, np.arange(6), dampings=[1e-6], spread=spread)
    np.testing.assert_allclose(everything.weight, weight, rtol=1e-4)


def test_outputs_are_widened_within_reason() -> None:
    actual = widened(np.ones((2, 3)), np.array([1.21, 1e3, 0.5]), 0.5)
    np.testing.assert_allclose(actual, [[1.1, np.sqrt(MOST_WIDENED), 1.0]] * 2)


def test_shrinkage_is_known_where_both_networks_are() -> None:
    rng = np.random.default_rng(19)
    dense, rows = rng.standard_normal((2, 50, 4))
    consumer = Consumer(moments_of(rows, dense), np.eye(4), np.arange(4), sample=(2 * rows, rows))
    full, kept = normal_equations(consumer), np.arange(3)
    weight = np.eye(4)[:3]
    np.testing.assert_allclose(shrinkage(consumer, full, kept, weight), [2, 2, 2, 1])
    np.testing.assert_allclose(shrinkage(replace(consumer, sample=None), full, kept, weight), 1)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_fewer_rows_than_columns_stay_near_the_anchor(count: int) -> None:
    rng = np.random.default_rng(9)
    mixing = rng.standard_normal((5, 30))
    rows, unseen = (rng.standard_normal((size, 5)) @ mixing for size in (count, 500))
    weight = rng.standard_normal((30, 4))
    consumer = Consumer(moments_of(rows), weight, np.arange(30))
    kept = np.arange(12)
    layer = refit(consumer, kept)
    assert layer.damping is not None
    assert np.abs(layer.weight).max() < 3 * np.abs(weight).max()
    judge = normal_equations(consumer, moments_of(unseen)).restrict(kept)
    sliced = squared_error(consumer, judge, weight[kept], judge.bias(weight[kept]))
    refitted = squared_error(consumer, judge, layer.weight, judge.bias(layer.weight))
    assert refitted < sliced if count > 5 else refitted <= sliced + 1e-9


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_input_that_does_not_vary_leaves_the_weights(value: float) -> None:
    weight, bias = np.random.default_rng(10).standard_normal((6, 3)), np.ones(3)
    consumer = Consumer(moments_of(np.full((20, 6), value)), weight, np.arange(6), bias=bias)
    layer = refit(consumer, np.arange(4))
    np.testing.assert_array_equal(layer.weight, weight[:4])
    np.testing.assert_allclose(layer.bias, bias + value * weight[4:].sum(0))
    removal = remove_units([consumer], units=6, remove=3)
    assert removal.loss[-1] == pytest.approx(0.0, abs=1e-9)
    assert len(removal.kept) == 3


def test_a_refit_that_grows_is_refused() -> None:
    rng = np.random.default_rng(11)
    rows = rng.standard_normal((200, 2))
    rows[:, 1] = rows[:, 0] + 1e-4 * rng.standard_normal(200)
    dense = np.column_stack([rows, 1e4 * (rows[:, 1] - rows[:, 0])])
    consumer = Consumer(moments_of(rows, dense), np.ones((3, 1)), np.arange(2), anchor=np.ones((2, 1)))
    layer = refit(consumer, np.arange(2), dampings=[1e-12])
    assert layer.damping is None
    assert "10-fold" in layer.reason
    np.testing.assert_array_equal(layer.weight, np.ones((2, 1)))
    assert refit(consumer, np.arange(2)).damping is not None  # the default is strong enough
    assert np.isinf(held_out_losses(replace(consumer, held_out=consumer.moments), np.arange(2), [1e-12])[1])


def test_without_held_out_samples_stronger_dampings_are_tried_where_weights_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumer, tried = asymmetric(21), list[float]()
    rows, usual = consumer.kept_rows(np.arange(4)), default_damping(consumer)

    def noted(gram: Array, damping: float) -> Array:
        tried.append(damping)
        return ridge(gram, damping)

    monkeypatch.setattr(solver, "ridge", noted)
    monkeypatch.setattr(solver, "_grown", lambda *_: len(tried) < 3)
    assert refit(consumer, rows).damping == tried[2]
    assert tried == pytest.approx([usual, 10 * usual, 100 * usual], rel=1e-12)


def test_a_refit_that_fails_on_held_out_samples_is_refused() -> None:
    rng = np.random.default_rng(12)
    rows, held = rng.standard_normal((12, 10)), rng.standard_normal((400, 10))
    consumer = Consumer(moments_of(rows), rng.standard_normal((10, 4)), np.arange(10), held_out=moments_of(held))
    layer = refit(consumer, np.arange(5), dampings=[1e-6])
    assert layer.damping is None
    assert "held-out" in layer.reason
    np.testing.assert_array_equal(layer.weight, consumer.weight[:5])
    together = np.vstack([rows, held]).mean(0)
    np.testing.assert_allclose(layer.bias, together[5:] @ consumer.weight[5:], atol=1e-12)


def test_with_fewer_samples_than_rows_symmetric_targets_are_tried() -> None:
    """Asymmetric targets fit the noise of few samples; whichever is better on held-out samples is taken."""
    kept, dampings, best = np.arange(28), [0.1], set()
    for seed in range(6):
        consumer = low_rank(seed, count=14)
        losses = held_out_losses(consumer, kept, dampings)
        losses += held_out_losses(consumer, kept, dampings, symmetric=True)[1:]
        assert refit(consumer, kept, dampings=dampings).held_out_loss == min(losses)
        best.add(losses.index(min(losses)))
    assert best == {1, 2}, "each way has to be the better one of some"
    many = low_rank(0, count=400)  # there are enough: asymmetric targets are right, and nothing else is tried
    assert refit(many, kept, dampings=dampings).held_out_loss == held_out_losses(many, kept, dampings)[1]


@pytest.mark.parametrize(("share", "damping"), [(1e-3, 1e-2), (0.4, 1e-2), (0.8, 1e-1), (1e3, 1e-1)])
def test_one_damping_serves_all_layers_that_read_an_input_by_what_their_errors_weigh(
    share: float, damping: float
) -> None:
    first, second, kept = low_rank(0, count=20), low_rank(9, count=60), np.arange(28)
    for layer, best in ((first, 1e-1), (second, 1e-2)):
        losses = held_out_losses(layer, kept, DAMPINGS)[1:]
        assert DAMPINGS[losses.index(min(losses))] == choose_damping([layer], kept) == best
    assert first.judge is not None
    alpha = share / energy(first, normal_equations(first, first.judge))
    assert choose_damping([replace(first, alpha=alpha), second], kept) == damping


def test_symmetric_targets_keep_the_mean_of_the_dense_outputs() -> None:
    consumer = few_samples(3, count=30)
    equations, same = (normal_equations(consumer, symmetric=way) for way in (False, True))
    np.testing.assert_array_equal(equations.output_mean, same.output_mean)
    np.testing.assert_allclose(same.target, consumer.moments.gram @ consumer.weight)


def test_empty_held_out_moments_are_none() -> None:
    consumer = asymmetric(13)
    empty = replace(consumer, held_out=Moments(consumer.moments.width, dense_width=consumer.moments.width))
    rows = consumer.kept_rows(np.arange(4))
    np.testing.assert_array_equal(refit(empty, rows).weight, refit(consumer, rows).weight)
    assert remove_units([empty], units=8, remove=3).held_out_levels.size == 0


def test_default_damping_is_effective_rank_over_rows() -> None:
    rng = np.random.default_rng(14)
    white = Consumer(moments_of(rng.standard_normal((200, 20))), np.ones((20, 1)), np.arange(20))
    narrow = Consumer(moments_of(rng.standard_normal((200, 1)) * np.ones(20)), np.ones((20, 1)), np.arange(20))
    assert default_damping(white) == pytest.approx(20 / 200, rel=0.2)
    assert default_damping(narrow) == pytest.approx(1 / 200)
    still = Consumer(moments_of(np.ones((200, 20))), np.ones((20, 1)), np.arange(20))
    assert default_damping(still) == DAMPINGS[-1]
    few = Consumer(moments_of(rng.standard_normal((4, 20))), np.ones((20, 1)), np.arange(20))
    many = Consumer(moments_of(rng.standard_normal((5000, 1)) * np.ones(20)), np.ones((20, 1)), np.arange(20))
    assert DAMPINGS[0] == default_damping(many) < default_damping(few) <= DAMPINGS[-1]


@pytest.mark.parametrize(
    "change",
    [
        {"weight": np.ones((3, 6))},
        {"unit_of_row": np.arange(3)},
        {"bias": np.ones(2)},
        {"anchor": np.ones((2, 6))},
        {"output_weight": np.ones((6, 2))},
        {"held_out": Moments(3)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected, found|must have the widths"):
        replace(asymmetric(15), **change)


@pytest.mark.parametrize(("symmetric", "rows"), [(True, 200), (False, 200), (False, 12)], ids=str)
def test_wide_weights_are_fitted_in_parts_to_the_same(
    symmetric: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(8)
    dense = correlated(rng, rows + 60, 14)
    seen = dense if symmetric else dense + 0.2 * rng.standard_normal(dense.shape)
    of = [(seen[part], None if symmetric else dense[part]) for part in (slice(60, None), slice(60))]
    fitted, held_out = (moments_of(some, other) for some, other in of)
    weight, bias = rng.standard_normal((14, 11)), rng.standard_normal(11)
    sample = None if symmetric else (dense[:40], seen[:40])
    consumer = Consumer(fitted, weight, np.arange(14), bias=bias, held_out=held_out, sample=sample)
    kept = np.arange(2, 12)
    whole = refit(consumer, kept, spread=0.5)
    monkeypatch.setattr(problem, "MOST_WEIGHTS", 100)
    monkeypatch.setattr(problem, "PART_WEIGHTS", 40)
    assert [part.weight.shape[1] for part in problem.parted(consumer)] == [2, 3, 3, 3]
    parts = refit(consumer, kept, spread=0.5)
    assert parts.damping == whole.damping
    assert parts.reason == whole.reason
    np.testing.assert_allclose(parts.weight, whole.weight, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parts.bias, whole.bias, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-9)
    assert parts.held_out_loss == pytest.approx(whole.held_out_loss, rel=1e-9)


def test_a_part_that_grows_too_much_refuses_the_whole_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    dense = correlated(rng, 80, 6)
    consumer = Consumer(moments_of(dense, 1e3 * dense), rng.standard_normal((6, 8)), np.arange(6))
    monkeypatch.setattr(problem, "MOST_WEIGHTS", 10)
    monkeypatch.setattr(problem, "PART_WEIGHTS", 12)
    layer = refit(consumer, np.arange(6), dampings=[1e-6])
    assert "grow" in layer.reason
    np.testing.assert_array_equal(layer.weight, consumer.weight)
