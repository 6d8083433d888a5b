"""Residual branches taken out: what is left computes what the dense network does with zeros in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from spa.analysis.group import DEPTH
from spa.analysis.plan import Plan
from spa.errors import UsageError, VerificationError
from spa.pipeline import PruneResult, analyse, apply_plan, load_normal, prune
from spa.written import verify_files
from tests import depth
from tests.analysis.test_branches import FOUND
from tests.benchmarks import zoo
from tests.depth import feed


def names(model: onnx.ModelProto) -> list[str]:
    return [group.name for group in analyse(load_normal(model)).groups if group.kind == DEPTH]


def without(model: onnx.ModelProto, *branches: str, **others: Sequence[int]) -> PruneResult:
    groups = analyse(load_normal(model)).groups
    return apply_plan(model, Plan.of(groups, {**dict.fromkeys(branches, (0,)), **others}))


def answers(model: ir.Model | onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}
    outputs = session.run(None, {name: array for name, array in feeds.items() if name in taken})
    return dict(zip([each.name for each in session.get_outputs()], outputs, strict=True))


@pytest.mark.parametrize("name", FOUND)
def test_any_of_the_branches_go_exactly(name: str) -> None:
    """Each alone, each pair, and all together: valid, exact, and nothing is stored that nobody reads."""
    model = FOUND[name][0]()
    every = names(model)
    for count in {1, 2, len(every)} & set(range(len(every) + 1)):
        for some in combinations(every, count):
            result = without(model, *some)
            assert result.report.verified, some
            assert result.report.difference is not None
            assert result.report.difference < 1e-5
            stored = [v.const_value for v in result.model.graph.initializers.values() if v.const_value is not None]
            floats = [tensor.size for tensor in stored if tensor.dtype.is_floating_point()]
            assert sum(floats) == result.report.after["params"] < result.report.before["params"]
            assert result.report.after["flops"] < result.report.before["flops"]


def test_what_is_left_is_written_as_by_hand() -> None:
    """Without both branches a network in pre-norm form is its first and last layer."""
    model = depth.pre_norm()
    result = without(model, *names(model))
    assert [node.op_type for node in result.model.graph] == ["MatMul", "MatMul"]
    assert set(result.model.graph.initializers) == {"w0", "w9"}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    x = np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32)
    np.testing.assert_allclose(answers(result.model, {"x": x})["y"], x @ weights["w0"] @ weights["w9"], rtol=1e-4)


def test_of_parallel_branches_one_stays() -> None:
    model = depth.parallel()
    result = without(model, "wb:branch")
    assert [node.op_type for node in result.model.graph] == [
        "MatMul", "LayerNormalization", "MatMul", "Gelu", "MatMul", "Add", "MatMul",
    ]  # fmt: skip


def test_a_fused_norm_becomes_a_plain_one() -> None:
    for simplified, kind in ((False, "LayerNormalization"), (True, "RMSNormalization")):
        result = without(depth.skip_normed(simplified=simplified), "wb:branch")
        kinds = [node.op_type for node in result.model.graph]
        assert not any(name.startswith("Skip") for name in kinds)
        assert kind in kinds


def test_a_fused_norm_of_an_old_opset_stays_where_no_operator_could_stand_for_it() -> None:
    model = depth.skip_normed(simplified=True)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Relu", ""
    del model.graph.node[1].input[1:]
    model.opset_import[0].version = 20
    assert "wb:branch" not in names(model)


@pytest.mark.parametrize("kind", ["Concat", "Attention", "GroupQueryAttention"])
def test_caches_go_with_their_attention(kind: str, tmp_path: Path) -> None:
    """The rest computes, with the caches that are left, token by token what it does at once."""
    model = depth.cached(kind)
    result = without(model, "0.wo:branch")
    assert result.report.verified
    gone = ["past.0.k", "past.0.v", "present.0.k", "present.0.v"]
    assert [name for name, shapes in result.report.resized.items() if shapes["after"] is None] == gone
    assert [value.name for value in result.model.graph.outputs] == ["y", "present.1.k", "present.1.v"]
    for past in (0, 3):
        feeds = feed(model, past=past)
        silenced = ir.from_proto(model).clone()
        silenced.graph.initializers["0.wo"].const_value = ir.Tensor(np.zeros((depth.INNER, depth.WIDTH), np.float32))
        expected = answers(silenced, feeds)
        actual = answers(result.model, feeds)
        for name, array in actual.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)
    dense, pruned = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    onnx.save(model, dense)
    result.save(pruned)
    assert verify_files(dense, pruned, Plan.from_json(result.plan.to_json())).verified


def test_a_cache_that_stays_behind_is_told(tmp_path: Path) -> None:
    model = depth.cached("Concat")
    result = without(model, "0.wo:branch")
    dense, pruned = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    onnx.save(model, dense)
    proto = ir.to_proto(result.model)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("past.0.k", 1, ["b", depth.HEADS, "p", depth.SIZE]))
    onnx.save(proto, pruned)
    with pytest.raises(VerificationError, match=r"the inputs changed: .*past\.0\.k"):
        verify_files(dense, pruned, result.plan)


def test_a_plan_in_which_a_width_goes_too() -> None:
    """Units of the stream, of the branch that stays, and a branch; those inside it are forgotten."""
    model = depth.nested()
    result = without(model, "c2:branch", **{"c0:0": [1], "c1:0": [0], "c3:0": [2, 3]})
    assert set(result.plan.removed) == {"c0:0", "c3:0", "c2:branch"}
    assert result.report.verified
    assert Plan.from_json(result.plan.to_json()) == result.plan


def test_another_branch_than_planned_is_told(tmp_path: Path) -> None:
    model = depth.pre_norm()
    dense, pruned = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    onnx.save(model, dense)
    without(model, "wb:branch").save(pruned)
    other = Plan.of(analyse(load_normal(model)).groups, {"wd:branch": [0]})
    with pytest.raises(VerificationError):
        verify_files(dense, pruned, other)


# ------------------------------------------------------------------------------------------------------ the choice
def test_by_weights_branches_compete_where_they_are_included() -> None:
    """The one with the smallest weights goes first, and no width inside it besides."""
    model = depth.pre_norm()
    for tensor in model.graph.initializer:
        if tensor.name in ("wc", "wd"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(0.01 * onnx.numpy_helper.to_array(tensor), tensor.name))
    alone = prune(model, ratio=0.3, weights=True, only=[DEPTH], include=[DEPTH])
    assert alone.plan.removed == {"wd:branch": (0,)}
    assert not any("min_keep" in note for note in alone.report.notes)  # nothing of a branch is kept
    assert alone.report.verified
    assert not prune(model, ratio=0.3, weights=True).plan.removed.keys() & {"wb:branch", "wd:branch"}


def test_no_share_of_a_branch_can_go() -> None:
    for options in ({"of": "channels"}, {"scope": "local"}):
        with pytest.raises(UsageError, match=r"depth goes branch by branch"):
            prune(depth.pre_norm(), ratio=0.5, weights=True, include=[DEPTH], **options)  # type: ignore[arg-type]


def test_a_branch_is_left_out_by_name() -> None:
    options: dict[str, Any] = {"ratio": 0.3, "weights": True, "only": [DEPTH], "include": [DEPTH]}
    result = prune(depth.pre_norm(), exclude=["wd*"], **options)
    assert set(result.plan.removed) == {"wb:branch"}


# --------------------------------------------------------------------------------------------------- real exports
GRAPHS = {  # how many branches there are
    "bert_tiny.ts.onnx": 4,
    "bert_tiny.ts.ortfused.onnx": 4,
    "hf_convnext.dynamo.onnx": 5,
    "efficientnet_b0.dynamo.onnx": 9,
    "esrgan_slim_x2.hand.onnx": 3,
    "gpt2_tiny.ts.onnx": 4,
    "hf_albert.ts.onnx": 4,
    "hf_falcon.ts.onnx": 4,
    "hf_gptj.dynamo.onnx": 4,
    "hf_gpt_neox.ts.onnx": 4,
    "hf_mixtral_bmm.dynamo.onnx": 4,
    "hf_phi.dynamo.onnx": 4,
    "densenet121.ts.onnx": 0,
    "timm_levit_128s.ts.onnx": 20,
    "hf_segformer.ts.onnx": 8,
    "hf_t5.ts.onnx": 10,
    "hf_wavlm.dynamo.onnx": 5,
    "keras_mobilenetv2.torch.keras_export.onnx": 10,
    "llama_tiny.dynamo.ort_extended.onnx": 4,
    "llama_tiny.ts.onnx": 4,
    "minilm_l6.ortfused.onnx": 12,
    "mobilenet_v2.ts.onnx": 10,
    "resnet18.ts.onnx": 5,
    "hf_swin.dynamo.onnx": 8,
    "timm_hrnet_w18_small.dynamo.onnx": 18,
    "torch_encoder.ts.onnx": 4,
}


@pytest.mark.skipif(
    not (zoo.SHARED / "graphs" / "manifest.json").exists(), reason="the zoo is not there: set SPA_SHARED"
)
@pytest.mark.parametrize("name", GRAPHS)
def test_branches_of_an_export(name: str) -> None:
    """Found, and every second of them taken out: verified against zeros in their place."""
    model = zoo.filled(zoo.SHARED / "graphs" / name)
    entry = zoo.manifest()[name]
    inputs = {key: each["run_shape"] for key, each in entry["inputs"].items() if each.get("run_shape") is not None}
    groups = analyse(load_normal(model), inputs=inputs).groups
    blocks = [group.name for group in groups if group.kind == DEPTH]
    assert len(blocks) == GRAPHS[name]
    result = apply_plan(model, Plan.of(groups, dict.fromkeys(blocks[::2], (0,))), inputs=inputs)
    assert result.report.verified
    assert result.report.difference is not None
    assert result.report.difference <= zoo.EXACT
