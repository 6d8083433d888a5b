"""Times foretold from a dozen settings, on devices whose times are known exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from spa.analysis.cost import Cost
from spa.errors import ModelError
from spa.passes.latency.prediction import LATENCY, foretold_units, leave_one_out
from spa.passes.latency.variants import Settings, plan_of, spread
from spa.record import Unit
from spa.steps import analyse, cut, load_normal
from tests import models
from tests.benchmarks.detector import bert
from tests.latency import devices
from tests.latency.networks import chain


def in_blocks(operator, inputs, outputs):
    """As kernels are that compute sixteen channels at once."""
    padded = [(*shape[:1], -(-shape[1] // 16) * 16, *shape[2:]) if len(shape) == 4 else shape for shape in outputs]
    return devices.flops(operator, inputs, padded)


def slow_between_blocks(operator, inputs, outputs):
    """As fast paths are that a depthwise layer leaves at widths that are no multiple of sixteen."""
    depthwise = operator == "Conv" and inputs[1][1] == 1
    return devices.flops(operator, inputs, outputs) * (5 if depthwise and outputs[0][1] % 16 else 1)


@pytest.mark.parametrize("network", [chain, models.residual_cnn])
@pytest.mark.parametrize("time", [devices.flops, in_blocks])
def test_unseen_widths_are_foretold(network, time):
    """At any multiple of four where time is smooth, at those of the device's blocks where it takes steps."""
    proto = network()
    block = 4 if network is not chain else 16
    profile = devices.profile(proto, time, device=replace(devices.BOARD, block=block))
    analysis = analyse(load_normal(ir.from_proto(proto)))
    units = foretold_units(profile, analysis.groups, analysis.coupling)
    cost = Cost({LATENCY: [term for unit in units for term in unit.terms]})
    multiple = 4 if time is devices.flops else block
    unseen = Settings.of(analysis.groups, (multiple,) * len(analysis.groups), seed=7).removed[1:]
    for removed in unseen:
        plan = plan_of(analysis.groups, removed)
        small = analyse(load_normal(ir.from_proto(proto)))
        cut(small, plan)
        measured = sum(unit.milliseconds for unit in devices.units_of(small.model, time))
        assert cost.of(LATENCY, plan.masks(analysis.groups)) == pytest.approx(measured, rel=0.03)


def test_a_provider_that_runs_the_graph_as_one_node_is_foretold_by_flops():
    proto = chain()
    profile = devices.profile(proto, devices.flops)
    variants = [
        replace(v, units=(Unit("engine", "TRTKernel", ((1, 3, 32, 32),), ((1, 10),), v.milliseconds),))
        for v in profile.variants
    ]
    whole = replace(profile, variants=variants)
    analysis = analyse(load_normal(ir.from_proto(proto)))
    (unit,) = foretold_units(whole, analysis.groups, analysis.coupling)
    assert unit.name == "the whole graph"
    assert np.abs(leave_one_out(whole, analysis.groups, analysis.coupling)).max() < 0.03


def test_the_error_is_that_of_settings_left_out():
    analysis = analyse(load_normal(ir.from_proto(chain())))
    exact = leave_one_out(devices.profile(chain(), devices.flops), analysis.groups, analysis.coupling)
    assert np.abs(exact).max() < 0.02
    rng = np.random.default_rng(0)
    noisy = devices.profile(chain(), lambda *given: devices.flops(*given) * rng.uniform(0.5, 1.5))
    assert np.abs(leave_one_out(noisy, analysis.groups, analysis.coupling)).max() > 0.05


def test_a_unit_that_runs_between_blocks_only_costs_nothing_at_multiples():
    """The dense width 72 leaves the fast path: what converts layouts around it goes with the first units."""
    proto = chain()
    profile = devices.profile(proto, devices.flops)
    group = "first:0"
    slow = [
        replace(v, units=(*v.units, Unit("convert", "ReorderInput", ((1, 3, 32, 32),), ((1, 3, 32, 32),), 0.5)))
        if (64 - v.removed.get(group, 0)) % 32
        else v
        for v in profile.variants
    ]
    slow = [replace(v, milliseconds=sum(unit.milliseconds for unit in v.units)) for v in slow]
    assert 0 < sum(len(v.units) > len(profile.variants[0].units) for v in slow) < len(slow)
    device = replace(profile.device, block=32)
    analysis = analyse(load_normal(ir.from_proto(proto)))
    units = foretold_units(replace(profile, device=device, variants=slow), analysis.groups, analysis.coupling)
    cost = Cost({LATENCY: [term for unit in units if "ReorderInput" in unit.name for term in unit.terms]})
    assert cost.of(LATENCY, plan_of(analysis.groups, {group: 16}).masks(analysis.groups)) == pytest.approx(
        0.5, rel=0.05
    )
    assert cost.of(LATENCY, plan_of(analysis.groups, {group: 32}).masks(analysis.groups)) == 0


def test_a_profile_of_another_model_is_refused():
    profile = devices.profile(chain(), devices.flops)
    other = analyse(load_normal(ir.from_proto(models.residual_cnn())))
    with pytest.raises(
        ModelError, match=r"made for another model: it expects \d+ units in 'first:0', this model has no"
    ):
        foretold_units(profile, other.groups, other.coupling)


def test_units_that_go_first_lie_evenly():
    group = max(analyse(load_normal(ir.from_proto(chain()))).groups, key=lambda group: group.size)

    order = np.argsort(spread(group), kind="stable")
    assert sorted(order) == list(range(group.size))
    first = np.sort(order[: max(1, group.size // 4)])
    assert np.diff(first).max(initial=0) <= 8


def test_every_group_takes_each_part_of_its_range():
    analysis = analyse(load_normal(ir.from_proto(chain())))
    settings = Settings.of(analysis.groups, (16,) * len(analysis.groups)).removed
    assert settings[0] == {}
    for name in ("first:0", "second:0", "third:0"):
        removed = {setting.get(name, 0) for setting in settings[1:]}
        assert 0 in removed
        assert max(removed) == {"first:0": 48, "second:0": 64, "third:0": 96}[name]


def small_products_cost_more(operator, inputs, outputs):
    """As matrix products do that hold few columns for what they have to load."""
    if operator != "MatMul":
        return 2e-3 + 1e-7 * math.prod(outputs[0])
    rows, summed, columns = math.prod(inputs[0][:-1]), inputs[0][-1], inputs[1][-1]
    return 2e-3 + 1e-6 * rows * summed * columns * (1 + 40 / summed) * (1 + 24 / columns)


def test_what_lies_beside_a_group_that_is_off_is_known_best_at_its_whole_width():
    """An encoder, whose width of the stream plans leave alone, on a device whose units are told with 8 % of noise."""
    proto = bert(2, 192, 6, 32)
    analysis = analyse(load_normal(ir.from_proto(proto)))
    off = {group.name for group in analysis.groups if group.off is not None}
    settings = Settings.of(analysis.groups, (16,) * len(analysis.groups)).removed
    assert [any(name in off for name in removed) for removed in settings] == [False, *[False, True] * 6]
    exact = devices.profile(proto, small_products_cost_more)
    rng = np.random.default_rng(0)
    noisy = [
        replace(v, units=tuple(replace(u, milliseconds=u.milliseconds * np.exp(0.08 * rng.normal())) for u in v.units))
        for v in exact.variants
    ]
    units = foretold_units(replace(exact, variants=noisy), analysis.groups, analysis.coupling)
    cost = Cost({LATENCY: [term for unit in units for term in unit.terms]})
    for removed in Settings.of(analysis.groups, (16,) * len(analysis.groups), seed=7).removed[1::2]:
        plan = plan_of(analysis.groups, removed)
        small = analyse(load_normal(ir.from_proto(proto)))
        cut(small, plan)
        measured = sum(unit.milliseconds for unit in devices.units_of(small.model, small_products_cost_more))
        assert cost.of(LATENCY, plan.masks(analysis.groups)) == pytest.approx(measured, rel=0.03)
