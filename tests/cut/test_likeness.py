"""Two graphs node by node: what differs is named."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from spa.errors import VerificationError
from spa.passes.cut.likeness import check_same
from tests.models import build

PLANNED = "(float[n,4] x, float[n,4] z) => (float[n,4] y) { h = MatMul(x, w)  y = Add(h, z) }"


def graph(text: str) -> ir.Model:
    return ir.from_proto(build(text, {"w": [4, 4]}))


def test_a_graph_is_like_itself() -> None:
    assert check_same(graph(PLANNED), graph(PLANNED), {}).kept == 1


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ("h = MatMul(x, w)  y = Add(h, x)", "reads 'x', where the plan has 'z'"),
        ("h = MatMul(z, w)  y = Add(h, z)", "reads 'z', where the plan has 'x'"),
        ("h = MatMul(x, w)  y = Sub(h, z)", "differs from what the plan makes: ai.onnx::Sub and ai.onnx::Add"),
        ("h = MatMul(x, w)  y = Add(h, h)", "reads 'h', where the plan has 'z'"),
    ],
)
def test_what_differs_is_named(now: str, message: str) -> None:
    pruned = graph(f"(float[n,4] x, float[n,4] z) => (float[n,4] y) {{ {now} }}")
    with pytest.raises(VerificationError, match=message):
        check_same(graph(PLANNED), pruned, {})


@pytest.mark.parametrize(("planned", "now"), [("Clip(x, , z)", "Clip(x, z)"), ("Clip(x, z)", "Clip(x, , z)")])
def test_an_operand_that_is_left_out_is_no_operand(planned: str, now: str) -> None:
    expected, actual = (graph(f"(float[n,4] x, float z) => (float[n,4] y) {{ y = {text} }}") for text in (planned, now))
    with pytest.raises(
        VerificationError, match=r"'Clip_0' \(Clip\) has another number of operands than the plan makes"
    ):
        check_same(expected, actual, {})
