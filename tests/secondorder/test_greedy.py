"""Saliencies, downdates, swaps and curves against brute force in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from spa.errors import BudgetError
from spa.passes.secondorder import DAMPINGS, Consumer, Moments, greedy, is_held_out, refit, remove_units
from spa.passes.secondorder.damping import default_damping
from spa.passes.secondorder.greedy import cut, swap
from spa.passes.secondorder.problem import importance, normal_equations, squared_error
from spa.passes.secondorder.solver import choose_damping
from spa.passes.secondorder.system import by_input, subtract_product
from tests.secondorder.made import (
    DAMPING,
    asymmetric,
    correlated,
    family,
    few_samples,
    moments_of,
    scratch_loss,
    systems_of,
)


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
        assert np.count_nonzero(np.delete(system.inverse, at, axis=0)) == 0
        assert np.count_nonzero(np.delete(system.inverse, at, axis=1)) == 0


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
    joint, separate = (
        remove_units(consumers, units=8, remove=6, damping=DAMPING) for consumers in ([first, twin], apart)
    )
    np.testing.assert_array_equal(joint.order, separate.order)
    np.testing.assert_allclose(joint.loss, separate.loss, rtol=1e-9)


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


@pytest.mark.parametrize("scale", [1e-10, 1e-11, 1e-12, 1e5])
def test_swaps_do_not_depend_on_what_errors_weigh(scale: float) -> None:
    consumers = [asymmetric(18, sizes=(1,) * 8)]
    worst = max(combinations(range(8), 4), key=lambda kept: scratch_loss(consumers, kept))
    results = []
    for factor in (1.0, scale):
        systems, mask = systems_of([replace(consumer, alpha=factor) for consumer in consumers], worst)
        final, swapped, gained = swap(systems, mask, np.ones(8, np.bool_), rounds=20)
        results.append((np.flatnonzero(final).tolist(), swapped, gained / factor))
    assert results[0][:2] == results[1][:2]
    assert results[0][2] == pytest.approx(results[1][2])


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


def test_what_does_not_vary_goes_before_what_is_not_read() -> None:
    """A constant is made up for by the bias, whatever reads it; what is not read may be read elsewhere."""
    rows = np.random.default_rng(22).standard_normal((300, 4))
    rows[:, 1] = 3.0
    weight = np.ones((4, 2))
    weight[2], weight[1] = 0.0, 1e3
    assert remove_units([Consumer(moments_of(rows), weight, np.arange(4))], units=4, remove=2).order.tolist() == [1, 2]


def test_a_group_without_units_loses_none() -> None:
    consumer = Consumer(moments_of(np.random.default_rng(23).standard_normal((30, 3))), np.ones((3, 2)), np.full(3, -1))
    with pytest.raises(BudgetError, match="1 of 0 units to go, 0 can"):
        remove_units([consumer], units=0, remove=1)
    with pytest.raises(ValueError, match="unit_of_row must stay below the number of units, 1"):
        remove_units([replace(consumer, unit_of_row=np.array([-1, 0, 1]))], units=1, remove=0)


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
    assert len(remove_units(consumers, units=8, remove=7).kept) == 1


def test_each_input_is_damped_by_what_is_held_out_of_it_or_else_by_its_rank() -> None:
    judged = few_samples(3, count=60)
    rng = np.random.default_rng(4)
    other = Consumer(moments_of(correlated(rng, 200, 40)), rng.standard_normal((40, 3)), np.arange(40))
    removal = remove_units([judged, other], units=40, remove=10)
    assert removal.dampings[0] in DAMPINGS
    assert removal.dampings[1] == default_damping(other) != removal.dampings[0]
    assert remove_units([judged, other], units=40, remove=10, damping=0.3).dampings == (0.3, 0.3)


def test_dampings_are_chosen_with_at_least_half_of_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def spy(consumers: list[Consumer], units: np.ndarray) -> float:
        asked.append(len(units))
        return choose_damping(consumers, units)

    monkeypatch.setattr(greedy, "choose_damping", spy)
    for remove in (10, 35):
        remove_units([few_samples(3, count=60)], units=40, remove=remove)
    assert asked[0] == 30
    assert 20 in asked
    assert min(asked) >= 20


@pytest.mark.parametrize(("count", "chosen"), [(9, False), (10, True)])
def test_nobody_chooses_the_damping_of_less_than_a_quarter_of_the_rows(count: int, chosen: bool) -> None:
    judged = few_samples(3, count=60)
    assert default_damping(judged) not in DAMPINGS
    some = replace(judged, unit_of_row=np.where(np.arange(40) < count, np.arange(40), -1))
    removal = remove_units([some], units=count, remove=5)
    assert (removal.dampings[0] in DAMPINGS) == chosen
    assert chosen or removal.dampings[0] == default_damping(some)


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
