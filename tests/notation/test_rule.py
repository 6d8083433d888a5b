"""Rules as text: what prints parses, what parses compares, and what is no rule is refused with the place."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spa.operators  # noqa: F401  (fills the registry)
from spa.notation.dims import Kind
from spa.notation.operation import Operation, Refusal, letters, operator, pattern, registered, rule_of
from spa.notation.parsing import parse
from spa.notation.patterns import Compound, Name, Term, names_of, parse_line, parse_terms
from spa.notation.products import Product, Window
from spa.notation.rule import Follow, Observed, Positions, Read, Rule, Sizes, rule

LINES = [
    "*a -> *a",
    "n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | g=32 | frozen s k t: window | attribute group=g",
    "n a *s, n b *s -> n (a + b) *s",
    "a b c -> r | frozen r: a list of sizes | result 0=[a, b, c]",
    "(), _ -> 1 1 | operand 1=target [1, 1]",
    "a (b + c), _ -> a b, a c | b=4 | c=2 | operand 1=[b, c] instead of num_outputs",
    "(p0 + p1), p1 -> p1 | operand 1 counts (p0 + p1)",
    "t n i, d (g h) i, d (g h) h -> t d n h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 2",
    "q i, z -> q | operand 0 is zero at operand 1",
    "a c -> a c | statistic c: enters a mean and a variance | c is width",
    "a (b + c) -> a b | operand 1=back [b]",
    "() -> ()",
    "m k, k n -> m n | product 0 x 1",
    "m k, k n, n -> m n | product 0 x 1 by 0.5 + 2 by -2.0, inside",
    "n i *s, o i *k -> n o *t | product 0 x 1 + 2, kernel 3 1, strides 2 1, dilations 1 2, pads 1 0 -1 0",
    "n i *s, o i *k -> n o *t | product 0 x 1, kernel 3, same upper",
    "n i *s, i o *k -> n o *t | product 0 x 1, kernel 2, pads 1 1, spread 2",
    "a b, b -> a b | linear 0 + 1",
    "m k, k n, n -> m n | linear 0 * 1 + 2",
    "q k, t k, t v -> q v | operand 0 sums over k along axis 1 | linear 2 | meets 0 1",
    "a, b -> a | unseen 1",
    "t n i, d h i, d h h -> t d n h | product before x 2 + 3, part 1 of 2, steps 0, back 0 1, inside",
]


@pytest.mark.parametrize("line", LINES)
def test_prints_as_it_was_read(line: str) -> None:
    assert str(parse(line)) == line
    assert parse(str(parse(line))) == parse(line)


def test_built_and_read_rules_are_equal() -> None:
    built = rule(
        "n (g i) *s, (g o) i *k -> n (g o) *t",
        sizes={"g": 4},
        frozen={"s k t": "window"},
        kinds={"i o": "channels"},
        follows=(Sizes("group", (Name("g"),), scalar=True),),
    )
    text = "n (g i) *s, (g o) i *k -> n (g o) *t | g=4 | frozen s k t: window | i is channels | o is channels"
    assert built == parse(f"{text} | attribute group=g")
    assert built != parse(text)


def test_what_a_rule_contracts() -> None:
    assert parse("*b m k, *b k n -> *b m n").contracted == {"k"}
    assert parse("n (g i) *s, (g o) i *k -> n (g o) *t").contracted == {"i", "s", "k"}
    assert parse("*a -> *a").contracted == set()


def test_names_come_in_order() -> None:
    (term,) = parse_terms("((b a) + 1 + *c)")
    assert [str(name) for name in names_of(term)] == ["b", "a", "*c"]
    assert list(names_of(None)) == []


def test_nested_terms() -> None:
    (term,) = parse_terms("(a (b + (c d)) e)")
    inner = Compound(Kind.SUM, (Name("b"), Compound(Kind.PRODUCT, (Name("c"), Name("d")))))
    assert term == Compound(Kind.PRODUCT, (Name("a"), inner, Name("e")))
    assert parse_terms("(a)") == [Name("a")]


ERRORS = [
    ("a b", "expected 'operands -> results', found no arrow"),
    ("a & b -> a", "rule pattern 'a & b': unexpected character"),
    ("a) -> a", "rule pattern 'a)': unbalanced parenthesis"),
    ("(a -> a", "empty or unclosed parenthesis"),
    ("(a +) -> a", "empty or unclosed parenthesis"),
    ("a () -> a", "empty or unclosed parenthesis"),
    ("a + b -> a", "unbalanced parenthesis"),
    ("3 a -> a", "the literal size 3: only 1 may be written as a number"),
    ("a _ -> a", "'_' stands for a whole tensor"),
    ("a -> a | mystery", "rule note 'mystery': expected a size, statistic, frozen, kind"),
    ("a -> a | operand x counts a", "rule note 'operand x counts a'"),
]


@pytest.mark.parametrize(("line", "message"), ERRORS, ids=[line for line, _ in ERRORS])
def test_what_is_no_rule_is_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(line)


# ------------------------------------------------------------------------------------------------ properties
words = st.from_regex(r"[a-z][a-z0-9]{0,2}", fullmatch=True)
reasons = st.from_regex(r"[a-z][a-z ,.()'-]{0,30}[a-z]", fullmatch=True)
numbers = st.integers(0, 9)


def compounds(parts: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.builds(Compound, st.sampled_from([Kind.PRODUCT, Kind.SUM]), several)


plain = st.one_of(st.builds(Name, words), st.just(1))
terms = st.recursive(plain, compounds, max_leaves=5)
axes = st.lists(st.one_of(terms, st.builds(Name, words, st.just(True))), max_size=4).map(tuple)
patterns = st.lists(st.one_of(axes, st.none()), min_size=1, max_size=3).map(tuple)
marked = st.sampled_from([{}, {"markers": True}, {"back": True}])
sizes = st.builds(
    lambda target, listed, how, instead: Sizes(target, listed, instead=instead, **how),
    st.one_of(numbers, words),
    st.lists(st.one_of(terms, st.none()), max_size=3).map(tuple),
    marked,
    st.one_of(st.just(""), words),
)
scalars = st.builds(lambda name, term: Sizes(name, (term,), scalar=True), words, terms)
follows: st.SearchStrategy[Follow] = st.one_of(
    sizes,
    scalars,
    st.builds(Positions, numbers, terms),
    st.builds(Observed, numbers, st.lists(st.one_of(terms, st.none()), min_size=1, max_size=3).map(tuple)),
)
windows = st.integers(1, 3).flatmap(
    lambda rank: st.builds(
        Window,
        *[st.tuples(*[st.integers(1, 5)] * rank)] * 3,
        st.tuples(*[st.integers(-3, 3)] * (2 * rank)),
        st.just(""),
        st.one_of(st.just(()), st.tuples(*[st.integers(1, 3)] * rank)),
    )
)
scales = st.floats(-8, 8).filter(bool)
products = st.builds(
    lambda data, weight, bias, scale, inside, window: Product(
        data, weight, bias, scale, 0.5 if bias else 1.0, window, inside=inside
    ),
    numbers,
    numbers,
    st.one_of(st.none(), numbers),
    scales,
    st.booleans(),
    st.one_of(st.none(), windows),
)
operands = st.lists(st.lists(numbers, min_size=1, max_size=2).map(tuple), max_size=2).map(tuple)
rules = st.builds(
    Rule,
    patterns,
    patterns,
    st.dictionaries(words, st.integers(1, 99), max_size=2),
    st.dictionaries(words, reasons, max_size=2),
    st.dictionaries(words, reasons, max_size=2),
    st.lists(follows, max_size=3).map(tuple),
    st.dictionaries(words, words, max_size=2),
    st.one_of(
        st.none(), st.lists(st.lists(words, min_size=1, max_size=3).map(tuple), min_size=1, max_size=2).map(tuple)
    ),
    st.lists(st.builds(Read, numbers, numbers, st.lists(words, max_size=2).map(tuple)), max_size=2).map(tuple),
    st.lists(st.tuples(numbers, numbers), max_size=2).map(tuple),
    st.lists(products, max_size=2).map(tuple),
    operands,
    st.lists(st.tuples(numbers, numbers), max_size=2).map(tuple),
    st.lists(numbers, max_size=2).map(tuple),
)


@given(rules)
def test_every_rule_comes_back_from_its_text(made: Rule) -> None:
    assert parse(str(made)) == made


@given(st.text(alphabet="abn1 (+)*_,->|=: ", max_size=30))
def test_any_text_is_a_rule_or_a_value_error(text: str) -> None:
    try:
        parsed = parse(text)
    except ValueError:
        return
    assert parse(str(parsed)) == parsed


# ------------------------------------------------------------------------------------------------- registry
def test_unknown_operators_are_refused_by_name() -> None:
    with pytest.raises(Refusal, match=r"^no rule for operator com\.example::Mystery$"):
        rule_of(Operation("Mystery", "com.example"))
    with pytest.raises(Refusal, match=r"^no rule for operator Mystery$"):
        rule_of(Operation("Mystery", "ai.onnx"))


def test_an_operator_has_one_rule() -> None:
    before = registered()
    with pytest.raises(ValueError, match="two rules for ::Conv"):
        operator("Conv")(lambda operation: parse_rule(operation))
    assert registered() == before


def parse_rule(operation: Operation) -> Rule:
    raise AssertionError(f"never asked for {operation.name}")


def test_what_is_missing_is_refused() -> None:
    operation = Operation("Add", inputs=[None], outputs=[])
    with pytest.raises(Refusal, match="the shape of operand 0 is unknown"):
        operation.shape(0)
    with pytest.raises(Refusal, match="the shape of result 1 is unknown"):
        operation.result(1)
    with pytest.raises(Refusal, match="attribute axis is missing"):
        Operation("Add", inputs=[(2, 3)]).axis()


def test_letters_and_patterns() -> None:
    assert letters(3, avoid="b") == ["a", "c", "d"]
    assert letters(28)[-3:] == ["z", "a1", "b1"]
    assert len(set(letters(100))) == 100
    assert pattern([]) == "()"
    assert parse_line("() -> a b")[1] == ((Name("a"), Name("b")),)
