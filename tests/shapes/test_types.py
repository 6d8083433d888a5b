"""Every type that weights are stored in is cut as it lies: the kept values are the same bits, of the same type."""

from __future__ import annotations

import importlib.util

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from spa import pipeline
from spa.errors import NothingToPrune

FLOATS = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
}
QUANTISED = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int4": TensorProto.INT4,
    "uint4": TensorProto.UINT4,
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8_e5m2": TensorProto.FLOAT8E5M2,
}


def stored(name: str, array: np.ndarray, kind: int) -> TensorProto:
    """A stored tensor of any type, packed where the type is narrower than a byte."""
    proto: TensorProto = ir.to_proto(ir.Tensor(array, dtype=ir.DataType(kind), name=name))
    return proto


def numbers(shape: tuple[int, ...], kind: int, seed: int) -> np.ndarray:
    dtype = ir.DataType(kind).numpy()
    random = np.random.default_rng(seed)
    if ir.DataType(kind) in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4):
        return random.integers(0, 7, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def plain(kind: int) -> onnx.ModelProto:
    """Two layers of one type."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Add", ["a", "b"], ["s"]),
            helper.make_node("Relu", ["s"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 4])],
        [helper.make_tensor_value_info("y", kind, ["N", 3])],
        [stored("w", numbers((4, 8), kind, 0), kind), stored("b", numbers((8,), kind, 1), kind),
         stored("v", numbers((8, 3), kind, 2), kind)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def quantised(kind: int) -> onnx.ModelProto:
    """Two layers whose weights are stored in a narrow type, a scale for every column."""
    zero = np.zeros(8, ir.DataType(kind).numpy())
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=1),
            helper.make_node("MatMul", ["x", "wf"], ["a"]),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("DequantizeLinear", ["v", "vs"], ["vf"], axis=1),
            helper.make_node("MatMul", ["r", "vf"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [stored("w", numbers((4, 8), kind, 0), kind), stored("wz", zero, kind),
         stored("v", numbers((8, 3), kind, 2), kind),
         stored("ws", np.linspace(0.5, 1.5, 8, dtype=np.float32), TensorProto.FLOAT),
         stored("vs", np.linspace(0.5, 1.5, 3, dtype=np.float32), TensorProto.FLOAT)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def check(model: onnx.ModelProto, kind: int) -> None:
    """Half of the hidden units go, and what stays is what was there."""
    verifies = importlib.util.find_spec("onnxruntime") is not None
    result = pipeline.prune(model, ratio=0.5, of="channels", verify=verifies, weights=True)
    (removed,) = result.plan.removed.values()
    kept = [unit for unit in range(8) if unit not in removed]
    assert len(kept) == 4
    before, after = (
        {str(v.name): v.const_value for v in m.graph.initializers.values()} for m in (result.dense, result.model)
    )
    for name, axis in (("w", 1), ("v", 0)):
        old, new = before[name], after[name]
        assert old is not None
        assert new is not None
        assert new.dtype == old.dtype == ir.DataType(kind)
        assert new.numpy().tobytes() == np.take(old.numpy(), kept, axis).tobytes()
    again = ir.from_proto(ir.to_proto(result.model))  # and so it is written and read
    read = again.graph.initializers["w"].const_value
    assert read is not None
    assert read.numpy().tobytes() == np.take(before["w"].numpy(), kept, 1).tobytes()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", FLOATS)
def test_float(name: str) -> None:
    check(plain(FLOATS[name]), FLOATS[name])


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised(name: str) -> None:
    check(quantised(QUANTISED[name]), QUANTISED[name])


def test_no_detour() -> None:
    """A bfloat16 value that float16 cannot hold, and a NaN with a payload, come through."""
    model = plain(TensorProto.BFLOAT16)
    array = numbers((4, 8), TensorProto.BFLOAT16, 0)
    array[0] = np.array([1e30] * 8, ml_dtypes.bfloat16)
    bits = array.view(np.uint16)
    bits[1] = 0x7FC5
    model.graph.initializer[0].CopyFrom(stored("w", array, TensorProto.BFLOAT16))
    result = pipeline.prune(model, ratio=0.5, of="channels", verify=False, criterion="random")
    cut = result.model.graph.initializers["w"].const_value
    assert cut is not None
    assert set(cut.numpy().view(np.uint16)[1].tolist()) == {0x7FC5}


def test_text_stays() -> None:
    """A type that has no numbers is left alone, with a reason."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["y"])], "g", [],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [2])],
        [onnx.numpy_helper.from_array(np.array(["a", "b"], object), "words")],
    )  # fmt: skip
    with pytest.raises(NothingToPrune, match="nothing can be removed"):
        pipeline.prune(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10),
            ratio=0.5,
            weights=True,
        )
