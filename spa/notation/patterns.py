"""Patterns of axes in einops-like text: `n (g i) *s` is a product of two factors between a letter and a star."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from spa.notation.dims import Kind


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


def show_pattern(pattern: Pattern) -> str:
    """A pattern as text."""
    if pattern is None:
        return "_"
    return " ".join(map(str, pattern)) if pattern else "()"


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
