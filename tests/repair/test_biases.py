"""A free bias for every mixing layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import spa
from spa import runtime
from spa.analysis.couple import couple
from spa.passes.layers.finding import find_layers
from spa.passes.repair.biases import add_biases, drop_zero_biases
from spa.shapes import infer_shapes
from tests.models import build

NET = "(float[2,5] x) => (float[2,3] y) { a = Gemm(x, u)  b = Relu(a)  y = MatMul(b, v) }"
X = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)


def net() -> ir.Model:
    return ir.from_proto(build(NET, {"u": [5, 4], "v": [4, 3]}))


def with_biases() -> tuple[ir.Model, list[str]]:
    model = net()
    return model, add_biases(model, find_layers(model, couple(model, infer_shapes(model))))


def output(model: ir.Model) -> np.ndarray:
    y: np.ndarray = runtime.run(runtime.session(model, optimize=False), {"x": X})["y"]
    return y


def put(model: ir.Model, name: str, numbers: list[float]) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    shape = value.const_value.shape.numpy()
    value.const_value = ir.Tensor(np.array(numbers, np.float32).reshape(shape), name=name)


def test_operands_where_there_is_one_and_an_add_elsewhere() -> None:
    model, made = with_biases()
    assert made == ["u/bias", "v/bias"]
    assert [node.op_type for node in model.graph] == ["Gemm", "Relu", "MatMul", "Add"]
    assert next(iter(model.graph)).inputs[2] is model.graph.initializers["u/bias"]
    np.testing.assert_array_equal(output(model), output(net()))


def test_the_output_of_the_graph_keeps_its_name() -> None:
    model, _ = with_biases()
    (result,) = model.graph.outputs
    producer = result.producer()
    assert result.name == "y"
    assert producer is not None
    assert producer.op_type == "Add"


def test_zeros_go_again_and_leave_the_graph_as_it_was() -> None:
    model, made = with_biases()
    drop_zero_biases(model, made)
    assert [node.op_type for node in model.graph] == ["Gemm", "Relu", "MatMul"]
    assert set(model.graph.initializers) == {"u", "v"}
    assert [value.name for value in model.graph.outputs] == ["y"]
    np.testing.assert_array_equal(output(model), output(net()))


def test_what_is_not_zero_stays_and_counts() -> None:
    model, made = with_biases()
    put(model, "v/bias", [1, 2, 3])
    drop_zero_biases(model, made)
    assert set(model.graph.initializers) == {"u", "v", "v/bias"}
    np.testing.assert_allclose(output(model), output(net()) + np.array([1, 2, 3], np.float32), rtol=1e-6)


def test_layers_that_have_one_get_no_other() -> None:
    text = "(float[2,5] x) => (float[2,3] y) { a = Gemm(x, u, c)  b = Relu(a)  d = MatMul(b, v)  y = Add(d, e) }"
    model = ir.from_proto(build(text, {"u": [5, 4], "c": [4], "v": [4, 3], "e": [3]}))
    assert add_biases(model, find_layers(model, couple(model, infer_shapes(model)))) == []


@pytest.mark.parametrize("given", [False, True], ids=["own samples", "samples"])
@pytest.mark.parametrize("end", ["v, i = TopK<axis=-1>(s, k)", "i = ArgMax<axis=-1>(s)"])
def test_what_is_judged_before_a_decision_keeps_its_name(end: str, given: bool) -> None:
    """A bias is put behind s; what others know it by, is the sum."""
    outputs = "float[N,7,2] v, int64[N,7,2] i" if "v," in end else "int64[N,7,1] i"
    text = f"(float[N,7,10] x) => ({outputs}) {{ a = MatMul(x, u)  r = Relu(a)  s = MatMul(r, w)  {end} }}"
    model = build(text, {"u": [10, 32], "w": [32, 6], "k": np.array([2])}, opset=20)
    samples = np.random.default_rng(0).standard_normal((64, 7, 10)).astype(np.float32)
    options: dict[str, Any] = {"data": {"x": samples}} if given else {}
    result = spa.prune(model, ratio=0.3, align=1, **options)
    assert result.report.verified
    assert not any("bias/" in note for note in result.report.notes)
    if given:  # else weights alone may do as well
        assert set(result.report.outputs) == ({"v", "s"} if "v," in end else {"s"})


@pytest.mark.parametrize(
    ("end", "made"), [("y = Conv(r, v, c)", ["u/bias"]), ("f = Flatten(r)  y = Gemm(f, w, c)", ["u/bias", "w/bias"])]
)
def test_a_bias_that_is_computed_has_another_behind_it_where_that_lies_along_the_outputs(
    end: str, made: list[str]
) -> None:
    """Behind a convolution it would lie along the width of pictures, and onnxruntime refused that."""
    shape = "float[n,4,5,5] y" if "Conv" in end else "float[n,4] y"
    proto = build(
        f"(float[n,3,5,5] x, float[4] b) => ({shape}) {{ a = Conv(x, u)  r = Relu(a)  c = Neg(b)  {end} }}",
        {"u": [8, 3, 1, 1], "v": [4, 8, 1, 1], "w": [200, 4]},
    )
    model = ir.from_proto(proto)
    assert add_biases(model, find_layers(model, couple(model, infer_shapes(model)))) == made
    rng = np.random.default_rng(1)
    feeds = {
        "x": rng.standard_normal((2, 3, 5, 5)).astype(np.float32), "b": rng.standard_normal(4).astype(np.float32)
    }  # fmt: skip
    actual, wanted = (
        runtime.run(runtime.session(m, optimize=False), feeds)["y"] for m in (model, ir.from_proto(proto))
    )
    np.testing.assert_allclose(actual, wanted, atol=1e-5)
