"""The order in which units leave, and how many may."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from spa.analysis.group import Group, Slice
from spa.notation.dims import Factor
from spa.passes.choose.tracks import _means, allowed_removals, family_of, find_tracks, masks_of, run_length, schedule
from tests.grouped import attention, chain, mlp, residual, shuffled


@pytest.mark.parametrize(
    ("size", "least", "step", "expected"),
    [
        (6, 1, 1, [0, 1, 2, 3, 4, 5]),
        (6, 4, 1, [0, 1, 2]),
        (6, 6, 1, [0]),
        (8, 1, 4, [0, 4]),
        (10, 1, 4, [0, 2, 6]),
        (10, 5, 4, [0, 2]),
        (3, 1, 4, [0]),
    ],
)
def test_allowed_removals(size: int, least: int, step: int, expected: list[int]) -> None:
    assert allowed_removals(size, least=least, step=step).tolist() == expected


def test_the_best_unit_stays_and_the_smallest_goes_first() -> None:
    (group,) = mlp(units=4).groups
    (track,) = find_tracks([group], [np.array([3.0, 1.0, 2.0, 1.0])])
    assert track.order.tolist() == [1, 3, 2]
    assert track.allowed.tolist() == [0, 1, 2, 3]
    assert [track.nearest(count) for count in (0.4, 0.5, 2.2, 9)] == [0, 1, 2, 3]
    ((leaf, mask),) = track.masks(2)
    assert leaf is group.leaves[0]
    assert mask.tolist() == [True, False, True, False]
    assert list(track.masks(0)) == []


def test_a_unit_is_as_wide_as_the_positions_in_a_row_that_it_takes() -> None:
    def width(*units: int) -> int:
        value = ir.Value(name="w", const_value=ir.tensor(np.zeros((len(units), 2), np.float32)))
        piece = Slice(value, 0, np.array(units), True, False, ())
        return run_length(Group("g", "heads", (Factor(max(units) + 1),), (piece,)))

    assert width(0, 0, 0) == 3
    assert width(0, 0, 1, 1) == 2
    assert width(-1, 0, 0, -1, 1, 1, 1, 1) == 2
    assert width(0, 1, 2) == 1


def test_some_widths_alone_are_taken() -> None:
    groups = mlp(units=8).groups
    scores = [np.arange(group.size, dtype=float) for group in groups]
    (track,) = find_tracks(groups, scores, widths={groups[0].name: [2, 4, 99]})
    assert track.allowed.tolist() == [0, 4, 6]
    (track,) = find_tracks(groups, scores, min_keep=0.5, widths={groups[0].name: [2, 4]})
    assert track.allowed.tolist() == [0, 4]
    (track,) = find_tracks(groups, scores, widths={groups[0].name: []})
    assert track.allowed.tolist() == [0]
    (track,) = find_tracks(groups, scores, widths={"another": [1]})
    assert len(track.allowed) == 8


def test_every_piece_of_a_group_keeps_a_unit() -> None:
    groups = shuffled().groups
    tracks = find_tracks(groups, [np.arange(group.size, dtype=float) for group in groups])
    masks = masks_of(tracks, [int(track.allowed[-1]) for track in tracks])
    for track in tracks:
        for leaf in track.group.leaves:
            assert leaf.size == 1 or leaf not in masks or masks[leaf].any()


def test_the_width_of_a_unit() -> None:
    heads, inside, _ = attention(heads=3, head_dim=4).groups
    assert run_length(heads) == 4
    assert run_length(inside) == 1
    (track,) = find_tracks([heads], [np.arange(3.0)], multiples=[8])
    assert track.step == 2
    assert track.allowed.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("global", [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]),
        ("local", [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]),
        ("isomorphic", [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]),
    ],
)
def test_schedules(scope: str, expected: list[tuple[int, int]]) -> None:
    groups = chain(5, 4, 4, 3).groups
    scores = [np.arange(4.0), np.arange(10.0, 14.0)]
    steps = schedule(find_tracks(groups, scores), scores, scope)
    assert list(zip(steps.track.tolist(), steps.count.tolist(), strict=True)) == expected
    assert steps.counts(4, 2) == [max((c for t, c in expected[:4] if t == k), default=0) for k in (0, 1)]


def test_families() -> None:
    outer, inner, _ = residual().groups
    assert family_of(outer) != family_of(inner)
    first, second, _ = chain(5, 4, 4, 6, 3).groups
    assert family_of(first) == family_of(second)


def test_a_step_of_several_units_costs_their_mean() -> None:
    times = np.array([1.0, 2.0, 4.0, 8.0, 9.0])
    np.testing.assert_allclose(_means(times, np.array([0, 2, 4])), [1.5, 6.0])
    np.testing.assert_allclose(_means(times, np.array([0, 1, 2])), [1.0, 2.0])
