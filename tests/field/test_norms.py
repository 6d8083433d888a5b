"""Hidden widths with norms of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from spa.errors import BudgetError, NothingToPrune
from spa.passes.repair import sequential
from spa.pipeline import prune
from tests.field.cases import case, cut
from tests.models import build, positive

# ---------------------------------------------------------------------------------------- norms over hidden widths
RESPONSE = """(float[N,7,7,6] x) => (float[N,7,7,6] y) {
    a = MatMul(x, w1)  h = Gelu(a)  n = ReduceL2<keepdims=1>(h, hw)  m = ReduceMean<keepdims=1>(n, last)
    e = Add(m, eps)  s = Div(n, e)  t = Mul(h, s)  u = Mul(t, g)  v = Add(u, h)  b = MatMul(v, w2)  y = Add(x, b) }"""
GATED = """(float[N,6] x) => (float[N,6] y) {
    a = MatMul(x, w1)  b = MatMul(x, w3)  s = Sigmoid(a)  t = Mul(a, s)  h = Mul(t, b)
    q = Mul(h, h)  m = ReduceMean<keepdims=1>(q, last)  e = Add(m, eps)  r = Sqrt(e)  d = Div(h, r)
    n = Mul(d, g)  c = MatMul(n, w2)  y = Add(x, c) }"""
ONE_NODE = """(float[N,6,9] x) => (float[N,4,9] y) {
    a = Conv(x, c1)  n = GroupNormalization<num_groups=1>(a, g, h)  r = Relu(n)  y = Conv(r, c2) }"""
SCALARS: dict[str, Any] = {"eps": np.array(1e-5, np.float32), "last": np.array([-1])}
NORMED = {
    "response": (RESPONSE, {"w1": [6, 32], "w2": [32, 6], "g": [32], "hw": np.array([1, 2]), **SCALARS}),
    "gated": (GATED, {"w1": [6, 32], "w3": [6, 32], "w2": [32, 6], "g": positive("g", 32), **SCALARS}),
    "one node": (ONE_NODE, {"c1": [32, 6, 1], "g": positive("g", 32), "h": [32], "c2": [4, 32, 1]}),
}


@pytest.mark.parametrize("name", ["layer_norm_mlp", "response_norm"])
def test_hidden_widths_with_a_norm_of_their_own(name: str) -> None:
    result = cut(case(name), 0.3)
    assert not result.report.exact
    assert any(note.startswith("opened since nothing else meets the budget") for note in result.report.notes)


@pytest.mark.parametrize("name", NORMED)
def test_norms_of_other_kinds(name: str) -> None:
    text, weights = NORMED[name]
    result = cut(build(text, weights, opset=21), 0.3)
    assert not result.report.exact
    assert any(note.startswith("opened since nothing else meets the budget") for note in result.report.notes)


def test_a_stream_is_not_opened() -> None:
    """A norm over what layers add to moves every layer: it goes only when asked for."""
    text = """(float[N,6] x) => (float[N,4] y) {
        a = MatMul(x, w0)  n = LayerNormalization(a, g)  b = Relu(n)  c = MatMul(b, w1)  z = Add(a, c)
        y = MatMul(z, w2) }"""
    model = build(text, {"w0": [6, 16], "g": positive("g", 16), "w1": [16, 16], "w2": [16, 4]})
    with pytest.raises((NothingToPrune, BudgetError)):
        prune(model, ratio=0.3, weights=True)
    assert not cut(model, 0.3, include=["width"]).report.exact


def test_a_softmax_over_units_is_not_opened() -> None:
    text = "(float[N,6] x) => (float[N,4] y) { a = MatMul(x, w0)  s = Softmax(a)  y = MatMul(s, w1) }"
    with pytest.raises(NothingToPrune, match="enters a softmax"):
        prune(build(text, {"w0": [6, 16], "w1": [16, 4]}), ratio=0.3, weights=True)


# ------------------------------------------------------------------------------------------------ scales refitted
def samples(model: onnx.ModelProto, count: int = 128) -> np.ndarray:
    """Of the only input, with numbers that hang together."""
    random = np.random.default_rng(0)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    mixed = random.standard_normal((shape[-1], shape[-1])) / shape[-1] ** 0.5
    return (random.standard_normal((count, *shape[1:])) @ mixed).astype(np.float32)


SKIPPED = """(float[N,6] x) => (float[N,4] y) {
    a = MatMul(x, w1)  z = MatMul(x, w3)  n = com.microsoft.SkipLayerNormalization(a, z, g, h)  r = Relu(n)
    y = MatMul(r, w2) }"""
RESCALED: dict[str, Any] = {
    **{name: NORMED[name] for name in NORMED},
    "instances": (
        """(float[N,6,9] x) => (float[N,4,9] y) {
        a = Conv(x, c1)  n = LayerNormalization<axis=1>(a, g1, h1)  r = Relu(n)  y = Conv(r, c2) }""",
        {"c1": [32, 6, 1], "g1": positive("g1", 32).reshape(32, 1), "h1": [32, 1], "c2": [4, 32, 1]},
    ),
    "with a skip": (SKIPPED, {"w1": [6, 32], "w3": [6, 32], "g": positive("g", 32), "h": [32], "w2": [32, 4]}),
}


@pytest.mark.parametrize("name", ["layer_norm_mlp", *RESCALED])
def test_scales_and_shifts_are_refitted_with_the_readers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On samples that nothing was fitted to, outputs are no farther off than with the dense scale and shift."""
    model = case(name) if name not in RESCALED else build(*RESCALED[name], opset=21)
    options: dict[str, Any] = {"data": {model.graph.input[0].name: samples(model)}, "align": 1}
    refitted = prune(model, ratio=0.3, **options)
    assert refitted.report.verified
    assert any("scales behind norms of hidden widths were refitted" in note for note in refitted.report.notes)
    assert any(value.startswith("g") for value in refitted.plan.refitted or {})
    monkeypatch.setattr(sequential, "find_affines", lambda *_: [])
    kept = prune(model, ratio=0.3, **options)
    assert kept.plan.removed == refitted.plan.removed
    ours, theirs = (next(iter(result.report.outputs.values()))["relative_l2"] for result in (refitted, kept))
    assert ours < 1.002 * theirs
