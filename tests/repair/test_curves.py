"""What groups lose as their units go, and what that does to the outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.repair.curves import expected_losses, find_curve, find_curves
from spa.passes.repair.dense import in_turn
from spa.passes.repair.difference import lost, output_difference, unit_of_logits
from spa.passes.repair.draft import Draft
from spa.passes.repair.fitting import refitted
from spa.passes.repair.memory import Memory
from spa.passes.repair.network import prepare
from spa.passes.repair.probe import LEVELS, Probe, affordable
from spa.passes.repair.session import Session
from spa.passes.samples.checking import check_samples
from spa.passes.secondorder import BASELINES, Removal
from spa.pipeline import load_normal
from spa.presets import PRESETS, Preset
from tests.models import build

MLP = """(float[n,6] x) => (float[n,3] y) {
    a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, v)  d = Relu(c)  y = MatMul(d, w) }"""


def session_of(count: int = 120, *, preset: Preset = PRESETS["default"], method: str | None = None) -> Session:
    model: ir.Model = load_normal(build(MLP, {"u": [6, 12], "v": [12, 10], "w": [10, 3]}))
    samples = np.random.default_rng(4).standard_normal((count, 6)).astype(np.float32)
    baseline = None if method is None else BASELINES[method]
    return Session.of(prepare(model), check_samples(samples, model), preset, baseline=baseline)


def removal(loss: list[float], levels: list[int], held_out: list[float]) -> Removal:
    nothing = np.zeros(0, np.intp)
    return Removal(
        np.arange(len(loss) - 1),
        np.array(loss),
        nothing,
        0,
        loss[-1],
        (),
        np.array(levels, np.intp),
        np.array(held_out),
    )


@pytest.mark.parametrize(
    ("loss", "levels", "held_out", "expected"),
    [
        ([0, 1, 2], [], [], [0, 1, 2]),
        ([0, 0, 0, 0, 0], [0, 2, 4], [0, 2, 8], [0, 1, 2, 5, 8]),  # a fit that loses nothing on its own samples
        ([0, 1, 4, 9], [0, 3], [0, 18], [0, 2, 8, 18]),  # the first units that go stay the cheapest
        ([0, 3, 6], [0, 2], [0, 1], [0, 3, 6]),
        ([0, 0, 0], [0, 1, 2], [0, 5, 1], [0, 5, 5]),  # noise makes no larger cut cheaper
        ([0, 1, 2], [0, 2], [0, -4], [0, 1, 2]),
    ],
)
def test_losses_on_samples_that_were_not_fitted(loss, levels, held_out, expected) -> None:
    assert expected_losses(removal(loss, levels, held_out)) == pytest.approx(expected)


def test_probes_give_way_before_levels_do() -> None:
    preset = replace(PRESETS["default"], probes=32, probe_flops=1e6)
    assert affordable(1.0, 10, preset) == (32, LEVELS)
    assert affordable(1e6 / (16 * 10), 10, preset) == (4, LEVELS)
    assert affordable(1e6 / (8 * 10), 10, preset) == (4, 2)
    assert affordable(1e12, 10, preset) == (1, 1)
    assert affordable(0.0, 0, preset) == (32, LEVELS)


@pytest.mark.parametrize(("count", "unseen"), [(1, 1), (5, 1), (24, 1), (288, 1), (800, 2), (1200, 2)])
def test_batches_are_small_enough_to_hold_some_out(count: int, unseen: int) -> None:
    session = session_of(count)
    batches = session.batches
    assert sum(len(batch["x"]) for batch in batches) == count
    assert len(session.split.unseen) == unseen


def test_batches_can_be_asked_for_before_any_value_is() -> None:
    session = session_of(30)
    assert sum(len(batch["x"]) for batch in session.batches) == 30


def test_curves_never_fall_and_leave_one_unit() -> None:
    session = session_of()
    curves = find_curves(session, session.network.groups, [0.5], {})
    assert set(curves) == {group.name for group in session.network.groups}
    for curve in curves.values():
        assert len(set(curve.order.tolist())) == curve.group.size - 1
        assert len(curve.losses) == curve.group.size
        assert curve.losses[0] == 0
        assert (np.diff(curve.predicted) >= -1e-9).all()
    assert {"statistics", "select", "measure"} <= set(session.seconds)


def test_statistics_in_parts_give_the_same_curves() -> None:
    whole = session_of()
    expected = find_curves(whole, whole.network.groups, [0.5], {})
    cut_up = replace(session_of(), memory=Memory(0))
    items = [[cut_up.problem(r.layer) for r in cut_up.network.readers[g.name]] for g in cut_up.network.groups]
    assert len(list(in_turn(cut_up, items))) == len(cut_up.network.groups) > 1
    for name, curve in find_curves(cut_up, cut_up.network.groups, [0.5], {}).items():
        np.testing.assert_array_equal(curve.order, expected[name].order)
        np.testing.assert_allclose(curve.losses, expected[name].losses, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", sorted(BASELINES))
def test_published_ways_go_by_their_scores_and_are_not_measured(method: str) -> None:
    session = session_of(method=method)
    for curve in find_curves(session, session.network.groups, [0.5], {}).values():
        assert (np.diff(curve.losses) >= 0).all()
        assert (np.diff(np.diff(curve.losses)) >= -1e-9).all(), "the smallest score goes first"
    assert "measure" not in session.seconds


def test_probe_sees_nothing_where_nothing_goes_and_more_where_more_does() -> None:
    session = session_of()
    group = session.network.groups[0]
    readers = session.network.readers[group.name]
    statistics = session.dense_statistics([session.problem(reader.layer) for reader in readers])
    curve = find_curve(session, group, statistics, {})
    probe = Probe(session)
    lost = [probe.loss(group, curve.order[:count], statistics) for count in (0, 4, group.size - 1)]
    assert lost[0] < 1e-6 < lost[1] < lost[2]


def test_probe_measures_what_the_whole_network_gives() -> None:
    session = session_of()
    group = session.network.groups[0]
    readers = session.network.readers[group.name]
    statistics = session.dense_statistics([session.problem(reader.layer) for reader in readers])
    units = find_curve(session, group, statistics, {}).order[:5]
    draft = Draft()
    for reader in readers:
        new = refitted(session, reader.layer, np.isin(reader.units, units), statistics, pool=False)
        new.put(draft)
    probe = Probe(session)
    (dense,), (pruned,) = (session.outputs(probe.batches, used) for used in (None, draft))
    unit = unit_of_logits(dense, pruned)
    expected = lost(output_difference(dense, pruned, logits=True, unit=unit), logits=True)
    assert session.network.logits == [True]
    loss = probe.loss(group, units, statistics)
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("ratio", "levels", "shares"),
    [(0.3, 4, [0.15, 0.3, 0.5, 0.8]), (0.5, 4, [0.25, 0.5, 0.8]), (0.9, 4, [0.45, 0.9]), (0.3, 2, [0.3, 0.5])],
)
def test_levels_at_which_a_group_is_measured(ratio: float, levels: int, shares: list[float]) -> None:
    session = session_of()
    group = max(session.network.groups, key=lambda group: group.size)
    statistics = session.dense_statistics(
        [session.problem(reader.layer) for reader in session.network.readers[group.name]]
    )
    probe, curve = Probe(session), find_curve(session, group, statistics, {})
    probe.levels = levels
    counts = [round(share * group.size) for share in shares]
    scale = probe.scaled(curve, statistics, [ratio]).scale
    assert scale.losses == (0.0, *(float(curve.losses[count]) for count in counts))


def test_groups_are_measured_in_any_order() -> None:
    session = session_of()
    probe = Probe(session)
    groups = session.network.in_order(session.network.groups)
    problems = [session.problem(r.layer) for group in groups for r in session.network.readers[group.name]]
    statistics = session.dense_statistics(problems)
    units = np.arange(3)
    onwards = [probe.loss(group, units, statistics) for group in groups]
    reached = probe.stream.done
    back = [probe.loss(group, units, statistics) for group in reversed(groups)]
    assert probe.stream.done < reached
    assert back[::-1] == pytest.approx(onwards, rel=1e-5)


def test_some_batches_may_do_for_statistics() -> None:
    session = session_of(144)
    layers = [reader.layer for reader in session.network.readers[session.network.groups[0].name]]
    problems = [session.problem(layer) for layer in layers]
    size, total = len(session.batches[0]["x"]), len(session.split.seen)
    for most, seen in ((1, 1), (4, 4), (total, total), (None, total)):
        (shared,) = {id(s): s for s in session.dense_statistics(problems, most=most).values()}.values()
        assert sum(m.count for m in (*shared.fitted, *shared.held_out)) == seen * size


def test_flops_are_those_of_one_sample() -> None:
    session = session_of()
    probe = Probe(session)
    assert probe.flops({"x": np.zeros((9, 6), np.float32)}) == pytest.approx(2 * (6 * 12 + 12 * 10 + 10 * 3))
