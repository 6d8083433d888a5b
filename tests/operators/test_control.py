"""What the bodies of control flow share with the graph around them."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa.notation.bodies import Links
from spa.operators.control import passes_through

IF = """(float[2] x, bool c) => (float[2] y, float[2] z) {
    y, z = If(c) <then_branch = t () => (float[2] p, float[2] q) { p = Relu(x) q = Neg(x) },
                  else_branch = e () => (float[2] r, float[2] s) { r = Abs(x) s = Neg(x) }> }"""
LOOP = """(float[2] x, int64 n, bool c) => (float[2] y, float[k,2] z) {
    y, z = Loop(n, c, x) <body = b (int64 i, bool on, float[2] h) => (bool still, float[2] next, float[2] seen)
        { still = Identity(on) next = Relu(h) seen = Neg(h) }> }"""
SCAN = """(float[2] x, float[5,3] rows) => (float[2] y, float[5,3] z) {
    y, z = Scan(x, rows) <num_scan_inputs = 1, body = b (float[2] h, float[3] row) => (float[2] next, float[3] out)
        { next = Relu(h) out = Neg(row) }> }"""
UNKNOWN = """(float[2] x) => (float[2] y) {
    y = com.example.Repeat(x) <body = b (float[2] h) => (float[2] next) { next = Relu(h) }> }"""


def links(text: str, attribute: str) -> Links:
    header = '<ir_version: 10, opset_import: ["" : 20, "com.example" : 1]> graph '
    model = ir.from_proto(onnx.parser.parse_model(header + text))
    (node,) = model.graph
    return passes_through(node, node.attributes[attribute].as_graph())


def names(pairs: list[tuple[ir.Value, ir.Value]]) -> list[tuple[str | None, str | None]]:
    return [(left.name, right.name) for left, right in pairs]


@pytest.mark.parametrize(
    ("text", "attribute", "entering", "leaving", "stacked", "opaque"),
    [
        (IF, "then_branch", [], [("y", "p"), ("z", "q")], [], []),
        (IF, "else_branch", [], [("y", "r"), ("z", "s")], [], []),
        (LOOP, "body", [("x", "h")], [("next", "h"), ("y", "next")], [("z", "seen", 0)], []),
        (SCAN, "body", [("x", "h")], [("next", "h"), ("y", "next")], [("rows", "row", 0), ("z", "out", 0)], []),
        (UNKNOWN, "body", [], [], [], ["x", "y", "next"]),
    ],
    ids=["If then", "If else", "Loop", "Scan", "unknown"],
)
def test_links(text: str, attribute: str, entering: list, leaving: list, stacked: list, opaque: list) -> None:
    joined = links(text, attribute)
    assert names(joined.entering) == entering
    assert names(joined.leaving) == leaving
    assert [value.name for value in joined.opaque] == opaque
    assert [(outer.name, inner.name, axis) for outer, inner, axis in joined.stacked] == stacked
    assert {value.name for value in joined.linked} == {inner for _, inner, *_ in (*entering, *stacked)}
