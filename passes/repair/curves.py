"""What each group loses as its units go: the order in which they would, and the loss after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spa.analysis.group import Group
from spa.passes.choose.allocation import Curve, Scale
from spa.passes.choose.importance import score_groups
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Statistics
from spa.passes.repair.dense import in_turn
from spa.passes.repair.experts import name_super_experts, routed_in
from spa.passes.repair.fitting import consumers, first_uses
from spa.passes.repair.probe import Probe
from spa.passes.repair.rotation import Turned
from spa.passes.repair.scaling import Scaling, depth_curves, read
from spa.passes.repair.session import Session
from spa.passes.secondorder import Removal, Routed, remove_units

SHOWN = 33
"""Points of a curve that is told of."""


@dataclass(frozen=True, slots=True)
class LossCurve:
    """What a group loses as its units go, at some of the counts, and where it stopped.

    Attributes:
        removed: counts of units, ascending from zero.
        losses: the expected squared relative difference of the outputs at each, by its readers' moments brought to
            the scale of measurements (`spa.passes.choose.allocation.Curve.predicted`).
        measured: at how many counts the outputs were; zero: losses are those of the readers alone.
        stopped: how many units went.
    """

    group: str
    units: int
    removed: Sequence[int]
    losses: Sequence[float]
    measured: int
    stopped: int

    @classmethod
    def of(cls, curve: Curve, stopped: int) -> LossCurve:
        """A curve thinned to `SHOWN` points, and the one where it stopped."""
        last = len(curve.losses) - 1
        counts = sorted({*np.linspace(0, last, SHOWN).round().astype(int).tolist(), min(stopped, last)})
        losses = curve.predicted[counts]
        return cls(
            curve.group.name,
            curve.group.size,
            counts,
            losses.tolist(),
            len(curve.scale.losses) - 1 if curve.scale != Scale() else 0,
            stopped,
        )


def find_curves(
    session: Session, groups: Sequence[Group], ratios: Sequence[float], turned: Mapping[str, Turned]
) -> dict[str, Curve]:
    """The loss curve of each group by name, from one run of the dense network.

    Args:
        ratios: the shares that are asked for, near which losses are measured.
        turned: groups in their best basis, whose units go from the last on.
    """
    groups = session.network.in_order(groups)
    name_super_experts(session, groups)
    known = _Known.of(session)
    if known.complete:
        return known.curves
    by_name = known.curves
    by_name |= depth_curves(
        session, [group for group in groups if group.branch is not None and group.name not in by_name]
    )
    groups = [group for group in groups if group.branch is None]
    layers_of = {group.name: [reader.layer for reader in session.network.readers[group.name]] for group in groups}
    items = [[session.problem(layer) for layer in layers_of[group.name]] for group in groups]
    scaling = Scaling(session, ratios, len(groups))
    for numbers, statistics in () if known.gathered else in_turn(session, items):
        part = [groups[number] for number in numbers]
        layers = [layer for group in part for layer in layers_of[group.name]]
        unreached = {group.name: _unreached(session, group, statistics) for group in part}
        part = [group for group in part if unreached[group.name] is None]
        session.notes.extend(
            f"{name} is left alone: no sample reaches {layer.name}"
            for name, layer in unreached.items()
            if layer is not None
        )
        with session.step("select"):
            session.progress("select", len(by_name) / len(groups))
            asked = [
                (group, read(session, group, statistics), {n: t for n, t in turned.items() if n == group.name})
                for group in part
            ]
            curves = session.each(find_curve, asked, layers)
        by_name |= scaling.measured(curves, statistics, len(by_name) / len(groups), len(part) / len(groups))
        del statistics, asked  # before those of the next stage are there
    known.gathered = True
    by_name |= scaling.finished(by_name)
    Probe.drop(session)
    known.complete = True
    return by_name


@dataclass(slots=True, eq=False)
class _Known:
    """What is known of the curves so far, which a journal keeps.

    Attributes:
        curves: by name of the group.
        notes: of the session.
        gathered: whether these are all, of which some may not be measured yet.
        complete: whether all are.
    """

    curves: dict[str, Curve]
    notes: list[str]
    gathered: bool = False
    complete: bool = False

    @classmethod
    def of(cls, session: Session) -> _Known:
        """What an earlier run found; the session gets its notes."""
        known = cls({}, session.notes)
        if session.journal is not None:
            before = session.journal.state.get("curves")
            if before is not None:
                known.curves, known.gathered, known.complete = before.curves, before.gathered, before.complete
                session.notes[:] = before.notes
            session.journal.state["curves"] = known
        return known


def by_score(session: Session, group: Group, score: Callable[[Routed], np.ndarray]) -> Curve:
    """The curve of experts by a published score; by weights where it cannot be seen what they add."""
    seen = routed_in(session, group)
    if seen is None:
        session.notes.append(f"{group.name}: what its experts add cannot be told apart: their weights decide")
        return by_weights(group)
    scores = score(seen)
    order = np.argsort(scores, kind="stable")[: group.size - group.least]
    return Curve(group, order, np.concatenate([[0.0], np.cumsum(scores[order])]) / (float(scores.sum()) or 1.0))


def by_weights(group: Group) -> Curve:
    """The curve of a group that no layer reads: the share of the squared weights that goes, the smallest first."""
    (scores,) = score_groups([group])
    order = np.argsort(scores, kind="stable")[: group.size - 1]
    energy = scores[order] ** 2
    return Curve(group, order, np.concatenate([[0.0], np.cumsum(energy)]) / (float(np.sum(scores**2)) or 1.0))


def _unreached(session: Session, group: Group, statistics: Mapping[Key, Statistics]) -> Layer | None:
    """The first reader of a group that no sample reaches."""
    layers = (reader.layer for reader in session.network.readers[group.name])
    return next((layer for layer in layers if not statistics[session.problem(layer).key].seen), None)


def find_curve(
    session: Session, group: Group, statistics: Mapping[Key, Statistics], turned: Mapping[str, Turned]
) -> Curve:
    """Order and losses of a group's units: by greedy removal, or by weights where no layer reads them."""
    if session.baseline is not None and session.baseline.experts is not None:
        return by_score(session, group, session.baseline.experts)
    readers = session.network.readers[group.name]
    if not readers:
        return by_weights(group)
    units = {reader.layer: reader.units for reader in readers}
    layers = first_uses(session.network, units)
    problems = [consumer for layer in layers for consumer in consumers(session, layer, units[layer], statistics)]
    if session.baseline is not None:
        scores = session.baseline.score(problems, group.size)
        order = np.argsort(scores, kind="stable")[: group.size - 1]
        total = float(np.sum(scores)) or 1.0
        return Curve(group, order, np.concatenate([[0.0], np.cumsum(scores[order]) / total]))
    basis = turned.get(group.name)
    if basis is not None and basis.meets:
        return Curve(group, np.arange(group.size - 1, 0, -1), basis.losses[:-1])
    removal = remove_units(problems, units=group.size, remove=group.size - 1, swap_rounds=0)
    return Curve(group, removal.order, expected_losses(removal))


def expected_losses(removal: Removal) -> np.ndarray:
    """(removals + 1,) loss on samples that were not fitted: what was measured on them, where it is more than the fit's.

    With fewer samples than inputs a fit loses nothing on its own samples, however many units go. Between two levels at
    which it was measured, the loss grows as that of the fit does: the first units that go are the cheapest.
    """
    levels = removal.held_out_levels
    if not len(levels):
        return removal.loss
    measured = np.maximum.accumulate(np.maximum(removal.held_out_loss, 0.0))
    evenly = 1e-9 * (float(removal.loss.max()) or 1.0) * np.arange(len(removal.loss))  # where the fit loses nothing
    fitted = np.maximum.accumulate(removal.loss) + evenly
    return np.asarray(np.maximum(removal.loss, np.interp(fitted, fitted[levels], measured)))
