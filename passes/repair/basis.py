"""A basis that may be turned: where it lies in stored tensors, and who meets it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.analysis.application import Application
from spa.notation.dims import Factor, Kind
from spa.notation.positions import leaf_positions


@dataclass(frozen=True, slots=True)
class Place:
    """Where a factor lies in a tensor: which of its appearances along an axis, and at which position of the axis beside
    it that stacks several of them (queries, keys and values in one tensor)."""

    value: ir.Value
    axis: int
    number: int = 0
    slot: int = 0


@dataclass(frozen=True, slots=True)
class Meeting:
    """A node that sums the factor away, and the operands in which it does."""

    application: Application
    first: Place
    second: Place


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """One free choice of a basis.

    Attributes:
        leaf: the factor.
        heads: factors for each index of which the basis may be another.
        same, inverse: stored tensors that R goes into, and those that R^-T goes into.
        meetings: where computed values of both sides meet (queries and keys); empty: stored weights read one side.
    """

    leaf: Factor
    heads: tuple[Factor, ...]
    same: tuple[Place, ...]
    inverse: tuple[Place, ...]
    meetings: tuple[Meeting, ...]

    @property
    def copies(self) -> int:
        """How many bases there are to choose."""
        return int(np.prod([head.size for head in self.heads], dtype=int))


class NotFree(Exception):
    """Something on the way is not linear, or not understood."""


def is_stack(part: Factor) -> bool:
    """Whether an axis, or a part of one, is a row of single positions."""
    return part.kind is Kind.SUM and all(piece.kind is Kind.LEAF and piece.size == 1 for piece in part.parts)


@dataclass(frozen=True, slots=True)
class Rows:
    """Where a basis lies along an axis.

    Attributes:
        positions: (leaf size, K): column by column the positions that share everything but the factor's index.
        copy: (K,) which basis each column has, of `Basis.copies`.
    """

    positions: np.ndarray
    copy: np.ndarray


def rows_of(basis: Basis, dim: Factor, *, number: int = 0, slot: int = 0) -> Rows:
    """Where a basis lies along an axis of some dim: in which appearance of its factor, at which slot of a stack.

    Raises:
        NotFree: it does not lie there in whole columns.
    """
    stacks = set(filter(is_stack, parts_of(dim)))
    columns = list(leaf_positions(dim, {basis.leaf, *basis.heads, *stacks}))
    mine = [column for leaf, column in columns if leaf is basis.leaf]
    if len(mine) <= number:
        raise NotFree
    index = mine[number].copy()
    for part, column in columns:
        if part in stacks:
            index[column != slot] = -1
    places = [np.flatnonzero(index == k) for k in range(basis.leaf.size)]
    if len({len(positions) for positions in places}) != 1 or not len(places[0]):
        raise NotFree
    positions = np.stack(places)
    copy = np.zeros(positions.shape, int)
    for head in basis.heads:
        indices = [column[positions] for leaf, column in columns if leaf is head]
        indices = [column for column in indices if np.all(column >= 0)]
        if len(indices) != 1:
            raise NotFree
        copy = copy * head.size + indices[0]
    if np.any(copy != copy[0]):
        raise NotFree
    return Rows(positions, copy[0])


def parts_of(dim: Factor) -> tuple[Factor, ...]:
    """What a dim is a product of."""
    return dim.root.parts if dim.root.kind is Kind.PRODUCT else (dim.root,)
