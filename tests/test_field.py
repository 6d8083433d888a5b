"""Kinds of files met in the field that were once refused or cut wrongly: the case, and variants in other operators.

The cases are those of ../shared/cases/build.py, beside the project; the variants need nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from spa.errors import BudgetError, ModelError, NothingToPrune
from spa.pipeline import PruneResult, prune
from tests.benchmarks.zoo import SHARED
from tests.models import build, positive

CASES = SHARED / "cases" / "build.py"


def case(name: str) -> onnx.ModelProto:
    if not CASES.exists():
        pytest.skip("the cases are not there: set SPA_SHARED to the folder that holds cases/")
    specification = importlib.util.spec_from_file_location("cases", CASES)
    assert specification is not None
    assert specification.loader is not None
    module: ModuleType = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made: onnx.ModelProto = getattr(module, name)()
    return made


def cut(model: onnx.ModelProto | ir.Model | Path, ratio: float, **options: Any) -> PruneResult:
    """A model that lost at least a share of its parameters, compared with the dense one."""
    result = prune(model, ratio=ratio, **options)
    report = result.report
    assert report.verified
    assert report.difference is not None
    assert 1 - report.after["params"] / report.before["params"] >= ratio - 1e-9
    return result


def groups(result: PruneResult) -> list[str]:
    return [f"{group.name} {group.kind} {group.units}" for group in result.report.groups if group.off is None]


def removed(result: PruneResult) -> dict[str, int]:
    return {group.name: len(result.plan.removed.get(group.name, ())) for group in result.report.groups}


# ------------------------------------------------------------------------------------------ axes in another order
def test_permuted_channels_are_one_group() -> None:
    """As many may go as without the Gather: all but a tenth, or all but one."""
    permuted, plain = case("permuted"), case("permuted")
    del plain.graph.node[2]
    plain.graph.node[2].input[0] = "r"
    result = cut(permuted, 0.87)
    assert groups(result) == ["K:0 channels 24"]
    assert removed(cut(plain, 0.87)) == removed(result) == {"K:0": 21}
    for model in (permuted, plain):
        assert removed(cut(model, 0.9, min_keep=0)) == {"K:0": 22}
        assert removed(cut(model, 0.95, min_keep=0)) == {"K:0": 23}


REORDERED = {
    "flipped": "c = Slice(r, start, end, axis, step)",
    "runs": "c = Gather<axis=1>(r, runs)",
    "in pieces of one": "c = Gather<axis=1>(r, ones)",
}


@pytest.mark.parametrize("name", REORDERED)
def test_reordered_features_are_one_group(name: str) -> None:
    """torch.flip, and tables of positions; min_keep and the last unit hold for the axis, not for its pieces."""
    text = (
        f"(float[N,5] x) => (float[N,4] y) {{ a = MatMul(x, w0)  r = Relu(a)  {REORDERED[name]}  y = MatMul(c, w1) }}"
    )
    ends = {"start": [-1], "end": [-(2**63)], "axis": [1], "step": [-1]}
    tables = {"runs": [8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3], "ones": [(5 * k + 3) % 12 for k in range(12)]}
    numbers = {key: np.array(content, np.int64) for key, content in (ends | tables).items()}
    model = build(text, {"w0": [5, 12], "w1": [12, 4], **numbers})
    result = cut(model, 0.9, min_keep=0)
    assert groups(result) == ["w0:1 ffn 12"]
    assert removed(result) == {"w0:1": 11}
    assert removed(cut(model, 0.25)) == {"w0:1": 3}


def test_an_axis_reordered_beside_another() -> None:
    """A permuted axis and one that is joined to it stay two groups; with a part cut off, the rest are its pieces."""
    text = """(float[N,5] x) => (float[N,4] y) {
        a = MatMul(x, w0)  b = MatMul(x, w1)  c = Gather<axis=1>(a, table)  d = Concat<axis=1>(c, b)  r = Relu(d)
        y = MatMul(r, w2) }"""
    model = build(text, {"w0": [5, 6], "w1": [5, 8], "w2": [14, 4], "table": np.array([3, 1, 5, 0, 4, 2])})
    assert groups(cut(model, 0.5)) == ["w0:1 ffn 6", "w1:1 ffn 8"]


# ---------------------------------------------------------------------------------------- norms over hidden widths
RESPONSE = """(float[N,7,7,6] x) => (float[N,7,7,6] y) {
    a = MatMul(x, w1)  h = Gelu(a)  n = ReduceL2<keepdims=1>(h, hw)  m = ReduceMean<keepdims=1>(n, last)
    e = Add(m, eps)  s = Div(n, e)  t = Mul(h, s)  u = Mul(t, g)  v = Add(u, h)  b = MatMul(v, w2)  y = Add(x, b) }"""
GATED = """(float[N,6] x) => (float[N,6] y) {
    a = MatMul(x, w1)  b = MatMul(x, w3)  s = Sigmoid(a)  t = Mul(a, s)  h = Mul(t, b)
    q = Mul(h, h)  m = ReduceMean<keepdims=1>(q, last)  e = Add(m, eps)  r = Sqrt(e)  d = Div(h, r)
    n = Mul(d, g)  c = MatMul(n, w2)  y = Add(x, c) }"""
ONE_NODE = """(float[N,6,9] x) => (float[N,4,9] y) {
    a = Conv(x, c1)  n = GroupNormalization<num_groups=1>(a, g, h)  r = Relu(n)  y = Conv(r, c2) }"""
SCALARS: dict[str, Any] = {"eps": np.array(1e-5, np.float32), "last": np.array([-1])}
NORMED = {
    "response": (RESPONSE, {"w1": [6, 32], "w2": [32, 6], "g": [32], "hw": np.array([1, 2]), **SCALARS}),
    "gated": (GATED, {"w1": [6, 32], "w3": [6, 32], "w2": [32, 6], "g": positive("g", 32), **SCALARS}),
    "one node": (ONE_NODE, {"c1": [32, 6, 1], "g": positive("g", 32), "h": [32], "c2": [4, 32, 1]}),
}


@pytest.mark.parametrize("name", ["layer_norm_mlp", "response_norm"])
def test_hidden_widths_with_a_norm_of_their_own(name: str) -> None:
    result = cut(case(name), 0.3)
    assert not result.report.exact
    assert any(note.startswith("opened since nothing else meets the budget") for note in result.report.notes)


@pytest.mark.parametrize("name", NORMED)
def test_norms_of_other_kinds(name: str) -> None:
    text, weights = NORMED[name]
    result = cut(build(text, weights, opset=21), 0.3)
    assert not result.report.exact
    assert any(note.startswith("opened since nothing else meets the budget") for note in result.report.notes)


def test_a_stream_is_not_opened() -> None:
    """A norm over what layers add to moves every layer: it goes only when asked for."""
    text = """(float[N,6] x) => (float[N,4] y) {
        a = MatMul(x, w0)  n = LayerNormalization(a, g)  b = Relu(n)  c = MatMul(b, w1)  z = Add(a, c)
        y = MatMul(z, w2) }"""
    model = build(text, {"w0": [6, 16], "g": positive("g", 16), "w1": [16, 16], "w2": [16, 4]})
    with pytest.raises((NothingToPrune, BudgetError)):
        prune(model, ratio=0.3)
    assert not cut(model, 0.3, include=["width"]).report.exact


def test_a_softmax_over_units_is_not_opened() -> None:
    text = "(float[N,6] x) => (float[N,4] y) { a = MatMul(x, w0)  s = Softmax(a)  y = MatMul(s, w1) }"
    with pytest.raises(NothingToPrune, match="enters a softmax"):
        prune(build(text, {"w0": [6, 16], "w1": [16, 4]}), ratio=0.3)


# ------------------------------------------------------------------------------------------------------- masks
ATTENTION = """(float[N,6,12] x) => (float[N,6,5] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    q4 = Reshape(q, heads)  k4 = Reshape(k, heads)  v4 = Reshape(v, heads)
    qh = Transpose<perm=[0,2,1,3]>(q4)  kh = Transpose<perm=[0,2,3,1]>(k4)  vh = Transpose<perm=[0,2,1,3]>(v4)
    s = MatMul(qh, kh)  m = MASKED  p = Softmax<axis=-1>(m)  o = MatMul(p, vh)
    t = Transpose<perm=[0,2,1,3]>(o)  f = Reshape(t, flat)  y = MatMul(f, wo) }"""
ABOVE = np.triu(np.ones((3, 6, 6), np.float32), 1)
SLOPES = np.array([0.5, 0.25, 0.125])[:, None, None] * np.minimum(0, np.arange(6) - np.arange(6)[:, None])
MASKS = {
    "minus infinity": ("Add(s, mask)", np.where(ABOVE > 0, -np.inf, 0)),
    "plus infinity": ("Sub(s, mask)", np.where(ABOVE > 0, np.inf, 0)),
    "lowest": ("Add(s, mask)", ABOVE * np.finfo(np.float32).min),
    "ten thousand": ("Add(mask, s)", -1e4 * ABOVE),
    "cap": ("Min(s, mask)", np.where(ABOVE > 0, -np.inf, 3e38)),
    "slopes": ("Add(s, mask)", SLOPES + np.where(ABOVE > 0, -np.inf, 0)),
}


def attention(masked: str, mask: np.ndarray) -> onnx.ModelProto:
    weights = {"wq": [12, 12], "wk": [12, 12], "wv": [12, 12], "wo": [12, 5]}
    sizes = {"heads": np.array([0, 6, 3, 4]), "flat": np.array([0, 6, 12])}
    return build(ATTENTION.replace("MASKED", masked), {**weights, **sizes, "mask": mask.astype(np.float32)})


def test_a_stored_causal_mask() -> None:
    result = cut(case("masked"), 0.3)
    assert removed(result)["Wq:1"] == 1


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "lamp"])
@pytest.mark.parametrize("name", MASKS)
def test_no_mask_is_a_weight(name: str, criterion: str) -> None:
    """The heads that go are those that go without the mask."""
    masked, mask = MASKS[name]
    result = cut(attention(masked, mask), 0.3, criterion=criterion)
    without = cut(attention("Identity(s)", mask), 0.3, criterion=criterion)
    assert result.plan.removed == without.plan.removed
    assert len(result.plan.removed["wq:1"]) == 1


def test_numbers_that_are_no_mask_are_refused() -> None:
    model = attention("Add(s, mask)", np.where(ABOVE > 0, np.nan, 0))
    with pytest.raises(ModelError, match="tensor 'mask' holds nan"):
        prune(model, ratio=0.3)
    model = attention("Add(s, mask)", SLOPES + np.where(np.arange(108).reshape(3, 6, 6) == 7, np.inf, 0))
    with pytest.raises(ModelError, match="tensor 'mask' holds inf"):
        prune(model, ratio=0.3)


# ---------------------------------------------------------------------------------------------- nothing in a tensor
def empty(*shape: int, kind: type = np.float32) -> np.ndarray:
    return np.zeros(shape, kind)


EMPTY: dict[str, tuple[str, dict[str, Any]]] = {
    "rows written": ("b = ScatterND(a, i, u)", {"i": empty(0, 1, kind=np.int64), "u": empty(0, 32)}),
    "elements written": ("b = ScatterND(a, i, u)", {"i": empty(0, 2, kind=np.int64), "u": empty(0)}),
    "columns written": ("b = ScatterElements<axis=1>(a, i, u)", {"i": empty(5, 0, kind=np.int64), "u": empty(5, 0)}),
    "rows joined": ("b = Concat<axis=0>(a, u)", {"u": empty(0, 32)}),
    "columns joined": ("b = Concat<axis=1>(u, a)", {"u": empty(5, 0)}),
    "none picked": ("g = Gather<axis=1>(a, i)  b = Concat<axis=1>(a, g)", {"i": empty(0, kind=np.int64)}),
    "an inner width of none": (
        "q = MatMul(x, v)  p = MatMul(q, u)  b = Add(a, p)",
        {"v": empty(12, 0), "u": empty(0, 32)},
    ),
}


def test_updates_of_nothing() -> None:
    assert groups(cut(case("empty_updates"), 0.6)) == ["A:1 ffn 32"]


@pytest.mark.parametrize("name", EMPTY)
def test_tensors_without_elements(name: str) -> None:
    body, weights = EMPTY[name]
    text = f"(float[5,12] x) => (float[5,6] y) {{ a = MatMul(x, w0)  {body}  r = Relu(b)  y = MatMul(r, w1) }}"
    result = cut(build(text, {"w0": [12, 32], "w1": [32, 6], **weights}), 0.6)
    assert groups(result) == ["w0:1 ffn 32"]
    assert result.report.difference == 0.0


# ---------------------------------------------------------------------------------------------- listed weights
def listed(model: onnx.ModelProto | ir.Model) -> dict[str, list[int]]:
    """The weights among a model's inputs, and their shapes."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name in weights]
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs}


def test_weights_listed_as_inputs() -> None:
    result = cut(case("listed_weights"), 0.5)
    assert listed(result.model) == {"K": [12, 3, 1, 1], "K2": [5, 12, 1, 1]}
    assert any("stored tensors listed as inputs (K, K2)" in note for note in result.report.notes)


@pytest.mark.parametrize("order", ["first", "last", "partly"])
def test_weights_listed_at_any_version(order: str) -> None:
    """Before the true inputs, behind them, or some only; a target of Reshape among them is a constant as well."""
    text = """(float[N,5] x) => (float[N,4] y) {
        a = Gemm(x, w0, b0)  r = Relu(a)  s = Reshape(r, target)  t = Transpose<perm=[0,2,1]>(s)  u = Flatten(t)
        y = MatMul(u, w1) }"""
    model = build(
        text, {"w0": [5, 12], "b0": [12], "target": np.array([-1, 6, 2]), "w1": [12, 4]}, opset=17, ir_version=8
    )
    true = list(model.graph.input)
    weights = [
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
        if order != "partly" or tensor.name != "w1"
    ]
    del model.graph.input[:]
    model.graph.input.extend([*weights, *true] if order == "first" else [*true, *weights])
    result = cut(model, 0.45)
    stored = {tensor.name: list(tensor.dims) for tensor in ir.to_proto(result.model).graph.initializer}
    assert listed(result.model) == {value.name: stored[value.name] for value in weights}
    assert stored["b0"] == [6]
    proto = ir.to_proto(result.model)
    names = [value.name for value in (*weights, *true)] if order == "first" else ["x", *(w.name for w in weights)]
    assert [value.name for value in proto.graph.input] == names
    onnx.checker.check_model(proto)


# ------------------------------------------------------------------------------------------------- old opsets
def old_network(opset: int) -> onnx.ModelProto:
    """What frameworks wrote at that time: attributes that say what may be overwritten, broadcast and target as such."""
    node, random = onnx.helper.make_node, np.random.default_rng(0)
    place: dict[str, Any] = {"consumed_inputs": [0]} if opset < 6 else {}
    testing: dict[str, Any] = {"is_test": 1} if opset < 7 else {}
    stored = {"k": (16, 3, 1, 1), "g": (16,), "b": (16,), "m": (16,), "w": (16, 5), "c": (5,)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in stored.items()}
    arrays["v"] = np.linspace(0.5, 2, 16, dtype=np.float32)
    normal: dict[str, Any] = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {}
    nodes = [
        node("Conv", ["x", "k"], ["a"]),
        node("BatchNormalization", ["a", "g", "b", "m", "v"], ["n"], epsilon=1e-5, spatial=1, **normal, **testing),
        node("Relu", ["n"], ["r"], **place),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Dropout", ["p"], ["d"], **testing, **place),
        node("GlobalAveragePool", ["d"], ["q"]),
    ]
    if opset < 5:
        nodes.append(node("Reshape", ["q"], ["f"], shape=[0, -1], **place))
    else:
        arrays["t"] = np.array([0, -1])
        nodes.append(node("Reshape", ["q", "t"], ["f"]))
    broadcast: dict[str, Any] = {"broadcast": 1} if opset < 7 else {}
    nodes.append(node("Gemm", ["f", "w", "c"], ["y"], **broadcast))
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 8, 8])]
    inputs += [onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 5])]
    graph = onnx.helper.make_graph(nodes, "old", inputs, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=3)


def test_an_old_opset() -> None:
    result = cut(case("old_opset"), 0.5)
    assert result.model.opset_imports[""] == 9
    assert result.report.notes == ["opset 7 was brought up to 9 with onnx's version converter"]


@pytest.mark.parametrize("opset", range(1, 9))
def test_opsets_one_to_eight(opset: int, tmp_path: Path) -> None:
    """From memory and from a file; the model computes what it does in opset 8, which onnxruntime runs."""
    answers: list[np.ndarray] = []
    path = tmp_path / "old.onnx"
    onnx.save(old_network(opset), path)
    result = cut(path, 0.4)
    assert result.report.notes == [f"opset {opset} was brought up to 9 with onnx's version converter"]
    assert cut(old_network(opset), 0.4).plan == cut(ir.from_proto(old_network(opset)), 0.4).plan == result.plan
    feed = {"x": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    for model in (ir.to_proto(result.dense), old_network(8)):
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, feed)[0])
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5, atol=1e-5)


def test_what_the_converter_does_not_know_is_refused_in_a_line() -> None:
    model = old_network(6)
    model.graph.node[2].op_type = "Upsample"
    with pytest.raises(
        ModelError, match=r"found 6, which onnx's version converter cannot bring up to 9 \(.+\); export"
    ):
        prune(model, ratio=0.3)


# ---------------------------------------------------------------------------------- quantised when the graph runs
def quantised_recurrence(domain: str = "com.microsoft") -> onnx.ModelProto:
    """One direction behind a layer of its own; its last state is read by a product that quantises."""
    random, node = np.random.default_rng(0), onnx.helper.make_node
    d, k = 20, 24
    names = ["f", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    nodes = [
        node("MatMul", ["x", "a"], ["e"]),
        node("Relu", ["e"], ["f"]),
        node("DynamicQuantizeLSTM", names, ["", "h"], domain=domain, hidden_size=d),
        node("Squeeze", ["h", "axis"], ["s"]),
        node("DynamicQuantizeMatMul", ["s", "m", "ms", "mz"], ["y"], domain=domain),
    ]
    arrays: dict[str, np.ndarray] = {
        "a": random.standard_normal((6, k)).astype(np.float32) / 3,
        "w": random.integers(-90, 90, (1, k, 4 * d)).astype(np.int8),
        "r": random.integers(-90, 90, (1, d, 4 * d)).astype(np.int8),
        "b": random.standard_normal((1, 8 * d)).astype(np.float32) / 4,
        "m": random.integers(-90, 90, (d, 5)).astype(np.int8),
        **{name: np.full(1, 0.004, np.float32) for name in ("ws", "rs")},
        **{name: np.zeros(1, np.int8) for name in ("wz", "rz")},
        "ms": np.array(0.01, np.float32), "mz": np.array(0, np.int8), "axis": np.array([0]),
    }  # fmt: skip
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [7, "n", 6])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5])]
    graph = onnx.helper.make_graph(nodes, "recurrence", inputs, outputs, stored)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(domain, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_range_of_quantised_numbers_holds_no_unit() -> None:
    for ratio in (0.15, 0.6):
        assert groups(cut(case("quantised_lstm"), ratio)) == ["Wu:2 hidden 24", "Wv:2 hidden 24"]


def test_a_range_of_quantised_numbers_in_other_operators() -> None:
    result = cut(quantised_recurrence(), 0.5)
    assert groups(result) == ["a:1 ffn 24", "w:2 hidden 20"]
    assert result.report.difference is not None
    assert 0.0 < result.report.difference < 0.05
    assert cut(quantised_recurrence(), 0.1, only=["a:1"]).report.difference == pytest.approx(0.0, abs=1e-6)


# -------------------------------------------------------------------------------------------- constant positions
def run(model: onnx.ModelProto | ir.Model, feed: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, feed)[0]
    return answer


def table(*lists: list[int]) -> np.ndarray:
    """The positions that are the product of lists, (lengths..., axes)."""
    return np.stack(np.meshgrid(*lists, indexing="ij"), -1).astype(np.int64)


IMAGES = """(float[2,3,4,4] x) => (float[2,5,4,4] y) {
    a = Conv(x, k0)  r = Relu(a)  BODY  c = Relu(z)  y = Conv(c, k1) }"""
FIRST = "p = Slice(r, s0, s5, s1)  q = Conv(p, k2)  "
KERNELS: dict[str, Any] = {
    "k0": [12, 3, 1, 1], "k1": [5, 12, 1, 1], "k2": [5, 5, 1, 1],
    **{f"s{number}": np.array([number]) for number in (0, 1, 3, 5)},
}  # fmt: skip
ASSIGNED: dict[str, tuple[str, np.ndarray, list[str]]] = {
    "the first channels": (
        FIRST + "z = ScatterND(r, i, q)", table([0, 1], list(range(5))),
        ["k0:0 channels 5", "k0:0#2 channels 7", "k2:0 channels 5"],
    ),
    "channels in the middle, counted from the end": (
        FIRST + "z = ScatterND(r, i, q)", table([0, 1], list(range(-7, -2))),
        ["k0:0 channels 5", "k0:0#2 channels 5", "k0:0#3 channels 2", "k2:0 channels 5"],
    ),
    "every second channel": (
        FIRST + "z = ScatterND(r, i, q)", table([0, 1], [1, 3, 5, 7, 9]),
        ["k0:0 channels 3", "k0:0#2 channels 2", "k0:0#3 channels 3", "k0:0#4 channels 4", "k2:0 channels 5"],
    ),
    "a corner of channels and rows": (
        FIRST + "h = Slice(q, s0, s3, s3)  w = Transpose<perm=[0,1,3,2]>(r)  "
        "e = Transpose<perm=[0,1,3,2]>(h)  v = ScatterND(w, i, e)  z = Transpose<perm=[0,1,3,2]>(v)",
        table([0, 1], list(range(5)), [0, 1, 2]), ["k0:0 channels 5", "k0:0#2 channels 7"],
    ),
    "by element": (
        FIRST + "z = ScatterElements<axis=1>(r, i, q)",
        np.broadcast_to(np.arange(7, 12)[:, None, None], (2, 5, 4, 4)).copy(),
        ["k0:0 channels 5", "k0:0#2 channels 2", "k0:0#3 channels 5", "k2:0 channels 5"],
    ),
    "picked by a table": (
        "g = GatherND(r, i)  o = Slice(r, s0, s5, s1)  n = Conv(o, k2)  z = Concat<axis=1>(g, n)",
        table([0, 1], list(range(5, 12))), ["k0:0 channels 5", "k0:0#2 channels 7", "k2:0 channels 5"],
    ),
}  # fmt: skip


def test_a_slice_that_is_assigned() -> None:
    assert cut(case("slice_assignment"), 0.6).report.difference == 0.0


@pytest.mark.parametrize("name", ASSIGNED)
def test_assignments_at_constant_positions(name: str) -> None:
    body, positions, expected = ASSIGNED[name]
    model = build(IMAGES.replace("BODY", body), {**KERNELS, "i": positions}, opset=17, ir_version=8)
    result = cut(model, 0.3)
    if name != "a corner of channels and rows":
        assert groups(result) == expected
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    np.testing.assert_array_equal(run(result.dense, feed), run(model, feed))


def test_positions_that_are_no_product_or_add_up_stay() -> None:
    """A diagonal, and a sum over what was there: the scatter stays, and holds the axes it writes."""
    diagonal = np.array([[[0, k], [1, k + 1]] for k in range(5)])
    for body, positions in (
        ("q = Conv(x, k3)  u = Transpose<perm=[1,0,2,3]>(q)  z = ScatterND(r, i, u)", diagonal),
        ('q = Conv(x, k3)  z = ScatterND<reduction="add">(r, i, q)', table([0, 1], list(range(5)))),
    ):
        model = build(IMAGES.replace("BODY", body), {**KERNELS, "k3": [5, 3, 1, 1], "i": positions}, opset=18)
        with pytest.raises(NothingToPrune, match="written by index"):
            prune(model, ratio=0.3)


# ------------------------------------------------------------------------------------------------ lists of tensors
LISTS = {
    "split in chunks": (
        "s = SplitToSequence<axis=1>(a, six)  p = SequenceAt(s, zero)  q = SequenceAt(s, one)  m = Mul(p, q)"
    ),
    "split in lengths": (
        "s = SplitToSequence<axis=-1>(a, lengths)  p = SequenceAt(s, zero)  q = SequenceAt(s, last)  r = Relu(p)  "
        "o = Concat<axis=1>(r, q)  m = Sigmoid(o)"
    ),
    "joined": "r = Relu(a)  b = MatMul(x, w2)  s = SequenceConstruct(r, b)  m = ConcatFromSequence<axis=1>(s)",
    "stacked": (
        "b = MatMul(x, w2)  s = SequenceConstruct(a, b)  t = ConcatFromSequence<axis=1, new_axis=1>(s)  "
        "m = ReduceSum<keepdims=0>(t, axes)"
    ),
    "filled": (
        "b = MatMul(x, w2)  e = SequenceEmpty()  s = SequenceInsert(e, a)  t = SequenceInsert(s, b, zero)  "
        "u = SequenceInsert(t, b)  v = SequenceErase(u, zero)  n = SequenceLength(v)  p = SequenceAt(v, last)  "
        "q = SequenceAt(v, zero)  f = Cast<to=1>(n)  o = Add(p, q)  m = Div(o, f)"
    ),
    "unstacked": (
        "g = Reshape(a, heads)  s = SplitToSequence<axis=1, keepdims=0>(g)  p = SequenceAt(s, zero)  "
        "q = SequenceAt(s, one)  m = Mul(p, q)"
    ),
}
WIDTHS = {"split in chunks": 6, "split in lengths": 12, "joined": 24, "stacked": 12, "filled": 12, "unstacked": 6}


def test_a_sequence_of_constant_parts() -> None:
    assert groups(cut(case("sequence"), 0.6)) == ["W:1 ffn 16"]


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_tensors(name: str, opset: int) -> None:
    """The lists go: the dense model computes the same without them, and what they held is cut."""
    if opset < 13 and name == "stacked":
        pytest.skip("ReduceSum takes its axes as an attribute there")
    text = f"(float[N,5] x) => (float[N,4] y) {{ a = MatMul(x, w0)  {LISTS[name]}  y = MatMul(m, w1) }}"
    numbers = {"zero": 0, "one": 1, "last": -1, "six": 6, "lengths": [4, 3, 5], "axes": [1], "heads": [-1, 2, 6]}
    constants = {key: np.array(number) for key, number in numbers.items()}
    weights = {"w0": [5, 12], "w2": [5, 12], "w1": [WIDTHS[name] - 3 * (name == "split in lengths"), 4]}
    model = build(text, {**weights, **constants}, opset=opset, ir_version=8)
    result = cut(model, 0.3)
    assert not any("Sequence" in node.op_type for node in result.dense.graph)
    feed = {"x": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)}
    np.testing.assert_allclose(run(result.dense, feed), run(model, feed), rtol=1e-6)


def test_a_list_that_something_else_reads_stays() -> None:
    text = """(float[N,5] x, int64 k) => (float[N,4] y) {
        a = MatMul(x, w0)  s = SplitToSequence<axis=1>(a, six)  p = SequenceAt(s, k)  q = SequenceAt(s, one)
        m = Mul(p, q)  y = MatMul(m, w1) }"""
    model = build(text, {"w0": [5, 12], "w1": [6, 4], "six": np.array(6), "one": np.array(1)})
    with pytest.raises(NothingToPrune, match="holds a list of tensors"):
        prune(model, ratio=0.3)
