"""Patterns meet sizes: what is left for a name, and what no size can be."""

from __future__ import annotations

import pytest

from spa.analysis.matching import build, expand, meet
from spa.notation.dims import ONE, Factor
from spa.notation.operation import Refusal
from spa.notation.patterns import Term, parse_terms


def term(text: str) -> Term:
    return parse_terms(text)[0]


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("(m (1 + 1))", 6, {"m": 3}),
        ("(1 + m)", 5, {"m": 4}),
        ("(a m)", 12, {"m": 3}),
        ("(a + m)", 12, {"m": 8}),
        ("(a (b + m))", 12, {"m": 1}),
        ("m", 7, {"m": 7}),
    ],
)
def test_a_name_gets_what_the_others_leave(text: str, size: int, expected: dict[str, int]) -> None:
    factors = {"a": Factor(4)}
    assert build(term(text), size, factors, {"b": 2}).size == size
    assert {name: factors[name].size for name in expected} == expected


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(Refusal, match="10 does not divide by 4"):
        build(term("(a m)"), 10, {"a": Factor(4)}, {})
    with pytest.raises(Refusal, match="the size of m is unknown"):
        build(term("m"), None, {}, {})


def test_a_name_of_size_one_is_no_factor_unless_it_is_one_among_others() -> None:
    factors: dict[str, Factor] = {}
    assert build(term("n"), 1, factors, {}) is ONE
    build(term("(p + m)"), 5, factors, {"p": 1})
    assert factors["p"] is not ONE
    assert (factors["p"].size, factors["m"].size) == (1, 4)


def test_stars_take_the_axes_that_are_left() -> None:
    pattern = tuple(parse_terms("n *s c"))
    assert [str(each) for each in expand(pattern, 4)] == ["n", "s.0", "s.1", "c"]
    assert len(expand(pattern, 2)) == 2
    for rank in (0, 1):
        with pytest.raises(Refusal, match=f"a pattern of 3 axes meets a tensor of rank {rank}"):
            expand(pattern, rank)
    with pytest.raises(Refusal, match="a pattern of 2 axes meets a tensor of rank 3"):
        expand(tuple(parse_terms("n c")), 3)


def test_a_name_has_the_size_that_the_rule_says() -> None:
    factors: dict[str, Factor] = {}
    with pytest.raises(Refusal, match="g has size 4 where 2 was expected"):
        meet(term("g"), Factor(4), factors, {"g": 2})
    two = Factor(2)
    meet(term("g"), two, factors, {"g": 2})
    assert factors["g"] is two
