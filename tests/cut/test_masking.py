"""The masked model: as large as before, and what removed units are read as is zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa import runtime
from spa.analysis.plan import Plan
from spa.passes.cut.masking import mask_consumers
from spa.pipeline import analyse, load_normal
from tests import models


def masked(model: onnx.ModelProto, removed: dict[str, list[int]]) -> ir.Model:
    analysis = analyse(load_normal(model))
    mask_consumers(analysis.model, analysis.coupling, Plan.of(analysis.groups, removed).masks(analysis.groups))
    return analysis.model


def read(model: ir.Model, operator: str, position: int, at: int = 0) -> np.ndarray:
    node = [node for node in model.graph if node.op_type == operator][at]
    value = node.inputs[position]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def test_consumers_read_zero_and_producers_stay() -> None:
    before, after = load_normal(models.residual_cnn()), masked(models.residual_cnn(), {"c1:0": [1, 4]})
    expected = read(before, "Conv", 1, 2).copy()
    expected[:, [1, 4]] = 0
    assert np.array_equal(read(after, "Conv", 1, 2), expected)
    for at in (0, 1):
        assert np.array_equal(read(after, "Conv", 1, at), read(before, "Conv", 1, at))
    assert len(after.graph) == len(before.graph)


def test_the_original_weights_are_not_written_to() -> None:
    proto = models.residual_cnn()
    before = proto.SerializeToString(deterministic=True)
    masked(proto, {"c0:0": [0], "c1:0": [1]})
    assert proto.SerializeToString(deterministic=True) == before


def test_a_sum_over_two_activations_masks_one_of_them() -> None:
    """Queries times keys: no weight to zero, so what one side reads is masked when the graph runs."""
    model = masked(models.attention(), {"wq:1#2": [1]})
    (where,) = [node for node in model.graph if node.op_type == "Where"]
    keep = where.inputs[0]
    assert keep is not None
    assert keep.const_value is not None
    assert keep.const_value.numpy().reshape(-1).tolist() == [True, False, True]


def test_of_heads_and_their_parts_either_that_goes_is_read_as_zero() -> None:
    before, after = load_normal(models.attention()), masked(models.attention(), {"wq:1": [1], "wv:1": [2]})
    expected = read(before, "MatMul", 1, 5).reshape(4, 3, 8).copy()
    expected[1] = expected[:, 2] = 0
    assert np.array_equal(read(after, "MatMul", 1, 5), expected.reshape(12, 8))


def test_within_groups_a_channel_of_each_is_read_as_zero() -> None:
    before, after = load_normal(models.grouped_cnn()), masked(models.grouped_cnn(), {"c3:0#2": [1]})
    expected = read(before, "ConvTranspose", 1).copy()
    expected[[1, 4]] = 0  # of two groups of three
    assert np.array_equal(read(after, "ConvTranspose", 1), expected)


def test_what_is_masked_when_the_graph_runs_keeps_its_type_and_shape() -> None:
    model = masked(onnx.shape_inference.infer_shapes(models.attention()), {"wq:1#2": [1]})
    (where,) = [node for node in model.graph if node.op_type == "Where"]
    value, result = where.inputs[1], where.outputs[0]
    assert value is not None
    assert value.type is not None
    assert (result.type, result.shape) == (value.type, value.shape)


@pytest.mark.parametrize("points", [np.int8(5), np.array([3, -4, 5], np.int8), None], ids=["one", "columns", "none"])
def test_rows_of_a_product_of_integers_become_its_zero_point(points: np.ndarray | None) -> None:
    text = """(float[N,4] x) => (float[N,3] y) { a = MatMul(x, w)  r = Relu(a)  q, s, z = DynamicQuantizeLinear(r)
        m = MatMulInteger(q, v, z, p)  c = Cast<to=1>(m)  y = Mul(c, s) }"""
    stored = np.arange(18, dtype=np.int8).reshape(6, 3)
    weights: dict[str, models.Weight] = {"w": [4, 6], "v": stored}
    if points is None:
        text = text.replace(", z, p)", ", z)")
    else:
        weights["p"] = np.asarray(points)
    after = masked(models.build(text, weights), {"w:1": [1, 4]})
    expected = stored.copy()
    expected[[1, 4]] = 0 if points is None else points
    assert np.array_equal(read(after, "MatMulInteger", 1), expected)


def test_what_is_quantised_when_the_graph_runs_becomes_the_zero_point_of_then() -> None:
    text = """(float[5,4] x) => (int32[5,5] y) { a = MatMul(x, w)  b = MatMul(x, v)  t = Transpose<perm=[1,0]>(b)
        q, s, z = DynamicQuantizeLinear(a)  k, u, o = DynamicQuantizeLinear(t)  y = MatMulInteger(q, k, z, o) }"""
    model = masked(models.build(text, {"w": [4, 6], "v": [4, 6]}), {"w:1": [2]})
    where = [node for node in model.graph if node.op_type == "Where"][-1]  # those before mask what is quantised
    assert [value.name for value in where.inputs if value is not None][1:] == ["q", "z"]


def test_zero_of_stored_integers_is_their_zero_point() -> None:
    proto = models.quantized()
    for tensor in proto.graph.initializer:
        if tensor.name == "z1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([3, -4, 5, 0], np.int8), "z1"))
    (group,) = analyse(load_normal(proto)).groups
    model = masked(proto, {group.name: [2]})
    feeds = runtime.random_feeds(model, shapes={"x": (1, 3, 6, 6)}, seed=0)
    before = runtime.run(runtime.session(load_normal(proto), optimize=False), feeds)["y"]
    after = runtime.run(runtime.session(model, optimize=False), feeds)["y"]
    scale = onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == "s1"))
    weight = onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == "q1"))
    part = (weight[:, 2, 0, 0] - np.array([3.0, -4, 5, 0])) * scale  # times what channel 2 is
    ratio = (before - after) / part[None, :, None, None]
    assert np.allclose(ratio, ratio[:, :1], atol=1e-4)
    assert np.abs(ratio).max() > 0.01


@pytest.mark.parametrize("model", models.RUNNABLE, ids=lambda model: model.__name__)
def test_the_signature_stays_and_the_function_changes(model: Callable[[], onnx.ModelProto]) -> None:
    groups = [group for group in analyse(load_normal(model())).groups if group.size > 1]
    before, after = load_normal(model()), masked(model(), {group.name: [0] for group in groups})
    for these, those in ((before.graph.inputs, after.graph.inputs), (before.graph.outputs, after.graph.outputs)):
        assert [(v.name, v.type, v.shape) for v in these] == [(v.name, v.type, v.shape) for v in those]
    shapes = {str(v.name): [s if isinstance(s, int) else 3 for s in v.shape or ()] for v in before.graph.inputs}
    left, right = (runtime.session(side, optimize=False) for side in (before, after))
    moved = False
    for seed in range(4):  # a condition among the inputs, or a Relu, may hide what was removed
        feeds = runtime.random_feeds(before, shapes=shapes, seed=seed)
        expected, actual = runtime.run(left, feeds), runtime.run(right, feeds)
        assert all(expected[name].shape == actual[name].shape for name in expected)
        moved |= any(not np.allclose(expected[name], actual[name], rtol=1e-4) for name in expected)
    assert moved


def test_nothing_removed_changes_nothing() -> None:
    for model in models.RUNNABLE:
        before, after = load_normal(model()), masked(model(), {})
        assert onnx.printer.to_text(ir.to_proto(before)) == onnx.printer.to_text(ir.to_proto(after))
