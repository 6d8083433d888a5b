"""Random mixtures of many outputs in the place of these, where a damping is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spa.passes.secondorder import DAMPINGS, Consumer, mixing, refit
from spa.passes.secondorder.mixing import MIXED, mixed
from spa.passes.secondorder.solver import held_out_losses
from tests.secondorder.made import asymmetric, correlated, moments_of

OUTPUTS = 3 * MIXED


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumers of the size of a test are large."""
    monkeypatch.setattr(mixing, "LARGE", 100)


def many(seed: int, *, drift: bool = False, count: int = 60) -> Consumer:
    """A consumer of many outputs, with samples held out."""
    rng = np.random.default_rng(seed)
    dense = correlated(rng, 2 * count, 17)
    pruned = dense + 0.4 * correlated(rng, 2 * count, 17)
    off = rng.standard_normal((2 * count, OUTPUTS)) if drift else np.zeros((2 * count, 0))
    fitted, held_out = (
        moments_of(pruned[half], dense[half], **({"drift": off[half]} if drift else {}))
        for half in (slice(count), slice(count, None))
    )
    weight = rng.standard_normal((17, OUTPUTS))
    units = np.repeat(np.arange(6), 3)[:17]
    return Consumer(
        fitted, weight, units, bias=rng.standard_normal(OUTPUTS), held_out=held_out, drift=0.5 if drift else 0.0,
        energy=float(np.sum(np.var(dense @ weight, axis=0))), sample=(dense, pruned),
    )  # fmt: skip


def whole(consumer: Consumer, kept: np.ndarray, monkeypatch: pytest.MonkeyPatch, **options: bool) -> list[float]:
    """Held-out losses by all outputs."""
    with monkeypatch.context() as patch:
        patch.setattr(mixing, "LARGE", 1 << 40)
        return held_out_losses(consumer, kept, DAMPINGS, **options)


def test_few_outputs_and_weighted_ones_stay() -> None:
    few = asymmetric(0, outputs=2 * MIXED)
    assert mixed(few) is few
    weighted = replace(many(0), output_weight=np.ones(OUTPUTS))
    assert mixed(weighted) is weighted
    unknown = replace(many(0), sample=None)
    assert mixed(unknown) is unknown, "the energy of its mixtures is not known"


@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mixtures_lose_what_all_outputs_do(drift: bool, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        consumer, kept = many(seed, drift=drift), np.arange(11)
        assert mixed(consumer).weight.shape == (17, MIXED)
        expected = whole(consumer, kept, monkeypatch, symmetric=symmetric)
        losses = held_out_losses(consumer, kept, DAMPINGS, symmetric=symmetric)
        assert losses == pytest.approx(expected, rel=0.3)
        assert np.array(losses) / losses[0] == pytest.approx(np.array(expected) / expected[0], rel=0.15)


def test_a_refit_takes_about_the_best_damping_and_fits_every_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        consumer, kept = many(seed, count=20), np.arange(11)
        losses = whole(consumer, kept, monkeypatch)
        fit = refit(consumer, kept)
        assert fit.damping is not None
        assert losses[1 + DAMPINGS.index(fit.damping)] < 1.02 * min(losses)
        with monkeypatch.context() as patch:
            patch.setattr(mixing, "LARGE", 1 << 40)
            expected = refit(consumer, kept, dampings=[fit.damping])
        np.testing.assert_allclose(fit.weight, expected.weight, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(fit.bias, expected.bias, rtol=1e-9, atol=1e-12)


def test_a_damping_whose_weights_grow_too_much_gives_way_to_the_next() -> None:
    rng = np.random.default_rng(0)
    common, small = rng.standard_normal((2, 400))
    rows = np.stack([common, common + 1e-3 * small, small], 1)
    fitted, held_out = (moments_of(rows[half]) for half in (slice(200), slice(200, None)))
    consumer = Consumer(fitted, np.array([[0.0], [0.0], [1.0]]) * np.ones(OUTPUTS), np.arange(3), held_out=held_out)
    losses = held_out_losses(consumer, np.arange(2), [1e-12, 1e-4])
    assert losses[1] < losses[2] < losses[0]
    assert refit(consumer, np.arange(2), dampings=[1e-12, 1e-4]).damping == 1e-4
    refused = refit(consumer, np.arange(2), dampings=[1e-12])
    assert refused.damping is None
    assert "would grow" in refused.reason


def test_moments_with_another_drift_leave_their_own_alone() -> None:
    consumer = many(0, drift=True)
    before = consumer.moments.drift_cross
    other = consumer.moments.with_drift(lambda rows: 2.0 * rows[:, :3])
    np.testing.assert_array_equal(other.drift_cross, 2.0 * before[:, :3])
    np.testing.assert_array_equal(other.drift_mean, 2.0 * consumer.moments.drift_mean[:3])
    np.testing.assert_array_equal(other.gram, consumer.moments.gram)
    np.testing.assert_array_equal(consumer.moments.drift_cross, before)
    assert (other.drift_width, consumer.moments.drift_width) == (3, OUTPUTS)
