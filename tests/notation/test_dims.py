"""Equations between dims: what they refine to, and that both sides stand for the same positions afterwards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spa.analysis.group import keep_mask, leaf_positions
from spa.notation.dims import ONE, Factor, Kind, Misfit, leaves, product, show, total
from spa.notation.equations import split_sum, unify


def f(size: int) -> Factor:
    return Factor(size)


# what the first dim looks like once both are one: (left, right, expected)
EQUATIONS = [
    (lambda: (f(6), f(6)), "6"),
    (lambda: (f(16), product(f(4), f(4))), "(4 4)"),
    (lambda: (product(f(4), f(4)), product(f(2), f(8))), "(2 2 4)"),
    (lambda: (product(f(6), f(10)), product(f(4), f(15))), "60 positions"),
    (lambda: (f(10), total(f(4), f(6))), "(4 + 6)"),
    (lambda: (total(f(4), f(6)), total(f(6), f(4))), "(4 + 2 + 4)"),
    (lambda: (total(f(8), f(8)), product(f(2), f(8))), "((1 8) + (1 8))"),
    (lambda: (product(f(12), f(64)), total(f(256), f(512))), "((4 + 8) 64)"),
    (lambda: (product(f(1), f(5)), f(5)), "(1 5)"),
]


@pytest.mark.parametrize(("sides", "expected"), EQUATIONS, ids=[expected for _, expected in EQUATIONS])
def test_equation(sides, expected):
    left, right = sides()
    unify(left, right)
    if expected != "60 positions":
        assert show(left) == expected
    assert show(left) == show(right) or same_positions(left, right)


def test_sizes_that_differ_are_refused():
    with pytest.raises(Misfit, match="4 and 5"):
        unify(f(4), f(5))


def test_rotated_halves_are_one_factor():
    head = f(64)
    first, second = split_sum(head, 32)
    unify(total(second, first), head)
    assert first.root is second.root


def test_channel_shuffle_keeps_whole_columns_together():
    left, right = f(4), f(4)
    groups, channels = f(2), f(4)
    unify(total(left, right), product(groups, channels))
    shuffled = product(channels, groups)
    mask = keep_mask(shuffled, {channels.root: np.array([True, False, True, True])})
    assert mask is not None
    assert mask.tolist() == [True, True, False, False, True, True, True, True]
    part = keep_mask(left, {channels.root: np.array([True, False, True, True])})
    assert part is not None
    assert part.tolist() == [True, False, True, True]


def test_one_is_never_refined():
    single = f(1)
    unify(single, ONE)
    unify(product(f(1), f(3)), product(f(3), ONE))
    assert single.root is ONE
    assert ONE.kind is Kind.LEAF
    assert ONE.root is ONE


def test_pieces_remember_their_origin():
    whole = f(10)
    _, rest = split_sum(whole, 4)
    middle, _ = split_sum(rest, 3)
    assert middle.origin is whole
    assert middle.offset == 4


def test_cut_at_the_edge_is_refused():
    with pytest.raises(Misfit, match="does not cut"):
        split_sum(f(4), 4)


# ------------------------------------------------------------------------------------------------ properties
def same_positions(left: Factor, right: Factor, seed: int = 0) -> bool:
    """Whether two dims keep the same positions whatever is removed from their leaves."""
    rng = np.random.default_rng(seed)
    everything = dict.fromkeys([*leaves(left), *leaves(right)])
    for _ in range(4):
        masks = {leaf: rng.random(leaf.size) < 0.6 for leaf in everything if leaf is not ONE}
        pair = [keep_mask(side, masks) for side in (left, right)]
        whole = [np.ones(left.size, bool) if mask is None else mask for mask in pair]
        if not np.array_equal(whole[0], whole[1]):
            return False
    return True


@st.composite
def dims(draw: st.DrawFn, size: int, depth: int = 0) -> Factor:
    """A random dim of the given size."""
    divisors = [d for d in range(2, size) if size % d == 0]
    choice = draw(st.sampled_from(["leaf", "sum", "product"])) if size > 1 and depth < 4 else "leaf"
    if choice == "product" and divisors:
        minor = draw(st.sampled_from(divisors))
        return product(draw(dims(size // minor, depth + 1)), draw(dims(minor, depth + 1)))
    if choice == "sum" and size > 1:
        first = draw(st.integers(1, size - 1))
        return total(draw(dims(first, depth + 1)), draw(dims(size - first, depth + 1)))
    return Factor(size)


@st.composite
def equations(draw: st.DrawFn) -> list[Factor]:
    size = draw(st.sampled_from([1, 2, 6, 7, 12, 16, 24, 36]))
    return [draw(dims(size)) for _ in range(draw(st.integers(2, 4)))]


@given(equations(), st.integers(0, 5))
def test_unified_dims_keep_the_same_positions(sides, seed):
    for left, right in pairwise(sides):
        unify(left, right)
    for side in sides[1:]:
        assert same_positions(sides[0], side, seed)


@given(equations(), st.integers(0, 5))
def test_positions_of_leaves_agree_with_masks(sides, seed):
    unify(sides[0], sides[1])
    dim = sides[0]
    wanted = {leaf: 0 for leaf in leaves(dim) if leaf is not ONE}
    rng = np.random.default_rng(seed)
    masks = {leaf: rng.random(leaf.size) < 0.5 for leaf in wanted}
    expected = np.ones(dim.size, bool)
    for leaf, index in leaf_positions(dim, wanted):
        expected &= np.where(index < 0, True, masks[leaf][index])
    mask = keep_mask(dim, masks)
    assert np.array_equal(np.ones(dim.size, bool) if mask is None else mask, expected)


@given(equations(), st.integers(1, 30))
def test_cutting_keeps_the_positions(sides, at):
    dim = sides[0]
    if not 0 < at < dim.size:
        return
    first, rest = split_sum(dim, at)
    assert (first.size, rest.size) == (at, dim.size - at)
    assert same_positions(dim, total(first, rest))
