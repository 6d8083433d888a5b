"""Models of bfloat16 run as float32 where there are no kernels for it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa import runtime
from spa.runtime.widening import widened

PLAIN = """(bfloat16[n,4] x) => (bfloat16[n,3] y) {
    a = MatMul(x, w)  y = Add(a, one) }"""
CAST = """(float[n,4] x) => (float[n,3] y) {
    c = Cast<to = 16>(x)  a = MatMul(c, w)  s = Sigmoid(a)  y = Cast<to = 1>(s) }"""
BRANCH = """(bfloat16[n,4] x, bool flag) => (bfloat16[n,3] y) {
    y = If(flag) <then_branch = t () => (bfloat16[n,3] p) { a = MatMul(x, w)  p = Mul(a, a) },
                  else_branch = e () => (bfloat16[n,3] q) { b = MatMul(x, w)  q = Cast<to = 16>(b) }> }"""


def model(text: str) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(ml_dtypes.bfloat16)
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.BFLOAT16, dims=(4, 3), raw_data=weight.tobytes())
    proto.graph.initializer.append(tensor)
    one = onnx.TensorProto(name="one", data_type=onnx.TensorProto.BFLOAT16, raw_data=ml_dtypes.bfloat16(1).tobytes())
    if text == PLAIN:  # the parser knows no numbers of this type
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["one"], value=one))
    return ir.from_proto(proto)


def weight_of(made: ir.Model) -> np.ndarray:
    tensor = made.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("spill", [False, True])
@pytest.mark.parametrize("text", [PLAIN, CAST, BRANCH], ids=["plain", "cast", "branch"])
def test_bfloat16_is_computed_as_float32(text: str, spill: bool) -> None:
    made = model(text)
    rows = np.random.default_rng(1).standard_normal((5, 4)).astype(ml_dtypes.bfloat16)
    feeds: dict[str, np.ndarray] = {"x": rows.astype(np.float32) if text == CAST else rows}
    product = rows.astype(np.float32) @ weight_of(made).astype(np.float32)
    results: dict[str, np.ndarray] = {PLAIN: product + 1, CAST: 1 / (1 + np.exp(-product)), BRANCH: product**2}
    if text == BRANCH:
        feeds["flag"] = np.array(True)
    session = runtime.session(made, optimize=False, spill=spill)
    np.testing.assert_allclose(runtime.run(session, feeds)["y"], results[text], rtol=1e-5, atol=1e-6)


def test_the_model_stays_as_it_was() -> None:
    made = model(CAST)
    before = ir.to_proto(made).SerializeToString()
    wide = widened(made)
    assert wide is not None
    assert not any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in ir.to_proto(wide).graph.initializer)
    assert ir.to_proto(made).SerializeToString() == before


def test_a_model_without_bfloat16_has_nothing_to_widen() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[n] x) => (float[n] y) { y = Neg(x) }'
    )
    assert widened(ir.from_proto(proto)) is None
