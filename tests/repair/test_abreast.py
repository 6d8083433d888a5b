"""Cuts of many groups measured in one run of the network: the same losses, and loads that grow with its depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from spa.analysis.group import Group
from spa.passes.repair import pieces, probe, streaming
from spa.passes.repair.abreast import Abreast
from spa.passes.repair.curves import find_curve, find_curves
from spa.passes.repair.memory import Memory
from spa.passes.repair.network import prepare
from spa.passes.repair.probe import LEVELS, Probe, spacing
from spa.passes.repair.scaling import Scaling
from spa.passes.repair.session import Session
from spa.passes.samples.checking import check_samples
from spa.pipeline import load_normal
from spa.presets import PRESETS
from tests.models import build

WIDTH, HIDDEN = 6, 10


def deep(layers: int) -> Session:
    """Residual blocks: a group each, behind which all later ones lie."""
    body = ["x0 = Identity(x)"]
    weights: dict[str, list[int]] = {}
    for at in range(layers):
        weights |= {f"u{at}": [WIDTH, HIDDEN], f"v{at}": [HIDDEN, WIDTH]}
        body.append(f"h{at} = MatMul(x{at}, u{at})  r{at} = Relu(h{at})  d{at} = MatMul(r{at}, v{at})")
        body.append(f"x{at + 1} = Add(x{at}, d{at})")
    text = f"(float[n,{WIDTH}] x) => (float[n,{WIDTH}] y) {{ {'  '.join(body)}  y = Tanh(x{layers}) }}"
    model: ir.Model = load_normal(build(text, weights))
    samples = np.random.default_rng(4).standard_normal((60, WIDTH)).astype(np.float32)
    return Session.of(prepare(model), check_samples(samples, model), PRESETS["default"])


def groups_of(session: Session) -> list[Group]:
    return [group for group in session.network.in_order(session.network.groups) if group.size == HIDDEN]


def begun(session: Session, run: Abreast, groups: Sequence[Group]) -> dict[tuple[str, int], float]:
    """Start the cuts of groups; what each loses by a run of its own."""
    expected: dict[tuple[str, int], float] = {}
    alone = Probe(session)
    for group in groups:
        readers = [session.problem(reader.layer) for reader in session.network.readers[group.name]]
        statistics = session.dense_statistics(readers)
        order = find_curve(session, group, statistics, {}).order
        run.start(group, [order[:count] for count in (2, 7)], statistics)
        expected |= {(group.name, count): alone.loss(group, order[:count], statistics) for count in (2, 7)}
    return expected


@pytest.mark.parametrize("memory", [None, 0], ids=["in memory", "in parts and files"])
def test_what_is_measured_abreast_is_what_each_cut_loses_alone(memory: int | None) -> None:
    session = deep(4)
    session = session if memory is None else replace(session, memory=Memory(memory))
    run = Abreast(Probe(session), 8)
    expected = begun(session, run, groups_of(session))
    assert run.finish() == pytest.approx(expected, rel=1e-4)


def test_a_group_that_comes_late_is_measured_too() -> None:
    session = deep(4)
    first, *others = groups_of(session)
    run = Abreast(Probe(session), 8)
    expected = begun(session, run, [*others, first])
    assert run.finish() == pytest.approx(expected, rel=1e-4)


def test_a_run_goes_on_from_its_state() -> None:
    session = deep(4)
    whole, stopped, resumed = (Abreast(Probe(session), 8) for _ in range(3))
    expected = begun(session, whole, groups_of(session))
    begun(session, stopped, groups_of(session)[:3])
    resumed.restore(stopped.state())
    stopped.close()
    begun(session, resumed, groups_of(session)[3:])
    assert whole.finish() == resumed.finish()
    assert whole.found.keys() == expected.keys()


def loads(layers: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Nodes in all sessions that are made while curves are measured."""
    count, made = [0], pieces.piece

    def counted(model: ir.Model, nodes: Sequence[ir.Node], *rest: Any) -> Any:
        count[0] += len(nodes)
        return made(model, nodes, *rest)

    session = deep(layers)
    with monkeypatch.context() as patch:
        patch.setattr(streaming, "piece", counted)
        curves = find_curves(session, groups_of(session), [0.5], {})
    assert len(curves) == layers
    return count[0]


def test_twice_the_layers_are_loaded_twice_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (loads(layers, monkeypatch) for layers in (8, 16))
    assert few > 8 * LEVELS
    assert many < 2.1 * few


def test_deep_networks_measure_some_of_the_groups_that_are_alike() -> None:
    preset = replace(PRESETS["default"], probe_flops=100.0)
    assert spacing(1.0, 200, 10, preset) == 1  # as much as probes may cost anyway
    assert spacing(10.0, 20, 10, preset) == 1  # a run of the network on all samples
    assert spacing(10.0, 60, 10, preset) == 3
    assert spacing(0.0, 0, 0, preset) == 1


def test_what_is_not_measured_loses_as_its_neighbours_do(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, some = deep(5), deep(5)
    expected = find_curves(whole, groups_of(whole), [0.5], {})
    started: list[str] = []
    start = Abreast.start

    def counted(self: Abreast, group: Group, *rest: Any) -> None:
        started.append(group.name)
        start(self, group, *rest)

    monkeypatch.setattr(probe, "spacing", lambda *_: 2)
    monkeypatch.setattr(Abreast, "start", counted)
    curves = find_curves(some, groups_of(some), [0.5], {})
    names = [group.name for group in groups_of(some)]
    assert started == names[::2]
    for at, name in enumerate(names):
        if at % 2 == 0:
            assert curves[name].scale.measured == pytest.approx(expected[name].scale.measured, rel=1e-6)
            continue
        slopes = [
            np.array(curves[near].scale.measured[1:]) / np.array(curves[near].scale.losses[1:])
            for near in (names[at - 1], name, names[at + 1])
        ]
        assert slopes[1] == pytest.approx(np.sqrt(slopes[0] * slopes[2]), rel=1e-6)


def test_nothing_is_taken_from_groups_of_which_none_was_measured() -> None:
    session = deep(2)
    scaling = Scaling(session, [0.5], 2)
    group = groups_of(session)[0]
    statistics = session.dense_statistics([session.problem(r.layer) for r in session.network.readers[group.name]])
    curve = find_curve(session, group, statistics, {})
    scaling.asked[group.name] = [3]
    assert scaling.between([curve], {}) == {}
    assert scaling.between([curve], {(group.name, 3): 0.5}) == {}
