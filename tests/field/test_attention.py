"""Fused attention with a cache whose total length only the model names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from spa.notation.operation import MICROSOFT
from spa.passes.cut.masking import mask_consumers
from spa.pipeline import PruneResult, analyse, prune
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
    everything = {
        "x": random.standard_normal((2, steps, WIDTH)).astype(np.float32),
        **{name: random.standard_normal((2, SHARED, past, SIZE)).astype(np.float32) for name in ("pk", "pv")},
        "lengths": np.full(2, steps + past - 1, np.int32), "sl": np.full(2, steps + past - 1, np.int32),
        "total": np.array(steps + past, np.int32), "tl": np.array(steps + past, np.int32),
    }  # fmt: skip
    return {each.name: everything[each.name] for each in model.graph.input}


def answers(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def check(model: onnx.ModelProto, result: PruneResult) -> None:
    """The pruned model computes what the dense one does with the removed units read as zero; the cache stays."""
    masked = result.dense.clone()
    analysis = analyse(masked)
    mask_consumers(masked, analysis.coupling, result.plan.masks(analysis.groups), dtypes=analysis.shapes.dtypes)
    for past in (0, 3):
        feeds = feed(model, past=past)
        for expected, found in zip(answers(masked, feeds), answers(result.model, feeds), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


KINDS: dict[str, dict[str, bool]] = {
    "separate": {},
    "packed": {"packed": True},
    "rotary": {"rotary": True},
    "packed and rotary": {"packed": True, "rotary": True},
    "four bits": {"quantised": True},
}


def test_grouped_queries_with_a_cache() -> None:
    model = case("grouped_query")
    result = prune(model, ratio=0.3, verify=False, weights=True)
    assert [(group.kind, group.units) for group in result.report.groups] == [("heads", 2), ("ffn", 24)]
    check(model, result)


@pytest.mark.parametrize("kind", KINDS)
def test_query_heads_go(kind: str) -> None:
    """One of the two heads in each group of queries; the heads of keys and values are axes of the cache, and stay."""
    model = group_query(**KINDS[kind])
    result = prune(model, ratio=0.2, only=["heads"], verify=False, weights=True)
    assert [(group.kind, group.units) for group in result.report.groups] == [("heads", 2), ("ffn", 24)]
    assert sum(map(len, result.plan.removed.values())) == 1
    check(model, result)


def test_standard_attention_with_a_cache() -> None:
    model = standard()
    result = prune(model, ratio=0.2, only=["heads"], weights=True)
    assert [(group.kind, group.units) for group in result.report.groups] == [("heads", 2), ("ffn", 24)]
    check(model, result)
