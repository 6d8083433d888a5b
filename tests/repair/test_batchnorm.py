"""Batch normalisations measured anew."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.passes.repair.batchnorm import batch_statistics
from tests.models import build

NET = """(float[n,3,6,6] x) => (float[n,5,6,6] a, float[n,5,6,6] y) {
    c = Conv<pads=[1,1,1,1]>(x, u)
    a = BatchNormalization<epsilon=0.0>(c, s0, t0, m0, v0)
    r = Relu(a)
    d = Conv<pads=[1,1,1,1]>(r, w)
    y = BatchNormalization<epsilon=0.0>(d, s1, t1, m1, v1)
}"""


def net() -> ir.Model:
    ones = {f"{name}{k}": np.ones(5, np.float32) for name in "sv" for k in (0, 1)}
    zeros = {f"{name}{k}": np.zeros(5, np.float32) for name in "tm" for k in (0, 1)}
    return ir.from_proto(build(NET, {"u": [5, 3, 3, 3], "w": [5, 5, 3, 3], **ones, **zeros}))


def test_every_normalisation_sees_mean_zero_and_variance_one() -> None:
    model = net()
    x = 3 + 2 * np.random.default_rng(0).standard_normal((12, 3, 6, 6)).astype(np.float32)
    statistics = batch_statistics(model, [{"x": x[:8]}, {"x": x[8:]}])
    assert set(statistics) == {"m0", "v0", "m1", "v1"}
    for name, array in statistics.items():
        model.graph.initializers[name].const_value = ir.Tensor(array.astype(np.float32), name=name)
    for output in runtime.run(runtime.session(model, optimize=False), {"x": x}).values():
        np.testing.assert_allclose(output.mean((0, 2, 3)), 0, atol=1e-4)
        np.testing.assert_allclose(output.std((0, 2, 3)), 1, atol=1e-4)


def test_a_model_without_any_is_left_alone() -> None:
    model = ir.from_proto(build("(float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }", {"w": [4, 4]}))
    assert batch_statistics(model, [{"x": np.ones((2, 4), np.float32)}]) == {}
