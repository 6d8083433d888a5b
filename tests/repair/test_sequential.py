"""Both networks side by side."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa.analysis.plan import Plan
from spa.passes.choose.budget import Budget
from spa.passes.layers.consumers import Layer
from spa.passes.repair.compensate import compensate
from spa.passes.repair.curves import find_curves
from spa.passes.repair.draft import Draft
from spa.passes.repair.drift import Drift
from spa.passes.repair.network import prepare
from spa.passes.repair.sequential import Repair
from spa.passes.repair.session import Session
from spa.passes.repair.stages import cut
from spa.passes.repair.streaming import Stream
from spa.passes.samples.checking import check_samples
from spa.pipeline import load_normal
from spa.presets import PRESETS, Preset
from tests.models import Weight, build

RESIDUAL = """(float[n,6] x) => (float[n,3] y) {
    s = MatMul(x, u)
    a = MatMul(s, v)  b = Relu(a)  c = MatMul(b, w)  j = Add(s, c)
    d = MatMul(j, p)  e = Relu(d)  f = MatMul(e, q)  k = Add(j, f)
    y = MatMul(k, z) }"""
SHAPES = {"u": [6, 8], "v": [8, 12], "w": [12, 8], "p": [8, 12], "q": [12, 8], "z": [8, 3]}


def session_of(preset: Preset = PRESETS["default"]) -> Session:
    model: ir.Model = load_normal(build(RESIDUAL, SHAPES))
    samples = np.random.default_rng(5).standard_normal((180, 6)).astype(np.float32)
    return Session.of(prepare(model), check_samples(samples, model), preset)


def repaired(session: Session, *, share: float) -> tuple[Repair, Plan]:
    groups = [group for group in session.network.groups if group.size == 12]
    curves = find_curves(session, groups, [share], {})
    removed = {group.name: curves[group.name].order[: int(share * group.size)] for group in groups}
    repair = Repair(session, curves, removed)
    return repair, repair.run()


def test_counts_stay_and_every_reader_is_reported() -> None:
    repair, plan = repaired(session_of(), share=0.5)
    assert {name: len(units) for name, units in plan.removed.items()} == {"v:1": 6, "p:1": 6}
    reports = {report.name: report for report in repair.reports}
    readers = [report for report in reports.values() if report.removed]
    assert [(report.removed, report.width) for report in readers] == [(6, 12), (6, 12)]
    assert all(0 <= report.predicted < 1 and 0 <= report.measured < 1 for report in readers)


def test_layers_behind_are_refitted_too_unless_told_otherwise() -> None:
    everything, _ = repaired(session_of(), share=0.5)
    only, _ = repaired(session_of(replace(PRESETS["default"], everything=False)), share=0.5)
    assert len(only.reports) == 2 < len(everything.reports)
    assert everything.difference["y"]["relative_l2"] <= only.difference["y"]["relative_l2"] * 1.05


def test_outputs_of_the_dense_weights_are_off_by_nothing() -> None:
    repair, _ = repaired(session_of(), share=0.5)
    assert repair.measured_outputs(Draft(), repair.session.split.unseen)["y"]["relative_l2"] == 0
    distance = repair.measured_outputs(repair.draft, repair.session.split.unseen)["y"]["relative_l2"]
    assert distance == pytest.approx(repair.difference["y"]["relative_l2"], rel=1e-3)


def test_what_is_removed_is_read_as_zero() -> None:
    session = session_of()
    repair, plan = repaired(session, share=0.5)
    for name, weight in (("v:1", "w"), ("p:1", "q")):
        assert not repair.draft.weights[weight][list(plan.removed[name])].any()


def test_drift_is_what_the_other_branch_is_off_by() -> None:
    session = session_of()
    network = session.network
    layer = next(layer for layer in network.layers if layer.weight.name == "q")
    stages = cut(network.model, [each.after for each in network.layers])
    batches = session.batches
    other = network.array(next(each for each in network.layers if each.weight.name == "w").weight) * 1.5
    with Stream(stages, batches) as dense, Stream(stages, batches, base=dense, weights={"w": other}) as pruned:
        seen = 0
        for _ in range(len(stages)):
            there = set(dense.advance())
            pruned.advance()
            if layer.after in there:
                problem, drift = session.problem(layer), Drift(session, Draft(), dense, pruned)
                assert drift.key(problem) is not None
                junction = drift.junction(layer)
                assert junction is not None
                value, scale = junction
                assert scale == 1
                off = dense.value(value, 0) - pruned.value(value, 0)
                np.testing.assert_allclose(drift.rows(problem, 0, None)[0], off, rtol=1e-6)
                assert np.abs(off).max() > 0.01
                seen += 1
    assert seen == 1


def test_no_drift_where_the_other_branch_is_the_dense_one() -> None:
    """The first junction adds the stream before any cut: nothing is off there."""
    session = session_of()
    layer = next(layer for layer in session.network.layers if layer.weight.name == "w")
    stages = cut(session.network.model, [each.after for each in session.network.layers])
    batches = session.batches
    with Stream(stages, batches) as dense, Stream(stages, batches, base=dense, weights={}) as pruned:
        for _ in range(len(stages)):
            dense.advance()
            pruned.advance()
        assert Drift(session, Draft(), dense, pruned).key(session.problem(layer)) is None


GATED = """(float[6,n,4] x) => (float[6,n,2] y) {
    h, hl = GRU<hidden_size=10, linear_before_reset=1>(x, w, r, b)  s = Squeeze(h, one)
    k, kl = GRU<hidden_size=10, linear_before_reset=1>(s, u, q, c)  t = Squeeze(k, one)
    y = MatMul(t, v) }"""


def test_weights_with_one_bias_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """W and R of a GRU have parts of one bias, which a thread each would take from one another."""
    square = {name: [1, 30, 10] for name in ("r", "u", "q")}
    weights: dict[str, Weight] = {"w": [1, 30, 4], "b": [1, 60], "c": [1, 60], "v": [10, 2], "one": np.array([1])}
    model = load_normal(build(GATED, weights | square))
    data = check_samples(np.random.default_rng(5).standard_normal((6, 60, 4)).astype(np.float32), model)
    biases, real = [], Layer.bias_of

    def slowly(layer: Layer, vector: np.ndarray, before: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return real(layer, vector, before)

    for threads in (1, 2):
        result = compensate(model, data, Budget(ratio=0.3, of="channels", align=1), threads=threads)
        tensors = ir.to_proto(result.model).graph.initializer
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
        biases.append([stored["b"], stored["c"]])
        monkeypatch.setattr(Layer, "bias_of", slowly)
    for one_thread, two_threads in zip(*biases, strict=True):
        np.testing.assert_array_equal(two_threads, one_thread)
