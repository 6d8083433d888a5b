"""State that a body never changes is read from outside."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spa import pipeline, runtime
from spa.passes.normalize.loops import LiftInvariants
from tests.models import Weight, build

CARRIED = """(float[2,4] x) => (float[2,3] y) {
    a = MatMul(x, w0)
    h, kept = Loop(count, going, a, w1) <
        body = body (int64 i, bool on, float[2,5] s, float[5,5] w) => (bool still, float[2,5] next, float[5,5] same)
            { still = Identity(on)  u = MatMul(s, w)  next = Tanh(u)  same = Identity(w) }
    >
    y = MatMul(h, w2) }"""
WEIGHTS: dict[str, Weight] = {"w0": [4, 5], "w1": [5, 5], "w2": [5, 3], "count": np.array(3), "going": np.array(True)}
X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


def lifted(text: str) -> tuple[ir.Model, ir.Model, bool]:
    """Before, after, and whether anything was said to change."""
    before = ir.from_proto(build(text, WEIGHTS))
    result = LiftInvariants()(before.clone())
    return before, result.model, result.modified


def loop(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type == "Loop")


def outputs(model: ir.Model) -> dict[str, np.ndarray]:
    return runtime.run(runtime.session(model, optimize=False), {"x": X})


def same(left: ir.Model, right: ir.Model) -> None:
    expected, actual = outputs(left), outputs(right)
    assert expected.keys() == actual.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-6)


def test_a_weight_carried_round_by_round_is_read_from_outside() -> None:
    before, after, modified = lifted(CARRIED)
    assert modified
    assert len(loop(before).inputs) == 4
    assert [value.name for value in loop(after).inputs if value is not None] == ["count", "going", "a"]
    assert len(loop(after).outputs) == 1
    assert after.graph.initializers["w1"].uses()
    same(before, after)


def test_state_that_changes_stays() -> None:
    before, after, modified = lifted(CARRIED.replace("same = Identity(w)", "same = Neg(w)"))
    assert not modified
    assert len(loop(after).inputs) == 4
    same(before, after)


def test_what_the_graph_gives_out_is_still_given() -> None:
    text = CARRIED.replace("=> (float[2,3] y) {\n    a", "=> (float[2,3] y, float[5,5] kept) {\n    a")
    before, after, _ = lifted(text)
    assert [value.name for value in after.graph.outputs] == ["y", "kept"]
    same(before, after)


def test_it_can_be_pruned_then() -> None:
    """The state's width is that of weights before, in and behind the loop."""
    result = pipeline.prune(build(CARRIED, WEIGHTS), ratio=0.4, of="channels", weights=True)
    shapes = {name: list(value.shape or ()) for name, value in result.model.graph.initializers.items()}
    assert shapes["w0"] == [4, 3]
    assert shapes["w2"] == [3, 3]
    assert result.report.difference is not None
    assert result.report.difference < 1e-5
