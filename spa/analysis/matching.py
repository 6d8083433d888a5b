"""Patterns of a rule meet the dims of a tensor's axes: stars are written out, names learnt, sizes worked out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import prod

from spa.notation.dims import ONE, Factor, Kind, product, total
from spa.notation.equations import unify
from spa.notation.operation import Refusal
from spa.notation.patterns import Compound, Name, Term


@lru_cache(maxsize=8192)
def expand(pattern: tuple[Term, ...], rank: int) -> tuple[Term, ...]:
    """A pattern with its star written out for a tensor of that rank."""
    stars = [at for at, term in enumerate(pattern) if isinstance(term, Name) and term.star]
    if not stars:
        if len(pattern) != rank:
            raise Refusal(f"a pattern of {len(pattern)} axes meets a tensor of rank {rank}")
        return pattern
    at = stars[0]
    length = rank - len(pattern) + 1
    if length < 0 or len(stars) > 1:
        raise Refusal(f"a pattern of {len(pattern)} axes meets a tensor of rank {rank}")
    star = pattern[at]
    assert isinstance(star, Name)
    return pattern[:at] + tuple(Name(f"{star.name}.{k}") for k in range(length)) + pattern[at + 1 :]


def meet(term: Term, dim: Factor, factors: dict[str, Factor], sizes: Mapping[str, int]) -> None:
    """An operand's axis meets its term: names are learnt, or unified with what they stood for."""
    if isinstance(term, Name) and term.name not in factors:
        if term.name in sizes and sizes[term.name] != dim.size:
            raise Refusal(f"{term.name} has size {dim.size} where {sizes[term.name]} was expected")
        factors[term.name] = dim
        return
    unify(dim, build(term, dim.size, factors, sizes))


def build(term: Term, size: int | None, factors: dict[str, Factor], sizes: Mapping[str, int]) -> Factor:
    """The dim of a term; a name that stands for nothing yet gets a new leaf of the size that is left for it."""
    if isinstance(term, int):
        return ONE
    if isinstance(term, Name):
        factor = factors.get(term.name)
        if factor is None:
            length = sizes.get(term.name, size)
            if length is None:
                raise Refusal(f"the size of {term.name} is unknown")
            factor = factors[term.name] = ONE if length == 1 else Factor(length)
        return factor
    known = [_size(part, factors, sizes) for part in term.parts]
    if size is not None and None in known:
        known[known.index(None)] = _missing(term, known, size)
    if term.kind is Kind.SUM:
        for part, length in zip(term.parts, known, strict=True):
            if length == 1 and isinstance(part, Name):  # one position among others: it may go on its own
                factors.setdefault(part.name, Factor(1))
    parts = [build(part, length, factors, sizes) for part, length in zip(term.parts, known, strict=True)]
    return product(*parts) if term.kind is Kind.PRODUCT else total(*parts)


def _missing(term: Compound, known: Iterable[int | None], size: int) -> int:
    sizes = [length for length in known if length is not None]
    if term.kind is Kind.SUM:
        return size - sum(sizes)
    if not prod(sizes) or size % prod(sizes):
        raise Refusal(f"{size} does not divide by {prod(sizes)} in {term}")
    return size // prod(sizes)


def _size(term: Term, factors: Mapping[str, Factor], sizes: Mapping[str, int]) -> int | None:
    if isinstance(term, int):
        return 1
    if isinstance(term, Name):
        return factors[term.name].size if term.name in factors else sizes.get(term.name)
    parts = [_size(part, factors, sizes) for part in term.parts]
    known = [length for length in parts if length is not None]
    if len(known) < len(parts):
        return None
    return prod(known) if term.kind is Kind.PRODUCT else sum(known)
