"""Moments: products of rows, in one stream or in parts."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.errors import DataError
from spa.passes.secondorder import Moments, is_held_out
from tests.secondorder.made import (
    Array,
    correlated,
    moments_of,
)


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


@pytest.mark.parametrize("empty", ["first", "second", "both"])
def test_what_has_seen_nothing_adds_nothing(empty: str) -> None:
    rows = correlated(np.random.default_rng(4), 60, 4)
    first, second = (Moments(4) if empty in (name, "both") else moments_of(rows) for name in ("first", "second"))
    total = first.plus(second)
    total.update(rows)  # its sums are its own
    seen = [moments for moments in (first, second) if moments.count]
    assert total.count == 60 * (1 + len(seen))
    assert all(moments.count == 60 for moments in seen)
    np.testing.assert_allclose(total.gram, moments_of(rows).gram, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("writable", [True, False])
def test_sums_are_taken_in_where_they_may_be_written_to(writable: bool) -> None:
    rng = np.random.default_rng(6)
    first, second = (moments_of(correlated(rng, count, 4)) for count in (50, 70))
    expected = first.plus(second)
    if not writable:  # as what a node shares
        kept: list[pickle.PickleBuffer] = []
        body = pickle.dumps(first, protocol=5, buffer_callback=kept.append)
        first = pickle.loads(body, buffers=[bytes(buffer.raw()) for buffer in kept])
    before = first.gram
    total = first.taking(second)
    assert (total is first) == writable
    np.testing.assert_array_equal(total.gram, expected.gram)
    np.testing.assert_array_equal(total.mean, expected.mean)
    assert np.array_equal(first.gram, before) != writable
    assert second.count == 70


def test_a_pickle_of_nothing_holds_no_sums() -> None:
    empty = Moments(1000, dense_width=900, drift_width=3, precision=np.float64, name="held out")
    body = pickle.dumps(empty)
    assert len(body) < 1000
    again = pickle.loads(body)
    assert (again.width, again.dense_width, again.drift_width, again.name) == (1000, 900, 3, "held out")
    assert again.precision == np.float64
    assert not again.count
    seen = moments_of(correlated(np.random.default_rng(5), 300, 4))
    again = pickle.loads(pickle.dumps(seen, protocol=5))
    assert again.count == 300
    np.testing.assert_array_equal(again.gram, seen.gram)


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
