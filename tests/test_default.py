"""Pruning with no option but the ratio: samples of the tool's own, and weights alone where these do no better."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import spa
from spa import pipeline, runtime, sampled
from spa.errors import UsageError, VerificationError
from spa.passes.repair import own
from spa.passes.repair.own import in_words
from spa.passes.samples.writing import Writer
from spa.repair import ranges_of
from tests import models
from tests.models import build

NET = """(float[n,3,16,16] x) => (float[n,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(a)  c = Conv<pads=[1,1,1,1]>(r, u)  s = Relu(c)
    p = GlobalAveragePool(s)  f = Flatten(p)  y = MatMul(f, v) }"""


def net() -> onnx.ModelProto:
    """Sixteen channels that five would do for, twice over: each is another one, of its own strength."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((5, 3, 3, 3)), rng.standard_normal((5, 16, 3, 3)) / 12
    strength = rng.uniform(0.5, 2.0, (2, 16, 1, 1, 1))
    weights: dict[str, Any] = {
        "w": (first[np.arange(16) % 5] * strength[0]).astype(np.float32), "b": np.zeros(16, np.float32),
        "u": (second[np.arange(16) % 5] * strength[1]).astype(np.float32), "v": [16, 5],
    }  # fmt: skip
    return build(NET, weights)


def notes(result: pipeline.PruneResult) -> str:
    return "\n".join(result.report.notes)


def test_the_default_repairs_with_samples_of_its_own_and_says_so() -> None:
    result = spa.prune(net(), ratio=0.3)
    assert "repaired with samples of our own (photographs, made-up pictures, lines of text; x in" in notes(result)
    assert "--data SAMPLES is better; --weights cuts by weights alone" in notes(result)
    assert result.plan.repair
    assert result.report.verified
    fresh = np.random.default_rng(9).standard_normal((32, 3, 16, 16)).astype(np.float32)
    plain = spa.prune(net(), ratio=0.3, weights=True)
    assert off(net(), result, fresh) < 0.5 * off(net(), plain, fresh)


def off(dense: onnx.ModelProto, result: pipeline.PruneResult, x: np.ndarray) -> float:
    """Distance of the first output, as a share of how it varies."""
    outputs = [
        next(iter(runtime.run(runtime.session(model, optimize=True), {"x": x}).values()))
        for model in (dense, result.model)
    ]
    return float(np.linalg.norm(outputs[0] - outputs[1]) / np.linalg.norm(outputs[0] - outputs[0].mean(0)))


@pytest.mark.parametrize("options", [{"weights": True}, {"criterion": "l2"}, {"gather": "sum"}])
def test_weights_alone_change_no_weight(options: dict[str, Any]) -> None:
    result = spa.prune(net(), ratio=0.3, **options)
    assert not result.plan.repair
    assert "samples" not in notes(result)
    kept = numpy_helper.to_array(net().graph.initializer[0])
    small = result.model.graph.initializers["w"].const_value
    assert small is not None
    rows = {row.tobytes() for row in kept}
    assert all(row.tobytes() in rows for row in small.numpy())


@pytest.mark.parametrize("options", [{"data": "builtin"}, {"data_free": True}, {"criterion": "flap"}])
def test_ways_that_are_asked_for_by_name(options: dict[str, Any]) -> None:
    result = spa.prune(net(), ratio=0.3, preset="fast", **options)
    assert result.plan.repair.startswith(options.get("criterion", "spa"))
    assert ("photographs" in notes(result)) is ("data_free" not in options)


def test_a_repair_that_would_take_long_is_left_to_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {"runs": 0.0, "probes": 0.0, "grams": 0.0, "solves": 4000.0}
    monkeypatch.setattr(sampled, "effort", lambda *_, **__: took)
    result = spa.prune(net(), ratio=0.3)
    assert not result.plan.repair
    assert "weights alone decided: a repair would take about 67 min, and --data builtin asks for it" in notes(result)
    said: list[str] = []
    asked = spa.prune(net(), ratio=0.3, data_free=True, progress=lambda step, _share=None: said.append(step))
    assert asked.plan.repair
    assert "note: a repair takes about 67 min; --weights cuts at once" in said


@pytest.mark.parametrize("long", [True, False])
def test_texts_are_written_where_a_repair_is_not_too_long(monkeypatch: pytest.MonkeyPatch, long: bool) -> None:
    """A decoder without caches: what it writes is used, and costs time."""
    written: list[int] = []
    write = Writer.write

    def noted(writer: Writer, texts: dict[str, np.ndarray], *others: Any) -> None:
        write(writer, texts, *others)
        written.append(len(texts["ids"]))

    monkeypatch.setattr(Writer, "write", noted)
    if long:
        monkeypatch.setattr(sampled, "effort", lambda *_, **__: {"solves": 4000.0})
    text = """(int64[n,t] ids) => (float[n,t,9] y) {
        e = Gather(words, ids)  a = MatMul(e, up)  r = Relu(a)  d = MatMul(r, down)  s = Add(e, d)
        y = MatMul(s, out) }"""
    weights: dict[str, Any] = {"words": [9, 8], "up": [8, 32], "down": [32, 8], "out": [8, 9]}
    spa.prune(build(text, weights), ratio=0.2)
    assert written == ([] if long else [64])


@pytest.mark.parametrize(("options", "kept"), [({}, False), ({"data": "builtin"}, True)])
def test_a_repair_that_fails_its_check_is_left_to_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kept: bool
) -> None:
    check = pipeline.verify_plan

    def failing(*given: Any, **named: Any) -> Any:
        if given[2].repair:
            raise VerificationError("the pruned model differs by 1.2e-03")
        return check(*given, **named)

    monkeypatch.setattr(pipeline, "verify_plan", failing)
    if kept:
        with pytest.raises(VerificationError):
            spa.prune(net(), ratio=0.3, **options)
        return
    result = spa.prune(net(), ratio=0.3, **options)
    assert result.report.verified
    assert "weights alone decided: the repair was dropped, since the pruned model differs by 1.2e-03" in notes(result)
    plain = spa.prune(net(), ratio=0.3, weights=True)
    assert result.plan.removed == plain.plan.removed
    assert onnx_bytes(result) == onnx_bytes(plain)


def onnx_bytes(result: pipeline.PruneResult) -> dict[str, bytes]:
    """Of each stored tensor."""
    stored = result.model.graph.initializers.items()
    return {name: value.const_value.tobytes() for name, value in stored if value.const_value is not None}


def test_times_in_words() -> None:
    assert [in_words(seconds) for seconds in (0.2, 7, 43, 100, 4000, 9000)] == [
        "1 s", "7 s", "45 s", "2 min", "67 min", "2.5 h"
    ]  # fmt: skip


def test_ranges_on_the_command_line() -> None:
    assert ranges_of(["images=0:255", "a=b=-1:1.5"]) == {"images": (0, 255), "a=b": (-1, 1.5)}
    for wrong in ("images", "images=255", "images=1:0", "=0:1", "images=0:x", "images=0:inf"):
        with pytest.raises(UsageError, match="expected NAME=LOW:HIGH such as images=0:255"):
            ranges_of([wrong])


# -------------------------------------------------------------------------------------------------- no harm
def emptied() -> tuple[onnx.ModelProto, np.ndarray]:
    """A head that weight decay has emptied of half its units where its features need none, and such features.

    Features vary in six directions of 64; the other half of the units answers to what features never do, faintly, and
    training had no reason to take those weights to zero altogether.
    """
    rng = np.random.default_rng(1)
    directions = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    seen, unseen = directions[:, :6], directions[:, 6:]
    x = (8 * rng.standard_normal((400, 6)) @ seen.T).reshape(400, 8, 8)
    first = np.concatenate([seen @ rng.standard_normal((6, 16)), 0.02 * unseen @ rng.standard_normal((58, 16))], 1)
    second = rng.standard_normal((32, 16)) * np.where(np.arange(32) < 16, 1.0, 0.05)[:, None] / 4
    weights: dict[str, Any] = {
        "w": first / 8, "b": 0.1 * rng.standard_normal(32), "u": second, "d": 0.1 * rng.standard_normal(16),
        "v": rng.standard_normal((16, 1)) / 4,
    }  # fmt: skip
    text = """(float[n,8,8] x) => (float[n,1] y) {
        f = Flatten(x)  h = Gemm(f, w, b)  r = Relu(h)  g = Gemm(r, u, d)  s = Relu(g)  y = MatMul(s, v) }"""
    return build(text, {name: array.astype(np.float32) for name, array in weights.items()}), x.astype(np.float32)


@pytest.mark.parametrize("ratio", [0.2, 0.3, 0.45])
def test_the_default_is_no_worse_than_weights_where_these_know_more(ratio: float) -> None:
    model, features = emptied()
    default, plain = spa.prune(model, ratio=ratio), spa.prune(model, ratio=ratio, weights=True)
    assert off(model, default, features) <= 1.1 * off(model, plain, features) + 1e-4


FEATURES = """(float[n,40] x) => (float[n,5] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"""
SOUND = """(float[n,1,2048] x) => (float[n,5] y) {
    a = Conv<kernel_shape=[64],strides=[16]>(x, w)  r = Relu(a)  p = ReduceMean(r, at)  f = Flatten(p)  y = MatMul(f, v) }"""  # noqa: E501


@pytest.mark.parametrize(
    ("text", "weights", "stands"),
    [
        (SOUND, {"w": [32, 1, 64], "at": np.array([2]), "v": [32, 5]}, True),
        (NET, {"w": [16, 3, 3, 3], "b": [16], "u": [16, 16, 3, 3], "v": [16, 5]}, True),
        (FEATURES, {"w": [40, 64], "v": [64, 5]}, False),
    ],
    ids=["sound", "pictures", "features"],
)
def test_how_much_nearer_a_repair_has_to_be_goes_by_what_its_samples_are(
    text: str, weights: dict[str, Any], stands: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.7 of the distance that weights leave: pictures and sounds that are made up speak for real ones."""
    monkeypatch.setattr(own, "gain", lambda *_: own.Gain(0.7**2, wrecked=False))
    result = spa.prune(build(text, weights), ratio=0.3)
    assert bool(result.plan.repair) is stands
    assert ("0.7 of the distance" in notes(result)) is not stands
    monkeypatch.setattr(own, "gain", lambda *_: own.Gain(0.9**2, wrecked=False))
    assert not spa.prune(build(text, weights), ratio=0.3).plan.repair
    monkeypatch.setattr(own, "gain", lambda *_: own.Gain(0.9**2, wrecked=True))
    assert spa.prune(build(text, weights), ratio=0.3).plan.repair
    monkeypatch.setattr(own, "gain", lambda *_: own.Gain(1.1**2, wrecked=True))
    assert not spa.prune(build(text, weights), ratio=0.3).plan.repair


# ----------------------------------------------------------------------------------------------- no refusal
def quantised() -> onnx.ModelProto:
    """Integers only where weights are: nothing to refit."""
    rng = np.random.default_rng(0)
    whole = {"w": rng.integers(-9, 9, (16, 3, 3, 3)), "v": rng.integers(-9, 9, (16, 4))}
    text = """(float[n,3,8,8] x) => (float[n,4] y) {
        wf = DequantizeLinear(w, s)  a = Conv(x, wf)  r = Relu(a)  p = GlobalAveragePool(r)  f = Flatten(p)
        vf = DequantizeLinear(v, s)  y = MatMul(f, vf) }"""
    arrays: dict[str, Any] = {name: array.astype(np.int8) for name, array in whole.items()}
    return build(text, arrays | {"s": np.array(0.1, np.float32)})


def strings() -> onnx.ModelProto:
    """An input of no type that samples are made of."""
    nodes = [
        helper.make_node("Equal", ["word", "yes"], ["is"]), helper.make_node("Cast", ["is"], ["x"], to=1),
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(size).astype(np.float32) for name, size in {"w": (6, 12), "v": (12, 3)}.items()
    }
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    stored.append(TensorProto(name="yes", data_type=TensorProto.STRING, string_data=[b"yes"]))
    given, made = (
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("word", TensorProto.STRING, [2, 6]), ("y", TensorProto.FLOAT, [2, 3]))
    )
    graph = helper.make_graph(nodes, "words", [given], [made], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("model", [quantised, strings, models.attention, models.gated_mlp])
def test_what_weights_prune_the_default_prunes(model: Any) -> None:
    plain = spa.prune(model(), ratio=0.3, verify=False, weights=True)
    for data_free in (False, True):
        result = spa.prune(model(), ratio=0.3, verify=False, data_free=data_free)
        assert result.report.removed_share("params") >= min(0.3, plain.report.removed_share("params") - 0.15)
        lines = [note for note in result.report.notes if "decided" in note or "samples of our own" in note]
        assert len(lines) == 1
        assert "\n" not in lines[0]
    assert isinstance(result.model, ir.Model)


@pytest.mark.parametrize("options", [{}, {"data_free": True}, {"data": {"x": np.ones((40, 6), np.float32)}}], ids=str)
def test_outputs_that_are_stored(options: dict[str, Any]) -> None:
    """A deviation that no input changes, as policies have: the file gives a stored tensor as an output."""
    text = (
        "(float[N,6] x) => (float[N,3] y, float[3] z) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v)  z = Exp(s) }"
    )
    model = build(text, {"w": [6, 40], "v": [40, 3], "s": [3]})
    if "data" in options:
        options = {"data": {"x": np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)}}
    result = spa.prune(model, ratio=0.3, preset="fast" if options else None, **options)
    assert result.report.verified
    assert 1 - result.report.after["params"] / result.report.before["params"] >= 0.3
