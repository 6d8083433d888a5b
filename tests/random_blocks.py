"""What vision, language and tabular models are made of, as random blocks.

One file: the blocks build on one another, and a random graph draws from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.random_builder import Axis, Builder, Tensor

Block = Callable[[Builder, Tensor], Tensor]


def _same_but(x: Tensor, axis: int, length: Axis) -> tuple[Axis, ...]:
    axis %= len(x.shape)
    return (*x.shape[:axis], length, *x.shape[axis + 1 :])


# ---------------------------------------------------------------------------------------------------- images
def conv(b: Builder, x: Tensor, out: int | None = None, *, group: int | None = None, stride: int = 1) -> Tensor:
    """A convolution that keeps the image's size (or halves it), grouped now and then."""
    width, out = x.size(1), out or b.width()
    group = group or (b.divisor(width, out) if b.chance(0.3) else 1)
    taps = b.pick([1, 3])
    weight = b.weight(out, width // group, taps, taps)
    bias = b.vector(out) if b.chance(0.6) else None
    attributes: dict[str, Any] = {"group": group, "strides": [stride, stride]}
    if taps == 3:
        attributes |= {"auto_pad": "SAME_UPPER"} if b.chance(0.2) else {"pads": [1, 1, 1, 1]}
    sides = [-(-length // stride) for length in (x.size(2), x.size(3))]
    return b.op("Conv", x, weight, bias, shape=(x.shape[0], out, *sides), **attributes)


def batch_norm(b: Builder, x: Tensor) -> Tensor:
    width = x.size(1)
    variance = b.constant((0.5 + b.rng.random(width)).astype(np.float32))
    operands = [b.vector(width, center=1.0), b.vector(width), b.vector(width), variance]
    return b.op("BatchNormalization", x, *operands, shape=x.shape)


def conv_block(b: Builder, x: Tensor) -> Tensor:
    stride = 2 if min(x.size(2), x.size(3)) >= 6 and b.chance(0.3) else 1
    y = conv(b, x, stride=stride)
    return b.activation(batch_norm(b, y) if b.chance(0.5) else y)


def depthwise(b: Builder, x: Tensor) -> Tensor:
    times = b.pick([1, 1, 1, 2])
    return conv(b, x, x.size(1) * times, group=x.size(1))


def residual(b: Builder, x: Tensor) -> Tensor:
    inner = b.activation(conv(b, x))
    y = conv(b, inner, x.size(1))
    y = batch_norm(b, y) if b.chance(0.4) else y
    return b.op("Add", *((x, y) if b.chance(0.5) else (y, x)), shape=x.shape)


def inverted(b: Builder, x: Tensor) -> Tensor:
    """Expand, depthwise, squeeze and excite, project, add."""
    y = b.activation(conv(b, x, group=1))
    y = excite(b, depthwise(b, y)) if b.chance(0.6) else depthwise(b, y)
    y = conv(b, y, x.size(1), group=1)
    return b.op("Add", x, y, shape=x.shape) if b.chance(0.7) else y


def excite(b: Builder, x: Tensor) -> Tensor:
    if b.chance(0.5):
        pooled = b.op("GlobalAveragePool", x, shape=(*x.shape[:2], 1, 1))
    else:
        pooled = b.reduce("ReduceMean", x, [2, 3], keep=True)
    inner = b.activation(conv(b, pooled, group=1))
    gate = b.op("Sigmoid", conv(b, inner, x.size(1), group=1), shape=pooled.shape)
    return b.op("Mul", x, gate, shape=x.shape)


def dense(b: Builder, x: Tensor) -> Tensor:
    """Concatenations of everything so far."""
    parts = [x]
    for _ in range(b.pick([1, 2, 3])):
        joined = (
            b.op("Concat", *parts, shape=_same_but(x, 1, sum(part.size(1) for part in parts)), axis=1)
            if len(parts) > 1
            else x
        )
        joined = batch_norm(b, joined) if b.chance(0.5) else joined
        parts.append(b.activation(conv(b, joined, group=1)))
    if b.chance(0.2):
        parts = [parts[int(k)] for k in b.rng.permutation(len(parts))]
    return b.op("Concat", *parts, shape=_same_but(x, 1, sum(part.size(1) for part in parts)), axis=1)


def parallel(b: Builder, x: Tensor) -> Tensor:
    """Branches side by side, concatenated or added."""
    if b.chance(0.5):
        parts = [b.activation(conv(b, x)) for _ in range(b.pick([2, 3]))]
        return b.op("Concat", *parts, shape=_same_but(x, 1, sum(part.size(1) for part in parts)), axis=1)
    out = b.width()
    parts = [conv(b, x, out) for _ in range(b.pick([2, 3]))]
    return b.op(b.pick(["Sum", "Max", "Mean"]), *parts, shape=parts[0].shape)


def partial(b: Builder, x: Tensor) -> Tensor:
    """Split, work on some of the parts, concatenate again, maybe in another order (CSP, ShuffleNet)."""
    if x.size(1) < 2:
        return conv(b, x, b.width(multiple=2))
    x = x if b.chance(0.5) else conv(b, x, b.width(multiple=2), group=1)
    first = int(b.rng.integers(1, x.size(1)))
    sizes = [first, x.size(1) - first]
    sizes = [x.size(1) // 2] * 2 if x.size(1) % 2 == 0 and b.chance(0.5) else sizes
    parts = b.split(x, 1, sizes) if b.chance(0.6) else [b.slice(x, 1, 0, sizes[0]), b.slice(x, 1, sizes[0], x.size(1))]
    parts[1] = b.activation(conv(b, parts[1], parts[1].size(1) if b.chance(0.5) else None))
    if b.chance(0.3):
        parts.reverse()
    return b.op("Concat", *parts, shape=_same_but(x, 1, sum(part.size(1) for part in parts)), axis=1)


def shuffle(b: Builder, x: Tensor) -> Tensor:
    """Channels of groups dealt out in turn."""
    width, n, sides = x.size(1), x.shape[0], x.shape[2:]
    groups = b.divisor(width)
    y = b.reshape(x, [n, groups, width // groups, *sides])
    y = b.transpose(y, 0, 2, 1, 3, 4)
    return b.reshape(y, [n, width, *sides])


def pool(b: Builder, x: Tensor) -> Tensor:
    kind = b.pick(["MaxPool", "AveragePool"])
    if min(x.size(2), x.size(3)) < 4:
        return b.op(kind, x, shape=x.shape, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    sides = [length // 2 for length in (x.size(2), x.size(3))]
    return b.op(kind, x, shape=(*x.shape[:2], *sides), kernel_shape=[2, 2], strides=[2, 2])


def upsample(b: Builder, x: Tensor) -> Tensor:
    if x.size(2) > 8:
        return conv_block(b, x)
    shape = (*x.shape[:2], 2 * x.size(2), 2 * x.size(3))
    if b.chance(0.3):
        group, out = b.divisor(x.size(1)), b.width()
        out *= group
        weight = b.weight(x.size(1), out // group, 2, 2, fan=x.size(1))
        bias = b.vector(out) if b.chance(0.5) else None
        result = (x.shape[0], out, *shape[2:])
        return b.op("ConvTranspose", x, weight, bias, shape=result, strides=[2, 2], group=group)
    if b.chance(0.5):
        scales = b.constant(np.array([1, 1, 2, 2], np.float32))
        return b.op("Resize", x, None, scales, shape=shape, mode="nearest")
    if all(isinstance(length, int) for length in shape) and b.chance(0.5):
        sizes = b.numbers(*(length for length in shape if isinstance(length, int)))
    else:
        sizes = b.computed(shape)
    return b.op("Resize", x, None, None, sizes, shape=shape, mode="nearest")


def pad(b: Builder, x: Tensor) -> Tensor:
    """The image's border, or channels of zeros."""
    if b.chance(0.5):
        shape = (*x.shape[:2], x.size(2) + 2, x.size(3) + 1)
        return b.op("Pad", x, b.numbers(0, 0, 1, 0, 0, 0, 1, 1), shape=shape, mode=b.pick(["constant", "edge"]))
    before, behind = int(b.rng.integers(0, 3)), int(b.rng.integers(0, 3))
    shape = _same_but(x, 1, x.size(1) + before + behind)
    return b.op("Pad", x, b.numbers(0, before, 0, 0, 0, behind, 0, 0), shape=shape)


def group_norm(b: Builder, x: Tensor) -> Tensor:
    """As an operator, or as exporters below opset 21 write it."""
    width, groups = x.size(1), b.divisor(x.size(1))
    if b.opset >= 21 and b.chance(0.5):
        return b.op(
            "GroupNormalization", x, b.vector(width, center=1.0), b.vector(width), shape=x.shape, num_groups=groups
        )
    if b.chance(0.3):
        return b.op("InstanceNormalization", x, b.vector(width, center=1.0), b.vector(width), shape=x.shape)
    flat = (width // groups) * x.size(2) * x.size(3)
    y = b.reshape(x, [x.shape[0], groups, flat])
    ones, zeros = (b.constant(np.full(groups, number, np.float32)) for number in (1, 0))
    y = b.reshape(b.op("InstanceNormalization", y, ones, zeros, shape=y.shape), x.shape)
    y = b.op("Mul", y, b.vector(width, 1, 1, center=1.0), shape=x.shape)
    return b.op("Add", y, b.vector(width, 1, 1), shape=x.shape)


def pixels(b: Builder, x: Tensor) -> Tensor:
    """Channels to pixels, or back."""
    if x.size(1) % 4 == 0 and x.size(2) <= 8 and b.chance(0.6):
        shape = (x.shape[0], x.size(1) // 4, 2 * x.size(2), 2 * x.size(3))
        return b.op("DepthToSpace", x, shape=shape, blocksize=2, mode=b.pick(["DCR", "CRD"]))
    if x.size(2) % 2 == 0 and x.size(3) % 2 == 0:
        shape = (x.shape[0], x.size(1) * 4, x.size(2) // 2, x.size(3) // 2)
        return b.op("SpaceToDepth", x, shape=shape, blocksize=2)
    return conv_block(b, x)


def pick_channels(b: Builder, x: Tensor) -> Tensor:
    """Some channels, by constant positions: a range, a permutation, any."""
    width = x.size(1)
    chosen = b.pick([
        np.arange(width)[::-1], np.arange(max(1, width // 2)), b.rng.permutation(width),
        np.r_[width // 2 : width, 0 : width // 2], b.rng.integers(0, width, 3),
    ])  # fmt: skip
    if b.chance(0.2):
        chosen = chosen - width  # counted from the end
    return b.op("Gather", x, b.numbers(*chosen.tolist()), shape=_same_but(x, 1, len(chosen)), axis=1)


def tied(b: Builder, x: Tensor) -> Tensor:
    """One kernel used twice."""
    width = x.size(1)
    weight = b.weight(width, width, 1, 1)
    y = b.activation(b.op("Conv", x, weight, shape=x.shape))
    y = b.op("Conv", y, weight, shape=x.shape)
    return b.op("Add", x, y, shape=x.shape) if b.chance(0.5) else y


def channels_last(b: Builder, x: Tensor) -> Tensor:
    """Transposed to the end, mixed there, transposed back (ConvNeXt)."""
    y = b.transpose(x, 0, 2, 3, 1)
    y = layer_norm(b, y) if b.chance(0.4) else y
    y = linear(b, b.activation(linear(b, y)), x.size(1))
    if b.chance(0.5):
        y = b.op("Mul", y, b.vector(x.size(1), center=0.5), shape=y.shape)
    y = b.transpose(y, 0, 3, 1, 2)
    return b.op("Add", x, y, shape=x.shape)


def maxout(b: Builder, x: Tensor) -> Tensor:
    """Groups of channels reduced to one each."""
    width = x.size(1)
    groups = b.divisor(width)
    y = b.reshape(x, [x.shape[0], groups, width // groups, *x.shape[2:]])
    return b.reduce(b.pick(["ReduceMax", "ReduceSum", "ReduceMean"]), y, [b.pick([1, 2])], keep=False)


def radix(b: Builder, x: Tensor) -> Tensor:
    """Split attention (ResNeSt): r versions of each channel, weighed by a softmax over r."""
    width, r = b.width(), b.pick([2, 3])
    y = conv(b, x, width * r, group=b.divisor(r, x.size(1)))
    parts = b.reshape(y, [x.shape[0], r, width, *x.shape[2:]])
    summed = b.reduce("ReduceSum", parts, [1], keep=False)
    pooled = b.op("GlobalAveragePool", summed, shape=(*summed.shape[:2], 1, 1))
    gates = conv(b, b.activation(conv(b, pooled, group=1)), width * r, group=1)
    gates = b.reshape(gates, [x.shape[0], r, width, 1, 1])
    gates = b.op("Softmax", gates, shape=gates.shape, axis=1)
    weighed = b.op("Mul", parts, gates, shape=parts.shape)
    return b.reduce("ReduceSum", weighed, [1], keep=False)


def chosen_image(b: Builder, x: Tensor) -> Tensor:
    """An If whose branches hold weights of their own, or use outer ones."""
    out = x.size(1)
    flag = next((Tensor("flag", ()) for value in b.inputs if value.name == "flag"), None)
    flag = flag or b.input("flag", (), onnx.TensorProto.BOOL)
    outer = b.weight(out, x.size(1), 1, 1)
    branches = []
    for own in (b.chance(0.7), b.chance(0.5)):
        name, weights = b.name("branch"), []
        kernel = outer.name
        if own:
            kernel = b.name("inner")
            array = b.rng.standard_normal((out, x.size(1), 1, 1)).astype(np.float32) / np.sqrt(x.size(1))
            weights.append(numpy_helper.from_array(array.astype(np.float32), kernel))
        result = helper.make_tensor_value_info(b.name("chosen"), onnx.TensorProto.FLOAT, x.shape)
        hidden = b.name("hidden")
        body = [helper.make_node("Conv", [x.name, kernel], [hidden], name=b.name("/inner")),
                helper.make_node(b.pick(["Relu", "Tanh"]), [hidden], [result.name], name=b.name("/inner"))]  # fmt: skip
        branches.append(helper.make_graph(body, name, [], [result], weights))
    return b.op("If", flag, shape=x.shape, then_branch=branches[0], else_branch=branches[1])


IMAGE_BLOCKS: Sequence[Block] = (
    conv_block, conv_block, conv_block, depthwise, residual, residual, inverted, excite, dense, parallel, partial,
    partial, shuffle, pool, upsample, pad, group_norm, pixels, pick_channels, tied, channels_last, maxout, radix,
    chosen_image,
)  # fmt: skip


# -------------------------------------------------------------------------------------------------- sequences
def linear(b: Builder, x: Tensor, out: int | None = None) -> Tensor:
    """The last axis mixed by a matrix: MatMul and Add, Gemm between two Reshapes, Einsum."""
    width, out = x.size(-1), out or b.width()
    shape = _same_but(x, -1, out)
    if (len(x.shape) == 2 and b.chance(0.7)) or (len(x.shape) == 3 and b.chance(0.2)):
        rows = x.shape[0] if len(x.shape) == 2 else b.flat(x)
        turned = int(b.chance(0.5))
        weight = b.weight(out, width) if turned else b.weight(width, out, fan=width)
        bias = b.vector(out) if b.chance(0.7) else None
        flat = x if len(x.shape) == 2 else b.reshape(x, [rows, width])
        y = b.op("Gemm", flat, weight, bias, shape=(rows, out), transB=turned)
        return y if len(x.shape) == 2 else b.reshape(y, shape)
    weight = b.weight(width, out, fan=width)
    if len(x.shape) == 3 and b.chance(0.2):
        y = b.op("Einsum", x, weight, shape=shape, equation=b.pick(["btd,de->bte", "...d,de->...e"]))
    else:
        y = b.op("MatMul", x, weight, shape=shape)
    if b.chance(0.7):
        y = b.op("Add", *((y, b.vector(out)) if b.chance(0.5) else (b.vector(out), y)), shape=shape)
    return y


def layer_norm(b: Builder, x: Tensor) -> Tensor:
    """As an operator, or written out; with a mean, or a root mean square alone."""
    width = x.size(-1)
    scale, shift = b.vector(width, center=1.0), b.vector(width)
    if b.opset >= 17 and b.chance(0.5):
        return b.op("LayerNormalization", x, scale, shift, shape=x.shape, axis=-1)
    centred = x
    if b.chance(0.5):
        centred = b.op("Sub", x, b.reduce("ReduceMean", x, [-1], keep=True), shape=x.shape)
    square = b.op("Pow", centred, b.constant(np.array(2.0, np.float32)), shape=x.shape)
    mean = b.reduce("ReduceMean", square, [-1], keep=True)
    safe = b.op("Add", mean, b.constant(np.array(1e-2, np.float32)), shape=mean.shape)
    y = b.op("Div", centred, b.op("Sqrt", safe, shape=mean.shape), shape=x.shape)
    return b.op("Mul", y, scale, shape=x.shape)


def feed_forward(b: Builder, x: Tensor) -> Tensor:
    y = linear(b, b.activation(linear(b, x)), x.size(-1))
    return b.op("Add", x, y, shape=x.shape) if b.chance(0.7) else y


def gated(b: Builder, x: Tensor) -> Tensor:
    """Gate and values, from two matrices or packed in one."""
    hidden = b.width()
    if b.chance(0.5):
        gate, values = linear(b, x, hidden), linear(b, x, hidden)
    else:
        packed = linear(b, x, 2 * hidden)
        axis = len(x.shape) - 1
        if b.chance(0.5):
            gate, values = b.split(packed, axis, [hidden, hidden])
        else:
            gate, values = b.slice(packed, axis, 0, hidden), b.slice(packed, axis, hidden, 2 * hidden)
    y = b.op("Mul", b.activation(gate), values, shape=values.shape)
    return linear(b, y, x.size(-1))


def attention(b: Builder, x: Tensor) -> Tensor:
    """Heads from Reshape and Transpose; separate or packed projections, shared keys, rotary halves."""
    n, t, _ = x.shape
    repeat, shared, inside = b.pick([1, 1, 2, 3]), b.pick([1, 2, 3, 4]), b.pick([2, 4, 6])
    heads = shared * repeat
    query, key, value = projections(b, x, heads, shared, inside)
    query, key, value = (
        b.transpose(b.reshape(side, [n, t, count, inside]), 0, 2, 1, 3)
        for side, count in ((query, heads), (key, shared), (value, shared))
    )
    if b.chance(0.3):
        query, key = rotary(b, query), rotary(b, key)
    if repeat > 1:
        key, value = (repeated(b, side, repeat) for side in (key, value))
    if b.chance(0.2):
        return folded_heads(b, x, query, key, value)
    if b.chance(0.3):
        scale = b.constant(np.array(inside**-0.5, np.float32))
        query = b.op("Mul", query, scale, shape=query.shape)
    if b.chance(0.2):
        scores = b.op("Einsum", query, key, shape=(n, heads, t, t), equation="bhqd,bhkd->bhqk")
    else:
        scores = b.op("MatMul", query, b.transpose(key, 0, 1, 3, 2), shape=(n, heads, t, t))
    scores = b.op("Div", scores, b.constant(np.array(inside**0.5, np.float32)), shape=scores.shape)
    if b.chance(0.3):
        scores = b.op("Mul", scores, b.vector(heads, 1, 1, center=1.0), shape=scores.shape)
    weights = b.op("Softmax", scores, shape=scores.shape, axis=-1)
    context = b.transpose(b.op("MatMul", weights, value, shape=(n, heads, t, inside)), 0, 2, 1, 3)
    y = linear(b, b.reshape(context, [n, t, heads * inside]), x.size(-1))
    return b.op("Add", x, y, shape=x.shape) if b.chance(0.7) else y


def folded_heads(b: Builder, x: Tensor, *sides: Tensor) -> Tensor:
    """Heads counted as part of the batch, as torch's nn.MultiheadAttention does."""
    n, heads, t, inside = sides[0].shape
    rows = n * heads if isinstance(n, int) and isinstance(heads, int) else f"{n}*{heads}"
    query, key, value = (b.reshape(side, [rows, t, inside]) for side in sides)
    scores = b.op("MatMul", query, b.transpose(key, 0, 2, 1), shape=(rows, t, t))
    context = b.op("MatMul", b.op("Softmax", scores, shape=scores.shape, axis=-1), value, shape=(rows, t, inside))
    context = b.transpose(b.reshape(context, [n, heads, t, inside]), 0, 2, 1, 3)
    return linear(b, b.reshape(context, [n, t, context.size(2) * context.size(3)]), x.size(-1))


def projections(b: Builder, x: Tensor, heads: int, shared: int, inside: int) -> list[Tensor]:
    """Queries, keys and values (n, t, heads * inside)."""
    n, t, _ = x.shape
    if b.chance(0.4):
        return [linear(b, x, count * inside) for count in (heads, shared, shared)]
    packed = linear(b, x, (heads + 2 * shared) * inside)
    if heads != shared or b.chance(0.5):
        return b.split(packed, 2, [heads * inside, shared * inside, shared * inside])
    if b.chance(0.5):  # heads outside: each has its query, key and value side by side
        parts = b.split(b.reshape(packed, [n, t, heads, 3 * inside]), 3, [inside] * 3)
    else:
        stacked = b.transpose(b.reshape(packed, [n, t, 3, heads, inside]), 2, 0, 1, 3, 4)
        parts = [
            b.op("Gather", stacked, b.constant(np.array(k, np.int64)), shape=(n, t, heads, inside), axis=0)
            for k in range(3)
        ]
    return [b.reshape(part, [n, t, heads * inside]) for part in parts]


def rotary(b: Builder, x: Tensor) -> Tensor:
    """Halves of a head turned; a table of ones' rank broadcasts over the positions."""
    inside = x.size(3)
    first, second = b.slice(x, 3, 0, inside // 2), b.slice(x, 3, inside // 2, inside)
    turned = b.op("Concat", b.op("Neg", second, shape=second.shape), first, shape=x.shape, axis=3)
    angle = b.rng.random(inside // 2)
    table = [b.constant(np.tile(f(angle), 2).astype(np.float32), "angles") for f in (np.cos, np.sin)]
    sides = [b.op("Mul", side, column, shape=x.shape) for side, column in zip((x, turned), table, strict=True)]
    return b.op("Add", *sides, shape=x.shape)


def repeated(b: Builder, x: Tensor, times: int) -> Tensor:
    """Each head given to several queries: Unsqueeze, Expand, Reshape."""
    n, heads, t, inside = x.shape
    y = b.op("Unsqueeze", x, b.numbers(2), shape=(n, heads, 1, t, inside))
    shape = (n, heads, times, t, inside)
    if b.chance(0.5) or not all(isinstance(length, int) for length in shape):
        target = b.computed(shape) if b.chance(0.5) else b.numbers(1, 1, times, 1, 1)
    else:
        target = b.numbers(*(int(length) for length in shape))
    y = b.op("Expand", y, target, shape=shape)
    assert isinstance(heads, int)
    return b.reshape(y, [n, heads * times, t, inside])


def recurrent(b: Builder, x: Tensor) -> Tensor:
    """LSTM, GRU or RNN, in one direction or both."""
    n, t, _ = x.shape
    kind, hidden, directions = b.pick(["LSTM", "GRU", "RNN"]), b.width(), b.pick([1, 2])
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
    data = b.weight(directions, gates, x.size(2), fan=x.size(2))
    again = b.weight(directions, gates, hidden, fan=hidden)
    bias = b.vector(directions, 2 * gates) if b.chance(0.6) else None
    direction = "bidirectional" if directions == 2 else b.pick(["forward", "reverse"])
    extra = {"linear_before_reset": 1} if kind == "GRU" and b.chance(0.5) else {}
    steps = b.transpose(x, 1, 0, 2)
    y, last = b.ops(
        kind, steps, data, again, bias, shapes=[(t, directions, n, hidden), (directions, n, hidden)],
        hidden_size=hidden, direction=direction, **extra,
    )  # fmt: skip
    if b.chance(0.3):
        state = b.reshape(b.transpose(last, 1, 0, 2), [n, 1, directions * hidden])
        return b.op("Add", linear(b, state, x.size(2)), x, shape=x.shape)
    if directions == 1:
        y = b.op("Squeeze", y, b.numbers(1), shape=(t, n, hidden))
        return b.transpose(y, 1, 0, 2)
    return b.reshape(b.transpose(y, 2, 0, 1, 3), [n, t, 2 * hidden])


def tokens(b: Builder, x: Tensor) -> Tensor:
    """Learned tokens put before the sequence, and cut off again behind a mixing layer."""
    n, t, width = x.shape
    count = b.pick([1, 2, 3])
    learned = b.weight(1, count, x.size(2), fan=1)
    whole = b.op("Expand", learned, b.computed([n, count, x.size(2)]), shape=(n, count, width))
    longer = t + count if isinstance(t, int) else f"{t}_{b.name('more')}"
    y = b.op("Concat", whole, x, shape=(n, longer, width), axis=1)
    y = attention(b, y) if b.chance(0.5) else b.activation(linear(b, y))
    starts, ends = b.numbers(count), b.numbers(2**63 - 1)
    return b.op("Slice", y, starts, ends, b.numbers(1), shape=(n, t, y.size(2)))


def experts(b: Builder, x: Tensor) -> Tensor:
    """A stack of matrices, and a gate that weighs their results."""
    n, t, width = x.shape
    count, out = b.pick([2, 3, 4]), b.width()
    gates = b.op("Softmax", linear(b, x, count), shape=(n, t, count), axis=-1)
    y = b.op("Unsqueeze", x, b.numbers(1), shape=(n, 1, t, width))
    y = b.op("MatMul", y, b.weight(count, x.size(2), out, fan=x.size(2)), shape=(n, count, t, out))
    weights = b.op("Unsqueeze", b.transpose(gates, 0, 2, 1), b.numbers(3), shape=(n, count, t, 1))
    return b.reduce("ReduceSum", b.op("Mul", y, weights, shape=y.shape), [1], keep=False)


def looped(b: Builder, x: Tensor) -> Tensor:
    """A Loop that hands the sequence from round to round."""
    width = x.size(2)
    inner = b.name("matrix")
    array = (b.rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
    outer = b.weight(width, width) if b.chance(0.5) else None
    names = {part: b.name(part) for part in ("round", "going", "state", "mixed", "next", "still")}
    body = helper.make_graph(
        [
            helper.make_node(
                "MatMul", [names["state"], outer.name if outer else inner], [names["mixed"]], name=b.name("/inner")
            ),
            helper.make_node("Tanh", [names["mixed"]], [names["next"]], name=b.name("/inner")),
            helper.make_node("Identity", [names["going"]], [names["still"]], name=b.name("/inner")),
        ],
        "body",
        [
            helper.make_tensor_value_info(names["round"], onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info(names["going"], onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info(names["state"], onnx.TensorProto.FLOAT, x.shape),
        ],
        [
            helper.make_tensor_value_info(names["still"], onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info(names["next"], onnx.TensorProto.FLOAT, x.shape),
        ],
        [] if outer else [numpy_helper.from_array(array, inner)],
    )  # fmt: skip
    rounds, going = b.constant(np.array(2, np.int64)), b.constant(np.array(True))
    return b.op("Loop", rounds, going, x, shape=x.shape, body=body)


def normed(b: Builder, x: Tensor) -> Tensor:
    return layer_norm(b, x)


def mixed(b: Builder, x: Tensor) -> Tensor:
    return b.activation(linear(b, x))


def joined(b: Builder, x: Tensor) -> Tensor:
    """Split or sliced along the width, concatenated again."""
    axis = len(x.shape) - 1
    width = x.size(-1)
    if width < 2:
        return linear(b, x)
    first = int(b.rng.integers(1, width))
    parts = b.split(x, axis, [first, width - first])
    parts = [linear(b, parts[0]), parts[1]] if b.chance(0.5) else parts[::-1]
    return b.op("Concat", *parts, shape=_same_but(x, -1, sum(part.size(-1) for part in parts)), axis=axis)


def scaled(b: Builder, x: Tensor) -> Tensor:
    """Constants along the last axis: chosen by a mask, scaled, shifted."""
    width = x.size(-1)
    y = b.op("Mul", x, b.vector(width, center=1.0), shape=x.shape)
    if b.chance(0.5):
        mask = b.constant(b.rng.random(width) < 0.7)
        y = b.op("Where", mask, y, b.vector(width), shape=x.shape)
    return y


def folded(b: Builder, x: Tensor) -> Tensor:
    """The last axis cut in rows, and summed, weighed or normalised along them."""
    rank, width = len(x.shape), x.size(-1)
    rows = b.divisor(width)
    y = b.reshape(x, [*x.shape[:-1], rows, width // rows])
    how = b.pick(["sum", "gate", "softmax", "turn", "tile"])
    if how == "sum":
        return b.reduce("ReduceSum", y, [b.pick([-1, -2])], keep=False)
    if how == "softmax":
        y = b.op("Softmax", y, shape=y.shape, axis=b.pick([-1, rank - 1]))
    elif how == "gate":
        y = b.op("Mul", y, b.vector(rows, 1, center=1.0), shape=y.shape)
    elif how == "turn":
        y = b.transpose(y, *range(rank - 1), rank, rank - 1)
    else:
        shape = (*y.shape[:-1], 2 * y.size(-1))
        y = b.op("Tile", y, b.numbers(*[1] * rank, 2), shape=shape)
        return b.reshape(y, [*x.shape[:-1], 2 * width])
    return b.reshape(y, x.shape)


SEQUENCE_BLOCKS: Sequence[Block] = (
    mixed, feed_forward, feed_forward, gated, gated, attention, attention, attention, recurrent, tokens, experts,
    looped, normed, normed, joined, scaled, folded,
)  # fmt: skip
ROW_BLOCKS: Sequence[Block] = (mixed, mixed, feed_forward, gated, joined, scaled, folded, normed)
