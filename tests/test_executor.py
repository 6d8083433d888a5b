"""Pieces of work done in this process: in order, within memory, and joined in a tree of fixed shape."""

from __future__ import annotations

import numpy as np
import pytest

from spa.executing import executing
from spa.executor import WORKING_NBYTES, Threads, branches, in_pairs


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


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 11, 13, 64])
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("most", [1, 4, 64])
def test_branches_make_the_same_tree(count: int, workers: int, most: int) -> None:
    def join(left: str, right: str) -> str:
        return f"({left}{right})"

    items = [f"{n} " for n in range(count)]
    parts = branches(items, workers, most)
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) <= most
    assert in_pairs([in_pairs(part, join) for part in parts], join) == in_pairs(items, join)


@pytest.mark.parametrize(
    ("count", "workers", "sizes"),
    [(8, 1, [4, 4]), (8, 2, [4, 4]), (8, 3, 8 * [1]), (8, 4, 4 * [2]), (8, 9, 8 * [1]), (7, 2, [4, 3])],
)
def test_branches_are_large_where_nobody_waits_for_them(count: int, workers: int, sizes: list[int]) -> None:
    assert [len(part) for part in branches(range(count), workers, 4)] == sizes


def test_few_results_wait_to_be_joined() -> None:
    alive: set[int] = set()
    most = 0

    def made(number: int) -> frozenset[int]:
        nonlocal most
        alive.add(number)
        most = max(most, len(alive))
        return frozenset([number])

    def join(left: frozenset[int], right: frozenset[int]) -> frozenset[int]:
        alive.remove(min(right))  # what is joined counts as its first number
        return left | right

    assert in_pairs(map(made, range(64)), join) == set(range(64))
    assert most == 7


def test_a_sum_does_not_depend_on_the_threads() -> None:
    def draw(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal(1000).astype(np.float32)

    sums = [Threads(count).reduce(draw, range(9), np.add) for count in (1, 2, 4)]
    assert sums[0].tobytes() == sums[1].tobytes() == sums[2].tobytes()


def test_this_process_works_unless_another_place_is_named() -> None:
    with executing(None) as executor:
        assert not executor.remote
        assert executor.share("weights").get() == "weights"
