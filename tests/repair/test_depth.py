"""Residual branches chosen by what the outputs lose without each, in one knapsack with widths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa import runtime
from spa.analysis.group import DEPTH
from spa.analysis.plan import Plan
from spa.passes.choose.budget import Budget
from spa.passes.repair import pieces, streaming
from spa.passes.repair.gates import drop_gates, gate_of
from spa.passes.repair.groundwork import Groundwork
from spa.passes.repair.network import prepare
from spa.passes.samples.calibrate import Calibration
from spa.pipeline import apply_plan, load_normal, prune
from spa.written import verify_files
from tests import depth
from tests.models import build, filled

LAYERS = 8


def deep(scales: Sequence[float] = (1.0,) * LAYERS, *, width: int = 16) -> onnx.ModelProto:
    """Blocks x + f(x) in a row; the last layers of f times a number each."""
    lines, weights = (
        ["e = MatMul(x, first)"],
        {"first": filled("first", [6, width]), "last": filled("last", [width, 4])},
    )
    for layer, scale in enumerate(scales):
        before = "e" if not layer else f"z{layer - 1}"
        lines.append(
            f"a{layer} = MatMul({before}, u{layer})  r{layer} = Relu(a{layer})  b{layer} = MatMul(r{layer}, d{layer})"
            f"  z{layer} = Add({before}, b{layer})"
        )
        weights[f"u{layer}"] = filled(f"u{layer}", [width, 3 * width // 2])
        weights[f"d{layer}"] = scale * filled(f"d{layer}", [3 * width // 2, width])
    text = "(float[N,6] x) => (float[N,4] y) { " + "  ".join(lines) + f"  y = MatMul(z{len(scales) - 1}, last) }}"
    return build(text, weights)


def samples(count: int = 256, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)}


def test_the_branch_that_is_missed_least_goes() -> None:
    """Its weights are as large as others': what it gives is nothing, since what it reads is."""
    scales = [1.0] * LAYERS
    scales[5] = 0.02
    model = deep(scales)
    result = prune(model, ratio=0.07, data=samples(), include=[DEPTH], only=[DEPTH])
    assert list(result.plan.removed) == ["d5:branch"]
    assert result.report.verified
    assert result.report.removed_share("params") >= 0.1
    assert result.report.outputs["y"]["relative_l2"] < 0.05


def test_branches_and_widths_share_one_budget(tmp_path: Path) -> None:
    """A branch that gives nothing goes before any width, and what lies inside it is not cut besides."""
    scales = [1.0] * LAYERS
    scales[2] = 0.001
    model = deep(scales)
    options: dict[str, Any] = {"ratio": 0.2, "data": samples(), "align": 1}
    both, widths = prune(model, include=[DEPTH], **options), prune(model, **options)
    assert "d2:branch" in both.plan.removed
    assert not {"u2:1"} & both.plan.removed.keys()
    assert len(both.plan.removed) > 1
    assert both.report.verified
    assert both.report.outputs["y"]["kl"] < widths.report.outputs["y"]["kl"]
    assert not any(name.endswith(":branch") for name in widths.plan.removed)
    dense, pruned = tmp_path / "dense.onnx", tmp_path / "pruned.onnx"
    onnx.save(model, dense)
    both.save(pruned)
    assert verify_files(dense, pruned, Plan.from_json(both.plan.to_json())).verified


def test_what_comes_behind_makes_up_for_a_branch() -> None:
    """Refitted, the outputs are nearer than with the branch taken out alone."""
    model, fresh = deep(), samples(64, seed=7)
    result = prune(model, ratio=0.07, data=samples(1024), include=[DEPTH], only=[DEPTH])
    (name,) = result.plan.removed
    plain = apply_plan(model, Plan({name: (0,)}, {name: 1}))

    def off(pruned: ir.Model) -> float:
        dense = _run(load_normal(model), fresh)
        return float(np.linalg.norm(_run(pruned, fresh) - dense) / np.linalg.norm(dense))

    assert off(result.model) < 0.8 * off(plain.model)


def _run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    y: np.ndarray = runtime.run(runtime.session(model, optimize=True), feeds)["y"]
    return y


def test_measuring_all_branches_takes_half_of_as_many_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Node runs: what lies before a branch is kept, and only what comes behind it runs again."""
    count = [0]
    made = pieces.piece

    def counted(model: ir.Model, nodes: Sequence[ir.Node], *rest: Any) -> Any:
        count[0] += len(nodes)
        return made(model, nodes, *rest)

    monkeypatch.setattr(streaming, "piece", counted)
    model = load_normal(deep())
    data = Calibration(samples(48))
    budget = Budget(ratio=0.2, of="params", include=(DEPTH,), only=(DEPTH,))
    groundwork = Groundwork.of(model, data, budget)
    network = groundwork.session.network
    assert len(groundwork.curves) == LAYERS
    assert all(curve.losses[1] > 0 for curve in groundwork.curves.values())
    whole = len(list(network.model.graph))
    assert 0 < count[0] <= LAYERS * whole / 2 + 2 * whole  # one gives the outputs, one the values before each branch


def test_gates_change_nothing_and_leave_nothing_behind() -> None:
    dense = load_normal(depth.pre_norm())
    gated = prepare(dense, gated=True)
    plain = prepare(dense)
    assert [group.name for group in gated.groups] == [group.name for group in plain.groups]
    assert gated.cost.of("params") == plain.cost.of("params")
    assert [gate_of(branch) for branch in gated.coupling.branches] == list(gated.gates)
    model = gated.model.clone()
    drop_gates(model, gated.gates)
    assert [node.op_type for node in model.graph] == [node.op_type for node in plain.model.graph]
    assert set(model.graph.initializers) == set(plain.model.graph.initializers)


@pytest.mark.parametrize("kind", ["Attention", "Concat"])
def test_a_repair_takes_caches_along(kind: str) -> None:
    model = depth.cached(kind)
    feeds = depth.feed(model, past=3)
    noise = np.random.default_rng(5)
    data = {
        key: (np.tile(array, (16,) + (1,) * (array.ndim - 1)) + noise.standard_normal((32, *array.shape[1:])))
        .astype(np.float32)
        for key, array in feeds.items()
    }  # fmt: skip
    result = prune(model, ratio=0.2, data=data, include=[DEPTH], only=[DEPTH])
    assert len(result.plan.removed) == 1
    assert result.report.verified
    assert len(result.report.resized) == 4


def test_published_ways_know_no_branches() -> None:
    result = prune(deep(), ratio=0.2, data=samples(), include=[DEPTH], criterion="flap", align=1)
    assert not any(name.endswith(":branch") for name in result.plan.removed)
