"""Along which index sets a node is linear, so that a change of basis in front of it is the same change behind it.

    linear 0             ReduceMean, Cast: the result is linear in operand 0
    linear 0 + 1         Add: in both together, so that the index set has to stand in both
    linear 0 * 1 + 2     Gemm: in each factor alone; what is added has to have the index set too
    linear 2 | meets 0 1 Attention: in the values; queries and keys meet in a product inside the softmax
    unseen 0             Shape: no element of operand 0 is looked at

`tests.oracles.check_linearity` holds each note to the operator, by a random change of basis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum

Terms = tuple[tuple[int, ...], ...]
"""Operands that are multiplied with each other, once for each addend."""


class Passing(Enum):
    """How a change of basis passes a node: the same in front and behind; two cancel out; no element is looked at."""

    SAME = "same"
    MEETS = "meets"
    UNSEEN = "unseen"


def passing(
    operands: Sequence[int], *, results: bool, terms: Terms, meets: Terms = (), unseen: Sequence[int] = ()
) -> Passing | None:
    """What becomes of a change of basis along an index set; None: the node is not linear along it.

    Args:
        operands: the operands in which the index set stands, repeated where it stands twice.
        results: whether it stands in results.
        terms: products of operands whose sum the results are.
        meets: products inside what is not linear.
        unseen: operands of which no element is looked at.
    """
    if not operands or max(Counter(operands).values()) > 1:
        return None
    inside = set(operands)
    if results:
        each = all(len(inside.intersection(term)) == 1 for term in terms)
        return Passing.SAME if terms and each and inside <= {at for term in terms for at in term} else None
    if inside <= set(unseen):
        return Passing.UNSEEN
    together = len(inside) == 2 and any(inside <= set(term) for term in (*terms, *meets))
    return Passing.MEETS if together else None


def show_terms(terms: Terms) -> str:
    """Terms as text: 0 * 1 + 2."""
    return " + ".join(" * ".join(map(str, term)) for term in terms)


def parse_terms(text: str) -> Terms:
    """What prints as `text`."""
    return tuple(tuple(int(at) for at in term.split(" * ")) for term in text.split(" + "))
