"""Every rule, as text and by running its operator; and that the oracle would notice a wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import pytest
from _pytest.mark import ParameterSet

import spa.operators  # noqa: F401  (fills the registry)
from spa.notation.operation import Operation, Refusal, registered, rule_of
from spa.notation.parsing import parse
from spa.notation.patterns import parse_terms
from spa.notation.products import Product, Window
from spa.notation.rule import Rule, Sizes, rule
from spa.shapes import infer_shapes
from tests.oracles import check_linearity, check_products
from tests.rows import ROWS
from tests.soundness import Case, Given, Row, Unsound, check, constant, random, row, weight


def text_of(row: Row) -> str:
    try:
        return str(rule_of(Case(row).operation()))
    except Refusal as reason:
        return f"refused: {reason}"


def labelled(rows: Iterable[Row]) -> list[ParameterSet]:
    return [pytest.param(row, id=f"{number:03}-{row}") for number, row in enumerate(rows)]


@pytest.mark.parametrize("row", labelled(ROWS))
def test_says(row: Row) -> None:
    assert text_of(row) == row.rule
    if not row.refused:
        assert str(parse(row.rule)) == row.rule
        assert parse(row.rule) == rule_of(Case(row).operation())


@pytest.mark.parametrize("row", labelled(row for row in ROWS if row.engine and not row.refused))
def test_is_sound(row: Row) -> None:
    check(row)


@pytest.mark.parametrize("row", labelled(row for row in ROWS if row.engine and not row.refused))
def test_shapes_of_results_are_inferred(row: Row) -> None:
    """A rule is of use only where the shapes of operands and results are known before anything runs.

    Sizes that an input of the graph lists may be unknown, or numbers that stand for any.
    """
    case = Case(row)
    model = case.model(case.dense)
    shapes = infer_shapes(model)
    sized_by_data = any(not each.constant and each.array.ndim < 2 for each in case.tensors.values())
    node = next(node for node in model.graph if node.name == "node")
    for value, shape in zip(node.outputs, case.result_shapes(), strict=False):
        inferred = shapes.of.get(value)
        assert inferred is not None or sized_by_data, (
            f"give the entry of {row.operator} completes= (see operators/sizes.py)"
        )
        for axis, (size, counted) in enumerate(zip(shape, inferred or shape, strict=True)):
            assert size == counted or (value, axis) in shapes.counted, f"{row}: {inferred} inferred, {shape} computed"


@pytest.mark.parametrize("row", labelled(row for row in ROWS if row.engine and "| product " in row.rule))
def test_products_are_what_the_node_computes(row: Row) -> None:
    count = check_products(row)
    assert count or not parse(row.rule).contracted or row.operands[0] == (2, 0)


def test_changes_of_basis_pass_where_rows_say_so() -> None:
    counted = Counter[str]()
    for each in ROWS:
        if each.engine and not each.refused:
            counted[each.operator] += check_linearity(each)
    said = {each.operator for each in ROWS if each.engine and "| linear " in each.rule}
    assert not {operator for operator in said if not counted[operator]}
    assert counted.total() > 300


# ------------------------------------------------------------------------------------------------- coverage
def named(domain: str, name: str) -> str:
    return f"{domain}::{name}" if domain else name


def test_every_registered_operator_has_a_row_that_runs_or_says_why_none_does() -> None:
    run = {row.operator for row in ROWS if row.engine or row.refused}
    text_alone = {row.operator for row in ROWS if row.why}
    assert {named(*key) for key in registered()} - run == text_alone


def test_every_operator_of_onnx_has_a_rule_or_a_reason() -> None:
    operators = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain and not schema.deprecated}
    assert len(operators) > 200
    assert operators <= {name for domain, name in registered() if not domain}


def test_an_operator_without_a_rule_is_refused() -> None:
    with pytest.raises(Refusal, match="no rule for operator nowhere::Nothing"):
        rule_of(Operation("Nothing", "nowhere"))


# ---------------------------------------------------------------------------------------------- the oracle
IMAGE, WINDOW = (2, 4, 5, 5), {"s k t": "positions of a window"}
BYTES = random(3, 4, dtype=np.uint8), weight(4, 5, dtype=np.uint8), constant(3, np.uint8), constant(7, np.uint8)
HIDDEN = (Sizes("hidden_size", tuple(parse_terms("h")), scalar=True),)
WRONG = {
    "in and out swapped": (
        row("Conv", [IMAGE, weight(4, 4, 3, 3)], ""),
        rule("n o *s, o i *k -> n i *t", frozen=WINDOW),
    ),
    "a softmax that is no statistic": (row("Softmax", [(2, 3)], ""), rule("a b -> a b")),
    "a mean that is no statistic": (row("ReduceMean", [(2, 3), constant([1])], ""), rule("a b, _ -> a 1")),
    "joined in the wrong order": (row("Concat", [(2, 3), (2, 3)], "", axis=1), rule("a x0, a x1 -> a (x1 + x0)")),
    "nested the wrong way": (
        row("Reshape", [(2, 12), constant([2, 3, 4])], ""),
        rule("a (c b), _ -> a b c", sizes={"b": 3, "c": 4}),
    ),
    "axes mixed up": (row("Transpose", [(3, 3)], ""), rule("a b -> a b")),
    "an attribute that does not follow": (
        row("Conv", [IMAGE, weight(6, 2, 3, 3)], "", group=2),
        rule("n (g i) *s, (g o) i *k -> n (g o) *t", sizes={"g": 2}, frozen=WINDOW),
    ),
    "a zero point that is not told": (row("MatMulInteger", BYTES, ""), rule("m k, k n, (), () -> m n")),
    "a state that is not read": (
        row("RNN", [(5, 2, 3), weight(1, 4, 3), weight(1, 4, 4)], "", hidden_size=4),
        rule("t n i, d h i, d h h -> t d n h", frozen={"t d": "steps"}, follows=HIDDEN),
    ),
}


GEMM: list[Given] = [(3, 4), weight(4, 5), weight(5)]
EXPERTS: list[Given] = [(6, 4), (6, 5), weight(5, 4, 4), weight(5, 4), weight(5, 4, 4), weight(5, 4)]
WRONG_PRODUCTS = {
    "no factor": (row("Gemm", GEMM, "", alpha=0.5), rule("m k, k n, n -> m n", products=(Product(0, 1, 2),))),
    "no factor on the bias": (
        row("Gemm", GEMM, "", beta=0.5),
        rule("m k, k n, n -> m n", products=(Product(0, 1, 2),)),
    ),
    "pads that are not told": (
        row("Conv", [IMAGE, weight(6, 4, 3, 3)], "", pads=[1, 1, 1, 1]),
        rule(
            "n i *s, o i *k -> n o *t",
            frozen=WINDOW,
            products=(Product(0, 1, 2, window=Window((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))),),
        ),
    ),
    "channels last that are not told": (
        row("com.microsoft::NhwcConv", [(2, 5, 5, 4), weight(6, 3, 3, 4)], "", engine="reference"),
        rule(
            "n *s i, o *k i -> n *t o",
            frozen=WINDOW,
            products=(Product(0, 1, 2, window=Window((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))),),
        ),
    ),
    "steps behind in place of those before": (
        row("com.microsoft::CausalConvWithState", [(2, 4, 5), weight(4, 1, 3)], "", results=2),
        rule(
            "n c *t, c 1 *k -> n c *t, n c *p",
            frozen={"t k p": "steps"},
            products=(Product(0, 1, 2, window=Window((3,), (1,), (1,), (0, 2))),),
        ),
    ),
    "another layer's bias": (
        row("com.microsoft::MoE", EXPERTS, "", k=2, activation_type="gelu"),
        rule(
            "t w, t e, e i w, e i, e w i, e w -> t w",
            statistic={"e": "enters a softmax"},
            reads=((0, 1), (4, 2)),
            products=(Product(0, 2, 5, inside=True),),
        ),
    ),
    "an activation that is not told": (
        row("com.microsoft::FusedGemm", GEMM, "", activation="Relu"),
        rule("m k, k n, n -> m n", products=(Product(0, 1, 2),)),
    ),
    "a factor inside an activation": (
        row("com.microsoft::FusedGemm", GEMM, "", activation="Tanh", beta=0.5),
        rule("m k, k n, n -> m n", products=(Product(0, 1, 2, inside=True),)),
    ),
    "a state that goes through a gate first": (
        row("GRU", [(5, 2, 3), weight(1, 12, 3), weight(1, 12, 4)], "", hidden_size=4),
        rule(
            "t n i, d (g h) i, d (g h) h -> t d n h",
            sizes={"g": 3},
            frozen={"t d g": "steps"},
            follows=HIDDEN,
            reads=((2, 2),),
            products=(Product(None, 2, 3, part=1, parts=2, steps=0, back=(False,), inside=True),),
        ),
    ),
}


@pytest.mark.parametrize("wrong", WRONG_PRODUCTS)
def test_a_wrong_product_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, wrong_rule = WRONG_PRODUCTS[wrong]
    monkeypatch.setattr("spa.analysis.couple.rule_of", lying(row, wrong_rule))
    with pytest.raises((Unsound, ValueError)):
        check_products(row)


def lying(row: Row, wrong_rule: Rule) -> Callable[[Operation], Rule]:
    """The rules of operators, but for a row's, which is another."""
    return lambda operation: wrong_rule if operation.name == row.name else rule_of(operation)


WRONG_LINEARITY = {
    "an activation": (row("Relu", [(2, 3)], ""), rule("*a -> *a", linear=((0,),))),
    "one addend of two": (row("Add", [(2, 3), (3,)], ""), rule("a b, b -> a b", linear=((0,),))),
    "a divisor": (row("Div", [(2, 1), (2, 3)], ""), rule("a 1, a b -> a b", linear=((1,),))),
    "queries and values": (
        row("Attention", [(1, 2, 3, 4)] * 3, "", opset=23),
        rule("b h s k, b h t k, b h t v -> b h s v", linear=((0,),), meets=((1, 2),), frozen={"t": ""}),
    ),
    "a type": (row("CastLike", [(2, 3), (2, 3)], ""), rule("*a, *b -> *b", linear=((1,),))),
}


@pytest.mark.parametrize("wrong", WRONG_LINEARITY)
def test_a_wrong_linearity_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, wrong_rule = WRONG_LINEARITY[wrong]
    monkeypatch.setattr("spa.analysis.couple.rule_of", lying(row, wrong_rule))
    with pytest.raises(Unsound, match="change of basis"):
        check_linearity(row)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, wrong_rule = WRONG[wrong]
    monkeypatch.setattr("spa.analysis.couple.rule_of", lying(row, wrong_rule))
    with pytest.raises(Unsound):
        check(row)
