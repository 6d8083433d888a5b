from __future__ import annotations

import numpy as np
import pytest

from spa.notation import operation
from spa.notation.operation import Entry, Operation, Refusal, letters, operator, pattern, registered, rule_of
from spa.notation.rule import Rule, rule

NODE = Operation(
    "Thing",
    inputs=[(2, 3, 4), None, (3,)],
    outputs=[(2, 4), None],
    attributes={"axis": -1, "pads": [1, 2], "one": 5},
    constants={2: np.array([7, 8, 9])},
)


def test_shapes_of_operands_and_results() -> None:
    assert NODE.shape(0) == (2, 3, 4)
    assert NODE.result() == (2, 4)
    for position in (1, 3):
        with pytest.raises(Refusal, match=f"the shape of operand {position} is unknown"):
            NODE.shape(position)
        assert not NODE.has(position)
    with pytest.raises(Refusal, match="the shape of result 1 is unknown"):
        NODE.result(1)
    assert NODE.has(2)


def test_axes_count_from_the_front() -> None:
    assert NODE.axis() == 2
    assert NODE.axis(1, name="other") == 1
    assert NODE.axis(position=2) == 0
    with pytest.raises(Refusal, match="attribute other is missing"):
        NODE.axis(name="other")


def test_numbers_from_an_attribute_or_a_constant() -> None:
    assert NODE.numbers(2) == [7, 8, 9]
    assert NODE.numbers(2, "pads") == [1, 2]
    assert NODE.numbers(2, "one") == [5]
    assert NODE.numbers(0) is None
    assert NODE.attribute("none", 3) == 3


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "_registry", {})

    @operator("First", "Second", domain="org.example")
    def both(_: Operation) -> Rule:
        return rule("a b -> b")

    assert registered() == {("org.example", name): Entry(both) for name in ("First", "Second")}
    assert str(rule_of(Operation("Second", "org.example"))) == "a b -> b"
    with pytest.raises(ValueError, match=r"two rules for org.example::First"):
        operator("First", domain="org.example")(both)
    with pytest.raises(Refusal, match=r"no rule for operator org.example::Third"):
        rule_of(Operation("Third", "org.example"))
    with pytest.raises(Refusal, match=r"^no rule for operator First$"):
        rule_of(Operation("First"))


def test_both_names_of_the_standard_domain() -> None:
    assert str(rule_of(Operation("Relu", "ai.onnx", inputs=[(2, 3)], outputs=[(2, 3)]))) == str(
        rule_of(Operation("Relu", inputs=[(2, 3)], outputs=[(2, 3)]))
    )


def test_letters_never_repeat() -> None:
    assert letters(3) == ["a", "b", "c"]
    assert letters(3, avoid="ac") == ["b", "d", "e"]
    assert len(set(letters(100, avoid="kmn"))) == 100
    assert pattern(["a", "b"]) == "a b"
    assert pattern([]) == "()"
