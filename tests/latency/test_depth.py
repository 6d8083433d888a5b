"""The time of a residual branch: that of the units that only it reaches."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import spa
from models import folder as toy
from spa import ondevice, profiling, runtime
from spa.analysis.group import DEPTH
from spa.analysis.plan import Plan
from spa.passes.latency.prediction import LATENCY, foretold_units, with_latency
from spa.pipeline import analyse, load_normal
from tests.models import build
from tests.repair.test_depth import LAYERS, deep, samples

WIDTH = 256
"""So that layers take time, and not calls."""


def test_without_a_branch_its_units_take_no_time() -> None:
    model = deep(width=WIDTH)
    profile = spa.profile(model, threads=1, seconds=0.5)
    analysis = analyse(load_normal(model))
    units = foretold_units(profile, analysis.groups, analysis.coupling)
    cost = with_latency(analysis.cost, [term for unit in units for term in unit.terms])
    branches = [group.name for group in analysis.groups if group.kind == DEPTH]
    assert len(branches) == LAYERS

    def left(*names: str) -> float:
        return cost.of(LATENCY, Plan.of(analysis.groups, {name: [0] for name in names}).masks(analysis.groups))

    whole = left()
    freed = [whole - left(name) for name in branches]
    assert all(time > 0 for time in freed)
    assert abs(whole - left(*branches) - sum(freed)) < 1e-9 * whole
    assert 0 < left(*branches) < whole


def test_branches_go_for_time() -> None:
    scales = [1.0] * LAYERS
    scales[3] = 0.001
    result = spa.prune(
        deep(scales, width=WIDTH), ratio=0.05, of="latency", data=samples(), include=[DEPTH], only=[DEPTH],
        profile=spa.profile(deep(scales, width=WIDTH), threads=1, seconds=0.5), threads=1,
    )  # fmt: skip
    assert "d3:branch" in result.plan.removed
    assert result.report.verified


# ------------------------------------------------------------------------------------------------------ with caches
SIZES = toy.Sizes(layers=3, heads=8, kv_heads=4)


@pytest.mark.parametrize("include", [[], [DEPTH]])
def test_a_decoder_with_caches_is_cut_for_time(include: list[str]) -> None:
    """Each setting of its profile has caches of its own, and so has the result."""
    dense = toy.graph_of(SIZES)
    profile = spa.profile(dense, threads=1, seconds=0.5)
    names = {group.name for group in analyse(load_normal(dense)).groups if group.kind == "kv_heads"}
    assert any(names & variant.removed.keys() for variant in profile.variants)
    options: dict[str, Any] = {"profile": profile, "threads": 1, "weights": True, "only": include or None}
    options = {name: value for name, value in options.items() if value is not None}
    result = spa.prune(dense, ratio=0.3, of="latency", include=include, **options)
    assert result.report.verified
    assert result.report.latency is not None
    assert result.report.latency.pruned is not None
    assert bool(include) == any(name.endswith(":branch") for name in result.plan.removed)


def test_a_job_for_another_machine_has_caches_of_all_sizes() -> None:
    target = io.BytesIO()
    profiling.write_job(toy.graph_of(SIZES), target)
    with zipfile.ZipFile(target) as job:
        result = ondevice.run_job(job, runtime.CPU, 1, 0.5, lambda _: None)
    assert all(variant["milliseconds"] > 0 for variant in result["variants"])


def test_inputs_of_the_dense_model_as_a_smaller_one_takes_them() -> None:
    model = ir.from_proto(build("(float[N,3] x, float h) => (float[N,3] y) { y = Mul(x, h) }", {}))
    feeds: dict[str, Any] = {
        "x": np.arange(10, dtype=np.float32).reshape(2, 5),
        "h": np.array(2, np.float32),
        "gone": np.zeros(1),
    }
    inputs = ondevice.fed(runtime.session(model, optimize=False), feeds)
    assert inputs.keys() == {"x", "h"}
    np.testing.assert_array_equal(inputs["x"], feeds["x"][:, :3])
    assert inputs["h"].shape == ()
