"""Networks of the usual families, as exporters write them: batch symbolic, weights seeded by their names.

    python -m models.networks resnet FILE.onnx

Each is small enough to build in a moment and has what makes its family hard to prune: residuals, depthwise and grouped
convolutions, channel shuffles, squeezed gates, concatenations, heads in one axis, windows, shared keys, gates of a
recurrence, experts.

One file: a builder, and a function for each family.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int]


class Network:
    """Nodes and weights, collected; every method returns the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, TensorProto] = {}

    def node(self, operator: str, *inputs: str, results: int = 1, **attributes: Any) -> str:
        """A node; of several results the first, the others are called the same with /1, /2 ..."""
        name = f"{operator}_{len(self.nodes)}"
        names = [name, *(f"{name}/{k}" for k in range(1, results))]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return name

    def weight(self, *shape: int, fan: int = 0, center: float = 0.0) -> str:
        """A float weight: normal numbers around `center`, divided by the square root of `fan`."""
        name = f"weight_{len(self.stored)}"
        random = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
        array = (
            center + random.standard_normal(shape, dtype=np.float32) / np.float32(max(fan or prod(shape[1:]), 1)) ** 0.5
        )
        self.stored[name] = numpy_helper.from_array(array.astype(np.float32), name)
        return name

    def spread(self, size: int, center: float = 1.0) -> str:
        """A scale, bias or variance."""
        return self.weight(size, fan=100, center=center)

    def numbers(self, *values: int) -> str:
        """A list of integers."""
        name = "numbers" + "".join(f"_{value}" for value in values)
        self.stored[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def scalar(self, value: float) -> str:
        """A float."""
        name = f"scalar_{value}"
        self.stored[name] = numpy_helper.from_array(np.array(value, np.float32), name)
        return name

    # ---------------------------------------------------------------------------------------------- layers
    def conv(self, x: str, inside: int, out: int, kernel: int = 3, *, stride: int = 1, group: int = 1) -> str:
        """Convolution without bias, padded to keep its size, and BatchNormalization."""
        pad = kernel // 2
        weight = self.weight(out, inside // group, kernel, kernel)
        y = self.node("Conv", x, weight, strides=[stride] * 2, pads=[pad] * 4, group=group, kernel_shape=[kernel] * 2)
        scale, bias, mean, variance = (self.spread(out, center) for center in (1.0, 0.0, 0.0, 1.0))
        return self.node("BatchNormalization", y, scale, bias, mean, variance)

    def linear(self, x: str, inside: int, out: int) -> str:
        """MatMul and Add."""
        y = self.node("MatMul", x, self.weight(inside, out, fan=inside))
        return self.node("Add", y, self.spread(out, 0.0))

    def norm(self, x: str, width: int) -> str:
        """LayerNormalization."""
        return self.node("LayerNormalization", x, self.spread(width), self.spread(width, 0.0), axis=-1)

    def pooled(self, x: str, inside: int, classes: int = 10) -> str:
        """A mean over the image and a classifier."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        weight = self.weight(classes, inside)
        return self.node("Gemm", flat, weight, self.spread(classes, 0.0), transB=1)

    def heads(self, x: str, count: int, size: int, *, order: Sequence[int] = (0, 2, 1, 3)) -> str:
        """The last axis as heads."""
        return self.node("Transpose", self.node("Reshape", x, self.numbers(0, -1, count, size)), perm=list(order))

    def attend(self, query: str, key: str, value: str, width: int, size: int) -> str:
        """Softmax attention over heads; the keys lie transposed."""
        scores = self.node("Mul", self.node("MatMul", query, key), self.scalar(size**-0.5))
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), value)
        joined = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.node("Reshape", joined, self.numbers(0, -1, width))

    def attention(self, x: str, width: int, count: int) -> str:
        """Self-attention with a projection each."""
        size = width // count
        query, value = (self.heads(self.linear(x, width, width), count, size) for _ in range(2))
        key = self.heads(self.linear(x, width, width), count, size, order=(0, 2, 3, 1))
        return self.linear(self.attend(query, key, value, width, size), width, width)

    def packed(self, x: str, width: int, count: int) -> str:
        """Self-attention with queries, keys and values from one projection."""
        size = width // count
        y = self.node("Reshape", self.linear(x, width, 3 * width), self.numbers(0, -1, 3, count, size))
        y = self.node("Transpose", y, perm=[2, 0, 3, 1, 4])
        query, key, value = (self.node("Gather", y, self._position(part), axis=0) for part in range(3))
        key = self.node("Transpose", key, perm=[0, 1, 3, 2])
        return self.linear(self.attend(query, key, value, width, size), width, width)

    def _position(self, number: int) -> str:
        name = f"position_{number}"
        self.stored[name] = numpy_helper.from_array(np.array(number, np.int64), name)
        return name

    def ffn(self, x: str, width: int, inside: int) -> str:
        """Two layers with GELU between them, as an exporter spells it."""
        h = self.linear(x, width, inside)
        part = self.node("Add", self.node("Erf", self.node("Div", h, self.scalar(2**0.5))), self.scalar(1.0))
        return self.linear(self.node("Mul", self.node("Mul", h, part), self.scalar(0.5)), inside, width)

    def model(self, shape: Sequence[int | str], output: str, *, words: bool = False) -> onnx.ModelProto:
        """The graph from its input `x`."""
        kind = TensorProto.INT64 if words else TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes, "network", [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], list(self.stored.values()),
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


# ------------------------------------------------------------------------------------------------ convolutions
def resnet() -> onnx.ModelProto:
    """Basic blocks, two of them with a projection on the shortcut."""
    b = Network()
    x = b.node("Relu", b.conv("x", 3, 32))
    for inside, out, stride in ((32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
        y = b.conv(b.node("Relu", b.conv(x, inside, out, stride=stride)), out, out)
        short = x if inside == out else b.conv(x, inside, out, 1, stride=stride)
        x = b.node("Relu", b.node("Add", y, short))
    return b.model(["N", 3, 32, 32], b.pooled(x, 128))


def mobilenet() -> onnx.ModelProto:
    """Inverted residuals: depthwise convolutions, squeeze and excitation, hard swish."""
    b = Network()
    x, inside = b.node("HardSwish", b.conv("x", 3, 16)), 16
    for out, stride in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)):
        wide = 4 * inside
        y = b.node("HardSwish", b.conv(x, inside, wide, 1))
        y = b.node("HardSwish", b.conv(y, wide, wide, stride=stride, group=wide))
        gate = b.node("GlobalAveragePool", y)
        gate = b.node("Relu", b.node("Conv", gate, b.weight(wide // 4, wide, 1, 1), b.spread(wide // 4, 0.0)))
        gate = b.node("HardSigmoid", b.node("Conv", gate, b.weight(wide, wide // 4, 1, 1), b.spread(wide, 0.0)))
        y = b.conv(b.node("Mul", y, gate), wide, out, 1)
        x, inside = (b.node("Add", x, y) if stride == 1 and inside == out else y), out
    return b.model(["N", 3, 32, 32], b.pooled(x, inside))


def shufflenet() -> onnx.ModelProto:
    """ShuffleNetV2: half of the channels pass, the halves are joined and shuffled."""
    b = Network()
    x, width = b.node("Relu", b.conv("x", 3, 24, stride=2)), 24
    for out, repeats, side in ((48, 3, 8), (96, 3, 4)):
        half = out // 2
        left = b.node("Relu", b.conv(b.conv(x, width, width, stride=2, group=width), width, half, 1))
        for number in range(1 + repeats):
            if number:
                b_split = b.node("Split", x, results=2, axis=1, num_outputs=2)
                left, right = b_split, f"{b_split}/1"
            right = b.node("Relu", b.conv(right if number else x, half if number else width, half, 1))
            right = b.conv(right, half, half, stride=1 if number else 2, group=half)
            right = b.node("Relu", b.conv(right, half, half, 1))
            joined = b.node("Concat", left, right, axis=1)
            parts = b.node("Reshape", joined, b.numbers(-1, 2, half, side, side))
            turned = b.node("Transpose", parts, perm=[0, 2, 1, 3, 4])
            x = b.node("Reshape", turned, b.numbers(-1, out, side, side))
        width = out
    return b.model(["N", 3, 32, 32], b.pooled(x, width))


def densenet() -> onnx.ModelProto:
    """Each layer reads everything before it."""
    b = Network()
    x, width = b.conv("x", 3, 24), 24
    for _ in range(2):
        for _ in range(4):
            y = b.node("Relu", b.conv(b.node("Relu", b.conv(x, width, 48, 1)), 48, 12))
            x, width = b.node("Concat", x, y, axis=1), width + 12
        x, width = b.node("Relu", b.conv(x, width, width // 2, 1, stride=2)), width // 2
    return b.model(["N", 3, 32, 32], b.pooled(x, width))


def resnext() -> onnx.ModelProto:
    """Grouped convolutions inside bottlenecks."""
    b = Network()
    x = b.node("Relu", b.conv("x", 3, 64))
    for _ in range(3):
        y = b.node("Relu", b.conv(x, 64, 64, 1))
        y = b.conv(b.node("Relu", b.conv(y, 64, 64, group=8)), 64, 64, 1)
        x = b.node("Relu", b.node("Add", x, y))
    return b.model(["N", 3, 32, 32], b.pooled(x, 64))


def unet() -> onnx.ModelProto:
    """Down, up by transposed convolution, joined with the way down."""
    b = Network()
    first = b.node("Relu", b.conv("x", 3, 24))
    second = b.node("Relu", b.conv(first, 24, 48, stride=2))
    x = b.node("Relu", b.conv(second, 48, 96, stride=2))
    for inside, out, skip in ((96, 48, second), (48, 24, first)):
        up = b.node("ConvTranspose", x, b.weight(inside, out, 2, 2), strides=[2, 2], kernel_shape=[2, 2])
        x = b.node("Relu", b.conv(b.node("Concat", up, skip, axis=1), 2 * out, out))
    return b.model(["N", 3, 32, 32], b.node("Conv", x, b.weight(4, 24, 1, 1), kernel_shape=[1, 1]))


def convnext() -> onnx.ModelProto:
    """Depthwise 7x7, LayerNormalization over channels, two layers, a scale for each channel."""
    b = Network()
    x = b.node("Conv", "x", b.weight(48, 3, 4, 4), strides=[4, 4], kernel_shape=[4, 4])
    for _ in range(3):
        y = b.node("Conv", x, b.weight(48, 1, 7, 7), pads=[3] * 4, group=48, kernel_shape=[7, 7])
        y = b.ffn(b.norm(b.node("Transpose", y, perm=[0, 2, 3, 1]), 48), 48, 192)
        y = b.node("Transpose", b.node("Mul", y, b.spread(48)), perm=[0, 3, 1, 2])
        x = b.node("Add", x, y)
    return b.model(["N", 3, 32, 32], b.pooled(x, 48))


# ------------------------------------------------------------------------------------------------ transformers
def vit() -> onnx.ModelProto:
    """Patches, a class token, packed attention."""
    b = Network()
    x = b.node("Conv", "x", b.weight(64, 3, 8, 8), strides=[8, 8], kernel_shape=[8, 8])
    x = b.node("Transpose", b.node("Reshape", x, b.numbers(0, 64, 16)), perm=[0, 2, 1])
    batch = b.node("Slice", b.node("Shape", x), b.numbers(0), b.numbers(1))
    token = b.node("Expand", b.weight(1, 1, 64), b.node("Concat", batch, b.numbers(1, 64), axis=0))
    x = b.node("Add", b.node("Concat", token, x, axis=1), b.weight(1, 17, 64))
    for _ in range(4):
        x = b.node("Add", x, b.packed(b.norm(x, 64), 64, 8))
        x = b.node("Add", x, b.ffn(b.norm(x, 64), 64, 256))
    first = b.node("Gather", b.norm(x, 64), b._position(0), axis=1)
    return b.model(["N", 3, 32, 32], b.linear(first, 64, 10))


def swin() -> onnx.ModelProto:
    """Attention in windows of an image."""
    b = Network()
    x = b.node("Conv", "x", b.weight(48, 3, 4, 4), strides=[4, 4], kernel_shape=[4, 4])
    x = b.node("Transpose", x, perm=[0, 2, 3, 1])
    for _ in range(3):
        windows = b.node("Reshape", b.norm(x, 48), b.numbers(-1, 2, 4, 2, 4, 48))
        windows = b.node("Transpose", windows, perm=[0, 1, 3, 2, 4, 5])
        y = b.packed(b.node("Reshape", windows, b.numbers(-1, 16, 48)), 48, 6)
        y = b.node("Transpose", b.node("Reshape", y, b.numbers(-1, 2, 2, 4, 4, 48)), perm=[0, 1, 3, 2, 4, 5])
        x = b.node("Add", x, b.node("Reshape", y, b.numbers(-1, 8, 8, 48)))
        x = b.node("Add", x, b.ffn(b.norm(x, 48), 48, 192))
    return b.model(["N", 3, 32, 32], b.linear(b.node("ReduceMean", x, b.numbers(1, 2), keepdims=0), 48, 10))


def bert() -> onnx.ModelProto:
    """Post-norm encoder with a projection for each of queries, keys and values."""
    b = Network()
    x = b.norm(b.node("Add", b.node("Gather", b.weight(200, 64, fan=1), "x"), b.weight(1, 16, 64)), 64)
    for _ in range(4):
        x = b.norm(b.node("Add", x, b.attention(x, 64, 8)), 64)
        x = b.norm(b.node("Add", x, b.ffn(x, 64, 256)), 64)
    first = b.node("Gather", x, b._position(0), axis=1)
    return b.model(["N", 16], b.linear(b.node("Tanh", b.linear(first, 64, 64)), 64, 3), words=True)


def experts() -> onnx.ModelProto:
    """A gate over experts that lie in one weight."""
    b = Network()
    x = b.norm(b.linear("x", 32, 48), 48)
    gate = b.node("Softmax", b.node("MatMul", x, b.weight(48, 4, fan=48)), axis=-1)
    tokens = b.node("Unsqueeze", x, b.numbers(2))
    h = b.node("Relu", b.node("MatMul", b.node("Unsqueeze", tokens, b.numbers(2)), b.weight(4, 48, 96, fan=48)))
    y = b.node("Squeeze", b.node("MatMul", h, b.weight(4, 96, 48, fan=96)), b.numbers(3))
    y = b.node("ReduceSum", b.node("Mul", y, b.node("Unsqueeze", gate, b.numbers(3))), b.numbers(2), keepdims=0)
    return b.model(["N", 7, 32], b.linear(b.node("Add", x, y), 48, 5))


# --------------------------------------------------------------------------------------------------- the rest
def lstm() -> onnx.ModelProto:
    """Two bidirectional layers."""
    b = Network()
    x, inside = b.node("Transpose", "x", perm=[1, 0, 2]), 24
    for _ in range(2):
        weights = [b.weight(2, 4 * 32, inside, fan=inside), b.weight(2, 4 * 32, 32, fan=32), b.weight(2, 8 * 32)]
        y = b.node("LSTM", x, *weights, hidden_size=32, direction="bidirectional")
        x = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.numbers(0, 0, 64))
        inside = 64
    last = b.node("Gather", x, b._position(-1), axis=0)
    return b.model(["N", 9, 24], b.linear(last, 64, 6))


def mixer() -> onnx.ModelProto:
    """Layers across tokens and across channels in turn."""
    b = Network()
    x = b.linear("x", 32, 48)
    for _ in range(3):
        turned = b.node("Transpose", b.norm(x, 48), perm=[0, 2, 1])
        x = b.node("Add", x, b.node("Transpose", b.ffn(turned, 16, 64), perm=[0, 2, 1]))
        x = b.node("Add", x, b.ffn(b.norm(x, 48), 48, 192))
    return b.model(["N", 16, 32], b.linear(b.node("ReduceMean", x, b.numbers(1), keepdims=0), 48, 10))


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    each.__name__: each
    for each in (
        resnet, mobilenet, shufflenet, densenet, resnext, unet, convnext, vit, swin, bert, experts, lstm, mixer,
    )
}  # fmt: skip


def main() -> None:
    """Write a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    onnx.save(NETWORKS[arguments.network](), arguments.file)
    sys.stdout.write(f"wrote {arguments.file}\n")


if __name__ == "__main__":
    main()
