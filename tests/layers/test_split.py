"""Which batches fit, judge and report."""

from __future__ import annotations

import pytest

from spa.passes.layers.split import Split


@pytest.mark.parametrize(
    ("count", "judging", "unseen"),
    [
        (1, [], [0]),
        (2, [1], [1]),
        (7, [5], [5]),
        (12, [2, 5], [11]),
        (25, [5, 17], [11, 23]),
        (40, [5, 17, 29], [11, 23, 35]),
    ],
)
def test_what_judges_and_what_reports(count: int, judging: list[int], unseen: list[int]) -> None:
    split = Split.of(count)
    assert (split.judging, split.unseen) == (judging, unseen)
    assert split.pools == (count == 1 or count >= 12)
    assert sorted({*split.seen, *split.unseen}) == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 5, 12, 100])
def test_what_reports_is_never_fitted_once_others_can_judge(count: int) -> None:
    split = Split.of(count)
    assert count == 1 or not set(split.fitted) & set(split.unseen)
    assert not split.pools or count == 1 or not set(split.seen) & set(split.unseen)
    assert len(split.thinned(4).seen) <= 4


def test_of_many_samples_fewer_are_kept_for_the_report() -> None:
    split = Split.of(40, 1024)
    assert (split.judging, split.unseen) == ([5, 17, 23, 29], [11, 35])


def test_batches_beside_are_fitted_and_judge_nothing() -> None:
    split = Split.of(8, 8)
    more = split.beside(range(8, 20))
    assert set(more.fitted) == {*split.fitted, *range(8, 20)}
    assert (more.judging, more.unseen) == (split.judging, split.unseen)
    assert split.beside(range(8, 8)) is split
