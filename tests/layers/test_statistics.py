"""Moments of what layers read, from one stream or two."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.layers import statistics as module
from spa.passes.layers.problems import Problem
from spa.passes.layers.split import Split
from spa.passes.layers.statistics import balanced, collect, enough_rows
from spa.passes.repair.network import prepare
from spa.pipeline import load_normal
from tests.models import build

RNG = np.random.default_rng(2)
DENSE = [RNG.standard_normal((10, 5)).astype(np.float32) + 3 for _ in range(12)]
PRUNED = [0.5 * batch + RNG.standard_normal(batch.shape).astype(np.float32) for batch in DENSE]


def problem() -> Problem:
    network = prepare(load_normal(build("(float[N,5] x) => (float[N,3] y) { y = MatMul(x, w) }", {"w": [5, 3]})))
    (layer,) = network.layers
    return Problem(layer)


def of(batches: list[np.ndarray]):
    def fetch(_: ir.Value, number: int) -> np.ndarray:
        return batches[number]

    return fetch


@pytest.mark.parametrize("threads", [1, 3])
def test_of_twelve_batches_two_judge_and_one_is_seen_by_no_fit(threads: int) -> None:
    instance = problem()
    statistics = collect([instance], Split.of(12), of(DENSE), threads=threads)[instance.key]
    fitted = np.concatenate([batch for number, batch in enumerate(DENSE) if number not in (2, 5, 11)]).astype(
        np.float64
    )
    held = np.concatenate([DENSE[2], DENSE[5]]).astype(np.float64)
    for moments, rows in ((statistics.fitted[0], fitted), (statistics.held_out[0], held)):
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5)
        np.testing.assert_allclose(moments.gram, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-5)
    assert statistics.dense is None


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 10), (4, 10)])
def test_of_few_batches_the_last_is_held_out_and_a_single_one_is_fitted(count: int, held: int) -> None:
    instance = problem()
    statistics = collect([instance], Split.of(count), of(DENSE))[instance.key]
    assert statistics.held_out[0].count == held
    assert statistics.fitted[0].count == 10 * count - held


def test_two_networks_are_read_at_the_same_rows() -> None:
    instance = problem()
    statistics = collect([instance], Split.of(12), of(DENSE), of(PRUNED))[instance.key]
    pick = [number for number in range(12) if number not in (2, 5, 11)]
    dense, pruned = (np.concatenate([part[k] for k in pick]).astype(np.float64) for part in (DENSE, PRUNED))
    cross = (pruned - pruned.mean(0)).T @ (dense - dense.mean(0)) / len(dense)
    np.testing.assert_allclose(statistics.fitted[0].cross, cross, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics.fitted[0].mean, pruned.mean(0), rtol=1e-5)
    assert statistics.dense is not None
    np.testing.assert_array_equal(statistics.dense[0], np.concatenate(DENSE[:11]))


def test_no_more_rows_than_are_enough_and_the_same_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "enough_rows", lambda width: 6 * width)
    instance, batches = problem(), [np.arange(200, dtype=np.float32).reshape(40, 5) + k for k in range(6)]
    first, again = (collect([instance], Split.of(6), of(batches))[instance.key].fitted[0] for _ in range(2))
    assert first.count == 5 * 5
    np.testing.assert_array_equal(first.gram, again.gram)


def test_enough_grows_with_the_width_and_gives_way_to_cost() -> None:
    assert enough_rows(8) == 4096
    assert enough_rows(512) == 30 * 512
    assert 4 * 8192 <= enough_rows(8192) < 30 * 8192


def test_moments_are_settled_before_several_threads_read_them() -> None:
    """Two groups read one layer; a first read that still gathers rows would show the second one none."""
    instance = problem()
    statistics = collect([instance], Split.of(12), of(DENSE))[instance.key]
    for moments in (*statistics.fitted, *statistics.held_out):
        before = {name: getattr(moments, name) for name in moments.__slots__}
        assert moments.gram.shape == (5, 5)
        assert all(getattr(moments, name) is value for name, value in before.items())


def test_balanced_rows_weigh_as_much_whatever_their_size() -> None:
    """A sample whose numbers are a thousand times as large says no more than it says at the size of the others."""
    instance = problem()
    balance = partial(balanced, samples=10)
    large = [batch * np.where(np.arange(10) == 4, 1000.0, 1.0)[:, None].astype(np.float32) for batch in DENSE]
    moments = [
        collect([instance], Split.of(12), of(batches), balance=balance)[instance.key].fitted[0]
        for batches in (DENSE, large)
    ]
    assert np.trace(moments[1].gram) < 3 * np.trace(moments[0].gram)
    assert np.trace(collect([instance], Split.of(12), of(large))[instance.key].fitted[0].gram) > 1e4 * np.trace(
        moments[0].gram
    )


def test_samples_along_another_axis_and_of_nothing_are_left_even() -> None:
    instance = problem()
    even = balanced(instance, DENSE[0], 7)
    np.testing.assert_array_equal(even, np.full(10, even[0]))
    np.testing.assert_array_equal(balanced(instance, 0 * DENSE[0], 10), np.ones(10))


def test_rows_that_tell_of_variance_are_drawn_by_weight() -> None:
    instance = problem()
    batches = [np.repeat(np.array([[1.0], [100.0]], np.float32), 5, 1).repeat(5, 0) for _ in range(12)]
    statistics = collect(
        [instance],
        Split.of(12),
        of(batches),
        of(batches),
        balance=lambda _problem, _data: np.array([1.0] * 5 + [0.0] * 5),
    )
    rows = statistics[instance.key].dense
    assert rows is not None
    np.testing.assert_array_equal(rows, 1.0)
