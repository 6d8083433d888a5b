"""Two networks that benchmarks build themselves, with random weights: a detector of the YOLOv8 kind, and BERT.

Layers are those of the papers (Jocher et al. 2023: C2f, SPPF, decoupled heads at three strides; Devlin et al. 2019).
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Nodes and weights as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes) -> str:
        names = [f"{operator.lower()}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        self.last = names
        return names[0]

    def weight(self, *shape: int, scale: float | None = None) -> str:
        deviation = 1 / np.sqrt(max(1, prod(shape[1:]))) if scale is None else scale
        values = (self.rng.standard_normal(shape) * deviation).astype(np.float32)
        return self.constant(values)

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def model(self, name: str, inputs, outputs) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.weights)
        return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


# --------------------------------------------------------------------------------------------------- detector
def conv(g: Graph, x: str, before: int, after: int, kernel: int = 3, stride: int = 1, *, act: bool = True) -> str:
    """A convolution and SiLU."""
    pads = [kernel // 2] * 4
    y = g.add("Conv", x, g.weight(after, before, kernel, kernel), g.weight(after), pads=pads, strides=[stride, stride])
    return g.add("Mul", y, g.add("Sigmoid", y)) if act else y


def c2f(g: Graph, x: str, before: int, after: int, count: int, *, add: bool) -> str:
    """Cross-stage partial bottlenecks, the parts of which are all kept."""
    half = after // 2
    g.add("Split", conv(g, x, before, after, 1), outputs=2, axis=1, num_outputs=2)
    parts = list(g.last)
    for _ in range(count):
        y = conv(g, conv(g, parts[-1], half, half), half, half)
        parts.append(g.add("Add", parts[-1], y) if add else y)
    return conv(g, g.add("Concat", *parts, axis=1), (2 + count) * half, after, 1)


def detector(width: int = 16, size: int = 320, classes: int = 80) -> onnx.ModelProto:
    """YOLOv8n at its width of 16: 3.2 M parameters; (1, 3, size, size) to (1, 64 + classes, positions)."""
    g, w = Graph(), width
    x = conv(g, conv(g, "images", 3, w, 3, 2), w, 2 * w, 3, 2)
    x = c2f(g, x, 2 * w, 2 * w, 1, add=True)
    p3 = c2f(g, conv(g, x, 2 * w, 4 * w, 3, 2), 4 * w, 4 * w, 2, add=True)
    p4 = c2f(g, conv(g, p3, 4 * w, 8 * w, 3, 2), 8 * w, 8 * w, 2, add=True)
    p5 = c2f(g, conv(g, p4, 8 * w, 16 * w, 3, 2), 16 * w, 16 * w, 1, add=True)
    p5 = pooled(g, p5, 16 * w)
    n4 = c2f(g, g.add("Concat", upsampled(g, p5), p4, axis=1), 24 * w, 8 * w, 1, add=False)
    n3 = c2f(g, g.add("Concat", upsampled(g, n4), p3, axis=1), 12 * w, 4 * w, 1, add=False)
    m4 = c2f(g, g.add("Concat", conv(g, n3, 4 * w, 4 * w, 3, 2), n4, axis=1), 12 * w, 8 * w, 1, add=False)
    m5 = c2f(g, g.add("Concat", conv(g, m4, 8 * w, 8 * w, 3, 2), p5, axis=1), 24 * w, 16 * w, 1, add=False)
    heads = [head(g, x, channels, w, classes) for x, channels in ((n3, 4 * w), (m4, 8 * w), (m5, 16 * w))]
    detections = g.add("Concat", *heads, axis=2)
    positions = sum((size // stride) ** 2 for stride in (8, 16, 32))
    g.nodes[-1].output[0] = "found"
    assert detections
    return g.model(
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, 64 + classes, positions])],
    )


def pooled(g: Graph, x: str, channels: int) -> str:
    """Spatial pyramid pooling by three poolings in a row."""
    parts = [conv(g, x, channels, channels // 2, 1)]
    for _ in range(3):
        parts.append(g.add("MaxPool", parts[-1], kernel_shape=[5, 5], pads=[2, 2, 2, 2], strides=[1, 1]))
    return conv(g, g.add("Concat", *parts, axis=1), 2 * channels, channels, 1)


def upsampled(g: Graph, x: str) -> str:
    return g.add("Resize", x, "", g.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")


def head(g: Graph, x: str, channels: int, width: int, classes: int) -> str:
    """Boxes as 4 x 16 bins, and classes."""
    inner = max(4 * width, classes)
    boxes = conv(g, conv(g, conv(g, x, channels, 4 * width), 4 * width, 4 * width), 4 * width, 64, 1, act=False)
    kinds = conv(g, conv(g, conv(g, x, channels, inner), inner, inner), inner, classes, 1, act=False)
    both = g.add("Concat", boxes, kinds, axis=1)
    return g.add("Reshape", both, g.constant(np.array([1, 64 + classes, -1], np.int64)))


# ------------------------------------------------------------------------------------------------------- BERT
def bert(layers: int = 6, width: int = 768, heads: int = 12, tokens: int = 128) -> onnx.ModelProto:
    """An encoder of BERT-base's width with half its layers; (1, tokens) identifiers to (1, 2) logits."""
    g = Graph()
    x = g.add("Gather", g.weight(4000, width, scale=0.5), "ids")
    x = normed(g, g.add("Add", x, g.weight(tokens, width, scale=0.1)), width)
    for _ in range(layers):
        x = normed(g, g.add("Add", x, attention(g, x, width, heads, tokens)), width)
        inner = g.add("Gelu", linear(g, x, width, 4 * width))
        x = normed(g, g.add("Add", x, linear(g, inner, 4 * width, width)), width)
    first = g.add("Gather", x, g.constant(np.array(0, np.int64)), axis=1)
    linear(g, g.add("Tanh", linear(g, first, width, width)), width, 2)
    g.nodes[-1].output[0] = "logits"
    return g.model(
        "bert",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, tokens])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
    )


def linear(g: Graph, x: str, before: int, after: int) -> str:
    return g.add("Add", g.add("MatMul", x, g.weight(before, after, scale=before**-0.5)), g.weight(after, scale=0.02))


def normed(g: Graph, x: str, width: int) -> str:
    ones, zeros = g.constant(np.ones(width, np.float32)), g.constant(np.zeros(width, np.float32))
    return g.add("LayerNormalization", x, ones, zeros)


def attention(g: Graph, x: str, width: int, heads: int, tokens: int) -> str:
    inside = width // heads
    shape = g.constant(np.array([1, tokens, heads, inside], np.int64))
    parts = [g.add("Reshape", linear(g, x, width, width), shape) for _ in range(3)]
    q, k, v = (
        g.add("Transpose", part, perm=perm)
        for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scale = g.constant(np.array(inside**-0.5, np.float32))
    weights = g.add("Softmax", g.add("Mul", g.add("MatMul", q, k), scale), axis=-1)
    mixed = g.add("Transpose", g.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    return linear(g, g.add("Reshape", mixed, g.constant(np.array([1, tokens, width], np.int64))), width, width)
