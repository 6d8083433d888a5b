"""Curves brought to the scale of the outputs: what these lose when one group alone is cut, at some of its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from spa.analysis.group import Group
from spa.passes.choose.allocation import Curve
from spa.passes.layers.problems import Key, Statistics
from spa.passes.repair.abreast import Abreast
from spa.passes.repair.experts import SAMPLES, expert_curve
from spa.passes.repair.fitting import read_by
from spa.passes.repair.probe import Probe, scaled_by
from spa.passes.repair.session import Session

TINY = 1e-30
"""In the place of a loss of readers that is none."""

STATE = "abreast"
"""In a journal: what is measured, and how far that is."""


class Scaling:
    """Brings curves to the scale of the outputs: here, in one run for all of them; on workers, one by one.

    Args:
        ratios: the shares that are asked for, near which losses are measured.
        groups: how many there are.

    Attributes:
        asked: at which counts of units that go a curve is measured, by name of the group; between those of groups that
            are alike some are only taken to be so.
        alike: names of the groups that are alike, in graph order; of these every so many is measured.
    """

    def __init__(self, session: Session, ratios: Sequence[float], groups: int) -> None:
        self.session, self.ratios, self.groups = session, ratios, groups
        self.asked: dict[str, list[int]] = {}
        self.alike: dict[tuple[object, ...], list[str]] = {}
        self.run: Abreast | None = None
        journal = session.journal
        if journal is not None:
            state = journal.state.get(STATE)
            if state is not None:
                self.asked, self.alike = state["asked"], state["alike"]
                self.of_session().restore(state["run"])
            journal.state[STATE] = self.state

    def state(self) -> dict[str, Any] | None:
        """What is measured, and how far that is; None: nothing is."""
        return None if self.run is None else {"asked": self.asked, "alike": self.alike, "run": self.run.state()}

    def of_session(self) -> Abreast:
        """The run, made when it is first asked for."""
        if self.run is None:
            probe = Probe.kept(self.session)
            self.run = Abreast(probe, self.groups * probe.levels)
        return self.run

    def measured(
        self, curves: Sequence[Curve], statistics: Mapping[Key, Statistics], done: float, share: float
    ) -> dict[str, Curve]:
        """Curves by name, those that are to be measured on the scale of the outputs, or as they are until `finished`.

        Args:
            done, share: of all curves, before these and by these.
        """
        session, network = self.session, self.session.network
        asked = [
            (curve, read(session, curve.group, statistics), self.ratios)
            for curve in curves
            if session.baseline is None and (session.preset.probes or not network.only_layers_read(curve.group))
        ]
        by_name = {curve.group.name: curve for curve in curves}
        if not asked:
            return by_name
        with session.step("measure"):
            session.progress("measure", done)
            told = partial(_told, session, "measure", done, share)
            if session.twins is not None:
                layers = [reader.layer for curve, *_ in asked for reader in network.readers[curve.group.name]]
                results = session.each(scaled, asked, layers, runs=True, told=told)
            else:
                results = []
                for at, (curve, own, _) in enumerate(asked):
                    results.append(self.begun(curve, own))
                    told((at + 1) / len(asked))
            for curve, apart in results:
                by_name[curve.group.name] = curve
                session.notes.extend(_kept_apart(curve.group, apart))
        return by_name

    def begun(self, curve: Curve, statistics: Mapping[Key, Statistics]) -> tuple[Curve, list[int]]:
        """A curve that is measured from now on, and of experts those that stand apart."""
        apart = list[int]()
        if curve.group.barred:
            curve, apart = _experts(self.session, curve.group, statistics)
        run, group = self.of_session(), curve.group
        counts = run.probe.counts(curve, self.ratios)
        readers = self.session.network.readers[group.name]
        widths = sorted((reader.layer.width, reader.layer.output_width) for reader in readers)
        alike = self.alike.setdefault((str(group.kind), group.size, len(curve.order), *widths), [])
        if len(alike) % run.probe.every == 0:
            run.start(group, [curve.order[:count] for count in counts], statistics)
        alike.append(group.name)
        self.asked[group.name] = counts
        return curve, apart

    def finished(self, curves: Mapping[str, Curve]) -> dict[str, Curve]:
        """Those of the curves that were begun, on the scale of the outputs."""
        if self.run is None:
            return {}
        with self.session.step("measure"):
            lost = dict(self.run.finish())
        if self.session.journal is not None:
            self.session.journal.state.pop(STATE, None)
        for names in self.alike.values():
            lost |= self.between([curves[name] for name in names], lost)
        return {
            name: scaled_by(curves[name], {count: lost.get((name, count), np.nan) for count in counts})
            for name, counts in self.asked.items()
        }

    def between(self, curves: Sequence[Curve], lost: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
        """What the outputs lose by cuts that were not measured: as many times what readers lose as in groups beside."""
        losses: dict[tuple[str, int], float] = {}
        for count in self.asked[curves[0].group.name]:
            local = np.array([max(float(curve.losses[count]), TINY) for curve in curves])
            measured = np.array([lost.get((curve.group.name, count), np.nan) for curve in curves])
            there = np.isfinite(measured) & (measured > 0)
            if not there.any():
                continue
            ratios = np.log(measured[there] / local[there])
            taken = local * np.exp(np.interp(np.arange(len(curves)), np.flatnonzero(there), ratios))
            losses |= {
                (curve.group.name, count): float(loss)
                for curve, loss in zip(curves, taken, strict=True)
                if (curve.group.name, count) not in lost
            }
        return losses


def scaled(
    session: Session, curve: Curve, statistics: Mapping[Key, Statistics], ratios: Sequence[float]
) -> tuple[Curve, list[int]]:
    """A curve on the scale of the outputs, and of experts those that stand apart."""
    probe, apart = Probe.kept(session), list[int]()
    if curve.group.barred:
        curve, apart = _experts(session, curve.group, statistics)
    return probe.scaled(curve, statistics, ratios), apart


def depth_curves(session: Session, groups: Sequence[Group]) -> dict[str, Curve]:
    """The curves of residual branches by name: what the outputs lose without each, measured with its gate shut.

    Args:
        groups: in graph order.
    """
    if not groups:
        return {}
    with session.step("measure"):
        if session.twins is not None:
            asked = [(group, len(groups)) for group in groups]
            losses = session.each(depth_loss, asked, runs=True, told=partial(_told, session, "measure", 0.0, 1.0))
        else:
            run = Abreast(Probe.kept(session, most=SAMPLES, runs=len(groups)), len(groups))
            for group in groups:
                run.start(group, [np.array([0])], {})
            measured = run.finish()
            losses = [measured[group.name, 1] for group in groups]
    Probe.drop(session)
    return {
        group.name: Curve(group, np.array([0]), np.array([0.0, loss]))
        for group, loss in zip(groups, losses, strict=True)
        if np.isfinite(loss)
    }


def depth_loss(session: Session, group: Group, count: int) -> float:
    """What the outputs lose without a branch, one of so many that are measured."""
    probe = Probe.kept(session, most=SAMPLES, runs=count)
    return session.lost(probe.differences(group, np.array([0]), {}))


def _experts(session: Session, group: Group, statistics: Mapping[Key, Statistics]) -> tuple[Curve, list[int]]:
    """The curve of experts, measured one by one on all samples that this may cost, and those that stand apart."""
    probe = Probe(session, most=SAMPLES, runs=group.size)

    def lost(units: np.ndarray) -> tuple[float, float]:
        differences = probe.differences(group, units, statistics)
        return session.lost(differences), float(np.mean([off["relative_l2"] ** 2 for off in differences]))

    try:
        return expert_curve(group, lost)
    finally:
        probe.close()


def _kept_apart(group: Group, units: Sequence[int]) -> list[str]:
    if not units:
        return []
    numbers = ", ".join(map(str, units))
    return [f"{group.name}: experts {numbers} stay: without each of them the outputs lose far more than without others"]


def _told(session: Session, step: str, done: float, share: float, part: float) -> None:
    session.progress(step, done + share * part)


def read(session: Session, group: Group, statistics: Mapping[Key, Statistics]) -> dict[Key, Statistics]:
    """Of statistics those that the readers of a group need."""
    return read_by(session, [reader.layer for reader in session.network.readers[group.name]], statistics)
