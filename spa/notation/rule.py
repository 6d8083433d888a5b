"""A rule: which index sets the operands and results of a node share, in one line of einops-like text.

    n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | g=32 | frozen s k t: window | attribute group=g

Operands come before the arrow, results after it, one pattern each, separated by commas; a pattern has one
term for each axis.  A letter stands for a factor, ``(h d)`` for a product (major first), ``(a + b)`` for a
sum, ``1`` for an axis of length one, ``*s`` for any number of axes, ``()`` for a scalar and ``_`` for a
tensor the rule says nothing of.  After each ``|`` comes a note: a size, a way of passing with its reason,
what else has to follow when a factor shrinks.

A rule is a value: it prints, parses and compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from spa.notation.linearity import Terms, show_terms
from spa.notation.patterns import Pattern, Term, names_in, parse_line, show_pattern
from spa.notation.products import Product


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers in the graph that are sizes of dims.

    `target` is an operand's position or an attribute's name.  Its k-th element is the size of the k-th
    term; None leaves an element alone.  A single term with `scalar` is an attribute that is one number;
    with `markers`, a number that is not the size stands for one (Reshape's 0 and -1, Expand's 1).  A target
    that is not there is made, and the attribute that stood `instead` of it goes.  Numbers that count
    `back` from the end of an axis are written with a minus.
    """

    target: int | str
    terms: tuple[Term | None, ...]
    scalar: bool = False
    markers: bool = False
    instead: str = ""
    back: bool = False

    def __str__(self) -> str:
        name = f"operand {self.target}" if isinstance(self.target, int) else f"attribute {self.target}"
        terms = ", ".join("_" if term is None else str(term) for term in self.terms)
        tail = f" instead of {self.instead}" if self.instead else ""
        if self.scalar:
            return f"{name}={terms}"
        return f"{name}={'target ' if self.markers else 'back ' if self.back else ''}[{terms}]{tail}"


@dataclass(frozen=True, slots=True)
class Positions:
    """A constant operand whose numbers are positions in a dim (Gather's indices)."""

    operand: int
    term: Term

    def __str__(self) -> str:
        return f"operand {self.operand} counts {self.term}"


@dataclass(frozen=True, slots=True)
class Observed:
    """A result that lists the sizes of dims: nodes behind it were written for the sizes before a cut."""

    result: int
    terms: tuple[Term | None, ...]

    def __str__(self) -> str:
        return f"result {self.result}=[{', '.join('_' if term is None else str(term) for term in self.terms)}]"


Follow = Sizes | Positions | Observed


class Read(NamedTuple):
    """An axis of an operand that is summed over although its factors go on in a result.

    A recurrent weight reads the hidden state that it makes; an attention reads the heads' insides.  `names`: the
    factors; none: all of the axis.
    """

    operand: int
    axis: int
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = f"{' '.join(self.names)} along " if self.names else ""
        return f"operand {self.operand} sums over {what}axis {self.axis}"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one node says: how its operands' and results' axes share factors.

    Attributes:
        operands, results: a pattern each, in the node's order.
        sizes: sizes of factors that the shapes alone do not give.
        statistic: factors that enter a mean, a variance, a norm or a softmax, with the reason: shapes stay
            right without them, values move.
        frozen: factors that must stay, with the reason in words.
        follows: numbers in the graph that shrink with a factor.
        kinds: what a factor is called by users (heads, conv_groups ...).
        macs: the factors one multiply-accumulate runs over, one entry for each contraction in the node;
            None: inferred (all factors but frozen operand-only ones, if some factor is contracted between
            two operands).
        reads: axes of operands that are summed over although their factors go on in a result.
        zeros: (operand, operand) pairs: where the first holds zero is told by the second (a zero point).
        products: of data and a stored weight, see `spa.notation.products`.
        picks, looks: results and operands whose whole numbers are positions of a factor: chosen by value, or looked
            up, so that where one node picks and others look up, the factor may go.
        least: how many positions of a factor a node needs at least.
        holds: results that hold one position of a factor and no other: without it they go, too.
        linear, meets, unseen: how the results depend on the operands, see `spa.notation.linearity`; the sums and
            products of operands that they are linear in (of `products` and of what only moves it is known), products
            inside something else, operands of which no element is looked at.
    """

    operands: tuple[Pattern, ...]
    results: tuple[Pattern, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    statistic: Mapping[str, str] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    follows: tuple[Follow, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    macs: tuple[tuple[str, ...], ...] | None = None
    reads: tuple[Read, ...] = ()
    zeros: tuple[tuple[int, int], ...] = ()
    products: tuple[Product, ...] = ()
    linear: Terms = ()
    meets: Terms = ()
    unseen: tuple[int, ...] = ()
    picks: tuple[tuple[int, str], ...] = ()
    looks: tuple[tuple[int, str], ...] = ()
    least: Mapping[str, int] = field(default_factory=dict)
    holds: tuple[tuple[int, str], ...] = ()

    def __str__(self) -> str:
        line = ", ".join(map(show_pattern, self.operands)) + " -> " + ", ".join(map(show_pattern, self.results))
        notes = [f"{name}={size}" for name, size in self.sizes.items()]
        for word, reasons in (("statistic", self.statistic), ("frozen", self.frozen)):
            for reason in dict.fromkeys(reasons.values()):
                names = " ".join(name for name, why in reasons.items() if why == reason)
                notes.append(f"{word} {names}: {reason}")
        notes += [f"{name} is {kind}" for name, kind in self.kinds.items()]
        notes += [str(follow) for follow in self.follows]
        notes += ["macs " + " ".join(names) for names in self.macs or ()]
        notes += [str(read) for read in self.reads]
        notes += [f"operand {operand} is zero at operand {point}" for operand, point in self.zeros]
        notes += [str(product) for product in self.products]
        notes += [f"result {result} picks {name}" for result, name in self.picks]
        notes += [f"operand {operand} looks up {name}" for operand, name in self.looks]
        notes += [f"{name} is at least {number}" for name, number in self.least.items()]
        notes += [f"result {result} holds {name}" for result, name in self.holds]
        notes += [f"linear {show_terms(self.linear)}"] * bool(self.linear)
        notes += [f"meets {' '.join(map(str, pair))}" for pair in self.meets]
        notes += [f"unseen {' '.join(map(str, self.unseen))}"] * bool(self.unseen)
        return " | ".join([line, *notes])

    @property
    def contracted(self) -> frozenset[str]:
        """Factors that stand in operands only: summed away, or dropped."""
        return _contracted(self.operands, self.results)


@lru_cache(maxsize=8192)
def _contracted(operands: tuple[Pattern, ...], results: tuple[Pattern, ...]) -> frozenset[str]:
    return _names(operands) - _names(results)


def _names(patterns: tuple[Pattern, ...]) -> frozenset[str]:
    return frozenset(name.name for pattern in patterns for name in names_in(pattern))


# ------------------------------------------------------------------------------------------------- building
def rule(
    text: str,
    *,
    sizes: Mapping[str, int] | None = None,
    statistic: Mapping[str, str] | None = None,
    frozen: Mapping[str, str] | None = None,
    follows: tuple[Follow, ...] = (),
    kinds: Mapping[str, str] | None = None,
    macs: tuple[tuple[str, ...], ...] | None = None,
    reads: Sequence[tuple[int, int] | tuple[int, int, str]] = (),
    zeros: tuple[tuple[int, int], ...] = (),
    products: tuple[Product, ...] = (),
    linear: Terms = (),
    meets: Terms = (),
    unseen: tuple[int, ...] = (),
    picks: tuple[tuple[int, str], ...] = (),
    looks: tuple[tuple[int, str], ...] = (),
    least: Mapping[str, int] | None = None,
    holds: tuple[tuple[int, str], ...] = (),
) -> Rule:
    """A rule from its line of patterns: ``rule("m k, k n -> m n", products=(Product(data=0, weight=1),))``.

    Args:
        text: operands, an arrow and results, a pattern each.
        sizes, statistic, frozen, follows, kinds, macs, reads, zeros: as those of a `Rule`; keys of `statistic`,
            `frozen` and `kinds`, and names in `reads`, may be several, spaced.
        products, linear, meets, unseen, picks, looks, least, holds: as those of a `Rule`.

    Raises:
        ValueError: the text is no line of patterns; says where.
    """
    operands, results = parse_line(text)
    return Rule(
        operands,
        results,
        dict(sizes or {}),
        _spread(statistic),
        _spread(frozen),
        follows,
        _spread(kinds),
        macs,
        tuple(Read(operand, axis, tuple(" ".join(names).split())) for operand, axis, *names in reads),
        zeros,
        products,
        linear,
        meets,
        unseen,
        picks,
        looks,
        dict(least or {}),
        holds,
    )


def _spread(reasons: Mapping[str, str] | None) -> dict[str, str]:
    return {name: reason for names, reason in (reasons or {}).items() for name in names.split()}
