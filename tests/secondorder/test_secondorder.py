"""Second-order pruning of one group: every formula against brute force in float64, then a small network end to end."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.errors import BudgetError, DataError
from spa.passes.secondorder import BASELINES, DAMPINGS, Consumer, Moments, is_held_out, prune, refit, remove_units
from spa.passes.secondorder.greedy import cut, swap
from spa.passes.secondorder.linalg import factorise, inverse, solve
from spa.passes.secondorder.problem import importance, normal_equations, shrinkage, squared_error
from spa.passes.secondorder.solver import MOST_WIDENED, default_damping, held_out_losses, ridge, widened
from spa.passes.secondorder.system import System, by_input, subtract_product

Array = npt.NDArray[np.float64]
DAMPING = 1e-2


def correlated(rng: np.random.Generator, count: int, width: int) -> Array:
    """Rows with correlated columns, means and scales of their own."""
    mixing = rng.standard_normal((width, width)) / np.sqrt(width) + np.eye(width)
    return np.asarray(
        rng.standard_normal((count, width)) @ mixing * rng.uniform(0.3, 3, width) + rng.normal(0, 2, width)
    )


def moments_of(rows: Array, dense: Array | None = None, **options: Any) -> Moments:
    drift = options.pop("drift", None)
    moments = Moments(
        rows.shape[1],
        dense_width=None if dense is None else dense.shape[1],
        drift_width=0 if drift is None else drift.shape[1],
        precision=np.float64,
    )
    moments.update(rows, dense, drift=drift, **options)
    return moments


def asymmetric(
    seed: int, *, count: int = 300, sizes: tuple[int, ...] = (3, 1, 2, 2, 1, 3, 1, 2), **options: Any
) -> Consumer:
    """A consumer of blocks of different sizes and two rows of no unit, its input disturbed by pruning further up."""
    rng = np.random.default_rng(seed)
    units = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), [-1, -1]])
    order = rng.permutation(len(units))
    dense = correlated(rng, count, len(units))
    outputs = options.pop("outputs", 6)
    return Consumer(
        moments_of(dense + 0.4 * correlated(rng, count, len(units)), dense),
        rng.standard_normal((len(units), outputs)),
        units[order],
        bias=rng.standard_normal(outputs),
        **options,
    )


def family(seed: int) -> list[Consumer]:
    """Four consumers of the same eight units: three inputs, one of them read twice, weighted errors."""
    rng = np.random.default_rng(seed)
    first = asymmetric(seed, output_weight=np.cov(rng.standard_normal((6, 20))), alpha=0.7)
    twin = replace(
        first, weight=rng.standard_normal((len(first.unit_of_row), 40)), bias=None, output_weight=None, alpha=None
    )
    symmetric = correlated(rng, 200, 8)
    narrow = Consumer(
        moments_of(symmetric), rng.standard_normal((8, 3)), rng.permutation(8), output_weight=rng.uniform(0, 2, 3)
    )
    return [first, twin, narrow, asymmetric(seed + 1, sizes=(1, 1, 0, 4, 1, 1, 1, 2), free_bias=False)]


def scratch_loss(consumers: list[Consumer], kept: Any, damping: float = DAMPING) -> float:
    """Formula (2), each consumer by itself, F written out."""
    total = 0.0
    for consumer in consumers:
        equations = normal_equations(consumer)
        damped = equations.gram + np.diag(ridge(equations.gram, damping))
        target = equations.target + ridge(equations.gram, damping)[:, None] * consumer.anchored
        rows, weight = consumer.kept_rows(np.asarray(kept)), consumer.output_weight
        square = np.eye(target.shape[1]) if weight is None else np.diag(weight) if weight.ndim == 1 else weight
        best = np.linalg.solve(damped[np.ix_(rows, rows)], target[rows])
        total -= importance(consumer, equations) * float(np.trace(square @ target[rows].T @ best))
    return total


def systems_of(consumers: list[Consumer], kept: Any, units: int = 8) -> tuple[list[System], npt.NDArray[np.bool_]]:
    systems = [System(group, DAMPING) for group in by_input(consumers)]
    mask = np.isin(np.arange(units), kept)
    for system in systems:
        system.factorise(mask)
    return systems, mask


# ------------------------------------------------------------------------------------------------------------ moments
@pytest.mark.parametrize("batch", [1, 7, 300, 5000])
def test_streamed_moments_are_those_of_all_rows(batch: int) -> None:
    rng = np.random.default_rng(0)
    rows, dense, drift, omega = (correlated(rng, 5000, width) for width in (5, 7, 3, 1))
    weights = np.abs(omega[:, 0])
    moments = Moments(5, dense_width=7, drift_width=3, precision=np.float64)
    for at in range(0, 5000, batch):
        part = slice(at, at + batch)
        moments.update(rows[part], dense[part], drift=drift[part], weights=weights[part])
    share = weights / weights.sum()
    centred, centred_dense, centred_drift = (values - share @ values for values in (rows, dense, drift))
    assert moments.count == 5000
    np.testing.assert_allclose(moments.mean, share @ rows, rtol=1e-12)
    np.testing.assert_allclose(moments.dense_mean, share @ dense, rtol=1e-12)
    np.testing.assert_allclose(moments.drift_mean, share @ drift, rtol=1e-12)
    np.testing.assert_allclose(moments.gram, (centred * share[:, None]).T @ centred, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.cross, (centred * share[:, None]).T @ centred_dense, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        moments.drift_cross, (centred * share[:, None]).T @ centred_drift, rtol=1e-10, atol=1e-12
    )
    assert moments.effective_count == pytest.approx(1 / np.sum(share**2))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=5), st.integers(0, 99))
def test_merged_moments_are_those_of_one_stream(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunks = [correlated(rng, size, 4) + 10 * index for index, size in enumerate(sizes)]
    together, merged = moments_of(np.vstack(chunks)), Moments(4, precision=np.float64)
    for chunk in chunks:
        before = moments_of(chunk)
        merged.merge(before)
        assert before.count == len(chunk)
    assert merged.count == together.count == sum(sizes)
    if sum(sizes):
        np.testing.assert_allclose(merged.gram, together.gram, rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(merged.copy().mean, together.mean, rtol=1e-12)


def test_single_precision_products_survive_a_large_mean() -> None:
    rows = np.random.default_rng(1).standard_normal((6000, 6)) + 3000
    moments = Moments(6)
    for part in np.array_split(rows, 11):
        moments.update(part)
    exact = np.cov(rows.astype(np.float32).astype(np.float64).T, bias=True)
    naive = (rows.astype(np.float32).T @ rows.astype(np.float32)) / 6000 - np.outer(rows.mean(0), rows.mean(0))
    assert np.abs(moments.gram - exact).max() < 1e-6
    assert np.abs(naive - exact).max() > 1e-2


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    batch = np.random.default_rng(2).standard_normal((1000, 32)).astype(np.float32)
    moments = Moments(32)
    moments.update(batch)
    tracemalloc.start()
    for _ in range(200):
        moments.update(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert moments.count == 201_000
    assert peak < 1_000_000  # all rows are 25.7 MB


def test_rows_of_weight_zero_are_not_looked_at() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((50, 4))
    masked = rows.copy()
    masked[20:] = np.nan
    moments = moments_of(masked, weights=np.arange(50) < 20)
    assert moments.count == 20
    np.testing.assert_allclose(moments.gram, np.cov(rows[:20].T, bias=True), rtol=1e-12)


def _bad(value: float) -> Array:
    rows = np.ones((3, 4))
    rows[1, 2] = value
    return rows


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (lambda: moments_of(_bad(np.nan)), "rows hold NaN or infinite"),
        (lambda: moments_of(_bad(np.inf)), "'input': rows hold NaN"),
        (lambda: moments_of(np.ones((3, 4)), _bad(-np.inf)), "dense rows hold NaN or infinite"),
        (lambda: moments_of(np.ones((3, 4)), drift=_bad(np.nan)), "drift rows hold NaN or infinite"),
        (lambda: Moments(4).update(np.ones((3, 5))), r"\(N, 4\) expected, found \(3, 5\)"),
        (lambda: Moments(4).update(np.ones(4)), r"found \(4,\)"),
        (lambda: Moments(4).update(np.ones((3, 4)), np.ones((3, 4))), "none are expected"),
        (lambda: Moments(4, dense_width=6).update(np.ones((3, 4))), "none were given"),
        (lambda: Moments(4, dense_width=6).update(np.ones((3, 4)), np.ones((2, 6))), "do not match"),
        (lambda: moments_of(np.ones((3, 4)), weights=[1, 1]), r"weights of shape \(2,\) do not match"),
        (lambda: moments_of(np.ones((3, 4)), weights=[1, -1, 1]), "not negative"),
        (lambda: moments_of(np.ones((3, 4)), weights=[1, np.nan, 1]), "must be finite"),
        (lambda: moments_of(np.ones((3, 4)), weights=[0, 0, 0]).gram, "no rows were seen"),
        (lambda: moments_of(_bad(1e200)).gram, "too large to square"),
    ],
)
def test_bad_rows_are_refused(feed: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        feed()


def test_held_out_samples_are_one_in_six() -> None:
    assert [sample for sample in range(12) if is_held_out(sample)] == [5, 11]


# ------------------------------------------------------------------------------------------------------------- linalg
@pytest.mark.parametrize("kind", ["definite", "scaled", "singular", "indefinite", "zero"])
def test_factors_exist_for_every_symmetric_matrix(kind: str) -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((3 if kind == "singular" else 50, 8))
    matrix = rows.T @ rows
    if kind == "scaled":
        sizes = np.logspace(-9, 9, 8)
        matrix = matrix * sizes * sizes[:, None]
    if kind == "indefinite":
        matrix -= 30 * np.eye(8)
    if kind == "zero":
        matrix *= 0
    lower, scale = factorise(matrix)
    assert np.all(np.isfinite(lower))
    assert np.all(np.isfinite(inverse(matrix)))
    if kind in ("definite", "scaled", "singular"):
        np.testing.assert_allclose(lower @ lower.T, matrix * scale * scale[:, None], atol=1e-7)
    if kind in ("definite", "scaled"):
        for identity in (inverse(matrix) @ matrix, solve(matrix, matrix)):
            np.testing.assert_allclose(identity / scale[:, None] * scale, np.eye(8), atol=1e-9)


def test_nothing_has_an_inverse(capfd: pytest.CaptureFixture[str]) -> None:
    assert inverse(np.zeros((0, 0))).shape == (0, 0)
    assert not any(capfd.readouterr())


# -------------------------------------------------------------------------------------------------------------- refit
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
    found, shrunk = (rows[:, kept] @ one.weight + one.bias for one in (layer, plain))
    expected = shrunk.std(0) * (wanted.std(0) / shrunk.std(0)) ** spread
    np.testing.assert_allclose(found.std(0), expected, rtol=1e-5)
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=1e-6)
    assert (layer.loss > plain.loss) is (spread > 0)
    everything = refit(consumer, np.arange(6), dampings=[1e-6], spread=spread)
    np.testing.assert_allclose(everything.weight, weight, rtol=1e-4)


def test_outputs_are_widened_within_reason() -> None:
    found = widened(np.ones((2, 3)), np.array([1.21, 1e3, 0.5]), 0.5)
    np.testing.assert_allclose(found, [[1.1, np.sqrt(MOST_WIDENED), 1.0]] * 2)


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


def few_samples(seed: int, *, count: int, width: int = 40) -> Consumer:
    """The pruned input is the dense one with noise of its own, which asymmetric targets would have to fit."""
    rng = np.random.default_rng(seed)

    def drawn(rows: int) -> Moments:
        dense = rng.standard_normal((rows, width))
        return moments_of(dense + 0.5 * rng.standard_normal((rows, width)), dense)

    weight = rng.standard_normal((width, 5))
    return Consumer(drawn(count), weight, np.arange(width), held_out=drawn(2000))


def test_with_fewer_samples_than_rows_symmetric_targets_are_tried() -> None:
    """Asymmetric targets fit the noise of few samples; whichever is better on held-out samples is taken."""
    kept = np.arange(36)
    dampings = [1e-3]
    better = 0
    for seed in range(6):
        consumer = few_samples(seed, count=30)
        _, asymmetric_loss = held_out_losses(consumer, kept, dampings)
        _, symmetric_loss = held_out_losses(consumer, kept, dampings, symmetric=True)
        layer = refit(consumer, kept, dampings=dampings)
        assert layer.held_out_loss is not None
        assert layer.held_out_loss <= min(asymmetric_loss, symmetric_loss)
        better += symmetric_loss < asymmetric_loss
    assert better >= 5
    many = few_samples(0, count=400)  # there are enough: asymmetric targets are right, and nothing else is tried
    assert refit(many, kept, dampings=dampings).held_out_loss == held_out_losses(many, kept, dampings)[1]


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


# ------------------------------------------------------------------------------------------------------------- greedy
@pytest.mark.parametrize("seed", range(3))
def test_saliency_is_the_growth_of_the_loss(seed: int) -> None:
    consumers, kept = family(seed), [0, 1, 3, 4, 6, 7]
    systems, mask = systems_of(consumers, kept)
    saliency = np.sum([system.saliency(mask) for system in systems], axis=0)
    before = scratch_loss(consumers, kept)
    assert sum(system.loss() for system in systems) == pytest.approx(before, rel=1e-10)
    for unit in kept:
        growth = scratch_loss(consumers, [other for other in kept if other != unit]) - before
        assert saliency[unit] == pytest.approx(growth, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_downdates_equal_a_new_factorisation(seed: int) -> None:
    consumers = family(seed)
    systems, mask = systems_of(consumers, range(8))
    for gone in ([3], [0, 6], [5]):
        mask[gone] = False
        for system in systems:
            system.remove(np.array(gone))
    fresh, _ = systems_of(consumers, np.flatnonzero(mask))
    for system, new in zip(systems, fresh, strict=True):
        at = np.searchsorted(system.rows, new.rows)
        np.testing.assert_allclose(system.inverse[np.ix_(at, at)], new.inverse, atol=1e-8 * np.abs(new.inverse).max())
        np.testing.assert_allclose(system.weight[at], new.weight, atol=1e-8)
        assert np.count_nonzero(np.delete(system.weight, at, axis=0)) == 0


@pytest.mark.parametrize("rounds", [1, 3, 64])
@pytest.mark.parametrize("seed", range(3))
def test_every_level_of_the_curve_is_the_loss_from_scratch(seed: int, rounds: int) -> None:
    consumers = family(seed)
    removal = remove_units(consumers, units=8, remove=7, damping=DAMPING, rounds=rounds, swap_rounds=0)
    full, left = scratch_loss(consumers, range(8)), list(range(8))
    for unit, loss in zip(removal.order, removal.loss[1:], strict=True):
        left.remove(unit)
        assert loss == pytest.approx(scratch_loss(consumers, left) - full, rel=1e-8)
    np.testing.assert_array_equal(removal.kept, left)
    assert removal.dampings == (DAMPING,) * 4


@pytest.mark.parametrize("seed", range(3))
def test_one_by_one_is_the_greedy_order(seed: int) -> None:
    consumers = family(seed)
    removal = remove_units(consumers, units=8, remove=5, damping=DAMPING, swap_rounds=0)
    left = list(range(8))
    for unit in removal.order:
        losses = {other: scratch_loss(consumers, [kept for kept in left if kept != other]) for other in left}
        assert unit == min(left, key=losses.__getitem__)
        left.remove(unit)


def test_scores_started_from_the_dense_weights_would_be_wrong() -> None:
    consumer = asymmetric(16)
    systems, mask = systems_of([consumer], range(8))
    right = systems[0].saliency(mask)
    systems[0].weight = consumer.weight * np.sqrt(importance(consumer, normal_equations(consumer)))
    wrong = systems[0].saliency(mask)
    growth = [
        scratch_loss([consumer], np.delete(np.arange(8), unit)) - scratch_loss([consumer], range(8))
        for unit in range(8)
    ]
    np.testing.assert_allclose(right, growth, rtol=1e-8)
    assert np.abs(wrong / growth - 1).max() > 0.1


def test_panels_subtract_the_whole_product() -> None:
    rng = np.random.default_rng(28)
    matrix, left, right = (rng.standard_normal(shape) for shape in ((1100, 30), (5, 1100), (5, 30)))
    expected = matrix - left.T @ right
    subtract_product(matrix, left, right)
    np.testing.assert_allclose(matrix, expected)


def test_inputs_that_are_shared_cost_one_inverse_and_change_nothing() -> None:
    first, twin = family(17)[:2]
    apart = [first, replace(twin, moments=twin.moments.copy())]
    assert len(by_input([first, twin])) == 1
    assert len(by_input(apart)) == 2
    one, two = (remove_units(consumers, units=8, remove=6, damping=DAMPING) for consumers in ([first, twin], apart))
    np.testing.assert_array_equal(one.order, two.order)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_gain_is_what_coming_back_saves(seed: int) -> None:
    consumers, kept, outside = family(seed), [1, 2, 5], np.array([0, 3, 4, 6, 7])
    systems, _ = systems_of(consumers, kept)
    gains = sum(system.gains(outside) for system in systems)
    for unit, gain in zip(outside, np.asarray(gains), strict=True):
        assert gain == pytest.approx(scratch_loss(consumers, kept) - scratch_loss(consumers, [*kept, unit]), rel=1e-8)


def test_swaps_never_raise_the_loss_and_sometimes_lower_it() -> None:
    improved = 0
    for seed in range(12):
        consumers = [asymmetric(seed, count=30, sizes=(2,) * 8)]
        plain = remove_units(consumers, units=8, remove=5, damping=DAMPING, swap_rounds=0)
        swapped = remove_units(consumers, units=8, remove=5, damping=DAMPING, swap_rounds=20)
        full = scratch_loss(consumers, range(8))
        assert swapped.final_loss == pytest.approx(scratch_loss(consumers, swapped.kept) - full, rel=1e-8)
        assert swapped.final_loss <= plain.final_loss * (1 + 1e-9)
        improved += swapped.swapped > 0
    assert improved > 0


def test_swaps_find_the_best_set_from_a_bad_one() -> None:
    consumers = [asymmetric(18, sizes=(1,) * 8)]
    best = min(combinations(range(8), 4), key=lambda kept: scratch_loss(consumers, kept))
    worst = max(combinations(range(8), 4), key=lambda kept: scratch_loss(consumers, kept))
    systems, mask = systems_of(consumers, worst)
    final, swapped, gained = swap(systems, mask, np.ones(8, np.bool_), rounds=20)
    np.testing.assert_array_equal(np.flatnonzero(final), best)
    assert swapped == len(set(best) - set(worst))
    assert gained == pytest.approx(scratch_loss(consumers, worst) - scratch_loss(consumers, best))


def test_rounds_of_many_units_stay_close_to_one_by_one() -> None:
    rng = np.random.default_rng(19)
    rows = np.maximum(correlated(rng, 600, 96), 0)
    consumer = Consumer(moments_of(rows), rng.standard_normal((96, 20)), np.repeat(np.arange(48), 2))
    exact, rounds, once = (
        remove_units([consumer], units=48, remove=30, damping=DAMPING, rounds=count, swap_rounds=0).final_loss
        for count in (48, 6, 1)
    )
    assert exact <= rounds * (1 + 1e-9)
    assert rounds < 1.02 * exact
    assert once < 1.10 * exact


def test_dead_units_go_first_and_of_duplicates_only_one() -> None:
    rng = np.random.default_rng(20)
    rows = rng.standard_normal((300, 10))
    rows[:, 2], rows[:, 7], rows[:, 5] = 0.0, 4.0, rows[:, 4]
    weight = rng.standard_normal((10, 6))
    weight[[2, 7]] *= 100
    consumer = Consumer(moments_of(rows), weight, np.arange(10))
    for rounds in (64, 1):
        removal = remove_units([consumer], units=10, remove=4, damping=1e-4, rounds=rounds, swap_rounds=0)
        assert set(removal.order[:2]) == {2, 7}
        assert len({4, 5} & set(removal.order)) == 1
        np.testing.assert_allclose(removal.loss[:4], 0.0, atol=1e-3)
        assert removal.loss[4] > 0.01


def test_what_must_stay_stays() -> None:
    consumers = family(21)
    removable = np.array([1, 0, 1, 1, 0, 1, 1, 0], bool)
    removal = remove_units(consumers, units=8, remove=5, removable=removable)
    np.testing.assert_array_equal(removal.kept, [1, 4, 7])
    assert all(
        set(np.flatnonzero(consumer.unit_of_row < 0)) <= set(consumer.kept_rows(removal.kept)) for consumer in consumers
    )
    for options in ({"removable": removable, "remove": 6}, {"remove": 6, "min_keep": 3}, {"remove": -1}):
        with pytest.raises(BudgetError, match="of 8 units to go"):
            remove_units(consumers, units=8, **options)
    with pytest.raises(ValueError, match="below the number of units"):
        remove_units(consumers, units=7, remove=1)
    assert remove_units(consumers, units=8, remove=0).kept.tolist() == list(range(8))


def test_held_out_curve_is_the_error_on_unseen_rows() -> None:
    rng = np.random.default_rng(22)
    first, second = correlated(rng, 150, 40), correlated(rng, 80, 40)
    consumer = Consumer(
        moments_of(first),
        rng.standard_normal((40, 50)),
        np.arange(40),
        held_out=moments_of(second),
        output_weight=rng.uniform(0, 1, 50),
    )
    removal = remove_units([consumer], units=40, remove=20, swap_rounds=0)
    damping, scale = removal.dampings[0], importance(consumer, normal_equations(consumer))
    assert removal.held_out_levels.tolist() == [0, 5, 10, 15, 20]
    errors = []
    for level in removal.held_out_levels:
        kept = np.setdiff1d(np.arange(40), removal.order[:level])
        layer = refit(replace(consumer, held_out=None), kept, dampings=[damping])
        judge = normal_equations(consumer, consumer.held_out).restrict(kept)
        errors.append(scale * squared_error(consumer, judge, layer.weight, layer.bias))
    np.testing.assert_allclose(removal.held_out_loss, np.array(errors) - errors[0], atol=1e-9)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_fewer_rows_than_units_give_finite_curves(count: int) -> None:
    rng = np.random.default_rng(23)
    rows = np.maximum(rng.standard_normal((count, 48)), 0).astype(np.float32)
    fit, held = Moments(48), Moments(48)
    for sample in range(count):
        (held if is_held_out(sample) else fit).update(rows[sample : sample + 1])
    consumer = Consumer(fit, rng.standard_normal((48, 8)), np.repeat(np.arange(12), 4), held_out=held)
    removal = remove_units([consumer], units=12, remove=9)
    assert np.all(np.isfinite(removal.loss))
    assert np.all(np.diff(removal.loss) >= -1e-12)
    layer = refit(consumer, consumer.kept_rows(removal.kept))
    assert np.all(np.isfinite(layer.weight))
    assert np.all(np.isfinite(layer.bias))


def test_cut_reports_the_exact_cost_of_each_unit() -> None:
    consumers = family(24)
    systems, mask = systems_of(consumers, range(8))
    gone, lost = cut(systems, mask, np.arange(8), 3)
    left = [unit for unit in range(8) if unit not in gone]
    assert sum(lost) == pytest.approx(scratch_loss(consumers, left) - scratch_loss(consumers, range(8)), rel=1e-8)
    np.testing.assert_array_equal(np.flatnonzero(mask), left)


# ---------------------------------------------------------------------------------------------------------- baselines
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


# --------------------------------------------------------------------------------------------------------- end to end
Layers = list[tuple[Array, Array]]


def nested(rng: np.random.Generator, count: int, basis: Array, classes: int = 10) -> tuple[Array, npt.NDArray[np.intp]]:
    """Points of curved three-dimensional sheets, one for each class, in 32 dimensions, overlapping through noise."""
    label = rng.integers(0, classes, count)
    latent = rng.standard_normal((count, 3))
    features = np.concatenate([latent, np.sin(2 * latent), np.ones((count, 1))], axis=1)
    return np.einsum("nk,nkd->nd", features, basis[label]) + 0.7 * rng.standard_normal((count, 32)), label


def run(layers: Layers, inputs: Array) -> list[Array]:
    """Input of every layer, and the logits."""
    streams = [inputs]
    for index, (weight, bias) in enumerate(layers):
        output = streams[-1] @ weight + bias
        streams.append(output if index == len(layers) - 1 else np.maximum(output, 0))
    return streams


def train(rng: np.random.Generator, basis: Array, steps: int = 700) -> Layers:
    """A ReLU network 32-96-96-96-10, by Adam."""
    sizes = [32, 96, 96, 96, 10]
    layers = [(rng.standard_normal((a, b)) * np.sqrt(2 / a), np.zeros(b)) for a, b in pairwise(sizes)]
    flat = [array for layer in layers for array in layer]
    first, second = ([np.zeros_like(array) for array in flat] for _ in range(2))
    for step in range(1, steps + 1):
        inputs, label = nested(rng, 128, basis)
        streams = run(layers, inputs)
        odds = np.exp(streams[-1] - streams[-1].max(1, keepdims=True))
        slope = odds / odds.sum(1, keepdims=True)
        slope[np.arange(128), label] -= 1
        slopes: list[Array] = []
        for (weight, _), stream in zip(reversed(layers), reversed(streams[:-1]), strict=True):
            slopes = [stream.T @ slope / 128, slope.mean(0), *slopes]
            slope = (slope @ weight.T) * (stream > 0)
        for array, m, v, g in zip(flat, first, second, slopes, strict=True):
            m += 0.1 * (g - m)
            v += 0.01 * (g * g - v)
            array -= 3e-3 * (1 - step / steps) * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
    return layers


def divergence(dense: Array, pruned: Array) -> float:
    """Mean KL of the softmax outputs, nats."""
    logs = [logits - np.logaddexp.reduce(logits, axis=1, keepdims=True) for logits in (dense, pruned)]
    return float(np.mean(np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=1)))


def halve(layers: Layers, inputs: Array, method: str, *, asymmetric_targets: bool) -> Layers:
    """Half of the units of every hidden layer, in order; the input of a later layer is what its predecessors left."""
    pruned, dense = list(layers), run(layers, inputs)
    for index in range(1, len(layers)):
        weight, bias = layers[index]
        now = run(pruned, inputs)[index]
        fit, held = (Moments(96, dense_width=96 if asymmetric_targets else None) for _ in range(2))
        out = np.array([is_held_out(sample) for sample in range(len(inputs))])
        for moments, part in ((fit, ~out), (held, out)):
            if asymmetric_targets:
                moments.update(now[part], dense[index][part])
            else:
                moments.update(dense[index][part])
        consumer = Consumer(fit, weight, np.arange(96), bias=bias, held_out=held)
        if method == "ours":
            kept = remove_units([consumer], units=96, remove=48).kept
            layer = refit(consumer, consumer.kept_rows(kept))
        else:
            kept, (layer,) = prune(BASELINES[method], [consumer], units=96, remove=48)
        before, before_bias = pruned[index - 1]
        pruned[index - 1] = before[:, kept], before_bias[kept]
        pruned[index] = layer.weight, layer.bias
    return pruned


def test_end_to_end_selection_and_refit_beat_what_was_published() -> None:
    rng = np.random.default_rng(27)
    basis = 0.6 * rng.standard_normal((10, 7, 32))
    layers = train(rng, basis)
    calibration, (test, label) = nested(rng, 1500, basis)[0], nested(rng, 3000, basis)
    dense = run(layers, test)[-1]
    logits = {name: run(halve(layers, calibration, name, asymmetric_targets=False), test)[-1] for name in BASELINES}
    logits["ours, symmetric"] = run(halve(layers, calibration, "ours", asymmetric_targets=False), test)[-1]
    logits["ours"] = run(halve(layers, calibration, "ours", asymmetric_targets=True), test)[-1]
    kl = {name: divergence(dense, output) for name, output in logits.items()}
    accuracy = {name: float(np.mean(output.argmax(1) == label)) for name, output in logits.items()}
    assert np.mean(dense.argmax(1) == label) > 0.98
    assert kl["ours"] < 0.1 * kl["magnitude"]
    assert kl["ours"] < 0.2 * kl["flap"] < 0.2 * kl["wanda-sp"]
    assert kl["ours"] < 0.5 * kl["obspa"]
    assert kl["ours"] < kl["ours, symmetric"] < 0.75 * kl["one-shot-obs"] < 0.75 * kl["l2+refit"]
    assert accuracy["ours"] > accuracy["magnitude"] + 0.3
    assert accuracy["ours"] == max(accuracy.values())
