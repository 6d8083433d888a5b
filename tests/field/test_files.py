"""Files of other times: tensors without elements, listed weights, old opsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from spa.errors import ModelError
from spa.pipeline import prune
from tests.field.cases import case, cut, groups
from tests.models import build


# --------------------------------------------------------------------------------------------- nothing in a tensor
def empty(*shape: int, kind: type = np.float32) -> np.ndarray:
    return np.zeros(shape, kind)


EMPTY: dict[str, tuple[str, dict[str, Any]]] = {
    "rows written": ("b = ScatterND(a, i, u)", {"i": empty(0, 1, kind=np.int64), "u": empty(0, 32)}),
    "elements written": ("b = ScatterND(a, i, u)", {"i": empty(0, 2, kind=np.int64), "u": empty(0)}),
    "columns written": ("b = ScatterElements<axis=1>(a, i, u)", {"i": empty(5, 0, kind=np.int64), "u": empty(5, 0)}),
    "rows joined": ("b = Concat<axis=0>(a, u)", {"u": empty(0, 32)}),
    "columns joined": ("b = Concat<axis=1>(u, a)", {"u": empty(5, 0)}),
    "none picked": ("g = Gather<axis=1>(a, i)  b = Concat<axis=1>(a, g)", {"i": empty(0, kind=np.int64)}),
    "an inner width of none": (
        "q = MatMul(x, v)  p = MatMul(q, u)  b = Add(a, p)",
        {"v": empty(12, 0), "u": empty(0, 32)},
    ),
}


def test_updates_of_nothing() -> None:
    assert groups(cut(case("empty_updates"), 0.6)) == ["A:1 ffn 32"]


@pytest.mark.parametrize("name", EMPTY)
def test_tensors_without_elements(name: str) -> None:
    body, weights = EMPTY[name]
    text = f"(float[5,12] x) => (float[5,6] y) {{ a = MatMul(x, w0)  {body}  r = Relu(b)  y = MatMul(r, w1) }}"
    result = cut(build(text, {"w0": [12, 32], "w1": [32, 6], **weights}), 0.6)
    assert groups(result) == ["w0:1 ffn 32"]
    assert result.report.difference == 0.0


# -------------------------------------------------------------------------------------------------- listed weights
def listed(model: onnx.ModelProto | ir.Model) -> dict[str, list[int]]:
    """The weights among a model's inputs, and their shapes."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name in weights]
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs}


def test_weights_listed_as_inputs() -> None:
    result = cut(case("listed_weights"), 0.5)
    assert listed(result.model) == {"K": [12, 3, 1, 1], "K2": [5, 12, 1, 1]}
    assert any("stored tensors listed as inputs (K, K2)" in note for note in result.report.notes)


@pytest.mark.parametrize("order", ["first", "last", "partly"])
def test_weights_listed_at_any_version(order: str) -> None:
    """Before the true inputs, behind them, or some only; a target of Reshape among them is a constant as well."""
    text = """(float[N,5] x) => (float[N,4] y) {
        a = Gemm(x, w0, b0)  r = Relu(a)  s = Reshape(r, target)  t = Transpose<perm=[0,2,1]>(s)  u = Flatten(t)
        y = MatMul(u, w1) }"""
    model = build(
        text, {"w0": [5, 12], "b0": [12], "target": np.array([-1, 6, 2]), "w1": [12, 4]}, opset=17, ir_version=8
    )
    true = list(model.graph.input)
    weights = [
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
        if order != "partly" or tensor.name != "w1"
    ]
    del model.graph.input[:]
    model.graph.input.extend([*weights, *true] if order == "first" else [*true, *weights])
    result = cut(model, 0.45)
    stored = {tensor.name: list(tensor.dims) for tensor in ir.to_proto(result.model).graph.initializer}
    assert listed(result.model) == {value.name: stored[value.name] for value in weights}
    assert stored["b0"] == [6]
    proto = ir.to_proto(result.model)
    names = [value.name for value in (*weights, *true)] if order == "first" else ["x", *(w.name for w in weights)]
    assert [value.name for value in proto.graph.input] == names
    onnx.checker.check_model(proto)


# ------------------------------------------------------------------------------------------------------ old opsets
def old_network(opset: int) -> onnx.ModelProto:
    """What frameworks wrote at that time: attributes that say what may be overwritten, broadcast and target as such."""
    node, random = onnx.helper.make_node, np.random.default_rng(0)
    place: dict[str, Any] = {"consumed_inputs": [0]} if opset < 6 else {}
    testing: dict[str, Any] = {"is_test": 1} if opset < 7 else {}
    stored = {"k": (16, 3, 1, 1), "g": (16,), "b": (16,), "m": (16,), "w": (16, 5), "c": (5,)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in stored.items()}
    arrays["v"] = np.linspace(0.5, 2, 16, dtype=np.float32)
    normal: dict[str, Any] = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {}
    nodes = [
        node("Conv", ["x", "k"], ["a"]),
        node("BatchNormalization", ["a", "g", "b", "m", "v"], ["n"], epsilon=1e-5, spatial=1, **normal, **testing),
        node("Relu", ["n"], ["r"], **place),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Dropout", ["p"], ["d"], **testing, **place),
        node("GlobalAveragePool", ["d"], ["q"]),
    ]
    if opset < 5:
        nodes.append(node("Reshape", ["q"], ["f"], shape=[0, -1], **place))
    else:
        arrays["t"] = np.array([0, -1])
        nodes.append(node("Reshape", ["q", "t"], ["f"]))
    broadcast: dict[str, Any] = {"broadcast": 1} if opset < 7 else {}
    nodes.append(node("Gemm", ["f", "w", "c"], ["y"], **broadcast))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 8, 8])]
    inputs += [onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 5])]
    graph = onnx.helper.make_graph(nodes, "old", inputs, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=3)


def test_an_old_opset() -> None:
    result = cut(case("old_opset"), 0.5, align=1)
    assert result.model.opset_imports[""] == 9
    assert result.report.notes == ["opset 7 was brought up to 9 with onnx's version converter"]


@pytest.mark.parametrize("opset", range(1, 9))
def test_opsets_one_to_eight(opset: int, tmp_path: Path) -> None:
    """From memory and from a file; the model computes what it does in opset 8, which onnxruntime runs."""
    answers: list[np.ndarray] = []
    path = tmp_path / "old.onnx"
    onnx.save(old_network(opset), path)
    result = cut(path, 0.4, align=1)
    assert result.report.notes == [f"opset {opset} was brought up to 9 with onnx's version converter"]
    plans = [cut(model, 0.4, align=1).plan for model in (old_network(opset), ir.from_proto(old_network(opset)))]
    assert plans == [result.plan, result.plan]
    feed = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    for model in (ir.to_proto(result.dense), old_network(8)):
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, feed)[0])
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5, atol=1e-5)


def test_what_the_converter_does_not_know_is_refused_in_a_line() -> None:
    model = old_network(6)
    model.graph.node[2].op_type = "Upsample"
    with pytest.raises(
        ModelError, match=r"found 6, which onnx's version converter cannot bring up to 9 \(.+\); export"
    ):
        prune(model, ratio=0.3, weights=True)


# --------------------------------------------------------------------------------------------- what a file stores
def params(model: onnx.ModelProto | ir.Model) -> int:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return sum(int(np.prod(tensor.dims)) for tensor in proto.graph.initializer if tensor.data_type == 1)


def test_before_is_what_the_file_stores() -> None:
    """One bias for two layers, of which each gets a copy of its own: the copy is none of the 30 % that are to go."""
    text = """(float[N,5] x) => (float[N,4] y) {
        a = Gemm(x, w0, b)  r = Relu(a)  c = Gemm(r, w1, b)  s = Relu(c)  y = MatMul(s, w2) }"""
    model = build(text, {"w0": [5, 12], "b": [12], "w1": [12, 12], "w2": [12, 4]})
    result = cut(model, 0.3)
    assert result.report.before["params"] == params(model) == 264
    assert result.report.after["params"] == params(result.model) <= 0.7 * 264


def test_what_nothing_reads_is_none_of_what_goes() -> None:
    text = "(float[N,5] x) => (float[N,4] y) { a = MatMul(x, w0)  r = Relu(a)  d = MatMul(r, w9)  y = MatMul(r, w1) }"
    result = cut(build(text, {"w0": [5, 12], "w1": [12, 4], "w9": [12, 90]}), 0.3)
    assert result.report.before["params"] == 108
    assert len(result.plan.removed["w0:1"]) == 4


def test_biases_that_are_added_count_as_cost() -> None:
    model = case("low_rank")
    result = cut(model, 0.05, only=["A:1"], data_free=True, preset="fast")
    assert result.report.before["params"] == params(model) == 14592
    assert result.report.after["params"] == params(result.model)
