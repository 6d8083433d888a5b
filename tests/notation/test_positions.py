"""Which positions of a dim its leaves stand for."""

from __future__ import annotations

import numpy as np
import pytest

from spa.notation.dims import ONE, Factor, product, total
from spa.notation.equations import unify
from spa.notation.positions import keep_mask, leaf_positions, occurrences

KEEP = np.array([True, False, True])


def test_nothing_masked_means_all_stays() -> None:
    leaf = Factor(3)
    assert keep_mask(product(leaf, Factor(2)), {}) is None
    assert keep_mask(ONE, {leaf: KEEP}) is None


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda leaf: leaf, "101"),
        (lambda leaf: product(leaf, Factor(2)), "110011"),
        (lambda leaf: product(Factor(2), leaf), "101101"),
        (lambda leaf: total(Factor(2), leaf), "11101"),
        (lambda leaf: total(product(leaf, Factor(2)), leaf), "110011101"),
        (lambda leaf: product(Factor(2), total(leaf, Factor(1))), "10111011"),
        (lambda leaf: product(leaf, leaf), "101000101"),
    ],
)
def test_masks_through_products_and_sums(make, expected: str) -> None:
    leaf = Factor(3)
    mask = keep_mask(make(leaf), {leaf: KEEP})
    assert mask is not None
    assert "".join(str(int(kept)) for kept in mask) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda leaf: product(leaf, Factor(2)), [[0, 0, 1, 1, 2, 2]]),
        (lambda leaf: product(Factor(2), leaf), [[0, 1, 2, 0, 1, 2]]),
        (lambda leaf: total(Factor(1), leaf, Factor(1)), [[-1, 0, 1, 2, -1]]),
        (lambda leaf: total(leaf, leaf), [[0, 1, 2, -1, -1, -1], [-1, -1, -1, 0, 1, 2]]),
        (lambda leaf: product(Factor(2), total(leaf, Factor(1))), [[0, 1, 2, -1, 0, 1, 2, -1]]),
        (lambda leaf: Factor(4), []),  # noqa: ARG005 - the leaf is not in it
    ],
)
def test_positions_of_a_leaf(make, expected: list[list[int]]) -> None:
    leaf = Factor(3)
    placed = list(leaf_positions(make(leaf), {leaf}))
    assert [index.tolist() for _, index in placed] == expected
    assert all(factor is leaf for factor, _ in placed)


def test_terms_of_a_sum_hold_no_more_than_themselves() -> None:
    """A sum of many pieces would else cost its length for each of them."""
    leaf = Factor(3)
    ((_, start, index),) = occurrences(total(Factor(1000), leaf, Factor(1000)), {leaf})
    assert (start, index.tolist()) == (1000, [0, 1, 2])


def test_a_sum_that_turns_out_to_lie_in_a_sum() -> None:
    inner, wanted = Factor(3), Factor(2)
    dim = total(Factor(3), inner)
    unify(inner, total(Factor(1), wanted))
    assert [index.tolist() for _, index in leaf_positions(dim, {wanted: 0})] == [[-1, -1, -1, -1, 0, 1]]
