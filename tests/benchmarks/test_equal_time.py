"""Plans for FLOPs that come nearer to a time, and what is read off between them."""

from __future__ import annotations

import pytest

from tests.benchmarks.equal_time import LARGEST, MOST, at_time, next_ratio
from tests.benchmarks.rows import Row


def tried(when: float, exponent: float, align: int = 1) -> list[Row]:
    """The plans on a device whose times are a power of the FLOPs that stay; they lose as much as goes."""
    rows: list[Row] = []
    while (ratio := next_ratio(rows, when, align)) is not None:
        rows.append({"time": (1 - ratio) ** exponent, "loss": ratio, "plan": {"ratio": ratio}})
    return rows


@pytest.mark.parametrize("exponent", [0.4, 0.7, 1.0, 1.2])
@pytest.mark.parametrize("when", [0.4, 0.65, 0.8])
def test_one_plan_is_faster_and_one_is_not(when: float, exponent: float) -> None:
    rows = tried(when, exponent)
    assert len(rows) <= MOST
    there = at_time(rows, when)
    assert there is not None
    loss, bound = there
    exact = 1 - when ** (1 / exponent)
    if exact < LARGEST - 0.02:
        assert not bound
        assert loss == pytest.approx(exact, rel=0.1)


def test_where_no_plan_is_so_fast_there_is_a_bound() -> None:
    rows = tried(0.3, 0.1)
    assert all(row["time"] > 0.3 for row in rows)
    assert at_time(rows, 0.3) == (max(row["loss"] for row in rows), True)


def test_where_all_are_faster_nothing_is_said() -> None:
    assert at_time([{"time": 0.5, "loss": 1.0}], 0.6) is None
    assert at_time([], 0.6) is None
