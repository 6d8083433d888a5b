"""Free bases: which groups have none of their own, and that turning them changes nothing and orders what matters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from spa import runtime
from spa.passes.choose.budget import Budget
from spa.passes.repair.bases import find_bases
from spa.passes.repair.compensate import compensate
from spa.passes.repair.network import prepare
from spa.passes.repair.rotation import turn
from spa.passes.repair.session import Session
from spa.passes.samples.checking import check_samples
from spa.pipeline import load_normal, prune
from spa.presets import PRESETS
from tests import models
from tests.models import Weight, build

TWO_MATRICES = "(float[n,9] x) => (float[n,5] y) { a = MatMul(x, u)  b = Add(a, c)  y = MatMul(b, v) }"

STREAM = """(float[n,3,8,8] x) => (float[n,4] y) {
    s0 = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, c0, b0)
    h1 = Conv <kernel_shape=[1,1]> (s0, e1)  r1 = Relu(h1)
    p1 = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r1, q1)  s1 = Add(s0, p1)
    h2 = Conv <kernel_shape=[3,3]> (s1, e2)  r2 = Relu(h2)
    g = GlobalAveragePool(r2)  f = Flatten(g)  y = Gemm(f, w, b) }"""


def two_matrices() -> onnx.ModelProto:
    return build(TWO_MATRICES, {"u": [9, 7], "c": [7], "v": [7, 5]})


def stream() -> onnx.ModelProto:
    """A residual stream that no activation touches, read by windows of one and of nine."""
    shapes = {"c0": [6, 3, 3, 3], "b0": [6], "e1": [10, 6, 1, 1], "q1": [6, 10, 3, 3], "e2": [8, 6, 3, 3]}
    return build(STREAM, {**shapes, "w": [8, 4], "b": [4]})


def stacked_attention() -> onnx.ModelProto:
    """Queries, keys and values of one matrix under one axis of three, as timm writes them."""
    return build(
        """(float[N,T,8] x) => (float[N,T,8] y) {
            p = MatMul(x, w)  a = Add(p, b)  r = Reshape(a, five)  t = Transpose <perm=[2,0,3,1,4]> (r)
            q0, k0, v0 = Split <axis=0> (t, ones)  q = Squeeze(q0, zero)  k = Squeeze(k0, zero)  v = Squeeze(v0, zero)
            kt = Transpose <perm=[0,1,3,2]> (k)  s = MatMul(q, kt)  m = Softmax <axis=-1> (s)  c = MatMul(m, v)
            ct = Transpose <perm=[0,2,1,3]> (c)  f = Reshape(ct, three)  y = MatMul(f, o) }""",
        {
            "w": [8, 36],
            "b": [36],
            "o": [12, 8],
            "five": models.integers(0, 0, 3, 2, 6),
            "three": models.integers(0, 0, 12),
            "ones": models.integers(1, 1, 1),
            "zero": models.integers(0),
        },
    )


def session_of(model: onnx.ModelProto, **sizes: int) -> Session:
    normal = load_normal(model)
    (value,) = [v for v in normal.graph.inputs if not v.is_initializer()]
    shape = [size if isinstance(size, int) else sizes[str(size.value)] for size in value.shape or ()]
    samples = np.random.default_rng(1).standard_normal((96, *shape[1:])) * np.linspace(0.2, 2.0, shape[-1])
    data = check_samples(samples.astype(np.float32), normal)
    return Session.of(prepare(normal), data, PRESETS["default"])


def mixed_heads() -> onnx.ModelProto:
    """Heads that are mixed with each other: an index of heads is another one behind the mixture."""
    return build(
        """(float[N,T,8] x) => (float[N,T,5] y) {
            p = MatMul(x, w)  v = Reshape(p, four)  m = Einsum <equation="nthd,hg->ntgd"> (v, mix)  a = Add(v, m)
            f = Reshape(a, three)  y = MatMul(f, o) }""",
        {
            "w": [8, 12],
            "mix": [3, 3],
            "o": [12, 5],
            "four": models.integers(0, 0, 3, 4),
            "three": models.integers(0, 0, 12),
        },
    )


def fused_grouped_queries() -> onnx.ModelProto:
    """One node attends, four query heads to two of keys and values; heads lie inside its operands' last axes."""
    return build(
        """(float[N,T,32] x) => (float[N,T,7] y) { q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            a = Attention <q_num_heads=4, kv_num_heads=2> (q, k, v)  b = MatMul(a, wo)  r = Add(x, b)
            y = MatMul(r, hd) }""",
        {"wq": [32, 32], "wk": [32, 16], "wv": [32, 16], "wo": [32, 32], "hd": [32, 7]},
        opset=23,
    )


GRAPHS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, list[tuple[int, bool]]]]] = {
    # for each group: how many copies of each basis there are to choose, and whether computed values meet in it
    "two matrices": (two_matrices, {"u:1": [(1, False)]}),
    "linear residual stream": (stream, {"c0:0": [(1, False)]}),
    "attention": (models.attention, {"wq:1#2": [(4, True)], "wv:1": [(4, False)]}),
    "packed attention": (models.packed_attention, {"w:1#2": [(4, True)], "w:1#3": [(4, False)]}),
    "stacked attention": (stacked_attention, {"w:1#2": [(2, True), (2, False)]}),
    "shared keys": (models.shared_keys, {"wq:1#3": [(2, True)], "wv:1": [(2, False)]}),
    "grouped queries in one node": (fused_grouped_queries, {"wv:1": [(2, False)]}),
    "heads in the batch": (models.folded_heads, {"wq:1#2": [(4, True)], "wv:1": [(4, False)]}),
    "mixed heads": (mixed_heads, {"w:1": [(1, False)]}),
    "rotary halves": (models.rotary_halves, {"wv:1": [(2, False)]}),  # positions turn pairs of the others
}


def found(model: onnx.ModelProto) -> dict[str, list[tuple[int, bool]]]:
    network = prepare(load_normal(model))
    bases = find_bases(network.model, network.coupling, network.groups)
    return {name: [(basis.copies, bool(basis.meetings)) for basis in ones] for name, ones in bases.items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_free(name: str) -> None:
    assert found(GRAPHS[name][0]()) == GRAPHS[name][1]


@pytest.mark.parametrize("name", GRAPHS)
def test_turning_changes_no_output(name: str) -> None:
    """Whatever is found free: the outputs stay, the weights do not, and the units come in order."""
    session = session_of(GRAPHS[name][0](), n=2, N=2, T=5)
    batch = session.data.batches(8)[0]
    before = session.outputs([batch])
    stored = {v: session.network.array(v) for v in session.network.model.graph.initializers.values()}
    turned = turn(session, session.network.groups)
    assert turned, "nothing was found free"
    after = session.outputs([batch])
    for old, new in zip(before, after, strict=True):
        assert np.allclose(old[0], new[0], atol=1e-5 * np.abs(old[0]).max())
    changed = {str(v.name) for v, array in stored.items() if not np.array_equal(array, session.network.array(v))}
    assert len(changed) >= 2
    for known in turned.values():
        assert known.losses[0] == 0.0
        assert np.all(np.diff(known.losses) >= 0.0)


BETWEEN = {  # what stands between two matrices, and whether the width there is free
    "an activation": ("b = Relu(a)", False),
    "a scale of each unit": ("b = Mul(a, c)", False),
    "one number added to all units": ("b = Add(a, one)", False),
    "a product with itself": ("b = Mul(a, a)", False),
    "a norm": ("b = LayerNormalization <axis=-1> (a, c)", False),
    "divided by them": ("d = Add(a, c)  b = Div(c, d)", False),
    "a bias": ("b = Add(a, c)", True),
    "a number times all units": ("b = Mul(a, one)", True),
    "a negation": ("b = Neg(a)", True),
    "a type taken from it": ("s = CastLike(x, a)  t = ReduceMean <keepdims=1> (s, last)  b = Mul(a, t)", True),
    "its own shape": ("s = Shape(a)  e = Expand(c, s)  b = Add(a, e)", True),
    "a product with something of another width": ("g = MatMul(x, h)  b = Mul(a, g)", True),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_is_linear_is_free_and_nothing_else(name: str) -> None:
    text, free = BETWEEN[name]
    weights: dict[str, Weight] = {"u": [9, 7], "c": [7], "v": [7, 5], "one": np.full((), 0.5, np.float32), "h": [9, 1]}
    weights["last"] = models.integers(1)
    expected = {"u:1": [(1, False)]} if free else {}
    assert found(build(TWO_MATRICES.replace("b = Add(a, c)", text), weights)) == expected


def test_last_directions_lose_as_little_as_any_could() -> None:
    """Eckart and Young: cutting the rotated product of two matrices is its truncated singular value decomposition."""
    session = session_of(two_matrices(), n=2)
    x = np.concatenate([session.batches[number]["x"] for number in session.split.fitted])
    turned = turn(session, session.network.groups)["u:1"]
    stored = session.network.model.graph.initializers
    u, c, v = (session.network.array(stored[name]) for name in ("u", "c", "v"))
    read = x @ u + c
    outputs = (read - read.mean(0)) @ v
    values = np.linalg.svd(outputs, compute_uv=False) ** 2
    for left in range(1, 7):
        kept = read[:, :left] - read[:, :left].mean(0)
        lost = np.sum((outputs - kept @ np.linalg.lstsq(kept, outputs, rcond=None)[0]) ** 2) / np.sum(outputs**2)
        assert lost == pytest.approx(values[left:].sum() / values.sum(), abs=1e-5)
        assert turned.losses[7 - left] == pytest.approx(lost, abs=2e-3)


def test_queries_and_keys_of_low_rank_lose_nothing() -> None:
    """Of scores that have rank two, one in three dimensions of each head goes for free; slicing alone would not do."""
    model = models.attention()
    random = np.random.default_rng(3)
    for tensor in model.graph.initializer:
        if tensor.name == "wk":
            low = np.einsum("ihr,hrd->ihd", random.standard_normal((8, 4, 2)), random.standard_normal((4, 2, 3)))
            tensor.CopyFrom(onnx.numpy_helper.from_array(low.reshape(8, 12).astype(np.float32), "wk"))
    samples = random.standard_normal((48, 5, 8)).astype(np.float32)
    normal = load_normal(model)
    done = compensate(normal, check_samples(samples, normal), Budget(ratio=1 / 3, of="channels", only=("wq:1#2",)))
    assert len(done.plan.removed["wq:1#2"]) == 1
    (difference,) = done.difference.values()
    assert difference["relative_l2"] < 1e-3


@pytest.mark.parametrize("name", GRAPHS)
def test_pruned_in_a_turned_basis_the_model_is_exact(name: str) -> None:
    """Sliced and dense-shaped model agree, heads and dimensions cut side by side."""
    model = GRAPHS[name][0]()
    shape = {
        "two matrices": (64, 9),
        "linear residual stream": (64, 3, 8, 8),
        "grouped queries in one node": (64, 5, 32),
    }.get(name, (64, 5, 8))
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    result = prune(model, ratio=0.3, data=data)
    assert result.report.difference is not None
    assert result.report.difference < 1e-4
    feeds = runtime.random_feeds(result.model, shapes={"x": (2, *shape[1:])}, seed=0)
    assert all(
        np.isfinite(array).all() for array in runtime.run(runtime.session(result.model, optimize=True), feeds).values()
    )
