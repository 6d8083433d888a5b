"""`spa.prune` as a library: what goes in, what comes out, and what stays the same.

One file: one function, asked in every way.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import spa
from spa import pipeline, runtime, steps, written
from spa.analysis.group import find_groups
from spa.errors import BudgetError, MissingExtra, ModelError, NothingToPrune, VerificationError
from spa.frontends.files import onnx_file
from spa.passes.cut.slicing import slice_model
from tests import models
from tests.models import build
from tests.small import linear, write


def params(model: ir.Model) -> int:
    return sum(prod(v.shape.numpy()) for v in model.graph.initializers.values() if v.shape is not None)


def data(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


# --------------------------------------------------------------------------------------------------- sources
def as_path(proto: onnx.ModelProto, folder: Path) -> object:
    return write(folder, proto)


def as_graph(proto: onnx.ModelProto, _: Path) -> object:
    import onnx_graphsurgeon

    return onnx_graphsurgeon.import_onnx(proto)


SOURCES: dict[str, Callable[[onnx.ModelProto, Path], Any]] = {
    "path": as_path,
    "text of a path": lambda proto, folder: str(as_path(proto, folder)),
    "ModelProto": lambda proto, _: proto,
    "onnx_ir": lambda proto, _: ir.from_proto(proto),
    "graphsurgeon": as_graph,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources(tmp_path: Path, kind: str) -> None:
    proto = models.residual_cnn()
    before = proto.SerializeToString(deterministic=True)
    result = spa.prune(SOURCES[kind](proto, tmp_path), ratio=0.3, weights=True)
    assert result.plan.removed == spa.prune(models.residual_cnn(), ratio=0.3, weights=True).plan.removed
    assert result.report.verified
    assert proto.SerializeToString(deterministic=True) == before
    if kind == "path":
        assert (tmp_path / "model.onnx").read_bytes() == proto.SerializeToString()


def test_a_model_in_memory_is_not_changed() -> None:
    model = ir.from_proto(models.residual_cnn())
    before = data(model)
    spa.prune(model, ratio=0.5, weights=True)
    assert data(model) == before


def test_options_are_keyword_only() -> None:
    for function, positional in ((spa.prune, 1), (spa.apply_plan, 2), (written.verify_files, 3)):
        signature = inspect.signature(function)
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        assert kinds[positional:] == [inspect.Parameter.KEYWORD_ONLY] * (len(kinds) - positional)
        assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_public_names() -> None:
    for name in spa.__all__:
        with contextlib.suppress(MissingExtra):
            assert getattr(spa, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = spa.nothing


# --------------------------------------------------------------------------------------------------- budgets
@pytest.mark.parametrize("of", ["params", "flops", "bytes"])
@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_budgets_are_of_the_whole_model(of: str, ratio: float) -> None:
    result = spa.prune(models.residual_cnn(), ratio=ratio, of=of, weights=True)
    assert result.report.removed_share(of) >= ratio
    # by what is in the file, not by our own account: all stored tensors of this model are parameters
    assert 1 - params(result.model) / params(result.dense) == pytest.approx(result.report.removed_share("params"))


def test_channels_are_a_share_of_every_group() -> None:
    result = spa.prune(models.residual_cnn(), ratio=0.5, of="channels", weights=True)
    assert {row.name: row.removed for row in result.report.groups} == {"c0:0": 4, "c1:0": 3, "c2:branch": 0}


def test_align_and_min_keep() -> None:
    result = spa.prune(models.residual_cnn(), ratio=0.3, align=4, weights=True)
    assert all((row.units - row.removed) % 4 == 0 for row in result.report.groups if row.removed)
    result = spa.prune(models.residual_cnn(), ratio=0.2, min_keep=0.75, weights=True)
    assert all(row.removed <= 0.25 * row.units for row in result.report.groups)
    with pytest.raises(BudgetError, match=r"at most 3\d\.\d % can go; the rest is held by min_keep=0.75"):
        spa.prune(models.residual_cnn(), ratio=0.9, min_keep=0.75, weights=True)


def test_dry_run_leaves_the_model_dense() -> None:
    result = spa.prune(models.residual_cnn(), ratio=0.5, dry_run=True, weights=True)
    assert result.plan
    assert params(result.model) == params(pipeline.load_normal(models.residual_cnn()))
    assert not result.report.verified


def test_steps_are_told() -> None:
    steps: list[str] = []
    result = spa.prune(
        models.residual_cnn(), ratio=0.3, progress=lambda step, _share=None: steps.append(step), weights=True
    )
    assert steps == ["normalise", "couple", "score", "select", "slice", "verify"]
    assert list(result.report.seconds) == steps


def test_notes_of_scores_and_limits_arrive() -> None:
    result = spa.prune(models.gated_mlp(), ratio=0.3, criterion="bn_scale")
    assert any(note.startswith("bn_scale: ") for note in result.report.notes)
    result = spa.prune(models.attention(), ratio=0.3, of="channels", weights=True)
    assert any("head_dim groups left alone" in note for note in result.report.notes)


# ----------------------------------------------------------------------------------------- what stays the same
@pytest.mark.parametrize("model", models.RUNNABLE, ids=lambda model: model.__name__)
def test_pruned_and_verified(model: Callable[[], onnx.ModelProto]) -> None:
    """Half of every group goes; what is left is valid, of the same signature, and computes what it must."""
    result = spa.prune(model(), ratio=0.5, of="channels", min_keep=0, weights=True)
    assert result.report.verified
    assert result.report.difference is not None
    assert result.report.difference < 1e-5
    for value in result.model.graph.initializers.values():
        assert value.uses(), f"{value.name} is read by nothing"
    for node in result.model.graph:
        assert any(value.uses() or value.is_graph_output() for value in node.outputs), f"{node} is dead"
    before, after = model(), ir.to_proto(result.model)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.opset_import == before.opset_import
    assert after.ir_version == before.ir_version


def test_metadata_functions_and_symbolic_axes_stay(tmp_path: Path) -> None:
    proto = linear()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 16), np.float32), "second"))
    del proto.graph.node[:]
    nodes = "h = MatMul(x, weight) r = Relu(h) y = MatMul(r, second)"
    body = f'<ir_version: 10, opset_import: ["" : 20]> g (float[batch, 32] x) => (float[batch, 16] y) {{ {nodes} }}'
    proto.graph.node.extend(onnx.parser.parse_model(body).graph.node)
    proto.doc_string, proto.model_version, proto.domain = "documented", 7, "org.example"
    path = write(tmp_path, proto, external=True)
    spa.prune(path, ratio=0.3, weights=True).save(tmp_path / "pruned.onnx")
    bare = onnx.load(tmp_path / "pruned.onnx", load_external_data=False)
    assert all(t.data_location == onnx.TensorProto.EXTERNAL for t in bare.graph.initializer if t.name == "weight")
    assert (tmp_path / "pruned.onnx.data").exists()
    assert bare.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [function.name for function in bare.functions] == ["shift"]
    for name in ("producer_name", "doc_string", "model_version", "domain"):
        assert getattr(bare, name) == getattr(proto, name)
    kept = {entry.key: entry.value for entry in bare.metadata_props if not entry.key.startswith("spa.")}
    assert kept == {entry.key: entry.value for entry in proto.metadata_props}


def old(opset: int) -> onnx.ModelProto:
    """Operators that changed over the opsets: Squeeze, Split, ReduceMean, Pad, Softmax, BatchNormalization."""
    axes = "<axes=[2,3], keepdims=1>(r)" if opset < 18 else "<keepdims=1>(r, ax)"
    squeeze = "<axes=[2,3]>(p)" if opset < 13 else "(p, ax)"
    split = "<axis=1, split=[4,4]>(r0)" if opset < 13 else "<axis=1>(r0, k)"
    text = f"""(float[N,3,6,6] x) => (float[N,5] y) {{
        a = Conv<pads=[1,1,1,1]>(x, c0, d0)  n = BatchNormalization(a, g, h, m, v)  r0 = Relu(n)
        s, t = Split{split}  u = Sigmoid(t)  r = Mul(s, u)
        p = ReduceMean{axes}  q = Squeeze{squeeze}  z = Gemm<transB=1>(q, w, e)  y = Softmax<axis=1>(z) }}"""
    weights: dict[str, Any] = {
        "c0": [8, 3, 3, 3], "d0": [8], "g": [8], "h": [8], "m": [8], "v": np.ones(8, np.float32), "w": [5, 4], "e": [5],
    }  # fmt: skip
    if opset >= 13:
        weights |= {"ax": models.integers(2, 3), "k": models.integers(4, 4)}
    return build(text, weights, opset=opset, ir_version=4 if opset < 13 else 8 if opset < 20 else 10)


@pytest.mark.parametrize("opset", range(9, 27))
def test_opsets(opset: int) -> None:
    result = spa.prune(old(opset), ratio=0.5, of="channels", weights=True)
    assert [(row.name, row.units, row.removed) for row in result.report.groups] == [("c0:0", 4, 2)]
    assert result.model.opset_imports[""] == opset
    assert result.report.verified
    if opset <= onnx.defs.onnx_opset_version():
        onnx.checker.check_model(ir.to_proto(result.model))


# ---------------------------------------------------------------------------------------- plans, verification
@pytest.mark.parametrize("model", models.RUNNABLE, ids=lambda model: model.__name__)
def test_a_plan_gives_the_same_bytes(model: Callable[[], onnx.ModelProto]) -> None:
    result = spa.prune(model(), ratio=0.4, of="channels", min_keep=0, verify=False, weights=True)
    again = spa.apply_plan(model(), spa.Plan.from_json(result.plan.to_json()), verify=False)
    assert data(again.model) == data(result.model)
    assert again.report.after == result.report.after


def test_width_under_a_norm_is_off_and_not_exact() -> None:
    result = spa.prune(models.layer_normed(), ratio=0.3, of="channels", weights=True)
    assert {row.name: row.removed for row in result.report.groups} == {"w0:1": 0, "w1:1": 4, "w2:branch": 0}
    assert result.report.exact
    result = spa.prune(models.layer_normed(), ratio=0.3, of="channels", include=["width"], weights=True)
    assert {row.name: row.removed for row in result.report.groups} == {"w0:1": 2, "w1:1": 4, "w2:branch": 0}
    assert not result.report.exact
    assert result.report.verified


def test_verify_files_tells_another_model(tmp_path: Path) -> None:
    result = spa.prune(models.residual_cnn(), ratio=0.4, weights=True)
    result.save(tmp_path / "pruned.onnx")
    assert written.verify_files(models.residual_cnn(), tmp_path / "pruned.onnx", result.plan).verified
    other = spa.prune(models.residual_cnn(), ratio=0.4, criterion="random")
    other.save(tmp_path / "other.onnx")
    assert other.plan != result.plan
    with pytest.raises(VerificationError, match="the pruned model is another one, or was changed since"):
        written.verify_files(models.residual_cnn(), tmp_path / "other.onnx", result.plan)
    with pytest.raises(VerificationError, match="the outputs changed"):
        written.verify_files(models.residual_cnn(), models.grouped_cnn(), result.plan)


GROUPS = ["c0:0", "c1:0", "c2:0"]


@pytest.mark.parametrize("group", GROUPS)
def test_a_wrong_cut_is_caught_and_named(monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    """The slicing removes other units of one group than the plan says, wherever that group is cut."""

    def wrong(model, coupling, shapes, masks):
        (target,) = [g for g in find_groups(coupling) if g.name == group]
        turned = {leaf: np.roll(mask, 1) if leaf in target.leaves else mask for leaf, mask in masks.items()}
        slice_model(model, coupling, shapes, turned)

    monkeypatch.setattr(steps, "slice_model", wrong)
    with pytest.raises(VerificationError, match=rf"differs from the masked dense model by .*; at fault: '{group}';"):
        spa.prune(models.dense_block(), ratio=0.5, of="channels", weights=True)


def test_an_invalid_cut_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of a group is left as it was: the shapes no longer fit."""

    def forgetful(model, coupling, shapes, masks):
        kept = model.graph.initializers["c2"].const_value
        slice_model(model, coupling, shapes, masks)
        model.graph.initializers["c2"].const_value = kept

    monkeypatch.setattr(steps, "slice_model", forgetful)
    with pytest.raises(VerificationError, match=r"^the pruned model .*; at fault: 'c\d:0'"):
        spa.prune(models.dense_block(), ratio=0.5, of="channels", weights=True)


def test_a_plan_that_empties_an_axis_is_refused() -> None:
    """Groups share an axis here: none of them loses all its units, the axis does."""
    analysis = pipeline.analyse(pipeline.load_normal(models.sliced()))
    sizes = {group.name: group.size for group in analysis.groups}
    plan = spa.Plan({name: tuple(range(size)) for name, size in sizes.items()}, sizes)
    with pytest.raises(ModelError, match="removes all 3 units of 'c0:0'"):
        spa.apply_plan(models.sliced(), plan)


def test_outputs_do_not_move_without_removal() -> None:
    proto = models.residual_cnn()
    feeds = runtime.random_feeds(onnx_file.load(proto), shapes={"x": (2, 3, 8, 8)}, seed=0)
    normal = pipeline.load_normal(proto)
    expected, actual = (
        runtime.run(runtime.session(model, optimize=False), feeds)["y"] for model in (onnx_file.load(proto), normal)
    )
    assert np.array_equal(expected, actual)


def test_an_input_of_unknown_rank() -> None:
    text = "(float[N,8] x) => (float[N,3] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }"
    proto = build(text, {"w": [8, 6], "v": [6, 3]})
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")
    with pytest.raises(NothingToPrune, match=r"; if the model takes certain sizes only, give the shape of 'x' with"):
        spa.prune(proto, ratio=0.5, weights=True)
    result = spa.prune(proto, ratio=0.5, inputs={"x": (2, 8)}, weights=True)
    assert result.report.difference is not None
    assert not ir.to_proto(result.model).graph.input[0].type.tensor_type.HasField("shape")


def test_what_options_leave_out_says_nothing_of_shapes() -> None:
    """Branches are off by default, which is said where nothing else is left."""
    text = """(float[N,8] x) => (float[N,3] y) { a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, v)  d = Add(x, c)
        y = MatMul(d, o) }"""
    proto = build(text, {"w": [8, 6], "v": [6, 8], "o": [8, 3]})
    with pytest.raises(NothingToPrune, match=r"1 depth group left alone \(off unless included with") as error:
        spa.prune(proto, ratio=0.5, weights=True, only="depth")
    assert "certain sizes" not in str(error.value)


def test_a_model_that_takes_one_size_only() -> None:
    text = "(float[N,S,8] x) => (float[N,S,3] y) { p = Add(x, t)  a = MatMul(p, w)  b = Relu(a)  y = MatMul(b, v) }"
    proto = build(text, {"t": [40, 8], "w": [8, 6], "v": [6, 3]})
    message = r"'Add_0' cannot take its operands, .*: Incompatible dimensions.*; if the model takes certain sizes only"
    with pytest.raises(NothingToPrune, match=message):
        spa.prune(proto, ratio=0.1, weights=True)
    result = spa.prune(proto, ratio=0.1, inputs={"x": (1, 40, 8)}, weights=True)
    assert result.report.difference is not None
    assert result.model.graph.inputs[0].shape == ir.Shape(["N", "S", 8])


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (
            {"w": np.zeros((8, 6)), "v": [6, 3]},
            ModelError,
            (
                r"not valid: MatMul 'MatMul_0' cannot take its operands, float\[N, 8\] and double\[8, 6\]: "
                r"B has inconsistent type tensor\(double\); export it again"
            ),
        ),
        (
            {"w": [8, 6], "v": [5, 3]},
            NothingToPrune,
            (
                r"removed: MatMul 'MatMul_2' cannot take its operands, float\[\d+, 6\] and float\[5, 3\]: "
                r"Incompatible dimensions.* 'x' with"
            ),
        ),
    ],
    ids=["other numbers", "other sizes"],
)
def test_a_node_that_cannot_take_its_operands_is_named(
    weights: dict[str, Any], error: type[Exception], message: str
) -> None:
    text = "(float[N,8] x) => (float[N,3] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, v) }"
    with pytest.raises(error, match=message):
        spa.prune(build(text, weights), ratio=0.5, weights=True)


def test_a_repaired_model_is_compared_with_the_refitted_one_and_says_so() -> None:
    model = Path(__file__).parents[1] / "models" / "fashion_resnet.onnx"
    by_weights, repaired = (
        spa.prune(model, ratio=0.2, **options) for options in ({"weights": True}, {"preset": "fast"})
    )
    assert by_weights.report.reference == "the dense model with the removed units read as zero"
    assert repaired.plan.repair
    assert repaired.report.reference == "the refitted model with the removed units read as zero"
