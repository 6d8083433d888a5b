"""Pieces of work done in this process: in order, within memory, and joined in a tree of fixed shape."""

from __future__ import annotations

import numpy as np
import pytest

from spa.executor import WORKING_NBYTES, Threads, executing, in_pairs


def _square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int) -> None:
    seen: list[int] = []
    assert Threads(threads).map(_square, range(20), told=seen.append) == [n * n for n in range(20)]
    assert seen == list(range(1, 21))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_raised(threads: int) -> None:
    def fail(number: int) -> int:
        if number >= 3:
            raise ValueError(str(number))
        return number

    with pytest.raises(ValueError, match="3"):
        Threads(threads).map(fail, range(6))


def test_wide_problems_leave_room() -> None:
    assert Threads(4).at_once(1000) == 4
    assert Threads(4).at_once(WORKING_NBYTES // 3) == 3
    assert Threads(4).at_once(2 * WORKING_NBYTES) == 1


@pytest.mark.parametrize(
    ("count", "tree"),
    [(1, "0"), (2, "(01)"), (3, "((01)2)"), (5, "(((01)(23))4)"), (8, "(((01)(23))((45)(67)))")],
)
def test_neighbours_are_joined(count: int, tree: str) -> None:
    assert in_pairs([str(n) for n in range(count)], lambda left, right: f"({left}{right})") == tree


def test_a_sum_does_not_depend_on_the_threads() -> None:
    def draw(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(1000).astype(np.float32)

    sums = [Threads(count).reduce(draw, range(9), np.add) for count in (1, 2, 4)]
    assert sums[0].tobytes() == sums[1].tobytes() == sums[2].tobytes()


def test_this_process_works_unless_another_place_is_named() -> None:
    with executing(None) as executor:
        assert not executor.remote
        assert executor.share("weights").get() == "weights"
