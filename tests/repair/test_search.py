"""Allocations that are searched for: factors before curves, plans judged by the outputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

import spa
from spa.errors import UsageError
from spa.options import PruneOptions
from spa.passes.choose.allocation import allocate
from spa.passes.choose.budget import Budget
from spa.passes.choose.selection import select
from spa.passes.repair import fitting
from spa.passes.repair import search as searching
from spa.passes.repair.groundwork import Groundwork
from spa.passes.repair.memory import Memory
from spa.passes.repair.search import Limit, Search, scaled
from spa.passes.samples.checking import check_samples
from tests.repair.test_compensate import mlp, noisy

pytest.importorskip("onnxruntime")

RESIDUAL = """(float[n,6] x) => (float[n,3] y) {
    a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, v)  d = Relu(c)  e = MatMul(d, w)  s = Add(a, e)  f = Relu(s)
    g = MatMul(f, z)  h = Relu(g)  y = MatMul(h, p) }"""
RESIDUAL_WEIGHTS = {"u": (6, 24), "v": (24, 32), "w": (32, 24), "z": (24, 28), "p": (28, 3)}
PLANS = Limit(plans=60)
BUDGET = Budget(ratio=0.4, of="params")


def groundwork(model: ir.Model, shape: tuple[int, ...], count: int = 240) -> Groundwork:
    samples = {"x": np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)}
    return Groundwork.of(model, check_samples(samples, model), BUDGET)


def search(ground: Groundwork, misled: float = 1.0, limit: Limit = PLANS) -> Search:
    """A search with the curve of the first group times a factor."""
    network, curves = ground.session.network, dict(ground.curves)
    first = min(curves)
    curves[first] = scaled(curves[first], misled)

    def allocated(moved):
        def choose(scores):
            return select(network.groups, scores, network.cost, replace(BUDGET, align=1), whole=network.before).plan

        return allocate(moved, network.groups, network.cost, BUDGET.of, choose)

    return Search(ground.session, curves, allocated, limit)


@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_a_curve_that_misleads_is_made_up_for(network):
    """One group's losses are told a hundred times too small: the first plan takes nearly all from it."""
    model = mlp() if network == "mlp" else noisy(RESIDUAL, RESIDUAL_WEIGHTS)
    ground = groundwork(model, (6,))
    misled = search(ground, 0.01)
    start = misled.allocate(misled.curves)
    best = misled.run(start)
    assert best is not start
    assert misled.loss(best) == min(misled.tried.values()) < 0.8 * misled.loss(start)
    cost = ground.session.network.cost
    left = [cost.of("params", plan.masks(ground.session.network.groups)) for plan in (start, best)]
    assert left[1] <= 0.6 * cost.of("params") + 1e-6
    assert len(misled.tried) <= 60


def test_no_plan_is_run_twice_and_no_layer_refitted_twice(monkeypatch):
    ground = groundwork(mlp(), (6,))
    refits = []
    honest = fitting.refitted

    def counted(session, layer, gone, statistics, **options):
        refits.append((layer.name, gone.tobytes()))
        return honest(session, layer, gone, statistics, **options)

    monkeypatch.setattr(searching, "refitted", counted)
    again = search(ground, 0.1)
    again.run(again.allocate(again.curves))
    assert len(refits) == len(set(refits)) == len(again.weights)
    before = len(refits)
    for plan in (again.allocate(again.curves), again.allocate(again.curves)):
        again.loss(plan)
    assert len(refits) == before


def test_what_a_search_finds_is_told_and_the_budget_met():
    samples = {"x": np.random.default_rng(0).standard_normal((240, 6)).astype(np.float32)}
    prune = partial(spa.prune, mlp(), ratio=0.4, data=samples, align=1)
    plain, searched = prune(), prune(search="40r")
    assert any(note.startswith("searched ") for note in searched.report.notes)
    assert not any(note.startswith("searched ") for note in plain.report.notes)
    assert searched.report.removed_share("params") >= 0.4 - 1e-9
    assert searched.report.verified
    assert prune(search="40r").plan == searched.plan  # plans, not seconds: the same every time


def test_seconds_end_a_search():
    ground = groundwork(mlp(), (6,))
    at_once = search(ground, 0.1, Limit(seconds=0.0))
    start = at_once.allocate(at_once.curves)
    assert at_once.run(start) is start
    assert len(at_once.tried) == 1


def test_moments_that_do_not_fit_are_refused():
    roomy = groundwork(mlp(), (6,))
    cramped = search(replace(roomy, session=replace(roomy.session, memory=Memory(4000))))
    with pytest.raises(UsageError, match="moments of all layers at once take"):
        cramped.run(cramped.allocate(cramped.curves))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "5m", "weights": True}, "search has no effect without samples"),
        ({"search": "5m", "data_free": True, "criterion": "flap"}, "search needs losses of outputs, which flap"),
        ({"search": "5m", "of": "latency"}, "search of latency: what was searched for would miss the time"),
        ({"search": "5"}, "search '5': expected"),
    ],
)
def test_what_does_not_go_with_a_search_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        PruneOptions.of(ratio=0.3, **options)
