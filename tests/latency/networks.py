"""Networks with convolutions for tests of time: their weights are random, which no time depends on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
chain (float[N, 3, 32, 32] x) => (float[N, 10] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, first)
    b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1], group = 64>(b, depthwise)
    d = Relu(c)
    e = Conv(d, second)
    f = Relu(e)
    g = Conv<pads = [1, 1, 1, 1]>(f, third)
    h = Relu(g)
    i = GlobalAveragePool(h)
    j = Flatten(i)
    y = Gemm(j, classifier)
}"""
SHAPES = {
    "first": (64, 3, 3, 3),
    "depthwise": (64, 1, 3, 3),
    "second": (96, 64, 1, 1),
    "third": (128, 96, 3, 3),
    "classifier": (128, 10),
}


def chain() -> onnx.ModelProto:
    """Three convolutions, one depthwise, and a classifier."""
    model = parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        weight = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    return model
