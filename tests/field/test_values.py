"""Numbers that are no weights, and numbers found when the graph runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from spa.errors import ModelError
from spa.passes.choose.importance import CRITERIA
from spa.pipeline import prune
from tests.field.cases import case, cut, groups, removed
from tests.models import build

# ----------------------------------------------------------------------------------------------------------- masks
ATTENTION = """(float[N,6,12] x) => (float[N,6,5] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    q4 = Reshape(q, heads)  k4 = Reshape(k, heads)  v4 = Reshape(v, heads)
    qh = Transpose<perm=[0,2,1,3]>(q4)  kh = Transpose<perm=[0,2,3,1]>(k4)  vh = Transpose<perm=[0,2,1,3]>(v4)
    s = MatMul(qh, kh)  m = MASKED  p = Softmax<axis=-1>(m)  o = MatMul(p, vh)
    t = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(t, flat)  y = MatMul(f, wo) }"""
ABOVE = np.triu(np.ones((3, 6, 6), np.float32), 1)
SLOPES = np.array([0.5, 0.25, 0.125])[:, None, None] * np.minimum(0, np.arange(6) - np.arange(6)[:, None])
MASKS = {
    "minus infinity": ("Add(s, mask)", np.where(ABOVE > 0, -np.inf, 0)),
    "plus infinity": ("Sub(s, mask)", np.where(ABOVE > 0, np.inf, 0)),
    "lowest": ("Add(s, mask)", ABOVE * np.finfo(np.float32).min),
    "ten thousand": ("Add(mask, s)", -1e4 * ABOVE),
    "cap": ("Min(s, mask)", np.where(ABOVE > 0, -np.inf, 3e38)),
    "slopes": ("Add(s, mask)", SLOPES + np.where(ABOVE > 0, -np.inf, 0)),
}


def attention(masked: str, mask: np.ndarray) -> onnx.ModelProto:
    weights = {"wq": [12, 12], "wk": [12, 12], "wv": [12, 12], "wo": [12, 5]}
    sizes = {"heads": np.array([0, 6, 3, 4]), "flat": np.array([0, 6, 12])}
    return build(ATTENTION.replace("MASKED", masked), {**weights, **sizes, "mask": mask.astype(np.float32)})


def test_a_stored_causal_mask() -> None:
    result = cut(case("masked"), 0.3)
    assert removed(result)["Wq:1"] == 1


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name not in {"random", "bn_scale"}])
@pytest.mark.parametrize("name", MASKS)
def test_no_mask_is_a_weight(name: str, criterion: str) -> None:
    """The heads that go are those that go without the mask."""
    masked, mask = MASKS[name]
    result = cut(attention(masked, mask), 0.3, criterion=criterion)
    without = cut(attention("Identity(s)", mask), 0.3, criterion=criterion)
    assert result.plan.removed == without.plan.removed
    assert len(result.plan.removed["wq:1"]) == 1


def test_numbers_that_are_no_mask_are_refused() -> None:
    model = attention("Add(s, mask)", np.where(ABOVE > 0, np.nan, 0))
    with pytest.raises(ModelError, match="tensor 'mask' holds nan"):
        prune(model, ratio=0.3, weights=True)
    model = attention("Add(s, mask)", SLOPES + np.where(np.arange(108).reshape(3, 6, 6) == 7, np.inf, 0))
    with pytest.raises(ModelError, match="tensor 'mask' holds inf"):
        prune(model, ratio=0.3, weights=True)


# ----------------------------------------------------------------------------------- quantised when the graph runs
def quantised_recurrence(domain: str = "com.microsoft") -> onnx.ModelProto:
    """One direction behind a layer of its own; its last state is read by a product that quantises."""
    random, node = np.random.default_rng(0), onnx.helper.make_node
    d, k = 20, 24
    names = ["f", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    nodes = [
        node("MatMul", ["x", "a"], ["e"]),
        node("Relu", ["e"], ["f"]),
        node("DynamicQuantizeLSTM", names, ["", "h"], domain=domain, hidden_size=d),
        node("Squeeze", ["h", "axis"], ["s"]),
        node("DynamicQuantizeMatMul", ["s", "m", "ms", "mz"], ["y"], domain=domain),
    ]
    arrays: dict[str, np.ndarray] = {
        "a": random.standard_normal((6, k)).astype(np.float32) / 3,
        "w": random.integers(-90, 90, (1, k, 4 * d)).astype(np.int8),
        "r": random.integers(-90, 90, (1, d, 4 * d)).astype(np.int8),
        "b": random.standard_normal((1, 8 * d)).astype(np.float32) / 4,
        "m": random.integers(-90, 90, (d, 5)).astype(np.int8),
        **{name: np.full(1, 0.004, np.float32) for name in ("ws", "rs")},
        **{name: np.zeros(1, np.int8) for name in ("wz", "rz")},
        "ms": np.array(0.01, np.float32), "mz": np.array(0, np.int8), "axis": np.array([0]),
    }  # fmt: skip
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [7, "n", 6])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5])]
    graph = onnx.helper.make_graph(nodes, "recurrence", inputs, outputs, stored)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(domain, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_range_of_quantised_numbers_holds_no_unit() -> None:
    for ratio in (0.15, 0.6):
        assert groups(cut(case("quantised_lstm"), ratio)) == ["Wu:2 hidden 24", "Wv:2 hidden 24"]


def test_a_range_of_quantised_numbers_in_other_operators() -> None:
    result = cut(quantised_recurrence(), 0.5)
    assert groups(result) == ["a:1 ffn 24", "w:2 hidden 20"]
    assert result.report.difference is not None
    assert 0.0 < result.report.difference < 0.05
    assert cut(quantised_recurrence(), 0.1, only=["a:1"]).report.difference == pytest.approx(0.0, abs=1e-6)
