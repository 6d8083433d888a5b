"""Fused attention with a cache whose total length only the model names.

One file: one fused operator, exported in many ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from spa.analysis.plan import Plan
from spa.errors import VerificationError
from spa.notation.operation import MICROSOFT
from spa.passes.cut.masking import mask_consumers
from spa.pipeline import PruneResult, analyse, apply_plan, prune
from spa.written import verify_files
from tests.field.cases import case

HEADS, SHARED, SIZE, WIDTH = 4, 2, 16, 48
node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
RANDOM = np.random.default_rng(0)


def matrix(rows: int, columns: int) -> np.ndarray:
    return (RANDOM.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)


def attending(
    attend: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    opset: int = 21,
    grouped: bool = True,
) -> onnx.ModelProto:
    """What attends, between x with a cache of `p` positions and a layer behind; the cache that goes out has `t`."""
    behind = [
        node("MatMul", ["a", "wo"], ["o"]),
        node("Relu", ["o"], ["r"]),
        node("MatMul", ["r", "wf"], ["y"]),
    ]
    stored = {**weights, "wo": matrix(HEADS * SIZE, 24), "wf": matrix(24, 8)}
    kind = onnx.TensorProto.FLOAT
    inputs = [value("x", kind, ["b", "s", WIDTH])]
    inputs += [value(name, kind, ["b", SHARED, "p", SIZE]) for name in ("pk", "pv")]
    if grouped:
        integer = onnx.TensorProto.INT32
        inputs += [value("lengths", integer, ["b"]), value("total", integer, [])]
    outputs = [value("y", kind, ["b", "s", 8]), *(value(name, kind, ["b", SHARED, "t", SIZE]) for name in ("nk", "nv"))]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = onnx.helper.make_graph([*attend, *behind], "attending", inputs, outputs, tensors)
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def projected(quantised: bool) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Queries, keys and values made by a product each, with weights of floats, or of four bits in blocks."""
    nodes, weights = [], {}
    for name, width in (("q", HEADS * SIZE), ("k", SHARED * SIZE), ("v", SHARED * SIZE)):
        if quantised:
            attributes: dict[str, Any] = {"K": WIDTH, "N": width, "bits": 4, "block_size": 16, "domain": MICROSOFT}
            nodes.append(node("MatMulNBits", ["x", f"w{name}", f"s{name}"], [name], **attributes))
            weights[f"w{name}"] = RANDOM.integers(0, 255, (width, WIDTH // 16, 8)).astype(np.uint8)
            weights[f"s{name}"] = (0.02 * RANDOM.random(width * WIDTH // 16)).astype(np.float32)
        else:
            nodes.append(node("MatMul", ["x", f"w{name}"], [name]))
            weights[f"w{name}"] = matrix(WIDTH, width)
    return nodes, weights


def group_query(*, packed: bool = False, quantised: bool = False, rotary: bool = False) -> onnx.ModelProto:
    nodes, weights = projected(quantised)
    if packed:
        nodes, weights = [node("MatMul", ["x", "w"], ["q"])], {"w": matrix(WIDTH, (HEADS + 2 * SHARED) * SIZE)}
    turned = ["cos", "sin"] if rotary else []
    weights |= {name: RANDOM.random((32, SIZE // 2)).astype(np.float32) for name in turned}
    operands = ["q", *(["", ""] if packed else ["k", "v"]), "pk", "pv", "lengths", "total", *turned]
    numbers: dict[str, Any] = {"num_heads": HEADS, "kv_num_heads": SHARED, "do_rotary": int(rotary)}
    attention = node("GroupQueryAttention", operands, ["a", "nk", "nv"], domain=MICROSOFT, **numbers)
    return attending([*nodes, attention], weights)


def standard() -> onnx.ModelProto:
    nodes, weights = projected(quantised=False)
    numbers: dict[str, Any] = {"q_num_heads": HEADS, "kv_num_heads": SHARED, "is_causal": 1}
    attention = node("Attention", ["q", "k", "v", "", "pk", "pv"], ["a", "nk", "nv"], **numbers)
    return attending([*nodes, attention], weights, opset=23, grouped=False)


def feed(model: onnx.ModelProto, *, past: int) -> dict[str, np.ndarray]:
    """Two samples of `past` positions in the cache, and one more or, where there are none, five."""
    steps, random = 1 if past else 5, np.random.default_rng(3)
    sizes = {"b": 2, "s": steps, "p": past, "t": steps + past}
    numbers = {"lengths": steps + past - 1, "sl": steps + past - 1, "total": steps + past, "tl": steps + past}
    feeds = {}
    for each in model.graph.input:
        kind = each.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else sizes[dim.dim_param] for dim in kind.shape.dim]
        made = np.full(shape, numbers[each.name]) if each.name in numbers else random.standard_normal(shape)
        feeds[each.name] = made.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return feeds


def answers(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def without(arrays: Mapping[str, np.ndarray], gone: Mapping[str, tuple[int, Sequence[int]]]) -> dict[str, np.ndarray]:
    """Arrays without what went: by name the axis, and the positions."""
    return {
        name: np.delete(array, gone[name][1], gone[name][0]) if name in gone else array
        for name, array in arrays.items()
    }


def check(
    model: onnx.ModelProto, result: PruneResult, gone: Mapping[str, tuple[int, Sequence[int]]] | None = None
) -> None:
    """The pruned model computes what the dense one does with the removed units read as zero, cache for cache."""
    masked = result.dense.clone()
    analysis = analyse(masked)
    mask_consumers(masked, analysis.coupling, result.plan.masks(analysis.groups), dtypes=analysis.shapes.dtypes)
    for past in (0, 3):
        feeds = feed(model, past=past)
        expected = without(answers(masked, feeds), gone or {})
        for name, actual in answers(result.model, without(feeds, gone or {})).items():
            np.testing.assert_allclose(actual, expected[name], rtol=1e-5, atol=1e-6)


KINDS: dict[str, dict[str, bool]] = {
    "separate": {},
    "packed": {"packed": True},
    "rotary": {"rotary": True},
    "packed and rotary": {"packed": True, "rotary": True},
    "four bits": {"quantised": True},
    "four bits and rotary": {"quantised": True, "rotary": True},
}

CACHE = ("pk", "pv", "nk", "nv")


def test_grouped_queries_with_a_cache() -> None:
    model = case("grouped_query")
    result = prune(model, ratio=0.3, weights=True, align=1)
    assert [(group.kind, group.units) for group in result.report.groups] == [("kv_heads", 2), ("heads", 2), ("ffn", 24)]
    assert result.report.verified
    (units,) = [units for name, units in result.plan.removed.items() if name.startswith("Wq")]
    check(model, result, dict.fromkeys(CACHE, (1, units)))
    assert all((shapes["after"] or ())[1:2] == [1] for shapes in result.report.resized.values())
    assert list(result.report.resized) == list(CACHE)


@pytest.mark.parametrize("kind", KINDS)
def test_query_heads_go(kind: str) -> None:
    """One of the two heads in each group of queries; the cache stays as it is."""
    model = group_query(**KINDS[kind])
    result = prune(model, ratio=0.2, only=["heads"], verify=False, weights=True)
    assert sum(map(len, result.plan.removed.values())) == 1
    assert not result.report.resized
    check(model, result)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_queries_go_with_their_cache(kind: str) -> None:
    model = group_query(**KINDS[kind])
    result = prune(model, ratio=0.2, only=["kv_heads"], weights=True)
    assert result.report.verified
    (units,) = result.plan.removed.values()
    check(model, result, dict.fromkeys(CACHE, (1, units)))


def test_standard_attention_with_a_cache() -> None:
    model = standard()
    for kind, resized in (("heads", ()), ("kv_heads", CACHE)):
        result = prune(model, ratio=0.2, only=[kind], weights=True)
        (units,) = result.plan.removed.values()
        check(model, result, dict.fromkeys(resized, (1, units)))
        assert tuple(result.report.resized) == resized


# ------------------------------------------------------------------------------- caches of other forms
def headed(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], past: list[int | str], **more: Any) -> Any:
    """Attention of four heads with a cache each for keys and values of these shapes, and layers behind."""
    made = attending(nodes, weights, grouped=False, **more)
    for each in (*made.graph.input[1:], *made.graph.output[1:]):
        there = each.name in ("pk", "pv")
        shape = [size if there or size != "p" else "t" for size in past]
        each.CopyFrom(value(each.name, onnx.TensorProto.FLOAT, shape))
    return made


def multi_head() -> onnx.ModelProto:
    """MultiHeadAttention with a bias of queries, keys and values."""
    weights = {f"w{name}": matrix(WIDTH, HEADS * SIZE) for name in "qkv"} | {"bias": matrix(1, 3 * HEADS * SIZE)[0]}
    nodes = [node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"]
    operands = ["q", "k", "v", "bias", "", "", "pk", "pv"]
    nodes.append(
        node("MultiHeadAttention", operands, ["a", "nk", "nv"], domain=MICROSOFT, num_heads=HEADS, unidirectional=1)
    )
    return headed(nodes, weights, ["b", HEADS, "p", SIZE])


def projecting() -> onnx.ModelProto:
    """onnxruntime's Attention, which projects, with one cache for keys and values, the heads its third axis."""
    weights = {"w": matrix(WIDTH, 3 * HEADS * SIZE), "bias": matrix(1, 3 * HEADS * SIZE)[0]}
    nodes = [
        node(
            "Attention", ["x", "w", "bias", "", "pk"], ["a", "nk"], domain=MICROSOFT, num_heads=HEADS, unidirectional=1
        )
    ]
    made = headed(nodes, weights, [2, "b", HEADS, "p", SIZE])
    del made.graph.input[2], made.graph.output[2]
    return made


def split_into_heads(stored: dict[str, np.ndarray], order: Sequence[int]) -> list[onnx.NodeProto]:
    """Queries, keys and values with an axis of heads, in some order of (batch, step, head, size)."""
    nodes = []
    stored["to"] = np.array([0, 0, HEADS, SIZE])
    for name in "qkv":
        stored[f"w{name}"] = matrix(WIDTH, HEADS * SIZE)
        nodes += [
            node("MatMul", ["x", f"w{name}"], [f"{name}0"]),
            node("Reshape", [f"{name}0", "to"], [f"{name}1"]),
            node("Transpose", [f"{name}1"], [f"{name}2"], perm=[0, 2, 1, 3] if name == "q" else order),
        ]
    return nodes


def joined(order: Sequence[int], axis: int) -> onnx.ModelProto:
    """Single operators; the cache is joined along an axis of this layout of (batch, step, head, size)."""
    stored: dict[str, np.ndarray] = {"back": np.array([0, 0, HEADS * SIZE])}
    nodes = split_into_heads(stored, order)
    dims: list[int | str] = ["b", "p", HEADS, SIZE]
    letters = [dims[at] for at in order]
    turn = [order.index(at) for at in (0, 2, 1, 3)]
    nodes += [
        node("Concat", ["pk", "k2"], ["nk"], axis=axis),
        node("Concat", ["pv", "v2"], ["nv"], axis=axis),
        node("Transpose", ["nk"], ["kt"], perm=[turn[0], turn[1], turn[3], turn[2]]),
        node("Transpose", ["nv"], ["vt"], perm=turn),
        node("MatMul", ["q2", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "vt"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "back"], ["a"]),
    ]
    return headed(nodes, stored, letters)


FORMS = {
    "MultiHeadAttention": (multi_head, CACHE, 1),
    "Attention, projecting": (projecting, ("pk", "nk"), 2),
    "Concat along steps": (lambda: joined([0, 2, 1, 3], 2), CACHE, 1),
    "Concat, heads behind steps": (lambda: joined([0, 1, 2, 3], 1), CACHE, 2),
    "Concat, heads in front": (lambda: joined([2, 0, 1, 3], 2), CACHE, 0),
}


@pytest.mark.parametrize("name", FORMS)
def test_heads_go_with_their_cache(name: str) -> None:
    build, caches, axis = FORMS[name]
    model = build()
    result = prune(model, ratio=0.3, only=["heads"], weights=True, align=1)
    assert result.report.verified, result.report.missing
    (units,) = result.plan.removed.values()
    check(model, result, dict.fromkeys(caches, (axis, units)))
    assert tuple(result.report.resized) == caches


def test_a_cache_of_fixed_length() -> None:
    """Positions are written into a cache of eight, which comes back as large as it was (a static cache)."""
    stored: dict[str, np.ndarray] = {"back": np.array([0, 0, HEADS * SIZE]), "along": np.array(2)}
    nodes = split_into_heads(stored, [0, 2, 1, 3])
    nodes += [
        node("TensorScatter", ["pk", "k2", "at"], ["nk"], axis=2),
        node("TensorScatter", ["pv", "v2", "at"], ["nv"], axis=2),
        node("Attention", ["q2", "nk", "nv"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "back"], ["a"]),
    ]
    del stored["along"]
    model = headed(nodes, stored, ["b", HEADS, 8, SIZE], opset=24)
    model.graph.input.append(value("at", onnx.TensorProto.INT64, ["b"]))
    result = prune(model, ratio=0.3, only=["heads"], weights=True, align=1, verify=False)
    assert list(result.report.resized) == list(CACHE)
    assert len({tuple(shapes["after"] or ()) for shapes in result.report.resized.values()}) == 1


def packed_heads(parts: int, *, quantised: bool) -> onnx.ModelProto:
    """MultiHeadAttention with a cache: queries, keys and values (or keys and values) of a head beside each other."""
    stored: dict[str, np.ndarray] = {"to": np.array([0, 0, HEADS, parts, SIZE])}
    width = HEADS * parts * SIZE
    if quantised:
        attributes: dict[str, Any] = {"K": WIDTH, "N": width, "bits": 4, "block_size": 16, "domain": MICROSOFT}
        nodes = [node("MatMulNBits", ["x", "w", "scales"], ["made"], **attributes)]
        stored["w"] = RANDOM.integers(0, 255, (width, WIDTH // 16, 8)).astype(np.uint8)
        stored["scales"] = (0.02 * RANDOM.random(width * WIDTH // 16)).astype(np.float32)
    else:
        nodes, stored["w"] = [node("MatMul", ["x", "w"], ["made"])], matrix(WIDTH, width)
    nodes.append(node("Reshape", ["made", "to"], ["packed"]))
    operands = ["packed", ""] if parts == 3 else ["q", "packed"]
    if parts == 2:
        nodes, stored["wq"] = [node("MatMul", ["x", "wq"], ["q"]), *nodes], matrix(WIDTH, HEADS * SIZE)
    operands += ["", "", "", "", "pk", "pv"]
    nodes.append(node("MultiHeadAttention", operands, ["a", "nk", "nv"], domain=MICROSOFT, num_heads=HEADS))
    return headed(nodes, stored, ["b", HEADS, "p", SIZE])


@pytest.mark.parametrize("quantised", [False, True], ids=["floats", "four bits"])
@pytest.mark.parametrize("parts", [3, 2], ids=["queries, keys and values", "keys and values"])
def test_packed_heads_go_with_their_cache(parts: int, quantised: bool) -> None:
    """No kernel of onnxruntime's runs them on a CPU: what is left of the weights is those of the heads that stay."""
    model = packed_heads(parts, quantised=quantised)
    result = prune(model, ratio=0.25, only=["heads"], weights=True, align=1)
    assert result.report.status == "not compared"
    assert tuple(result.report.resized) == CACHE
    (units,) = result.plan.removed.values()
    kept = [head for head in range(HEADS) if head not in units]
    dense, pruned = (each.graph.initializers["w"].const_value for each in (result.dense, result.model))
    assert dense is not None
    assert pruned is not None
    before, after = ((each.numpy() if quantised else each.numpy().T) for each in (dense, pruned))
    by_head = before.reshape(HEADS, parts * SIZE, -1)[kept]
    np.testing.assert_array_equal(after.reshape(by_head.shape), by_head)


# ------------------------------------------------------------------------------------- what binds others
def test_a_cache_is_left_alone_where_it_is_named() -> None:
    model = group_query()
    result = prune(model, ratio=0.2, exclude=["p?"], weights=True)
    assert not result.report.resized
    assert any(result.plan.removed)
    check(model, result)


@pytest.mark.parametrize("ends", ["inputs", "outputs"])
def test_a_cache_that_only_comes_or_only_goes_stays(ends: str) -> None:
    """Another file makes it, or reads it: the keys of an encoder, or what a first call leaves for the next file."""
    model = joined([0, 2, 1, 3], 2)
    if ends == "inputs":
        del model.graph.output[1:]
    else:
        del model.graph.input[1:]
        for made in model.graph.node:
            if made.op_type == "Concat":
                made.input.pop(0)
    groups = analyse(ir.from_proto(model)).groups
    assert [group.kind for group in groups] == ["ffn"]


def test_heads_that_come_in_and_go_out_are_no_cache() -> None:
    """What is added to an input is another tensor than the input: its axes are those of whoever gave it."""
    stored: dict[str, np.ndarray] = {}
    nodes = split_into_heads(stored, [0, 2, 1, 3])
    nodes += [
        node("Transpose", ["k2"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q2", "kt"], ["scores"]),
        node("MatMul", ["scores", "v2"], ["mixed"]),
        node("Add", ["mixed", "pk"], ["nk"]),
    ]
    kind = onnx.TensorProto.FLOAT
    shape: list[int | str] = ["b", HEADS, "s", SIZE]
    graph = onnx.helper.make_graph(
        nodes, "added", [value("x", kind, ["b", "s", WIDTH]), value("pk", kind, shape)], [value("nk", kind, shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    assert [group.kind for group in analyse(ir.from_proto(model)).groups if group.cached] == []
    assert all("heads" not in group.kind for group in analyse(ir.from_proto(model)).groups)


def test_what_is_written_says_what_changed(tmp_path: Path) -> None:
    """The plan, which another run repeats, and the file, which `verify` compares with it."""
    model = group_query(rotary=True)
    result = prune(model, ratio=0.2, only=["kv_heads"], weights=True)
    plan = Plan.from_json(result.plan.to_json())
    assert plan.resized["pk"] == {"before": ["b", SHARED, "p", SIZE], "after": ["b", 1, "p", SIZE]}
    assert [note for note in result.report.notes if "--exclude pk" in note]
    dense, pruned = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    onnx.save(model, dense)
    result.save(pruned)
    report = verify_files(dense, pruned, plan)
    assert report.verified
    assert report.resized == result.report.resized
    again = apply_plan(dense, plan)
    assert ir.to_proto(again.model).graph == ir.to_proto(result.model).graph
    wrong = onnx.load(pruned)
    wrong.graph.input[1].type.tensor_type.shape.dim[1].dim_value = SHARED
    with pytest.raises(VerificationError, match=r"the inputs changed: expected .*pk .*1.*found .*pk .*2"):
        verify_files(dense, wrong, plan)


@pytest.mark.parametrize("given", [True, False], ids=["samples", "own samples"])
@pytest.mark.parametrize("build", [standard, lambda: joined([0, 2, 1, 3], 2)], ids=["Attention", "Concat"])
def test_a_repair_cuts_caches_too(build: Any, given: bool, tmp_path: Path) -> None:
    model = build()
    feeds = {key: np.tile(array, (16,) + (1,) * (array.ndim - 1)) for key, array in feed(model, past=3).items()}
    noise = np.random.default_rng(5)
    samples = {key: (array + noise.standard_normal(array.shape)).astype(np.float32) for key, array in feeds.items()}
    options: dict[str, Any] = {"data": samples} if given else {"data_free": True, "preset": "fast"}
    result = prune(model, ratio=0.25, only=["*heads"], align=1, **options)
    assert result.report.verified
    assert list(result.report.resized) == list(CACHE)
    assert list(result.report.outputs) == ["y"]
    dense, pruned = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    onnx.save(model, dense)
    result.save(pruned)
    assert verify_files(dense, pruned, Plan.from_json(result.plan.to_json())).verified


def test_a_repair_is_weighed_against_a_cut_by_weights_with_another_cache() -> None:
    """No option at all: both have fewer heads, and are fed accordingly."""
    result = prune(standard(), ratio=0.25, only=["*heads"], align=1)
    assert result.report.verified
    assert not any("cannot run" in note for note in result.report.notes)
