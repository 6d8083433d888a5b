from __future__ import annotations

from math import inf, isclose, nan

import pytest

from spa.errors import BudgetError, NothingToPrune
from spa.largest import FIRST, LEAST, MOST, STEP, TRIALS, TooLossy, largest


@pytest.mark.parametrize("edge", [0.02, 0.07, 0.29, 0.3, 0.31, 0.44, 0.63, 0.9])
@pytest.mark.parametrize("power", [0.5, 1, 4])
def test_the_largest_ratio_within_the_limit_is_found(edge: float, power: float) -> None:
    best = largest(lambda ratio: ((ratio / edge) ** power, f"at {ratio}"), 1.0)
    assert edge - 2 * STEP <= best.ratio <= edge * (1 + 1e-9)
    assert best.loss <= 1.0
    assert best.result == f"at {best.ratio}"
    assert len(best.trials) <= TRIALS
    assert best.trials[0].ratio == FIRST


def test_a_loss_in_steps_is_met_on_the_safe_side() -> None:
    best = largest(lambda ratio: (0.001 if ratio < 0.42 else 5.0, None), 0.01)
    assert 0.4 < best.ratio < 0.42


def test_what_can_go_at_most_bounds_the_search() -> None:
    def attempt(ratio: float) -> tuple[float, float]:
        if ratio > 0.52:
            raise BudgetError("at most 52.0 % can go")
        return 0.0, ratio

    best = largest(attempt, 0.01)
    assert 0.52 - STEP <= best.ratio <= 0.52
    assert [trial.said for trial in best.trials if trial.loss is None] == ["at most 52.0 % can go"] * sum(
        trial.loss is None for trial in best.trials
    )
    assert any(trial.loss is None for trial in best.trials)


def test_nothing_lost_at_all_goes_to_the_end() -> None:
    assert largest(lambda ratio: (-0.1, ratio), 0.01).ratio == MOST


@pytest.mark.parametrize("worst", [inf, nan, 3.0])
def test_a_limit_that_cannot_be_met_says_the_smallest_loss(worst: float) -> None:
    def attempt(ratio: float) -> tuple[float, None]:
        return (worst if ratio > 0.1 else 0.25 + ratio), None

    with pytest.raises(TooLossy, match=rf"smallest reached is 0\.26, at ratio {LEAST:g}"):
        largest(attempt, 0.01)


def test_where_no_ratio_can_be_made_the_reason_is_said() -> None:
    def attempt(_: float) -> tuple[float, None]:
        raise BudgetError("held by align")

    with pytest.raises(BudgetError, match="held by align"):
        largest(attempt, 0.01)


def test_nothing_to_prune_ends_the_search_at_once() -> None:
    tried = []

    def attempt(ratio: float) -> tuple[float, None]:
        tried.append(ratio)
        raise NothingToPrune("no group")

    with pytest.raises(NothingToPrune, match="no group"):
        largest(attempt, 0.01)
    assert tried == [FIRST]


def test_a_noisy_loss_ends_with_a_ratio_that_keeps_to_the_limit() -> None:
    def attempt(ratio: float) -> tuple[float, float]:
        return ratio * (1.3 if round(1000 * ratio) % 2 else 0.7), ratio

    best = largest(attempt, 0.4)
    assert isclose(attempt(best.ratio)[0], best.loss)
    assert best.loss <= 0.4
