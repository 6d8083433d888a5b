"""What an operator says about its tensors, in one line of einops-like text.

    n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | g=32 | frozen s k t: window | attribute group=g

Operands come before the arrow, results after it, one pattern each, separated by commas; a pattern has one
term for each axis.  A letter stands for a factor, ``(h d)`` for a product (major first), ``(a + b)`` for a
sum, ``1`` for an axis of length one, ``*s`` for any number of axes, ``()`` for a scalar and ``_`` for a
tensor the rule says nothing of.  After each ``|`` comes a note: a size, a way of passing with its reason,
what else has to follow when a factor shrinks.

A rule is a value: it prints, parses and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from spa.notation.dims import Kind
from spa.notation.linearity import Terms, show_terms
from spa.notation.linearity import parse_terms as parse_linear
from spa.notation.products import Product, parse_product

Expression = "Name | Compound | int"  # int: the literal 1


class Name(NamedTuple):  # a tuple, as Compound: patterns are looked up by value, and tuples hash fast
    """A factor; with `star`, as many factors as the tensor has axes left."""

    name: str
    star: bool = False

    def __str__(self) -> str:
        return ("*" if self.star else "") + self.name


class Compound(NamedTuple):
    """A product or a sum of terms, major first."""

    kind: Kind
    parts: tuple[Term, ...]

    def __str__(self) -> str:
        glue = " " if self.kind is Kind.PRODUCT else " + "
        return f"({glue.join(map(str, self.parts))})"


Term = Name | Compound | int
Pattern = tuple[Term, ...] | None
"""One term for each axis; None: the rule says nothing of this tensor."""


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

    def __str__(self) -> str:
        line = ", ".join(map(_show_pattern, self.operands)) + " -> " + ", ".join(map(_show_pattern, self.results))
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


def names_of(term: Term | None) -> Iterator[Name]:
    """The names in a term, in order."""
    if isinstance(term, Name):
        yield term
    elif isinstance(term, Compound):
        for part in term.parts:
            yield from names_of(part)


def names_in(axes: Pattern) -> Iterator[Name]:
    """The names in a pattern, in order."""
    for term in axes or ():
        yield from names_of(term)


def _show_pattern(pattern: Pattern) -> str:
    if pattern is None:
        return "_"
    return " ".join(map(str, pattern)) if pattern else "()"


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
) -> Rule:
    """A rule from its line of patterns; keys of `statistic`, `frozen`, and names in `reads`, may be several, spaced."""
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
    )


def _spread(reasons: Mapping[str, str] | None) -> dict[str, str]:
    return {name: reason for names, reason in (reasons or {}).items() for name in names.split()}


_TOKEN = re.compile(r"\s*(\*?[A-Za-z][A-Za-z0-9_]*|\d+|[()+_])")


@lru_cache(maxsize=4096)
def parse_line(text: str) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """The patterns before and after the arrow."""
    before, arrow, after = text.partition("->")
    if not arrow:
        raise ValueError(f"rule {text!r}: expected 'operands -> results', found no arrow")
    return tuple(map(_parse_pattern, before.split(","))), tuple(map(_parse_pattern, after.split(",")))


def _parse_pattern(text: str) -> Pattern:
    text = text.strip()
    if text == "_":
        return None
    if text == "()":
        return ()
    return tuple(parse_terms(text))


def parse_terms(text: str) -> list[Term]:
    """Terms separated by blanks."""
    return list(_terms_of(text))


@lru_cache(maxsize=4096)
def _terms_of(text: str) -> tuple[Term, ...]:
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s+", "", text):
        raise ValueError(f"rule pattern {text!r}: unexpected character")
    terms, rest = _parse_sequence(tokens, 0)
    if rest != len(tokens):
        raise ValueError(f"rule pattern {text!r}: unbalanced parenthesis")
    return tuple(terms)


def _parse_sequence(tokens: list[str], at: int) -> tuple[list[Term], int]:
    terms: list[Term] = []
    while at < len(tokens) and tokens[at] not in (")", "+"):
        token = tokens[at]
        if token == "(":
            term, at = _parse_group(tokens, at + 1)
            terms.append(term)
        elif token == "_":
            raise ValueError("'_' stands for a whole tensor, not for an axis of one")
        elif token.isdigit():
            if token != "1":
                raise ValueError(f"the literal size {token}: only 1 may be written as a number")
            terms.append(1)
            at += 1
        else:
            terms.append(Name(token.lstrip("*"), token.startswith("*")))
            at += 1
    return terms, at


def _parse_group(tokens: list[str], at: int) -> tuple[Term, int]:
    addends: list[Term] = []
    while True:
        terms, at = _parse_sequence(tokens, at)
        if not terms or at >= len(tokens):
            raise ValueError("an empty or unclosed parenthesis in a rule pattern")
        addends.append(terms[0] if len(terms) == 1 else Compound(Kind.PRODUCT, tuple(terms)))
        at += 1
        if tokens[at - 1] == ")":
            break
    return (addends[0] if len(addends) == 1 else Compound(Kind.SUM, tuple(addends))), at


_SIZES = re.compile(r"(operand|attribute) (\w+)=(target |back )?(\[?)([^\]]*)\]?(?: instead of (\w+))?")
_NOTE = re.compile(r"(?P<word>statistic|frozen) (?P<names>[^:]+): (?P<reason>.+)")


def parse(text: str) -> Rule:
    """The rule that prints as `text`.

    Raises:
        ValueError: the text is no rule; says where.
    """
    line, *notes = text.split(" | ")
    sizes: dict[str, int] = {}
    reasons: dict[str, dict[str, str]] = {"statistic": {}, "frozen": {}}
    kinds: dict[str, str] = {}
    follows: list[Follow] = []
    macs: list[tuple[str, ...]] = []
    reads: list[Read] = []
    linear: Terms = ()
    meets: list[tuple[int, ...]] = []
    unseen: tuple[int, ...] = ()
    zeros: list[tuple[int, int]] = []
    products: list[Product] = []
    for note in notes:
        if match := _NOTE.fullmatch(note):
            reasons[match["word"]].update(dict.fromkeys(match["names"].split(), match["reason"]))
        elif match := _SIZES.fullmatch(note):
            target = int(match[2]) if match[1] == "operand" else match[2]
            terms, scalar = _parse_list(match[5]), not match[4]
            follows.append(Sizes(target, terms, scalar, match[3] == "target ", match[6] or "", match[3] == "back "))
        elif match := re.fullmatch(r"result (\d+)=\[([^\]]*)\]", note):
            follows.append(Observed(int(match[1]), _parse_list(match[2])))
        elif match := re.fullmatch(r"operand (\d+) counts (.+)", note):
            follows.append(Positions(int(match[1]), parse_terms(match[2])[0]))
        elif match := re.fullmatch(r"(\w+) is (\w+)", note):
            kinds[match[1]] = match[2]
        elif match := re.fullmatch(r"(\w+)=(\d+)", note):
            sizes[match[1]] = int(match[2])
        elif match := re.fullmatch(r"operand (\d+) sums over (?:([\w ]+) along )?axis (\d+)", note):
            reads.append(Read(int(match[1]), int(match[3]), tuple((match[2] or "").split())))
        elif match := re.fullmatch(r"operand (\d+) is zero at operand (\d+)", note):
            zeros.append((int(match[1]), int(match[2])))
        elif note.startswith("product "):
            products.append(parse_product(note))
        elif note.startswith("linear "):
            linear = parse_linear(note.removeprefix("linear "))
        elif match := re.fullmatch(r"(meets|unseen) ([\d ]+)", note):
            operands_of = tuple(map(int, match[2].split()))
            meets, unseen = ([*meets, operands_of], unseen) if match[1] == "meets" else (meets, (*unseen, *operands_of))
        elif note.startswith("macs "):
            macs.append(tuple(note.split()[1:]))
        else:
            raise ValueError(
                f"rule note {note!r}: expected a size, statistic, frozen, kind, operand, attribute or macs"
            )
    operands, results = parse_line(line)
    return Rule(
        operands,
        results,
        sizes,
        reasons["statistic"],
        reasons["frozen"],
        tuple(follows),
        kinds,
        tuple(macs) or None,
        tuple(reads),
        tuple(zeros),
        tuple(products),
        linear,
        tuple(meets),
        unseen,
    )


def _parse_list(text: str) -> tuple[Term | None, ...]:
    if not text:
        return ()
    return tuple(None if item.strip() == "_" else parse_terms(item)[0] for item in text.split(", "))
