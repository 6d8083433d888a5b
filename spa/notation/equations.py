"""Equations between dims: two axes that are the same index set, refined until their factors match."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from spa.notation.dims import ONE, Factor, Kind, Misfit, leaves, product, total

MAX_PIECES = 1 << 14  # an equation that needs more pieces than this is given up (and its dims are frozen)


def unify(left: Factor, right: Factor) -> None:
    """Make two dims one.

    Raises:
        Misfit: their sizes differ, or they meet in more than `MAX_PIECES` pieces.  What was merged
            before that stays merged: it was a necessary condition, and the caller freezes both dims.
    """
    left, right = _settled(left), _settled(right)
    if left is right:
        return
    if left.size != right.size:
        raise Misfit(f"sizes {left.size} and {right.size} differ")
    if Kind.LEAF in (left.kind, right.kind):
        _bind(left, right)
    elif left.kind is Kind.PRODUCT and right.kind is Kind.PRODUCT:
        _unify_products(left, right)
    else:
        _unify_sums(left, right)


def _settled(factor: Factor) -> Factor:
    """The root; a product that pinning left with fewer than two parts gives way to what is left."""
    root = factor.root
    if root.kind is Kind.PRODUCT and len(parts := root.parts) < 2:
        root._link = parts[0] if parts else ONE
        return _settled(root)
    return root


def _bind(left: Factor, right: Factor) -> None:
    """Link a leaf to the other side; of two leaves the younger gives way."""
    if left is ONE or right is ONE:
        _pin([right if left is ONE else left])
        return
    if left.kind is right.kind:
        leaf, other = (left, right) if left.serial > right.serial else (right, left)
    else:
        leaf, other = (left, right) if left.kind is Kind.LEAF else (right, left)
    if other.kind is Kind.PRODUCT and leaf in other.parts:
        # x = (y x) where y has size one: y never goes on its own
        _pin([part for part in other.parts if part is not leaf])
        return
    leaf._link = other


def _pin(singles: Sequence[Factor]) -> None:
    """Factors of size one that may not be removed on their own."""
    for single in singles:
        for leaf in list(leaves(single)):
            if leaf is not ONE:
                leaf._link = ONE


def _unify_products(left: Factor, right: Factor) -> None:
    sides = [list(left.parts), list(right.parts)]
    for mine, other in (sides, sides[::-1]):
        _pin([part for part in mine if part.size == 1 and part not in other])
    left_parts, right_parts = ([part for part in side if part.size > 1] for side in sides)
    while left_parts and right_parts:
        x, y = left_parts.pop().root, right_parts.pop().root
        common = gcd(x.size, y.size)
        try:
            if common == 1:
                raise Misfit("coprime")
            x_major, x_minor = _split_product(x, common)
            y_major, y_minor = _split_product(y, common)
        except Misfit:
            _unify_sums(product(*left_parts, x), product(*right_parts, y), spread=True)
            return
        unify(x_minor, y_minor)
        left_parts.extend([x_major] if x_major.root is not ONE else [])
        right_parts.extend([y_major] if y_major.root is not ONE else [])


def _split_product(factor: Factor, minor: int) -> tuple[Factor, Factor]:
    """A dim as (major, minor) with the given minor size; refines leaves."""
    factor = factor.root
    if factor.size == minor:
        return ONE, factor
    if factor.kind is Kind.LEAF:
        pair = Factor(factor.size // minor), Factor(minor)
        factor._link = product(*pair)
        return pair
    if factor.kind is Kind.PRODUCT:
        *outer, last = factor.parts
        if last.size % minor == 0:
            major, rest = _split_product(last, minor)
            return product(*outer, major), rest
        raise Misfit("a product that does not divide")
    if any(part.size % minor for part in factor.parts):
        raise Misfit("a sum that does not divide")
    majors: list[Factor] = []
    minors: list[Factor] = []
    for part in factor.parts:
        major, rest = _split_product(part, minor)
        majors.append(major)
        minors.append(rest)
    for rest in minors[1:]:
        unify(minors[0], rest)
    return total(*majors), minors[0]


def _terms(factor: Factor) -> list[Factor]:
    root = factor.root
    return list(root.parts) if root.kind is Kind.SUM else [root]


def _unify_sums(left: Factor, right: Factor, *, spread: bool = False) -> None:
    """Equate two dims read as sums, cutting each at the other's boundaries.

    With `spread`, products are first written as one term for each index of their major part.
    """
    left_terms, right_terms = _terms(left), _terms(right)
    if spread:
        left_terms, right_terms = _spread(left), _spread(right)
    left_terms.reverse()
    right_terms.reverse()
    while left_terms and right_terms:
        x, y = left_terms.pop(), right_terms.pop()
        if x.size < y.size:
            y, rest = split_sum(y, x.size)
            right_terms.extend(reversed(_terms(rest)))
        elif y.size < x.size:
            x, rest = split_sum(x, y.size)
            left_terms.extend(reversed(_terms(rest)))
        unify(x, y)


def _spread(factor: Factor) -> list[Factor]:
    root = factor.root
    if root.kind is not Kind.PRODUCT:
        return _terms(root)
    major, *rest = root.parts
    if major.size > MAX_PIECES:
        raise Misfit(f"{major.size} pieces are more than the limit of {MAX_PIECES}")
    terms: list[Factor] = []
    remaining = major
    for _ in range(major.size - 1):
        first, remaining = split_sum(remaining, 1)
        terms.append(product(first, *rest))
    terms.append(product(remaining, *rest))
    return terms


def split_sum(factor: Factor, at: int) -> tuple[Factor, Factor]:
    """A dim as the sum of its first `at` positions and the rest; refines leaves.

    Raises:
        Misfit: `at` is not strictly inside the dim.
    """
    factor = factor.root
    if not 0 < at < factor.size:
        raise Misfit(f"position {at} does not cut a dim of size {factor.size} in two")
    if factor.kind is Kind.LEAF:
        first = Factor(at, origin=factor.origin, offset=factor.offset)
        rest = Factor(factor.size - at, origin=factor.origin, offset=factor.offset + at)
        factor._link = total(first, rest)
        return first, rest
    if factor.kind is Kind.SUM:
        return _split_terms(list(factor.parts), at)
    major, *minor_parts = factor.parts
    minor = product(*minor_parts)
    whole, inside = divmod(at, minor.size)
    before, middle, after = _cut_three(major, whole, bool(inside))
    left = [product(before, minor)] if before else []
    right = [product(after, minor)] if after else []
    if middle:
        head, tail = split_sum(minor, inside)
        left.append(product(middle, head))
        right.insert(0, product(middle, tail))
    return total(*left), total(*right)


def _cut_three(factor: Factor, first: int, single: bool) -> tuple[Factor | None, Factor | None, Factor | None]:
    """(the first positions, one more if `single`, the rest); None where there is nothing."""
    before: Factor | None = None
    middle: Factor | None = None
    rest: Factor | None = factor
    if first:
        before, rest = split_sum(factor, first)
    if single and rest is not None:
        middle, rest = (rest, None) if rest.size == 1 else split_sum(rest, 1)
    return before, middle, rest


def _split_terms(terms: list[Factor], at: int) -> tuple[Factor, Factor]:
    left: list[Factor] = []
    while terms and at >= terms[0].size:
        at -= terms[0].size
        left.append(terms.pop(0))
    if at:
        head, tail = split_sum(terms.pop(0), at)
        left.append(head)
        terms.insert(0, tail)
    return total(*left), total(*terms)
