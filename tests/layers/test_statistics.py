"""Moments of what layers read, from one stream or two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.layers import statistics as module
from spa.passes.layers.problems import Problem
from spa.passes.layers.statistics import collect, enough_rows
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
def test_the_last_of_every_six_batches_is_held_out(threads: int) -> None:
    one = problem()
    found = collect([one], 12, of(DENSE), threads=threads)[one.key]
    fitted = np.concatenate([batch for number, batch in enumerate(DENSE) if number % 6 != 5]).astype(np.float64)
    held = np.concatenate([DENSE[5], DENSE[11]]).astype(np.float64)
    for moments, rows in ((found.fitted[0], fitted), (found.held_out[0], held)):
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5)
        np.testing.assert_allclose(moments.gram, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-5)
    assert found.dense is None


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 10), (4, 10)])
def test_of_few_batches_the_last_is_held_out_and_a_single_one_is_fitted(count: int, held: int) -> None:
    one = problem()
    found = collect([one], count, of(DENSE))[one.key]
    assert found.held_out[0].count == held
    assert found.fitted[0].count == 10 * count - held


def test_two_networks_are_read_at_the_same_rows() -> None:
    one = problem()
    found = collect([one], 12, of(DENSE), of(PRUNED))[one.key]
    pick = [number for number in range(12) if number % 6 != 5]
    dense, pruned = (np.concatenate([part[k] for k in pick]).astype(np.float64) for part in (DENSE, PRUNED))
    cross = (pruned - pruned.mean(0)).T @ (dense - dense.mean(0)) / len(dense)
    np.testing.assert_allclose(found.fitted[0].cross, cross, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.fitted[0].mean, pruned.mean(0), rtol=1e-5)
    assert found.dense is not None
    np.testing.assert_array_equal(found.dense[0], np.concatenate(DENSE))


def test_no_more_rows_than_are_enough_and_the_same_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "enough_rows", lambda width: 6 * width)
    one, batches = problem(), [np.arange(200, dtype=np.float32).reshape(40, 5) + k for k in range(6)]
    first, again = (collect([one], 6, of(batches))[one.key].fitted[0] for _ in range(2))
    assert first.count == 5 * 5
    np.testing.assert_array_equal(first.gram, again.gram)


def test_enough_grows_with_the_width_and_gives_way_to_cost() -> None:
    assert enough_rows(8) == 4096
    assert enough_rows(512) == 30 * 512
    assert 4 * 8192 <= enough_rows(8192) < 30 * 8192


def test_moments_are_settled_before_several_threads_read_them() -> None:
    """Two groups read one layer; a first read that still gathers rows would show the second one none."""
    one = problem()
    found = collect([one], 12, of(DENSE))[one.key]
    for moments in (*found.fitted, *found.held_out):
        before = {name: getattr(moments, name) for name in moments.__slots__}
        assert moments.gram.shape == (5, 5)
        assert all(getattr(moments, name) is value for name, value in before.items())
