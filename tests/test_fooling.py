"""Ways to fool verification, and that it is not fooled.

One file: a list of tricks, each on a model of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import spa
from spa import pipeline, written
from spa.cli import main
from spa.errors import VerificationError
from spa.passes.cut.verify import compare
from spa.report import Report
from spa.steps import analyse, load_normal, report_on
from spa.verification import _cut_names, _give
from tests import models
from tests.cut.test_trials import inputs_of
from tests.models import Weight, build

DETECTOR = """(float[1,3,16,16] x) => (float[1,S,P] y) {
    a = Conv<pads=[1,1,1,1]>(x, k)  n = BatchNormalization<epsilon=0.001>(a, g, h, m, v)  r = Relu(n)
    b0 = Conv(r, kb, bb)  b = Mul(b0, pixels)  s0 = Conv(r, ks, bs)  s = Sigmoid(s0)
    c = Concat<axis=1>(b, s)  y = Reshape(c, flat) }"""


def detector(*, text: str = DETECTOR, channels: int = 16) -> onnx.ModelProto:
    """Pixel boxes and scores of classes in one tensor."""
    ones, some = np.ones(channels, np.float32), np.linspace(-0.2, 0.4, channels, dtype=np.float32)
    weights: dict[str, Weight] = {
        "k": [channels, 3, 3, 3], "g": ones, "h": some, "m": 0 * some, "v": ones, "kb": [4, channels, 1, 1], "bb": [4],
        "ks": [5, channels, 1, 1], "bs": np.full(5, -4, np.float32), "pixels": np.array(600, np.float32),
        "flat": np.array([1, 9, 256]),
    }  # fmt: skip
    return build(text, weights)


def changed(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(array.copy()).astype(array.dtype), name))
    return proto


def verified(dense: onnx.ModelProto, pruned: onnx.ModelProto, plan: spa.Plan, **options: Any) -> Report:
    """What `spa verify` finds, the plan having been written and read."""
    return written.verify_files(dense, pruned, spa.Plan.from_json(plan.to_json()), **options)


@pytest.fixture(scope="module")
def pruned() -> pipeline.PruneResult:
    return spa.prune(detector(), ratio=0.3, weights=True)


@pytest.fixture(scope="module")
def repaired() -> pipeline.PruneResult:
    samples = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)
    return spa.prune(detector(), ratio=0.3, data={"x": samples}, preset="fast")


def test_honest_models_pass(pruned: pipeline.PruneResult, repaired: pipeline.PruneResult) -> None:
    for result in (pruned, repaired):
        assert result.report.verified
        assert verified(detector(), ir.to_proto(result.model), result.plan).status == "verified"


# ------------------------------------------------------------------------------------- scores beside pixel boxes
@pytest.mark.parametrize("offset", [4.0, 0.1, -0.1])
def test_scores_that_are_off_beside_pixel_boxes(pruned: pipeline.PruneResult, offset: float) -> None:
    """A thousandth of a box is more than any score: each channel is held to its own size."""
    other = ir.from_proto(changed(pruned.model, "bs", lambda bias: bias + offset))
    with pytest.raises(VerificationError, match=r"of its own size in output 'y' at index [4-8] of axis 1, more than"):
        pipeline.verify_plan(pruned.reference, other, pruned.plan, report_on(analyse(pruned.reference), pruned.plan))


def test_the_same_along_the_last_axis() -> None:
    text = "(float[N,6] x) => (float[N,5] y) { a = MatMul(x, w)  r = Relu(a)  b = MatMul(r, v)  y = Mul(b, sizes) }"
    sizes = np.array([600, 600, 1e-3, 1e-4, 600], np.float32)
    result = spa.prune(build(text, {"w": [6, 12], "v": [12, 5], "sizes": sizes}), ratio=0.3, weights=True)
    assert result.report.verified
    other = ir.from_proto(changed(result.model, "sizes", lambda array: array * np.array([1, 1, 1, 1.01, 1])))
    with pytest.raises(VerificationError, match="of its own size in output 'y' at index 3 of axis 1"):
        pipeline.verify_plan(result.reference, other, result.plan, report_on(analyse(result.reference), result.plan))


def test_a_channel_that_cancels_is_judged_by_its_rounding() -> None:
    """Two columns that nearly cancel hold rounding alone; that is no fault, and no shelter for the others."""
    text = """(float[N,6] x) => (float[N,5] y) {
        a = MatMul(x, w)  r = Relu(a)  b = MatMul(r, v)  c = MatMul(r, u)  y = Sub(b, c) }"""
    weight = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    near = np.where(np.arange(5) == 2, np.nextafter(weight, np.float32(9)), np.float32(0))
    result = spa.prune(build(text, {"w": [6, 64], "v": weight, "u": near}), ratio=0.3, weights=True)
    assert result.report.verified
    other = ir.from_proto(changed(result.model, "v", lambda array: array * (1 + 0.01 * (np.arange(5) == 3))))
    with pytest.raises(VerificationError, match="at index 3 of axis 1"):
        pipeline.verify_plan(result.reference, other, result.plan, report_on(analyse(result.reference), result.plan))


# --------------------------------------------------------------------------------------- another model, other weights
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DETECTOR.replace("r = Relu(n)", "r = LeakyRelu<alpha=0.0>(n)"), "differs from what the plan makes"),
        (DETECTOR.replace("r = Relu(n)", "q = Relu(n)  r = Identity(q)"), "differs from what the plan makes"),
        (DETECTOR.replace("epsilon=0.001", "epsilon=0.0010001"), "attribute 'epsilon' is 0.0010"),
        (DETECTOR.replace("r = Relu(n)", "r = Relu(n)  idle = Neg(r)"), "is not in what the plan makes"),
        (DETECTOR.replace("Concat<axis=1>(b, s)", "Concat<axis=1>(b, b, s)"), "another number of operands"),
    ],
)
def test_another_model_of_the_same_signature(pruned: pipeline.PruneResult, text: str, message: str) -> None:
    other = detector(text=text)
    stored = {tensor.name: tensor for tensor in ir.to_proto(pruned.model).graph.initializer}
    for tensor in other.graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(stored[tensor.name])
    with pytest.raises(VerificationError, match=f"{message}.*the pruned model is another one, or was changed since"):
        verified(detector(), other, pruned.plan)


def test_the_dense_model_of_another_size(pruned: pipeline.PruneResult) -> None:
    with pytest.raises(
        VerificationError, match=r"stored tensor 'ks' is FLOAT \[5,16,1,1\], where the plan has FLOAT \[5,11,1,1\]"
    ):
        verified(detector(), detector(), pruned.plan)


def test_names_and_order_do_not_matter(pruned: pipeline.PruneResult) -> None:
    other = ir.from_proto(ir.to_proto(pruned.model))
    for number, node in enumerate(other.graph):
        node.name = f"renamed_{number}"
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = f"v{number}"
    assert verified(detector(), ir.to_proto(other), pruned.plan).verified


def test_noise_below_every_tolerance(pruned: pipeline.PruneResult) -> None:
    other = changed(pruned.model, "k", lambda array: array * (1 + 1e-6))
    with pytest.raises(VerificationError, match=r"stored tensor 'k' differs in \d+ of \d+ numbers"):
        verified(detector(), other, pruned.plan)


def test_rows_of_a_table_that_no_input_reaches() -> None:
    text = "(int64[N] i) => (float[N,3] y) { e = Gather(t, i)  a = MatMul(e, w)  r = Relu(a)  y = MatMul(r, v) }"
    model = build(text, {"t": [5000, 6], "w": [6, 12], "v": [12, 3]})
    result = spa.prune(model, ratio=0.001, only=["w:1"], weights=True)

    def spoil(table: np.ndarray) -> np.ndarray:
        table[4000:] = 0
        return table

    with pytest.raises(VerificationError, match="stored tensor 't' differs in 6000 of 30000 numbers"):
        verified(model, changed(result.model, "t", spoil), result.plan)


def test_a_branch_that_is_never_taken() -> None:
    text = """(float[N,6] x) => (float[N,3] y) { a = MatMul(x, w)  r = Relu(a)  b = MatMul(r, v)
        y = If(never) <then_branch = t () => (float[N,3] p) { p = Neg(b) },
                       else_branch = e () => (float[N,3] q) { q = Add(b, one) }> }"""
    listed = "(float[N,6] x, bool never)"
    model = build(text.replace("(float[N,6] x)", listed), {"w": [6, 12], "v": [12, 3], "one": np.ones(3, np.float32)})
    result = spa.prune(model, ratio=0.3, weights=True)
    other = ir.to_proto(result.model)
    (node,) = [node for node in other.graph.node if node.op_type == "If"]
    for attribute in node.attribute:
        if attribute.name == "else_branch":
            attribute.g.node[0].op_type = "Sub"
    with pytest.raises(VerificationError, match=r"differs from what the plan makes: ai\.onnx::Sub and"):
        verified(model, other, result.plan)


# ------------------------------------------------------------------------------------------------ refitted weights
def test_noise_in_place_of_refitted_weights(repaired: pipeline.PruneResult) -> None:
    rng = np.random.default_rng(1)
    assert {"kb", "ks"} <= set(repaired.plan.refitted or {})
    other = changed(repaired.model, "ks", lambda array: rng.standard_normal(array.shape))
    with pytest.raises(VerificationError, match="stored tensor 'ks' is another: the plan expects the one that the rep"):
        verified(detector(), other, repaired.plan)


def test_the_plain_cut_in_place_of_refitted_weights(repaired: pipeline.PruneResult) -> None:
    cut = pipeline.apply_plan(detector(), repaired.plan)
    assert any("only cuts" in note for note in cut.report.notes)
    with pytest.raises(VerificationError, match="is the dense model's own, cut as `spa apply` cuts it"):
        verified(detector(), ir.to_proto(cut.model), repaired.plan)


def test_kept_weights_of_a_repaired_model(repaired: pipeline.PruneResult) -> None:
    assert repaired.plan.refitted is not None
    assert "pixels" not in repaired.plan.refitted
    other = changed(repaired.model, "pixels", lambda array: array * 1.0001)
    with pytest.raises(VerificationError, match="stored tensor 'pixels' differs in 1 of 1 numbers"):
        verified(detector(), other, repaired.plan)


def test_a_distance_that_the_plan_does_not_foretell(repaired: pipeline.PruneResult) -> None:
    assert 0 < repaired.plan.distance["y"] < 1
    plan = json.loads(repaired.plan.to_json())
    plan["distance"]["relative_l2"]["y"] += 0.01
    with pytest.raises(VerificationError, match=r"output 'y' is .* from the dense model's .*; the plan says"):
        verified(detector(), ir.to_proto(repaired.model), spa.Plan.from_json(json.dumps(plan)))


def test_a_plan_without_digests_says_so(repaired: pipeline.PruneResult) -> None:
    plan = json.loads(repaired.plan.to_json())
    del plan["refitted"], plan["distance"]
    verdict = verified(detector(), ir.to_proto(repaired.model), spa.Plan.from_json(json.dumps(plan)))
    assert verdict.status == "not compared"
    assert verdict.missing == ["this plan holds no digests of the refitted weights: make it anew"]


def test_a_repair_that_refitted_nothing_is_verified() -> None:
    """Of a branch: nothing reads its units, so that no weight is another one."""
    text = """(float[N,6] x) => (float[N,3] y) { a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, v)  d = Add(x, c)
        e = MatMul(d, t)  f = Relu(e)  g = MatMul(f, u)  h = Add(d, g)  y = MatMul(h, o) }"""
    model = build(text, {"w": [6, 8], "v": [8, 6], "t": [6, 8], "u": [8, 6], "o": [6, 3]})
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    result = spa.prune(model, ratio=0.3, include="depth", only="depth", data={"x": x}, preset="fast")
    plan = spa.Plan.from_json(result.plan.to_json())
    assert plan.repair
    assert plan.refitted == {}
    assert verified(model, ir.to_proto(result.model), plan).status == "verified"


def test_plans_keep_digests_on_their_way_through_json(repaired: pipeline.PruneResult) -> None:
    assert spa.Plan.from_json(repaired.plan.to_json()) == repaired.plan


# ------------------------------------------------------------------------------------------- what shows nothing
def test_sizes_that_are_baked_in() -> None:
    """At the sizes that the graph was looked at with, a Reshape to numbers does what one to -1 does."""
    text = (
        "(float[N,S,6] x) => (float[N,S,3] y) { a = MatMul(x, w)  q = Reshape(a, to)  r = Relu(q)  y = MatMul(r, v) }"
    )
    honest = build(text, {"w": [6, 12], "v": [12, 3], "to": np.array([0, -1, 12])})
    result = spa.prune(honest, ratio=0.3, weights=True)
    width = result.model.graph.initializers["v"].shape
    assert width is not None
    inputs, _ = inputs_of(honest)
    batch, sequence, _ = inputs.start.inputs["x"]
    baked = ir.from_proto(changed(result.model, "to", lambda _: np.array([batch, sequence, width[0]])))
    with pytest.raises(VerificationError, match="the pruned model does not run"):
        pipeline.verify_plan(result.reference, baked, result.plan, report_on(analyse(result.reference), result.plan))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("k = Greater(b, high)  y = Compress<axis=0>(b, none)", "output 'y' is empty, or gives no finite numbers"),
        ("c = Mul(b, zero)  d = Sub(c, high)  y = Sqrt(d)", "output 'y' is empty, or gives no finite numbers"),
        ("c = Mul(b, zero)  d = Add(c, high)  y = Sigmoid(d)", "output 'y' is the same on all inputs tried"),
    ],
)
def test_outputs_that_say_nothing(end: str, message: str) -> None:
    text = f"(float[N,6] x) => (float[M,K] y) {{ a = MatMul(x, w)  r = Relu(a)  b = MatMul(r, v)  {end} }}"
    weights: dict[str, Weight] = {"w": [6, 12], "v": [12, 3]}
    constants: dict[str, Weight] = {
        "high": np.array([90], np.float32), "zero": np.array([0], np.float32), "none": np.array([False])
    }  # fmt: skip
    model = build(text, weights | {name: array for name, array in constants.items() if name in end})
    report = spa.prune(model, ratio=0.3, only=["w:1"], weights=True).report
    assert (report.status, report.verified) == ("not compared", False)
    assert report.missing[0].startswith(message)
    assert "--feed x=VALUES" in report.give


def test_whole_numbers_that_are_off_by_one() -> None:
    text = "(int64[N] x) => (int64[N] y) { y = Add(x, b) }"
    left, right = (build(text, {"b": np.array(50_000 + off)}) for off in (0, 1))
    inputs, _ = inputs_of(left)
    assert not compare(load_normal(left), load_normal(right), inputs=inputs).agrees
    assert compare(load_normal(left), load_normal(left), inputs=inputs).agrees


def test_elements_of_a_sequence() -> None:
    text = "(float[N,6] x) => (seq(float[N,3]) y) { a = MatMul(x, w)  b = Mul(a, two)  y = SequenceConstruct(a, b) }"
    left, right = (build(text, {"w": [6, 3], "two": np.array([two], np.float32)}) for two in (2.0, 2.1))
    inputs, _ = inputs_of(left)
    assert not compare(load_normal(left), load_normal(right), inputs=inputs).agrees


def test_a_model_that_nobody_can_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says what to give, and that nothing was compared is no success."""
    text = """(int64[N] i) => (float[N,3] y) {
        j = Sub(i, far)  e = Gather(t, j)  a = MatMul(e, w)  r = Relu(a)  y = MatMul(r, v) }"""
    dense, pruned, plan = (str(tmp_path / name) for name in ("dense.onnx", "pruned.onnx", "plan.json"))
    onnx.save(build(text, {"far": np.array(70_000), "t": [5, 6], "w": [6, 12], "v": [12, 3]}), dense)
    main_ok("prune", dense, "--ratio", "0.3", "-o", pruned, "--save-plan", plan)
    printed = capsys.readouterr().out
    assert "not compared: valid, same inputs and outputs; the dense model does not run on random inputs" in printed
    assert "give --input i=SIZES, or --feed i=VALUES" in printed
    assert "\nverified" not in printed
    with pytest.raises(SystemExit) as stopped:
        main(["verify", dense, pruned, "--plan", plan, "--json"])
    assert stopped.value.code == 1
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["status"], verdict["verified"], verdict["difference"]) == ("not compared", False, None)
    np.savez(tmp_path / "feeds.npz", i=np.arange(70_000, 70_005))
    for feed in (
        "i=70001",
        "i=70001,70002,70003",
        "i=[70001,70002]",
        f"i={tmp_path / 'feeds.npz'}",
        str(tmp_path / "feeds.npz"),
    ):
        main_ok("verify", dense, pruned, "--plan", plan, "--feed", feed, "--input", f"i={sizes(feed)}")
        assert capsys.readouterr().out.startswith("verified: ")


def sizes(feed: str) -> int:
    return 5 if feed.endswith(".npz") else len(feed.split(","))


def main_ok(*words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert not stopped.value.code


def test_what_became_smaller_is_known_by_name() -> None:
    result = spa.prune(models.residual_cnn(), ratio=0.3, weights=True, only=["c1:0"], verify=False)
    assert _cut_names(result.reference, result.model) == {"c1", "g", "h", "m", "v", "c2"}
    assert _cut_names(result.reference, result.reference) == set()


def test_six_inputs_at_most_are_named_in_an_advice() -> None:
    inputs = ", ".join(f"float[N,4] x{number}" for number in range(8))
    names = ", ".join(f"x{number}" for number in range(8))
    advice = _give(ir.from_proto(models.build(f"({inputs}) => (float[N,4] y) {{ y = Sum({names}) }}", {})), {"x0": 1.0})
    assert advice == [f"--input x{at}=SIZES" for at in range(1, 7)] + [f"--feed x{at}=VALUES" for at in range(1, 7)]
