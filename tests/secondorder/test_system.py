"""Systems that shrink, and that let units back in, without a factorisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spa.passes.secondorder import Consumer, remove_units
from tests.secondorder.made import correlated, family, moments_of, systems_of


def test_units_let_back_in_leave_what_a_factorisation_gives() -> None:
    for seed in range(3):
        systems, mask = systems_of(family(seed), [1, 3, 4, 6, 7])
        fresh, every = systems_of(family(seed), range(8))
        for system, other in zip(systems, fresh, strict=True):
            before = system.held()
            system.admit(np.array([0, 2, 5]))
            order = np.argsort(system.rows)
            np.testing.assert_array_equal(system.rows[order], other.rows)
            np.testing.assert_allclose(system.inverse[np.ix_(order, order)], other.inverse, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(system.weight[order], other.weight, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(system.saliency(every), other.saliency(every), rtol=1e-8)
            system.back_to(before)
            again = system.saliency(mask)
            system.factorise(mask)
            np.testing.assert_allclose(again, system.saliency(mask), rtol=1e-12)


def test_arrays_that_shrink_hold_what_is_left() -> None:
    systems, mask = systems_of(family(0), range(8))
    for system in systems:
        system.remove(np.array([2, 5]))
    mask[[2, 5]] = False
    for system in systems:
        before = system.saliency(mask)
        system.compact(mask)
        np.testing.assert_array_equal(system.saliency(mask), before)
        assert system.inverse.shape == (len(system.rows),) * 2
        assert not np.isin(system.unit, [2, 5]).any()


def test_held_out_losses_that_nobody_asks_for_change_nothing_else() -> None:
    rng = np.random.default_rng(3)
    rows = correlated(rng, 120, 16)
    fitted, held_out = moments_of(rows[:80]), moments_of(rows[80:])
    consumer = Consumer(fitted, rng.standard_normal((16, 5)), np.repeat(np.arange(8), 2), held_out=held_out)
    asked, not_asked = (remove_units([consumer], units=8, remove=5, judged=judged) for judged in (True, False))
    np.testing.assert_array_equal(asked.kept, not_asked.kept)
    assert asked.dampings == not_asked.dampings
    assert len(asked.held_out_levels) > 1
    assert not len(not_asked.held_out_levels)


@pytest.mark.parametrize("outputs", [3, 10, 40])
@pytest.mark.parametrize("free_bias", [True, False])
def test_rows_without_a_unit_lose_what_units_that_may_not_go_lose(outputs: int, free_bias: bool) -> None:
    """Of sixteen rows six may go: three units of two rows. More outputs than these, than all rows, or fewer."""
    rng = np.random.default_rng(outputs)
    dense = correlated(rng, 150, 16)
    pruned = dense + 0.3 * correlated(rng, 150, 16)
    fitted, held_out = (moments_of(pruned[part], dense[part]) for part in (slice(100), slice(100, None)))
    unit = np.array([-1, 0, -1, -1, 1, 1, -1, 2, -1, -1, 0, -1, -1, 2, -1, -1])
    staying = Consumer(
        fitted, rng.standard_normal((16, outputs)), unit, held_out=held_out, free_bias=free_bias,
        bias=rng.standard_normal(outputs),
    )  # fmt: skip
    held = replace(staying, unit_of_row=np.where(unit < 0, 2 + np.cumsum(unit < 0), unit))
    explained = remove_units([staying], units=3, remove=2, damping=0.1)
    whole = remove_units([held], units=13, remove=2, removable=np.arange(13) < 3, damping=0.1)
    np.testing.assert_array_equal(explained.order, whole.order)
    np.testing.assert_allclose(explained.loss, whole.loss, rtol=1e-9)
    assert explained.final_loss == pytest.approx(whole.final_loss, rel=1e-8)
    np.testing.assert_array_equal(explained.held_out_levels, whole.held_out_levels)
    np.testing.assert_allclose(explained.held_out_loss, whole.held_out_loss, rtol=1e-8, atol=1e-12)
    assert len(explained.held_out_loss) == 3
    assert explained.held_out_loss[-1] > 0.0
