"""Networks with residual branches of every kind, small enough to be run and written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from spa.notation.operation import MICROSOFT
from tests.models import build, filled, integers, positive

HEADS, SIZE, WIDTH = 2, 8, 12
INNER = HEADS * SIZE

NORM = {"g": positive("g", WIDTH), "h": [WIDTH], "g2": positive("g2", WIDTH), "h2": [WIDTH]}
LAYER = {"w0": [7, WIDTH], "wa": [WIDTH, 9], "wb": [9, WIDTH], "wc": [WIDTH, 10], "wd": [10, WIDTH], "w9": [WIDTH, 5]}


def transformer(text: str, *, opset: int = 20, **more: Any) -> onnx.ModelProto:
    """Two branches, `a` of e and `b`, between a first and a last matrix product."""
    whole = f"(float[N,T,7] x) => (float[N,T,5] y) {{ e = MatMul(x, w0) {text} }}"
    known = {**LAYER, **NORM, **more}
    used = {name: array for name, array in known.items() if f"{name})" in text or f" {name}," in text}
    return build(whole, {"w0": LAYER["w0"], **used}, opset=opset)


def pre_norm() -> onnx.ModelProto:
    """x + f(norm(x)), twice."""
    return transformer("""
        n = LayerNormalization(e, g, h)  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wb)  z = Add(e, b)
        m = LayerNormalization(z, g2, h2)  c = MatMul(m, wc)  s = Gelu(c)  d = MatMul(s, wd)  q = Add(d, z)
        y = MatMul(q, w9)""")


def post_norm() -> onnx.ModelProto:
    """norm(x + f(x)), twice."""
    return transformer("""
        a = MatMul(e, wa)  r = Relu(a)  b = MatMul(r, wb)  z = Add(b, e)  n = LayerNormalization(z, g, h)
        c = MatMul(n, wc)  s = Gelu(c)  d = MatMul(s, wd)  q = Add(d, n)  m = LayerNormalization(q, g2, h2)
        y = MatMul(m, w9)""")


def parallel() -> onnx.ModelProto:
    """x + f(norm(x)) + g(norm(x)): one norm for both, and their sum first."""
    return transformer("""
        n = LayerNormalization(e, g, h)  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wb)
        c = MatMul(n, wc)  s = Gelu(c)  d = MatMul(s, wd)  f = Add(b, d)  z = Add(f, e)  y = MatMul(z, w9)""")


def parallel_one_by_one() -> onnx.ModelProto:
    """(x + f(norm(x))) + g(norm'(x))."""
    return transformer("""
        n = LayerNormalization(e, g, h)  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wb)  z = Add(e, b)
        m = LayerNormalization(e, g2, h2)  c = MatMul(m, wc)  s = Gelu(c)  d = MatMul(s, wd)  q = Add(z, d)
        y = MatMul(q, w9)""")


def summed() -> onnx.ModelProto:
    """The same as one sum of three."""
    return transformer("""
        n = LayerNormalization(e, g, h)  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wb)
        m = LayerNormalization(e, g2, h2)  c = MatMul(m, wc)  s = Gelu(c)  d = MatMul(s, wd)  q = Sum(b, e, d)
        y = MatMul(q, w9)""")


def biased() -> onnx.ModelProto:
    """The branch ends in a bias, which goes with it."""
    return transformer("""
        a = MatMul(e, wa)  r = Relu(a)  b = MatMul(r, wb)  f = Add(b, h)  z = Add(e, f)  y = MatMul(z, w9)""")


def to_the_output() -> onnx.ModelProto:
    """The sum is what the graph gives."""
    return build(
        "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  y = Add(x, b) }",
        {"w0": [6, 9], "w1": [9, 6]},
    )


def windowed() -> onnx.ModelProto:
    """The residual lies in another form than what the branch is computed from."""
    return build(
        """(float[2,4,3,6] x) => (float[2,12,5] y) {
        s = Reshape(x, flat)  n = LayerNormalization(x, g, h)  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wb)
        f = Reshape(b, flat)  z = Add(s, f)  y = MatMul(z, w9) }""",
        {"flat": integers(2, 12, 6), "g": positive("g", 6), "h": [6], "wa": [6, 9], "wb": [9, 6], "w9": [6, 5]},
    )


def bottleneck() -> onnx.ModelProto:
    """Three convolutions, a projection for a shortcut first; then an identity."""
    return build(
        """(float[N,3,8,8] x) => (float[N,5] y) {
        s = Conv<pads=[1,1,1,1]>(x, c0)
        a = Conv(s, c1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, c2)  d = Relu(c)  e = Conv(d, c3)
        i = Conv(s, c4)  f = Add(e, i)  z = Relu(f)
        a2 = Conv(z, c5)  b2 = Relu(a2)  c_2 = Conv<pads=[1,1,1,1]>(b2, c6)  d2 = Relu(c_2)  e2 = Conv(d2, c7)
        f2 = Add(e2, z)  q = Relu(f2)  p = GlobalAveragePool(q)  l = Flatten(p)  y = Gemm<transB=1>(l, w) }""",
        {
            "c0": [6, 3, 3, 3], "c1": [4, 6, 1, 1], "c2": [4, 4, 3, 3], "c3": [8, 4, 1, 1], "c4": [8, 6, 1, 1],
            "c5": [4, 8, 1, 1], "c6": [4, 4, 3, 3], "c7": [8, 4, 1, 1], "w": [5, 8],
        },
    )  # fmt: skip


def inverted() -> onnx.ModelProto:
    """A block of MobileNetV2: wide, depthwise, narrow, added."""
    return build(
        """(float[N,3,8,8] x) => (float[N,5] y) {
        s = Conv(x, c0)  a = Conv(s, c1)  b = Clip(a, low, high)  c = Conv<group=12, pads=[1,1,1,1]>(b, c2)
        d = Clip(c, low, high)  e = Conv(d, c3)  z = Add(s, e)  p = GlobalAveragePool(z)  l = Flatten(p)
        y = Gemm<transB=1>(l, w) }""",
        {
            "c0": [4, 3, 1, 1], "c1": [12, 4, 1, 1], "c2": [12, 1, 3, 3], "c3": [4, 12, 1, 1], "w": [5, 4],
            "low": np.array(0, np.float32), "high": np.array(6, np.float32),
        },
    )  # fmt: skip


def nested() -> onnx.ModelProto:
    """A long residual around two short ones."""
    return build(
        """(float[N,3,8,8] x) => (float[N,2,8,8] y) {
        s = Conv(x, c0)  a = Conv<pads=[1,1,1,1]>(s, c1)  b = Relu(a)  d = Conv(b, c2)  z = Add(s, d)
        a2 = Conv<pads=[1,1,1,1]>(z, c3)  b2 = Relu(a2)  d2 = Conv(b2, c4)  z2 = Add(z, d2)
        e = Conv(z2, c5)  q = Add(e, s)  y = Conv(q, c6) }""",
        {
            "c0": [6, 3, 1, 1], "c1": [4, 6, 3, 3], "c2": [6, 4, 1, 1], "c3": [4, 6, 3, 3], "c4": [6, 4, 1, 1],
            "c5": [6, 6, 1, 1], "c6": [2, 6, 1, 1],
        },
    )  # fmt: skip


def skip_normed(*, simplified: bool, handed_on: bool = True) -> onnx.ModelProto:
    """A fused norm of x + f(x), which hands the sum on."""
    kind, norm = ("SkipSimplifiedLayerNormalization", "RMSNormalization") if simplified else (
        "SkipLayerNormalization", "LayerNormalization")  # fmt: skip
    shift = "" if simplified else ", h2"
    total, last = (", , , t", "Add(v, t)") if handed_on else ("", "Relu(v)")
    return transformer(
        f"""
        n = {norm}(e, g{'' if simplified else ', h'})  a = MatMul(n, wa)  r = Relu(a)  b = MatMul(r, wb)
        u {total} = com.microsoft.{kind}(e, b, g2{shift}, bias)
        c = MatMul(u, wc)  s = Gelu(c)  v = MatMul(s, wd)  q = {last}  y = MatMul(q, w9)""",
        opset=23, bias=[WIDTH],
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- with caches
def cached(kind: str) -> onnx.ModelProto:
    """Two attentions with their keys and values handed from call to call, each added to what it read."""
    nodes = []
    stored: dict[str, np.ndarray] = {"first": filled("first", [7, WIDTH]), "last": filled("last", [WIDTH, 5])}
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes.append(node("MatMul", ["x", "first"], ["x0"]))
    ends: list[list[onnx.ValueInfoProto]] = [[], []]
    number = onnx.TensorProto.FLOAT
    for layer in range(2):
        at = f"{layer}."
        for part in "qkv":
            stored[f"{at}w{part}"] = filled(f"{at}w{part}", [WIDTH, INNER])
            nodes.append(node("MatMul", [f"x{layer}", f"{at}w{part}"], [f"{at}{part}"]))
        nodes += _attention(kind, at, stored)
        stored[f"{at}wo"] = filled(f"{at}wo", [INNER, WIDTH])
        nodes.append(node("MatMul", [f"{at}a", f"{at}wo"], [f"{at}o"]))
        nodes.append(node("Add", [f"x{layer}", f"{at}o"], [f"x{layer + 1}"]))
        ends[0] += [value(f"past.{at}{part}", number, ["b", HEADS, "p", SIZE]) for part in "kv"]
        ends[1] += [value(f"present.{at}{part}", number, ["b", HEADS, "t", SIZE]) for part in "kv"]
    nodes.append(node("MatMul", ["x2", "last"], ["y"]))
    inputs = [value("x", number, ["b", "s", 7]), *ends[0]]
    if kind == "GroupQueryAttention":
        whole = onnx.TensorProto.INT32
        inputs += [value("lengths", whole, ["b"]), value("total", whole, [])]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    outputs = [value("y", number, ["b", "s", 5]), *ends[1]]
    graph = onnx.helper.make_graph(nodes, "cached", inputs, outputs, tensors)
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _attention(kind: str, at: str, stored: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    node = onnx.helper.make_node
    q, k, v, past, present = f"{at}q", f"{at}k", f"{at}v", f"past.{at}", f"present.{at}"
    if kind == "GroupQueryAttention":
        operands = [q, k, v, f"{past}k", f"{past}v", "lengths", "total"]
        numbers: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": HEADS}
        return [node(kind, operands, [f"{at}a", f"{present}k", f"{present}v"], domain=MICROSOFT, **numbers)]
    if kind == "Attention":
        numbers = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
        return [node(kind, [q, k, v, "", f"{past}k", f"{past}v"], [f"{at}a", f"{present}k", f"{present}v"], **numbers)]
    stored["heads"], stored["flat"] = integers(0, -1, HEADS, SIZE), integers(0, -1, INNER)
    nodes = []
    for part in "qkv":
        nodes.append(node("Reshape", [f"{at}{part}", "heads"], [f"{at}{part}s"]))
        nodes.append(node("Transpose", [f"{at}{part}s"], [f"{at}{part}h"], perm=[0, 2, 1, 3]))
    return [
        *nodes,
        *(node("Concat", [f"{past}{part}", f"{at}{part}h"], [f"{present}{part}"], axis=2) for part in "kv"),
        node("Transpose", [f"{present}k"], [f"{at}kt"], perm=[0, 1, 3, 2]),
        node("MatMul", [f"{at}qh", f"{at}kt"], [f"{at}s"]),
        node("Softmax", [f"{at}s"], [f"{at}p"], axis=-1),
        node("MatMul", [f"{at}p", f"{present}v"], [f"{at}m"]),
        node("Transpose", [f"{at}m"], [f"{at}mt"], perm=[0, 2, 1, 3]),
        node("Reshape", [f"{at}mt", "flat"], [f"{at}a"]),
    ]


def feed(model: onnx.ModelProto, *, past: int, skip: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Two samples of three tokens behind so many positions."""
    sizes, random = {"b": 2, "s": 1 if past else 3, "p": past}, np.random.default_rng(1)
    feeds = {}
    for each in model.graph.input:
        kind = each.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else sizes[dim.dim_param] for dim in kind.shape.dim]
        counts = {"lengths": sizes["s"] + past - 1, "total": sizes["s"] + past}
        made = np.full(shape, counts[each.name]) if each.name in counts else random.standard_normal(shape)
        if each.name not in skip:
            feeds[each.name] = made.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return feeds
