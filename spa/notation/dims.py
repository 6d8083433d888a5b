"""Index sets and the equations between them.

A *factor* is an indivisible index set with a size.  A *dim*, what one axis of one tensor is made of,
is a sum of products of factors: ``(h d + h d + h d)``.  Both are a `Factor` here: a factor starts as a
leaf and is refined into a product or a sum of smaller factors as equations between dims are solved.
Refining says more about what an index set is made of; it never changes which positions it stands for.

`spa.notation.equations.unify` solves one equation.  Equal leaves merge; a leaf takes over the other side's structure;
``16 = 4 x 4`` meets ``2 x 8`` gives ``2 x 2 x 4`` (congruence closure); sums are cut at each other's
boundaries, if need be through the middle of a product, down to single positions.  That last case is the
index-level fallback: a channel shuffle needs it, and it is no special case here.

Pure: no ONNX, no numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import count
from math import prod


class Misfit(Exception):
    """Two dims cannot be made equal; the message says why."""


class Kind(Enum):
    """What a factor is made of so far."""

    LEAF = "leaf"
    PRODUCT = "product"
    SUM = "sum"


_serial = count()


class Factor:
    """An index set of `size` positions: a leaf, or a product or sum of other factors (major first).

    `origin` and `offset` tell where a leaf that was cut out of a larger leaf by a sum lay in it: pieces
    of one origin are units of one kind and compete with each other.
    """

    __slots__ = ("_link", "_parts", "kind", "offset", "origin", "serial", "size")

    def __init__(self, size: int, *, origin: Factor | None = None, offset: int = 0) -> None:
        self.size = size
        self.kind = Kind.LEAF
        self.serial = next(_serial)
        self.origin: Factor = origin if origin is not None else self
        self.offset = offset
        self._parts: tuple[Factor, ...] = ()
        self._link: Factor | None = None

    @property
    def root(self) -> Factor:
        """What this factor has been unified with so far; itself if nothing."""
        root = self
        while root._link is not None:
            root = root._link
        while self._link is not None and self._link is not root:  # path compression
            self._link, self = root, self._link
        return root

    @property
    def parts(self) -> tuple[Factor, ...]:
        """The parts of a product or sum as roots, nested products and sums flattened; major first."""
        if all(part._link is None and part.kind is not self.kind for part in self._parts):
            return self._parts
        flat: list[Factor] = []
        waiting = list(reversed(self._parts))
        while waiting:
            root = waiting.pop().root
            if root.kind is self.kind:
                waiting.extend(reversed(root._parts))
            elif root is not ONE or self.kind is Kind.SUM:
                flat.append(root)
        self._parts = tuple(flat)  # stays flat, as paths to roots stay short
        return self._parts

    def __repr__(self) -> str:
        return show(self)


ONE = Factor(1)
"""The index set of an axis of length one: neutral in products, never removable."""


def _combine(kind: Kind, parts: Sequence[Factor], size: int) -> Factor:
    combined = Factor(size)
    combined.kind = kind
    combined._parts = tuple(parts)
    return combined


def product(*parts: Factor) -> Factor:
    """The index set of all tuples, the first part varying slowest."""
    kept = [part for part in parts if part.root is not ONE]
    if len(kept) < 2:
        return kept[0] if kept else ONE
    return _combine(Kind.PRODUCT, kept, prod(part.size for part in kept))


def total(*parts: Factor) -> Factor:
    """The parts one after another."""
    kept = [part for part in parts if part.size]
    if len(kept) == 1:
        return kept[0]
    return _combine(Kind.SUM, kept, sum(part.size for part in kept))


def leaves(factor: Factor) -> Iterator[Factor]:
    """All leaves, in order, repeated where they are; `ONE` included."""
    waiting = [factor]
    while waiting:
        root = waiting.pop().root
        if root.kind is Kind.LEAF:
            yield root
        else:
            waiting.extend(reversed(root.parts))


def kept_size(factor: Factor, kept: Callable[[Factor], int]) -> int:
    """The size of a dim when `kept(leaf)` positions of each leaf stay."""
    root = factor.root
    if root.kind is Kind.LEAF:
        return kept(root)
    sizes = (kept_size(part, kept) for part in root.parts)
    return prod(sizes) if root.kind is Kind.PRODUCT else sum(sizes)


def show(factor: Factor, name: Callable[[Factor], str] = lambda leaf: str(leaf.size)) -> str:
    """A dim as text: ``a``, ``(h d)``, ``(a + b)``."""
    root = factor.root
    if root.kind is Kind.LEAF:
        return "1" if root is ONE else name(root)
    glue = " " if root.kind is Kind.PRODUCT else " + "
    return f"({glue.join(show(part, name) for part in root.parts)})"
