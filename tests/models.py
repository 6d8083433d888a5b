"""Small models that stand for what exporters write, each a function of nothing; weights are seeded by their names.

One file: a list of models, read model by model.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import onnx
import onnx.parser

Weight = np.ndarray | Sequence[int]


def build(text: str, weights: Mapping[str, Weight], *, opset: int = 20, ir_version: int = 10) -> onnx.ModelProto:
    """A model from the text of its graph; a weight given by its shape is filled at random."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.example" : 1]> graph '
    model = onnx.parser.parse_model(header + text)
    for name, content in weights.items():
        array = content if isinstance(content, np.ndarray) else filled(name, content)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def filled(name: str, shape: Sequence[int]) -> np.ndarray:
    """Random numbers of order one, divided so that sums over all axes but the first stay of order one."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    scale = max(1, prod(shape[1:])) ** 0.5
    return (random.standard_normal(tuple(shape)) / scale).astype(np.float32)


def positive(name: str, size: int) -> np.ndarray:
    return (0.5 + np.abs(filled(name, [size]))).astype(np.float32)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


# ---------------------------------------------------------------------------------------------------- images
def residual_cnn() -> onnx.ModelProto:
    """A stem, a residual block with BatchNormalization, a classifier."""
    return build(
        """(float[N,3,8,8] x) => (float[N,5] y) {
        s = Conv<pads=[1,1,1,1]>(x, c0, d0)
        a = Conv<pads=[1,1,1,1]>(s, c1)  n = BatchNormalization(a, g, h, m, v)  r = Relu(n)
        b = Conv<pads=[1,1,1,1]>(r, c2, d2)  z = Add(s, b)  q = Relu(z)
        p = GlobalAveragePool(q)  f = Flatten(p)  y = Gemm<transB=1>(f, w, e) }""",
        {
            "c0": [8, 3, 3, 3], "d0": [8], "c1": [6, 8, 3, 3], "g": positive("g", 6), "h": [6], "m": [6],
            "v": positive("v", 6), "c2": [8, 6, 3, 3], "d2": [8], "w": [5, 8], "e": [5],
        },
    )  # fmt: skip


def grouped_cnn() -> onnx.ModelProto:
    """A grouped, a depthwise and a transposed convolution."""
    return build(
        """(float[N,3,8,8] x) => (float[N,2,16,16] y) {
        a = Conv(x, c0)  b = Conv<group=4, pads=[1,1,1,1]>(a, c1, d1)  c = Relu(b)
        d = Conv<group=12, pads=[1,1,1,1]>(c, c2, d2)  e = Conv(d, c3)
        f = ConvTranspose<strides=[2,2], group=2>(e, c4)  g = Relu(f)  y = Conv(g, c5) }""",
        {
            "c0": [8, 3, 1, 1], "c1": [12, 2, 3, 3], "d1": [12], "c2": [12, 1, 3, 3], "d2": [12], "c3": [6, 12, 1, 1],
            "c4": [6, 4, 2, 2], "c5": [2, 8, 1, 1],
        },
    )  # fmt: skip


def dense_block() -> onnx.ModelProto:
    """Concatenations of everything so far."""
    return build(
        """(float[N,3,6,6] x) => (float[N,4,6,6] y) {
        a = Conv(x, c0)  b = Conv<pads=[1,1,1,1]>(a, c1)  ab = Concat<axis=1>(a, b)
        n = BatchNormalization(ab, g, h, m, v)  r = Relu(n)
        c = Conv<pads=[1,1,1,1]>(r, c2)  abc = Concat<axis=1>(ab, c)  y = Conv(abc, c3) }""",
        {
            "c0": [4, 3, 1, 1], "c1": [3, 4, 3, 3], "g": positive("g", 7), "h": [7], "m": [7], "v": positive("v", 7),
            "c2": [5, 7, 3, 3], "c3": [4, 12, 1, 1],
        },
    )  # fmt: skip


def picked_shuffle() -> onnx.ModelProto:
    """A channel shuffle written as a table of positions, between grouped convolutions."""
    return build(
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) {
        a = Conv(x, c0)  b = Relu(a)  s = Gather<axis=1>(b, order)  c = Conv<group=2>(s, c1)  d = Relu(c)
        y = Conv(d, c2) }""",
        {
            "c0": [12, 3, 1, 1], "order": np.arange(12).reshape(2, 6).T.reshape(-1), "c1": [8, 6, 1, 1],
            "c2": [2, 8, 1, 1],
        },
    )  # fmt: skip


def channel_shuffle() -> onnx.ModelProto:
    """Two grouped convolutions with a shuffle between them, then a split (ShuffleNet)."""
    return build(
        """(float[N,3,5,5] x) => (float[N,2,5,5] y) {
        a = Conv(x, c0)  b = Reshape(a, s)  c = Transpose<perm=[0,2,1,3,4]>(b)  d = Reshape(c, t)
        e, f = Split<axis=1>(d, k)  g = Conv<pads=[1,1,1,1]>(e, c1)  h = Concat<axis=1>(g, f)  y = Conv(h, c2) }""",
        {
            "c0": [8, 3, 1, 1], "s": integers(-1, 2, 4, 5, 5), "t": integers(0, 8, 5, 5), "k": integers(4, 4),
            "c1": [4, 4, 3, 3], "c2": [2, 8, 1, 1],
        },
    )  # fmt: skip


def resized() -> onnx.ModelProto:
    """Resize to sizes that list batch and channels too."""
    return build(
        """(float[2,3,4,4] x) => (float[2,2,8,8] y) {
        a = Conv(x, c0)  b = Resize<mode="nearest">(a, , , z)  c = Relu(b)  y = Conv(c, c1) }""",
        {"c0": [6, 3, 1, 1], "z": integers(2, 6, 8, 8), "c1": [2, 6, 1, 1]},
    )


def padded() -> onnx.ModelProto:
    """Channels of zeros put beside others, then a residual connection (the shortcut of the first ResNets)."""
    return build(
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) {
        a = Conv(x, c0)  b = Pad(a, p)  c = Conv(a, c1)  d = Add(b, c)  y = Conv(d, c2) }""",
        {"c0": [4, 3, 1, 1], "p": integers(0, 1, 0, 0, 0, 2, 0, 0), "c1": [7, 4, 1, 1], "c2": [2, 7, 1, 1]},
    )


def sliced() -> onnx.ModelProto:
    """Channels cut in two by Slice, and some picked by Gather."""
    return build(
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) {
        a = Conv(x, c0)  b = Slice(a, s0, s3, ax)  c = Slice(a, s3, s9, ax)  d = Gather<axis=1>(c, i)
        e = Conv(b, c1)  f = Conv(d, c2)  y = Add(e, f) }""",
        {
            "c0": [8, 3, 1, 1], "s0": integers(0), "s3": integers(3), "s9": integers(2**63 - 1), "ax": integers(1),
            "i": integers(3, 4, 0, 1), "c1": [2, 3, 1, 1], "c2": [2, 4, 1, 1],
        },
    )  # fmt: skip


def quantized() -> onnx.ModelProto:
    """Weights per channel and activations per tensor behind QuantizeLinear and DequantizeLinear."""
    whole = np.random.default_rng(0).integers(-127, 128, (6, 3, 3, 3), np.int8)
    last = np.random.default_rng(1).integers(-127, 128, (4, 6, 1, 1), np.int8)
    return build(
        """(float[N,3,6,6] x) => (float[N,4,6,6] y) {
        w0 = DequantizeLinear<axis=0>(q0, s0, z0)  a = Conv<pads=[1,1,1,1]>(x, w0, d0)  b = Relu(a)
        c = QuantizeLinear(b, t, o)  d = DequantizeLinear(c, t, o)
        w1 = DequantizeLinear<axis=0>(q1, s1, z1)  y = Conv(d, w1) }""",
        {
            "q0": whole, "s0": positive("s0", 6) / 300, "z0": np.zeros(6, np.int8), "d0": [6],
            "t": np.array(0.02, np.float32), "o": np.array(3, np.uint8),
            "q1": last, "s1": positive("s1", 4) / 300, "z1": np.zeros(4, np.int8),
        },
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- sequences
def gated_mlp() -> onnx.ModelProto:
    """Gate and values from one packed matrix (SwiGLU)."""
    return build(
        """(float[N,T,6] x) => (float[N,T,6] y) {
        a = MatMul(x, w0)  g, u = Split<axis=-1, num_outputs=2>(a)  s = Sigmoid(g)  t = Mul(g, s)  h = Mul(t, u)
        y = MatMul(h, w1) }""",
        {"w0": [6, 16], "w1": [8, 6]},
    )


_HEADS = """
        q1 = Reshape(q0, sh)  k1 = Reshape(k0, sh)  v1 = Reshape(v0, sh)
        q = Transpose<perm=[0,2,1,3]>(q1)  k = Transpose<perm=[0,2,3,1]>(k1)  v = Transpose<perm=[0,2,1,3]>(v1)
        a = MatMul(q, k)  b = Div(a, scale)  p = Softmax<axis=-1>(b)  c0 = MatMul(p, v)
        c1 = Transpose<perm=[0,2,1,3]>(c0)  c = Reshape(c1, st)  y = MatMul(c, wo) }"""
_HEADS_WEIGHTS: Mapping[str, Weight] = {
    "sh": integers(0, 0, 4, 3), "st": integers(0, 0, 12), "scale": np.array(1.7, np.float32), "wo": [12, 8],
}  # fmt: skip


def attention() -> onnx.ModelProto:
    """Four heads of three from Reshape and Transpose; a symbolic sequence."""
    text = "(float[N,T,8] x) => (float[N,T,8] y) { q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)"
    return build(text + _HEADS, {"wq": [8, 12], "wk": [8, 12], "wv": [8, 12], **_HEADS_WEIGHTS})


def packed_attention() -> onnx.ModelProto:
    """Queries, keys and values from one matrix, cut by Split."""
    text = """(float[N,T,8] x) => (float[N,T,8] y) {
        m = MatMul(x, w)  n = Add(m, b0)  q0, k0, v0 = Split<axis=2>(n, three)"""
    return build(text + _HEADS, {"w": [8, 36], "b0": [36], "three": integers(12, 12, 12), **_HEADS_WEIGHTS})


def shared_keys() -> onnx.ModelProto:
    """Two heads of keys and values for six of queries: Unsqueeze, Expand, Reshape."""
    return build(
        """(float[N,T,8] x) => (float[N,T,8] y) {
        q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
        q1 = Reshape(q0, s6)  k1 = Reshape(k0, s2)  v1 = Reshape(v0, s2)
        q = Transpose<perm=[0,2,1,3]>(q1)  k2 = Transpose<perm=[0,2,1,3]>(k1)  v2 = Transpose<perm=[0,2,1,3]>(v1)
        k3 = Unsqueeze(k2, two)  k4 = Expand(k3, three)  k5 = Reshape(k4, all)
        v3 = Unsqueeze(v2, two)  v4 = Expand(v3, three)  v = Reshape(v4, all)
        k = Transpose<perm=[0,1,3,2]>(k5)  a = MatMul(q, k)  p = Softmax<axis=-1>(a)  c0 = MatMul(p, v)
        c1 = Transpose<perm=[0,2,1,3]>(c0)  c = Reshape(c1, s)  y = MatMul(c, wo) }""",
        {
            "wq": [8, 24], "wk": [8, 8], "wv": [8, 8], "s6": integers(0, 0, 6, 4), "s2": integers(0, 0, 2, 4),
            "two": integers(2), "three": integers(1, 1, 3, 1, 1), "all": integers(0, 6, -1, 4), "s": integers(0, 0, 24),
            "wo": [24, 8],
        },
    )  # fmt: skip


def rotary_halves() -> onnx.ModelProto:
    """Halves of each head of queries and keys turned by tables of fixed length (RoPE)."""
    angles = np.arange(5)[:, None] * np.tile([0.5, 0.1, 0.02], 2)[None, :]
    return build(
        """(float[N,5,8] x) => (float[N,5,8] y) {
        q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
        q1 = Reshape(q0, sh)  k1 = Reshape(k0, sh)  v1 = Reshape(v0, sh)
        q2 = Transpose<perm=[0,2,1,3]>(q1)  k2 = Transpose<perm=[0,2,1,3]>(k1)  v = Transpose<perm=[0,2,1,3]>(v1)
        qa, qb = Split<axis=3, num_outputs=2>(q2)  qn = Neg(qb)  qr = Concat<axis=3>(qn, qa)
        qc = Mul(q2, cos)  qs = Mul(qr, sin)  q = Add(qc, qs)
        ka, kb = Split<axis=3, num_outputs=2>(k2)  kn = Neg(kb)  kr = Concat<axis=3>(kn, ka)
        kc = Mul(k2, cos)  ks = Mul(kr, sin)  k3 = Add(kc, ks)  k = Transpose<perm=[0,1,3,2]>(k3)
        a = MatMul(q, k)  p = Softmax<axis=-1>(a)  c0 = MatMul(p, v)
        c1 = Transpose<perm=[0,2,1,3]>(c0)  c = Reshape(c1, st)  y = MatMul(c, wo) }""",
        {
            "wq": [8, 12], "wk": [8, 12], "wv": [8, 12], "sh": integers(0, 0, 2, 6), "st": integers(0, 0, 12),
            "cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32), "wo": [12, 8],
        },
    )  # fmt: skip


def folded_heads() -> onnx.ModelProto:
    """Heads counted as part of a symbolic batch (torch's nn.MultiheadAttention)."""
    return build(
        """(float[N,T,8] x) => (float[N,T,8] y) {
        q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
        q1 = Reshape(q0, sh)  k1 = Reshape(k0, sh)  v1 = Reshape(v0, sh)
        q2 = Transpose<perm=[0,2,1,3]>(q1)  k2 = Transpose<perm=[0,2,3,1]>(k1)  v2 = Transpose<perm=[0,2,1,3]>(v1)
        n = Shape<start=0, end=1>(x)  t = Shape<start=1, end=2>(x)  rows = Mul(n, four)
        tq = Concat<axis=0>(rows, t, three)  tk = Concat<axis=0>(rows, three, t)
        q = Reshape(q2, tq)  k = Reshape(k2, tk)  v = Reshape(v2, tq)
        a = MatMul(q, k)  p = Softmax<axis=-1>(a)  c0 = MatMul(p, v)
        back = Concat<axis=0>(n, four, t, three)  c1 = Reshape(c0, back)  c2 = Transpose<perm=[0,2,1,3]>(c1)
        c = Reshape(c2, st)  y = MatMul(c, wo) }""",
        {
            "wq": [8, 12], "wk": [8, 12], "wv": [8, 12], "sh": integers(0, 0, 4, 3), "four": integers(4),
            "three": integers(3), "st": integers(0, 0, 12), "wo": [12, 8],
        },
    )  # fmt: skip


def computed_targets() -> onnx.ModelProto:
    """Reshape targets put together when the graph runs, head counts and widths from Shape among them (TorchScript)."""
    return build(
        """(float[N,T,8] x) => (float[N,T,8] y) {
        q0 = MatMul(x, wq)  s = Shape(q0)
        n0 = Gather<axis=0>(s, zero)  t0 = Gather<axis=0>(s, one)  w0 = Gather<axis=0>(s, two)  d0 = Div(w0, heads)
        n = Unsqueeze(n0, ax)  t = Unsqueeze(t0, ax)  w = Unsqueeze(w0, ax)  d = Unsqueeze(d0, ax)
        h = Unsqueeze(heads, ax)  sh = Concat<axis=0>(n, t, h, d)  st = Concat<axis=0>(n, t, w)
        q1 = Reshape(q0, sh)  q = Transpose<perm=[0,2,1,3]>(q1)  g = Mul(q, gate)  r = Sigmoid(g)
        c1 = Transpose<perm=[0,2,1,3]>(r)  c = Reshape(c1, st)  y = MatMul(c, wo) }""",
        {
            "wq": [8, 12], "zero": np.array(0), "one": np.array(1), "two": np.array(2), "heads": np.array(4),
            "ax": integers(0), "gate": [4, 1, 1], "wo": [12, 8],
        },
    )  # fmt: skip


def recurrent() -> onnx.ModelProto:
    """An LSTM in both directions, read by a matrix."""
    return build(
        """(float[T,N,5] x) => (float[T,N,3] y) {
        a, last, cell = LSTM<hidden_size=4, direction="bidirectional">(x, w, r, b)
        t = Transpose<perm=[0,2,1,3]>(a)  c = Reshape(t, s)  y = MatMul(c, wo) }""",
        {"w": [2, 16, 5], "r": [2, 16, 4], "b": [2, 32], "s": integers(0, 0, 8), "wo": [8, 3]},
    )


def tied_embedding() -> onnx.ModelProto:
    """One table for the words that come in and the words that go out."""
    return build(
        """(int64[N,T] words) => (float[N,T,9] y) {
        e = Gather<axis=0>(table, words)  a = MatMul(e, w0)  r = Relu(a)  b = MatMul(r, w1)  h = Add(e, b)
        back = Transpose<perm=[1,0]>(table)  y = MatMul(h, back) }""",
        {"table": [9, 6], "w0": [6, 10], "w1": [10, 6]},
    )


def shared_biases() -> onnx.ModelProto:
    """Equal biases and scales merged into one tensor each, as exporters do."""
    return build(
        """(float[N,6] x) => (float[N,6] y) {
        a = Gemm(x, w0, zeros)  b = Mul(a, ones)  r = Relu(b)  c = Gemm(r, w1, zeros)  d = Mul(c, ones)
        s = Relu(d)  y = Gemm(s, w2, zeros) }""",
        {"w0": [6, 6], "w1": [6, 6], "w2": [6, 6], "zeros": np.zeros(6, np.float32), "ones": np.ones(6, np.float32)},
    )


def layer_normed() -> onnx.ModelProto:
    """A residual stream under layer norms, with a hidden width inside."""
    return build(
        """(float[N,T,7] x) => (float[N,T,2] y) {
        e = MatMul(x, w0)  n = LayerNormalization(e, g, h)  a = MatMul(n, w1)  r = Gelu(a)  b = MatMul(r, w2)
        z = Add(e, b)  m = LayerNormalization(z, g, h)  y = MatMul(m, w3) }""",
        {"w0": [7, 8], "g": positive("g", 8), "h": [8], "w1": [8, 12], "w2": [12, 8], "w3": [8, 2]},
    )


# ------------------------------------------------------------------------------------------------ control flow
def branches() -> onnx.ModelProto:
    """An If whose branches hold a weight each, use one from outside, and read an outer value."""
    return build(
        """(float[N,5] x, bool flag) => (float[N,3] y) {
        a = MatMul(x, w0)
        b = If(flag) <
            then_branch = one () => (float[N,8] t)
                <float[6,8] inner = {INNER}> { r = Relu(a)  t = MatMul(r, inner) },
            else_branch = two () => (float[N,8] e) { s = Tanh(a)  e = MatMul(s, w1) }
        >
        c = Relu(b)  y = MatMul(c, w2) }""".replace(
            "INNER", ", ".join(f"{number:.6f}" for number in filled("inner", [6, 8]).reshape(-1))
        ),
        {"w0": [5, 6], "w1": [6, 8], "w2": [8, 3]},
    )


def rounds() -> onnx.ModelProto:
    """A Loop that hands a state from round to round; a weight inside, one outside."""
    return build(
        """(float[N,5] x) => (float[N,3] y) {
        a = MatMul(x, w0)
        b = Loop(count, going, a) <
            body = body (int64 i, bool on, float[N,6] h) => (bool still, float[N,6] next)
                <float[6,4] inner = {INNER}> {
                    still = Identity(on)  u = MatMul(h, inner)  r = Tanh(u)  next = MatMul(r, w1) }
        >
        y = MatMul(b, w2) }""".replace(
            "INNER", ", ".join(f"{number:.6f}" for number in filled("inner", [6, 4]).reshape(-1))
        ),
        {"w0": [5, 6], "w1": [4, 6], "w2": [6, 3], "count": np.array(2), "going": np.array(True)},
    )


def collected_rounds() -> onnx.ModelProto:
    """A Loop that carries its weight along and hands out every round's state; all of it is read."""
    return build(
        """(float[N,5] x) => (float[4,N,3] y) {
        a = MatMul(x, w0)
        b, same, all = Loop(count, going, a, w1) <
            body = body (int64 i, bool on, float[N,6] h, float[6,6] w) =>
                (bool still, float[N,6] next, float[6,6] kept, float[N,6] out) {
                    still = Identity(on)  u = MatMul(h, w)  next = Tanh(u)  kept = Identity(w)  out = Relu(next) }
        >
        y = MatMul(all, w2) }""",
        {"w0": [5, 6], "w1": [6, 6], "w2": [6, 3], "count": np.array(4), "going": np.array(True)},
    )


def scanned() -> onnx.ModelProto:
    """A Scan over the steps of a sequence, its results collected along the second axis."""
    return build(
        """(float[3,N,5] x, float[N,4] s) => (float[N,3,2] y) {
        h0 = MatMul(s, w0)  z = MatMul(x, w1)
        last, all = Scan(h0, z) <num_scan_inputs = 1, scan_output_axes = [1],
            body = step (float[N,6] h, float[N,6] t) => (float[N,6] next, float[N,6] out) {
                r = MatMul(h, w2)  q = Add(r, t)  next = Tanh(q)  out = Relu(next) }
        >
        y = MatMul(all, w3) }""",
        {"w0": [4, 6], "w1": [5, 6], "w2": [6, 6], "w3": [6, 2]},
    )


def unknown_operator() -> onnx.ModelProto:
    """An operator that no rule is known of, in the middle."""
    return build(
        """(float[N,3,4,4] x) => (float[N,2,4,4] y) {
        a = Conv(x, c0)  b = Relu(a)  c = Conv(b, c1)  d = com.example.Mystery(c)  e = Conv(d, c2)
        f = Relu(e)  y = Conv(f, c3) }""",
        {"c0": [8, 3, 1, 1], "c1": [5, 8, 1, 1], "c2": [6, 5, 1, 1], "c3": [2, 6, 1, 1]},
    )


RUNNABLE: Sequence[Callable[[], onnx.ModelProto]] = (
    residual_cnn, grouped_cnn, dense_block, channel_shuffle, picked_shuffle, resized, padded, sliced, quantized,
    gated_mlp, attention,
    packed_attention, shared_keys, rotary_halves, folded_heads, computed_targets, recurrent, tied_embedding,
    shared_biases, layer_normed, branches, rounds, collected_rounds, scanned,
)  # fmt: skip
