"""Kinds of networks met in the field, repaired with samples: what is reported is what fresh samples show.

The cases are those of ../shared/cases/build.py, beside the project; the variants need nothing.

One file: a list of networks, each with the case that it is a variant of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa import runtime
from spa.errors import DataError
from spa.passes.samples.datafree import make_samples
from spa.pipeline import PruneResult, apply_plan, load_normal, prune
from tests.field.cases import case, cut
from tests.models import build, integers

Arrays = dict[str, np.ndarray]


def noise(seed: int = 0, /, **shapes: Any) -> Arrays:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def weights(**shapes: tuple[int, ...]) -> Arrays:
    """As wide as they are initialised in practice: by their second axis, or the only one."""
    return {
        name: (array / np.sqrt(array.shape[0]) if array.ndim > 1 else 0.1 * array).astype(np.float32)
        for name, array in noise(3, **shapes).items()
    }


def distance(model: onnx.ModelProto, result: PruneResult, x: Arrays) -> float:
    """Relative L2 of the first output on some samples, centred."""
    dense, pruned = (
        next(iter(runtime.run(runtime.session(which, optimize=False), x).values())).astype(np.float64)
        for which in (model, result.model)
    )
    rows = dense.reshape(-1, dense.shape[-1] if dense.ndim > 1 else 1)
    return float(np.sqrt(np.sum((dense - pruned) ** 2) / np.sum((rows - rows.mean(0)) ** 2)))


def repaired(model: onnx.ModelProto, ratio: float, data: Arrays, fresh: Arrays, **options: Any) -> PruneResult:
    """A model that lost at least a share of its parameters, as far off on fresh samples as it says."""
    result = cut(model, ratio, data=data, **options)
    (said,) = (off["relative_l2"] for off in result.report.outputs.values())
    true = distance(model, result, fresh)
    assert said / 1.5 < true < said * 1.5, (said, true)
    assert all(layer.measured < 1.5 for layer in result.report.layers if np.isfinite(layer.measured))
    return result


def beats_weights(model: onnx.ModelProto, ratio: float, result: PruneResult, fresh: Arrays, *, by: float) -> None:
    """The repaired model is nearer to the dense one than the model cut by weights alone, by a factor."""
    plain = prune(model, ratio=ratio, weights=True, align=1 if result.plan.align == 1 else "auto")
    assert distance(model, result, fresh) < distance(model, plain, fresh) / by


# ------------------------------------------------------------------------------------------------ tied weights
TIED = """(float[n,12] x) => (float[n,12] y) {
    a = Gemm<transB=1>(x, w)  r = Relu(a)  b = MatMul(r, w)  s = Tanh(b)  y = MatMul(s, v) }"""


@pytest.mark.parametrize("preset", ["fast", "default"])
def test_tied(preset: str) -> None:
    model = case("tied")
    result = cut(model, 0.3, data_free=True, preset=preset)
    assert set(result.plan.removed) == {"W:1"}
    apply_plan(model, result.plan)  # a plan names nothing that the model does not have


def test_tied_upside_down() -> None:
    model = build(TIED, weights(w=(20, 12), v=(12, 12)))
    result = repaired(model, 0.3, noise(x=(240, 12)), noise(9, x=(400, 12)))
    assert "w:0" in result.plan.removed
    assert [layer.note for layer in result.report.layers if layer.removed] == [
        "left alone: its weight is used by other nodes too"
    ]
    apply_plan(model, result.plan)


# ---------------------------------------------------------------------------------------------- weights in common
SIAMESE = """(float[n,10] x, float[n,10] z) => (float[n,3] y) {
    a = Gemm(x, u, c)  b = Relu(a)  d = MatMul(b, w)  e = Tanh(d)
    f = Gemm(z, u, c)  g = Relu(f)  h = MatMul(g, w)  i = Tanh(h)
    j = Sub(e, i)  k = Abs(j)  y = MatMul(k, v) }"""
UNROLLED = """(float[n,6] x1, float[n,6] x2, float[n,6] x3) => (float[n,4] y) {
    a1 = MatMul(x1, u)  h1 = Tanh(a1)
    a2 = MatMul(x2, u)  r2 = MatMul(h1, w)  s2 = Add(a2, r2)  h2 = Tanh(s2)
    a3 = MatMul(x3, u)  r3 = MatMul(h2, w)  s3 = Add(a3, r3)  h3 = Tanh(s3)  y = MatMul(h3, v) }"""
HEADS = """(float[n,3,8,8] x) => (float[n,5,8,8] y, float[n,5,4,4] z) {
    a = Conv<pads=[1,1,1,1]>(x, c1)  p = Relu(a)  q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)
    b = Conv<pads=[1,1,1,1]>(p, h1)  d = Relu(b)  y = Conv(d, h2)
    e = Conv<pads=[1,1,1,1]>(q, h1)  f = Relu(e)  z = Conv(f, h2) }"""


def test_siamese_trunks_are_refitted_jointly() -> None:
    model = build(SIAMESE, weights(u=(10, 48), c=(48,), w=(48, 24), v=(24, 3)))
    data, fresh = noise(x=(400, 10), z=(400, 10)), noise(9, x=(400, 10), z=(400, 10))
    result = repaired(model, 0.4, data, fresh, align=1)
    beats_weights(model, 0.4, result, fresh, by=1.5)
    notes = {layer.note for layer in result.report.layers if layer.width == 48}
    assert notes == {""}, "both uses were there when the weight was fitted"


def test_an_unrolled_recurrence_is_refitted_jointly() -> None:
    model = build(UNROLLED, weights(u=(6, 40), w=(40, 40), v=(40, 4)))
    shapes = {"x1": (400, 6), "x2": (400, 6), "x3": (400, 6)}
    result = repaired(model, 0.4, noise(**shapes), noise(9, **shapes))
    beats_weights(model, 0.4, result, noise(9, **shapes), by=1.3)
    assert [layer.note for layer in result.report.layers if layer.removed] == [
        "", "bias only: its weight was fitted where it was used first", ""
    ]  # fmt: skip


def test_detection_heads_are_refitted_jointly() -> None:
    model = build(HEADS, weights(c1=(16, 3, 3, 3), h1=(24, 16, 3, 3), h2=(5, 24, 1, 1)))
    data, fresh = noise(x=(96, 3, 8, 8)), noise(9, x=(96, 3, 8, 8))
    result = cut(model, 0.4, data=data)
    beats_weights(model, 0.4, result, fresh, by=1.5)
    assert not any(layer.note.startswith("left alone") for layer in result.report.layers if layer.removed)


# ------------------------------------------------------------------------------------------- one hidden, two branches
BRANCHES = """(float[n,6,10] x) => (float[n,8,10] y) {
    g = Conv(x, c0)  h = Relu(g)  k = Conv(h, c1)  i = Relu(k)
    p = Conv(i, cp)  u = Add(x, p)  q = Conv(i, cq)  r = Conv(u, c2)  s = Relu(r)  t = Conv(s, c3)  y = Add(t, q) }"""


def test_doubly_residual() -> None:
    model = case("doubly_residual")
    result = repaired(model, 0.4, noise(x=(300, 24)), noise(9, x=(400, 24)))
    beats_weights(model, 0.4, result, noise(9, x=(400, 24)), by=2)


def test_one_hidden_width_read_for_two_branches_of_one_width() -> None:
    """Both products have eight outputs, and only one of them is added to a branch that the cut has changed."""
    narrow = weights(c0=(20, 6, 1), c1=(20, 20, 1), c2=(20, 6, 1))
    model = build(BRANCHES, narrow | weights(cp=(6, 20, 1), cq=(8, 20, 1), c3=(8, 20, 1)))
    result = repaired(model, 0.3, noise(x=(200, 6, 10)), noise(9, x=(200, 6, 10)))
    beats_weights(model, 0.3, result, noise(9, x=(200, 6, 10)), by=1.5)


# ---------------------------------------------------------------------------------------------- norms over the units
RMS = """(float[n,7,6] x) => (float[n,7,5] y) {
    a = MatMul(x, w1)  h = Softplus(a)  q = Mul(h, h)  m = ReduceMean<keepdims=1>(q, last)  e = Add(m, eps)
    s = Sqrt(e)  d = Div(h, s)  n = Mul(d, g)  y = MatMul(n, w2) }"""
LAYER_NORM = """(float[n,6] x) => (float[n,4] y) {
    a = MatMul(x, w1)  n = LayerNormalization(a, g, b)  r = Relu(n)  y = MatMul(r, w2) }"""
NORM: dict[str, Any] = {"g": np.linspace(0.5, 1.5, 32, dtype=np.float32), "b": np.zeros(32, np.float32)}
NORM_SCALARS: dict[str, Any] = {"eps": np.array(1e-5, np.float32), "last": integers(-1)}


@pytest.mark.parametrize("name", ["layer_norm_mlp", "response_norm"])
def test_norms(name: str) -> None:
    shape = {"layer_norm_mlp": (16, 12), "response_norm": (7, 7, 16)}[name]
    result = cut(case(name), 0.3, data=noise(x=(120, *shape)))
    assert any(group.kind == "width" and group.removed for group in result.report.groups)
    (said,) = (off["relative_l2"] for off in result.report.outputs.values())
    assert said < 0.4


@pytest.mark.parametrize(("text", "more"), [(RMS, NORM_SCALARS | {"g": NORM["g"]}), (LAYER_NORM, NORM)])
def test_norms_of_other_kinds(text: str, more: dict[str, Any]) -> None:
    model = build(text, weights(w1=(6, 32), w2=(32, 5 if text is RMS else 4)) | more)
    shape = (7, 6) if text is RMS else (6,)
    fresh = noise(9, x=(300, *shape))
    result = repaired(model, 0.4, noise(x=(300, *shape)), fresh)
    beats_weights(model, 0.4, result, fresh, by=1.5)


# ------------------------------------------------------------------------------------ groups that no layer reads
EMBEDDINGS = """(int64[n] user, int64[n] item) => (float[n,1] y) {
    a = Gather(users, user)  b = Gather(items, item)  p = Mul(a, b)  y = ReduceSum<keepdims=1>(p, one) }"""
BILINEAR = """(float[n,12] u, float[n,10] v) => (float[n] y) {
    a = MatMul(u, u0)  r = Relu(a)  e = Gemm(r, u1, ub)  b = MatMul(v, v0)  s = Relu(b)  f = Gemm(s, v1, vb)
    y = Einsum<equation="nd,nd->n">(e, f) }"""


@pytest.mark.parametrize("only", [["U1:1"], []])
def test_two_towers(only: list[str]) -> None:
    model = case("two_towers")
    shapes, fresh = {"u": (300, 20), "v": (300, 30)}, {"u": (400, 20), "v": (400, 30)}
    result = repaired(model, 0.15, noise(**shapes), noise(9, **fresh), only=only)
    assert "U1:1" in result.plan.removed or not only


def test_towers_that_meet_in_an_einsum() -> None:
    model = build(BILINEAR, weights(u0=(12, 80), u1=(80, 64), ub=(64,), v0=(10, 80), v1=(80, 64), vb=(64,)))
    result = repaired(model, 0.4, noise(u=(300, 12), v=(300, 10)), noise(9, u=(400, 12), v=(400, 10)))
    assert "u1:1" in result.plan.removed


def test_embeddings_that_meet_in_a_product() -> None:
    """A recommender: nothing but the product of two tables."""
    model = build(EMBEDDINGS, weights(users=(50, 32), items=(40, 32)) | {"one": integers(1)})
    generator = np.random.default_rng(0)
    data = {"user": generator.integers(0, 50, 200), "item": generator.integers(0, 40, 200)}
    assert set(cut(model, 0.6, data=data).plan.removed) == {"users:1"}


# ------------------------------------------------------------------------------------------------- recurrences
RESET = """(float[12,n,8] x) => (float[12,n,4] y) {
    h, last = GRU<hidden_size=20>(x, w, r, b)  s = Squeeze(h, one)  y = MatMul(s, v) }"""


@pytest.mark.parametrize("name", ["", "gru"])
def test_a_recurrence_that_cannot_be_refitted_says_how_far_it_is_off(name: str) -> None:
    made = weights(w=(1, 60, 8), r=(1, 60, 20), b=(1, 120), v=(20, 4))
    model = case(name) if name else build(RESET, made | {"one": integers(1)})
    steps, width = (16, 12) if name else (12, 8)
    repaired(model, 0.3, noise(x=(steps, 100, width)), noise(9, x=(steps, 200, width)))


# ------------------------------------------------------------------------------------------- what a repair costs
NARROW = """(float[n,20] x) => (float[n,6] y) { a = MatMul(x, u)  b = Einsum<equation="nk,kd->nd">(a, v)
    r = Relu(b)  y = MatMul(r, w) }"""


def test_added_biases_count_as_cost() -> None:
    model = case("low_rank")
    report = cut(model, 0.05, data_free=True, only=["A:1"]).report
    assert report.before["params"] == 14_592
    narrow = build(NARROW, weights(u=(20, 6), v=(6, 400), w=(400, 6)))
    result = cut(narrow, 0.1, data=noise(x=(200, 20)), only=["u:1"])
    for which, said in ((narrow, result.report.before), (onnx_of(result), result.report.after)):
        assert sum(np.prod(tensor.dims) for tensor in which.graph.initializer) == said["params"]


def onnx_of(result: PruneResult) -> onnx.ModelProto:
    return ir.to_proto(result.model)


# ------------------------------------------------------------------------------- models without an axis of samples
SCATTERED = """(float[n,10] x, int64[m] sources, int64[m,1] targets) => (float[n,3] y) {
    a = MatMul(x, w1)  r = Relu(a)  g = Gather(r, sources)  zero = Sub(r, r)
    s = ScatterND<reduction="add">(zero, targets, g)  b = MatMul(s, w2)  q = Relu(b)
    d = MatMul(q, w3)  z = Softmax<axis=0>(d)  y = MatMul(z, w4) }"""
STREAMING = """(float[1,16] x, float[2,1,12] state) => (float[1,4] y, float[2,1,12] next) {
    one = Slice(state, i0, i1)  two = Slice(state, i1, i2)  p = Squeeze(one, i0)  q = Squeeze(two, i0)
    a = MatMul(x, u)  b = MatMul(p, w)  c = Add(a, b)  h = Tanh(c)
    d = MatMul(h, v)  e = Relu(d)  f = MatMul(e, t)  g = Add(f, q)  k = Tanh(g)  y = MatMul(k, o)
    h1 = Unsqueeze(h, i0)  k1 = Unsqueeze(k, i0)  next = Concat<axis=0>(h1, k1) }"""


def graphs(count: int, seed: int = 0) -> list[Arrays]:
    """Whole graphs, of six and of nine nodes by turns."""
    return [noise(seed + k, x=(n, 10), A=(n, n)) for k in range(count) for n in [(6, 9)[k % 2]]]


def mean_distance(model: onnx.ModelProto, result: PruneResult, feeds: list[Arrays]) -> float:
    return float(np.mean([distance(model, result, feed) for feed in feeds]))


def test_graph_attention() -> None:
    model = case("graph_attention")
    result = cut(model, 0.3, data=graphs(60))
    assert any("no axis of samples" in note for note in result.report.notes)
    assert mean_distance(model, result, graphs(20, 99)) < 0.4
    with pytest.raises(DataError, match="give recorded ones as data"):
        make_samples(load_normal(model))


def test_edges_by_number() -> None:
    """Messages along edges are gathered and scattered; a softmax over the nodes binds them together."""
    sizes = {"w1": (10, 32), "w2": (32, 24), "w3": (24, 6), "w4": (6, 3)}
    model = build(SCATTERED, weights(**sizes))
    generator = np.random.default_rng(0)
    feeds = []
    for k in range(60):
        nodes, edges = int(generator.integers(5, 12)), int(generator.integers(6, 30))
        ends = generator.integers(0, nodes, (2, edges))
        feeds.append(noise(k, x=(nodes, 10)) | {"sources": ends[0], "targets": ends[1][:, None]})
    result = cut(model, 0.3, data=feeds)
    assert any("no axis of samples" in note for note in result.report.notes)


def test_steps_of_a_stream_with_the_states_they_met(tmp_path: Path) -> None:
    """States are (layers, 1, units): recorded feeds, in a list and in a folder."""
    made = weights(u=(16, 12), w=(12, 12), v=(12, 40), t=(40, 12), o=(12, 4))
    model = build(STREAMING, made | {f"i{k}": integers(k) for k in range(3)})
    session, feeds, state = runtime.session(model, optimize=False), [], np.zeros((2, 1, 12), np.float32)
    for k in range(240):
        feeds.append(noise(k, x=(1, 16)) | {"state": state})
        state = runtime.run(session, feeds[-1])["next"]
    result = cut(model, 0.2, data=feeds[:200])
    assert all(off["relative_l2"] < 0.5 for off in result.report.outputs.values())
    for number, feed in enumerate(feeds[:40]):
        np.savez(tmp_path / f"{number:03}.npz", x=feed["x"], state=feed["state"])
    assert cut(model, 0.2, data=tmp_path).plan.removed
    stacked = {name: np.stack([feed[name] for feed in feeds[:40]]) for name in feeds[0]}
    assert cut(model, 0.2, data=stacked).plan.removed


# ------------------------------------------------------------------------------------------ shares of what varies
def test_one_row() -> None:
    """One sample a run: losses are shares of the variance over all samples that no fit saw, whatever their size."""
    model, x = case("one_row"), noise(x=(64, 40))
    results = [cut(model, 0.3, data={"x": scale * x["x"]}) for scale in (1, 16)]
    assert results[0].plan.removed == results[1].plan.removed
    for layers in zip(*(result.report.layers for result in results), strict=True):
        assert layers[0].measured == pytest.approx(layers[1].measured, rel=1e-3)
        assert all(layer.measured <= 1 and layer.predicted <= 1 for layer in layers)


def test_one_picture_a_run() -> None:
    text = """(float[1,3,6,6] x) => (float[1,4] y) {
        a = Conv<pads=[1,1,1,1]>(x, c1)  b = Relu(a)  d = Conv(b, c2)  e = Relu(d)  g = GlobalAveragePool(e)
        f = Flatten(g)  y = MatMul(f, w) }"""
    model = build(text, weights(c1=(20, 3, 3, 3), c2=(16, 20, 1, 1), w=(16, 4)))
    x = noise(x=(72, 1, 3, 6, 6))["x"][:, 0]
    results = [cut(model, 0.4, data={"x": scale * x}) for scale in (1, 16)]
    assert results[0].plan.removed == results[1].plan.removed
    assert all(layer.measured <= 1 for result in results for layer in result.report.layers)
