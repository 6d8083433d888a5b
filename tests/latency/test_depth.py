"""The time of a residual branch: that of the units that only it reaches."""

from __future__ import annotations

import spa
from spa.analysis.group import DEPTH
from spa.analysis.plan import Plan
from spa.passes.latency.prediction import LATENCY, foretold_units, with_latency
from spa.pipeline import analyse, load_normal
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
