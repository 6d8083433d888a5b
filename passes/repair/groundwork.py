"""What a repair finds out before it is told how much is to go: once for a prune, or for all ratios of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group
from spa.analysis.neighbours import normalisation_of
from spa.errors import NothingToPrune, UsageError
from spa.executor import Executor
from spa.passes.choose.allocation import Curve
from spa.passes.choose.budget import Budget
from spa.passes.choose.candidates import NESTED, find_candidates
from spa.passes.choose.importance.gather import check_finite, stored
from spa.passes.layers.workers import one_thread_each
from spa.passes.repair.batchnorm import batch_statistics
from spa.passes.repair.curves import find_curves
from spa.passes.repair.journal import Journal
from spa.passes.repair.memory import Memory
from spa.passes.repair.naming import Names
from spa.passes.repair.network import Network, prepare
from spa.passes.repair.rotation import Turned, turn
from spa.passes.repair.session import Session
from spa.passes.repair.twins import Twins
from spa.passes.samples.calibrate import Calibration
from spa.passes.secondorder import WAYS, Baseline
from spa.presets import OURS, PRESETS, Preset, Progress


@dataclass(frozen=True, slots=True, eq=False)
class Groundwork:
    """A dense network with its samples, and what each group loses.

    Attributes:
        made_up: the samples are unlike the training data, and what batch normalisations know of that makes up for it.
        trained: the statistics that these had, by name; meanwhile they have those of the samples.
        beside: names of groups that take part though nobody includes them: they are in their best basis.
        curves: of every group that may go at one of the ratios, by name.
    """

    session: Session
    made_up: bool
    trained: Mapping[str, ir.TensorProtocol]
    beside: Sequence[str]
    curves: Mapping[str, Curve]

    @classmethod
    def of(
        cls,
        model: ir.Model,
        data: Calibration,
        budget: Budget,
        *,
        ratios: Sequence[float] = (),
        preset: str | Preset = "default",
        method: str = OURS,
        inputs: Mapping[str, Sequence[int]] | None = None,
        counted: Mapping[str, Sequence[int]] | None = None,
        made_up: bool = False,
        closed: bool = False,
        threads: int | None = None,
        executor: Executor | None = None,
        memory: int | None = None,
        journal: Journal | None = None,
        progress: Progress | None = None,
    ) -> Groundwork:
        """Find out what each group loses.

        Args:
            ratios: near which losses are measured; by default that of the budget. Other arguments are those of
                `spa.passes.repair.compensate.compensate`.
            executor: what does the work; None: threads of this process.
            memory: bytes that it may use of its own; None: as `Memory.of`.
            journal: what keeps what is found, to go on from; None: nothing does.

        Raises:
            UsageError: there is no such preset or method, or a pattern matches nothing.
            NothingToPrune: nothing can be repaired by the method.
            ModelError: a weight holds NaN or an infinite value.
        """
        if isinstance(preset, str) and preset not in PRESETS:
            raise UsageError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
        if method not in (OURS, *WAYS):
            raise UsageError(f"method {method!r}: expected one of {', '.join((OURS, *WAYS))}")
        chosen = PRESETS[preset] if isinstance(preset, str) else preset
        ratios = tuple(ratios) or (budget.ratio,)
        network = prepare(model, inputs=inputs, counted=counted, closed=closed)
        if method == OURS and any(group.branch is not None for group in to_score(network, budget)):
            network = prepare(model, inputs=inputs, counted=counted, closed=closed, gated=True)
        for layer in network.layers:
            check_finite(layer.weight, stored(layer.weight), needed=True)
        turned: Mapping[str, Turned] = {}
        beside: list[str] = []
        with one_thread_each():
            session = Session.of(
                network, data.first(chosen.samples), chosen, threads=threads, progress=progress or _say_nothing,
                baseline=WAYS.get(method), memory=Memory.of(memory) if journal is None else journal.limit(memory),
            )  # fmt: skip
            if journal is not None:
                journal.open(Names.of(network), session.memory)
                session = replace(session, journal=journal)
            if executor is not None and executor.remote:
                session = replace(session, twins=Twins(executor))
            trained = _align(network, session) if made_up else {}
            if session.baseline is None:
                with session.step("turn"):
                    turned = _turned(session)
                beside = [group.name for group in network.groups if group.name in turned and group.off is None]
            elif session.baseline.experts is not None:
                beside = [group.name for group in network.groups if group.barred]
            groups = {
                group.name: group
                for ratio in ratios
                for group in to_score(network, replace(budget, ratio=ratio, include=(*budget.include, *beside)))
            }
            if session.baseline is not None:
                groups = _scored_by(session.baseline, method, network, groups)
            curves = find_curves(session, list(groups.values()), ratios, turned)
            curves = {name: curve.without(budget.kept.get(name, ())) for name, curve in curves.items()}
        return cls(session, made_up, trained, beside, curves)

    def scored(self, budget: Budget) -> dict[str, Curve]:
        """The curves of the groups that may go at the budget's ratio, by name."""
        groups = to_score(self.session.network, self.opened(budget))
        return {group.name: self.curves[group.name] for group in groups if group.name in self.curves}

    def opened(self, budget: Budget) -> Budget:
        """A budget that includes the groups in their best basis."""
        return replace(budget, include=(*budget.include, *self.beside))

    def again(self, progress: Progress | None = None) -> Session:
        """The session for one ratio: a log of its own, that begins with what was found out for all."""
        session = self.session
        return replace(
            session, seconds=dict(session.seconds), notes=list(session.notes), progress=progress or session.progress
        )


def _turned(session: Session) -> Mapping[str, Turned]:
    """Turn free bases, or take what an earlier run found of them."""
    journal, stored = session.journal, session.network.model.graph.initializers
    if journal is None:
        return turn(session, session.network.groups)
    if "turned" in journal.state:
        known: tuple[Mapping[str, Turned], Mapping[str, str | np.ndarray]] = journal.state["turned"]
        for name, laid in known[1].items():
            tensor = stored[name].const_value
            assert tensor is not None
            array = journal.array(laid, np.dtype(tensor.dtype.numpy()))
            stored[name].const_value = ir.Tensor(array, dtype=tensor.dtype, name=name)
        return known[0]
    dense = {name: value.const_value for name, value in stored.items()}
    turned = turn(session, session.network.groups)
    changed = {name: v.const_value for name, v in stored.items() if v.const_value is not dense[name]}
    journal.state["turned"] = lambda: (
        turned, {name: journal.laid(tensor.numpy()) for name, tensor in changed.items() if tensor is not None}
    )  # fmt: skip
    return turned


def _say_nothing(step: str, share: float) -> None:
    """No progress is shown."""


def to_score(network: Network, budget: Budget) -> list[Group]:
    """The groups that may be cut; of those that have to be sliced to be measured, not those nested in others."""

    def reaches(number: int) -> bool:
        size = network.groups[number].size
        return round(budget.ratio * size) >= 0.5 * budget.ratio * size

    candidates = find_candidates(
        network.groups, include=budget.include, exclude=budget.exclude, only=budget.only, norms=True, reaches=reaches
    )
    nested = [number for number, reason in candidates.left.items() if reason == NESTED]
    beside = [number for number in nested if network.only_layers_read(network.groups[number])]
    return [network.groups[number] for number in sorted([*candidates.active, *beside])]


def _scored_by(baseline: Baseline, method: str, network: Network, groups: Mapping[str, Group]) -> dict[str, Group]:
    """Those of some groups that a published way can score.

    Raises:
        NothingToPrune: there are none.
    """
    if baseline.experts is not None:
        scored = {name: group for name, group in groups.items() if group.barred}
        if not scored:
            raise NothingToPrune(
                f"{method} scores whole experts, and no choice among experts was found that may become smaller; "
                "spa groups lists what stays, and why"
            )
        return scored
    scored = {name: group for name, group in groups.items() if network.only_layers_read(group)}
    if not scored:
        raise NothingToPrune(
            f"nothing can be repaired by {method}: no group that may go is read by weights alone that can be refitted "
            "(integers that were not opened are not, nor is what If, Loop and Scan hold); without data and data-free, "
            "weights alone decide"
        )
    return scored


def _align(network: Network, session: Session) -> dict[str, ir.TensorProtocol]:
    """Let batch normalisations take their statistics from the samples; those that they had."""
    normalised = [node.inputs[0] for node in network.model.graph if normalisation_of(node) is not None]
    if not normalised:
        return {}
    batches = [session.batches[number] for number in session.split.seen]
    statistics = batch_statistics(network.model, batches, threads=session.threads)
    trained = {}
    for name, array in statistics.items():
        value = network.model.graph.initializers[name]
        assert value.const_value is not None
        trained[name] = value.const_value
        value.const_value = ir.Tensor(array.astype(value.const_value.dtype.numpy()), name=name)
    return trained
