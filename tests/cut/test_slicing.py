"""What a cut changes: tensors, attributes, stored numbers, sizes that are computed when the graph runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa import runtime
from spa.analysis.plan import Plan
from spa.errors import ModelError
from spa.frontends.files import onnx_file
from spa.notation.rule import Sizes
from spa.passes.cut import slicing
from spa.passes.cut.slicing import slice_model
from spa.pipeline import analyse, cut, load_normal
from tests import models
from tests.models import build, integers


def sliced(model: onnx.ModelProto | Path, removed: Mapping[str, list[int]]) -> ir.Model:
    analysis = analyse(load_normal(model))
    cut(analysis, Plan.of(analysis.groups, removed))
    return analysis.model


def stored(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}


def node(model: ir.Model, operator: str, at: int = 0) -> ir.Node:
    return [node for node in model.graph if node.op_type == operator][at]


def operand(model: ir.Model, operator: str, position: int, at: int = 0) -> list[int]:
    value = node(model, operator, at).inputs[position]
    assert value is not None
    assert value.const_value is not None
    numbers: list[int] = value.const_value.numpy().tolist()
    return numbers


def test_tensors_lose_the_positions_of_their_units() -> None:
    before = stored(load_normal(models.residual_cnn()))
    after = stored(sliced(models.residual_cnn(), {"c1:0": [1, 4]}))
    kept = [0, 2, 3, 5]
    for name in ("c1", "g", "h", "m", "v"):
        assert np.array_equal(after[name], before[name][kept])
    assert np.array_equal(after["c2"], before["c2"][:, kept])
    for name in ("c0", "d0", "d2", "w", "e"):
        assert np.array_equal(after[name], before[name])


def test_sizes_that_an_attribute_leaves_out_are_written_where_they_are_no_longer_equal() -> None:
    text = """(float[N,4] x) => (float[N,2] y) { a = MatMul(x, w)  b, c = Split<axis=1>(a)  d = Relu(b)  e = Neg(c)
        f = Concat<axis=1>(d, e)  y = MatMul(f, v) }"""
    model = sliced(build(text, {"w": [4, 6], "v": [6, 2]}, opset=11), {"w:1": [0]})
    assert list(node(model, "Split").attributes["split"].as_ints()) == [2, 3]


@pytest.mark.parametrize("large", [True, False])
def test_pages_of_large_tensors_in_files_go_back_once_they_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """A small tensor shares its pages with others, which would be read anew."""
    path, released = tmp_path / "net.onnx", list[object]()
    width = 1025 if large else 1000  # of which one goes: 4 MiB, or less
    text = "(float[N,1024] x) => (float[N,1] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"
    onnx.save(build(text, {"w": [1024, width], "v": [width, 1]}), path, save_as_external_data=True, size_threshold=0)
    monkeypatch.setattr(slicing, "release", released.append)
    after = stored(sliced(path, {"w:1": [3]}))
    assert after["w"].shape == (1024, width - 1)
    assert len(released) == large


def test_an_end_that_is_counted_from_behind_stays_so() -> None:
    behind, ahead = Sizes(0, (), back=True), Sizes(0, ())
    assert [slicing._number(behind, size) for size in (3, 1)] == [-3, -1]
    assert slicing._number(behind, 0) == np.iinfo(np.int32).max, "none from the end is the end"
    assert [slicing._number(ahead, size) for size in (3, 0)] == [3, 0]


def test_a_tensor_cut_along_two_axes() -> None:
    before = stored(load_normal(models.residual_cnn()))["c1"]
    after = stored(sliced(models.residual_cnn(), {"c0:0": [7], "c1:0": [0]}))["c1"]
    assert np.array_equal(after, before[1:, :7])


def test_declared_shapes_follow() -> None:
    model = sliced(models.residual_cnn(), {"c1:0": [1, 4]})
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        assert value.shape == value.const_value.shape


Row = tuple[str, Callable[[], onnx.ModelProto], Mapping[str, list[int]], Callable[[ir.Model], object], object]
FOLLOW: list[Row] = [
    ("groups of a convolution", models.grouped_cnn, {"c0:0": [1]},
     lambda m: [node(m, "Conv", k).attributes["group"].value for k in (1, 2)], [3, 9]),
    ("groups of a transposed one", models.grouped_cnn, {"c3:0": [0]},
     lambda m: node(m, "ConvTranspose").attributes["group"].value, 1),
    ("a shuffle's reshapes", models.channel_shuffle, {"c0:0#2": [3]},
     lambda m: [operand(m, "Reshape", 1, k) for k in (0, 1)], [[-1, 2, 3, 5, 5], [0, 6, 5, 5]]),
    ("sizes of a split", models.channel_shuffle, {"c0:0#2": [3]}, lambda m: operand(m, "Split", 1), [4, 2]),
    ("sizes of a resize", models.resized, {"c0:0": [2]}, lambda m: operand(m, "Resize", 3), [2, 5, 8, 8]),
    ("pads", models.padded, {"c1:0": [1]}, lambda m: operand(m, "Pad", 1), [0, 1, 0, 0, 0, 1, 0, 0]),
    ("ends of slices", models.sliced, {"c0:0": [0]},
     lambda m: [operand(m, "Slice", at, k) for k in (0, 1) for at in (1, 2)], [[0], [2], [2], [2**63 - 1]]),
    ("positions that are looked up", models.sliced, {"c0:0#2": [0]}, lambda m: operand(m, "Gather", 1), [2, 3, 0]),
    ("heads of a reshape", models.attention, {"wq:1": [3]},
     lambda m: [operand(m, "Reshape", 1, k) for k in (0, 3)], [[0, 0, 3, 3], [0, 0, 9]]),
    ("head_dim of a reshape", models.attention, {"wv:1": [0]},
     lambda m: [operand(m, "Reshape", 1, k) for k in (0, 2, 3)], [[0, 0, 4, 3], [0, 0, 4, 2], [0, 0, 8]]),
    ("parts of a packed projection", models.packed_attention, {"w:1#3": [2]},
     lambda m: operand(m, "Split", 1), [12, 12, 8]),
    ("copies of keys for each query", models.shared_keys, {"wq:1#2": [1]},
     lambda m: operand(m, "Expand", 1), [1, 1, 2, 1, 1]),
    ("a hidden size", models.recurrent, {"w:1": [0, 2]},
     lambda m: (node(m, "LSTM").attributes["hidden_size"].value, operand(m, "Reshape", 1)), (2, [0, 0, 4])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "removed", "read", "expected"), [row[1:] for row in FOLLOW], ids=[row[0] for row in FOLLOW]
)
def test_numbers_follow(
    model: Callable[[], onnx.ModelProto],
    removed: Mapping[str, list[int]],
    read: Callable[[ir.Model], object],
    expected: object,
) -> None:
    assert read(sliced(model(), removed)) == expected


def test_a_zero_that_copies_a_size_is_written_out_where_that_shrinks() -> None:
    """Twelve channels, two times six, are regrouped: the six stand on the axis that the zero copies, the two do not."""
    text = """(float[2,3,6] x) => (float[12,3] y) {
        a = Conv(x, c)  b = Reshape(a, s)  d = Relu(b)  y = ReduceSum<keepdims=0>(d, k) }"""
    weights: dict[str, models.Weight] = {"c": [12, 3, 1], "s": integers(4, 0, 3), "k": integers(0)}
    model = build(text, weights)
    (name,) = (group.name for group in analyse(load_normal(model)).groups if group.size == 2)
    assert operand(sliced(model, {name: [1]}), "Reshape", 1) == [2, 12, 3]


def test_positions_that_are_counted_from_behind_follow() -> None:
    text = "(float[N,3,4,4] x) => (float[N,2,4,4] y) { a = Conv(x, c)  b = Gather<axis=1>(a, i)  y = Conv(b, d) }"
    weights: dict[str, models.Weight] = {"c": [4, 3, 1, 1], "d": [2, 4, 1, 1], "i": integers(-2, -1, -4, -3)}
    assert operand(sliced(build(text, weights), {"c:0": [0]}), "Gather", 1) == [1, 2, 0]


def test_a_default_that_no_longer_holds_is_written_out() -> None:
    """A split into a number of parts becomes one into parts of given sizes."""
    model = sliced(models.gated_mlp(), {"w0:1": [0, 5, 7]})
    assert "num_outputs" not in node(model, "Split").attributes
    assert operand(model, "Split", 1) == [5, 5]
    assert stored(model)["w0"].shape == (6, 10)


def test_sizes_computed_when_the_graph_runs() -> None:
    """Whoever reads a size that shrank gets the one before back, and gives the new one on."""
    normal = load_normal(models.computed_targets())
    feeds = runtime.random_feeds(normal, shapes={"x": (2, 3, 8)}, seed=0)
    groups = analyse(normal.clone()).groups
    model = sliced(models.computed_targets(), {groups[0].name: [1]})
    assert {n.op_type for n in model.graph} >= {"Mul", "Div"}
    for batch in (1, 5):
        feeds = runtime.random_feeds(normal, shapes={"x": (batch, 3, 8)}, seed=0)
        assert runtime.run(runtime.session(model, optimize=False), feeds)["y"].shape == (batch, 3, 8)


def test_nothing_removed_changes_nothing() -> None:
    for made in models.RUNNABLE:
        before, after = load_normal(made()), sliced(made(), {})
        assert ir.to_proto(before).SerializeToString(deterministic=True) == ir.to_proto(after).SerializeToString(
            deterministic=True
        )


def test_a_constant_of_two_nodes_is_changed_for_one() -> None:
    text = """(float[N,3,4,4] x) => (float[N,2,4,4] y) {
        a = Conv(x, c0)  b = Gather<axis=1>(a, i)  c = Conv(b, c1)  d = Gather<axis=1>(c, i)  y = Conv(d, c2) }"""
    weights: dict[str, models.Weight] = {
        "c0": [4, 3, 1, 1], "c1": [4, 4, 1, 1], "c2": [2, 4, 1, 1], "i": integers(2, 3, 0, 1),
    }  # fmt: skip
    model = sliced(models.build(text, weights), {"c0:0": [0]})
    assert operand(model, "Gather", 1, 0) == [1, 2, 0]
    assert operand(model, "Gather", 1, 1) == [2, 3, 0, 1]
    assert stored(model)["c0"].shape[0] == 3


def test_mapped_weights_are_cut_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    wide = models.build(
        "(float[N,64] x) => (float[N,8] y) { a = MatMul(x, w0)  b = Relu(a)  y = MatMul(b, w1) }",
        {"w0": [64, 128], "w1": [128, 8]},
    )
    onnx.save(wide, path)
    model = sliced(path, {"w0:1": list(range(100))})
    tensor = model.graph.initializers["w0"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    assert tensor.shape == (64, 28)
    expected = onnx.numpy_helper.to_array(wide.graph.initializer[0])[:, 100:]
    assert np.array_equal(tensor.numpy(), expected)
    onnx_file.save(model, tmp_path / "cut.onnx")
    assert np.array_equal(stored(onnx_file.load(tmp_path / "cut.onnx"))["w0"], expected)


def test_packed_tensors_keep_their_type() -> None:
    proto = models.build(
        """(float[N,6] x) => (float[N,3] y) {
            w = DequantizeLinear(q, s)  a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }""",
        {"s": np.ones((), np.float32), "v": [4, 3]},
        opset=21,
    )
    numbers = np.arange(24).reshape(6, 4) % 15 - 7
    proto.graph.initializer.append(onnx.helper.make_tensor("q", onnx.TensorProto.INT4, [6, 4], numbers.reshape(-1)))
    model = sliced(proto, {"q:1": [1]})
    tensor = model.graph.initializers["q"].const_value
    assert tensor is not None
    assert tensor.dtype == ir.DataType.INT4
    assert np.array_equal(tensor.numpy().astype(int), numbers[:, [0, 2, 3]])


def test_an_axis_of_which_nothing_is_left_is_refused() -> None:
    analysis = analyse(load_normal(models.sliced()))
    masks = {leaf: np.zeros(leaf.size, bool) for group in analysis.groups for leaf in group.leaves}
    with pytest.raises(ModelError, match="leaves nothing of an axis of size"):
        slice_model(analysis.model, analysis.coupling, analysis.shapes, masks)
