"""Repair without training: what goes is chosen by its exact effect on the layers that read it, and those are refitted.

1. One run of the dense network gives moments of what every reader of a group reads.
2. Greedy removal with exact downdates gives each group's order and loss curve (`spa.passes.secondorder`).
3. The curves, brought to one scale by measuring what the outputs lose, are spent on the budget
   (`spa.passes.choose.allocation`).
4. Both networks run side by side, stage by stage: units are chosen again from what their readers really see, and every
   reader is refitted to give, from the pruned network's input, the dense network's output.

The result is as large as the dense model: removed units are read as zero, and `slice_model` cuts them out.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from spa.analysis.plan import Plan
from spa.errors import VerificationError
from spa.passes.choose.allocation import Curve, allocate, expected_loss
from spa.passes.choose.budget import LATENCY, Budget
from spa.passes.choose.first import first_widths
from spa.passes.choose.selection import Selection, select
from spa.passes.latency.goal import Goal
from spa.passes.layers.workers import one_thread_each
from spa.passes.repair.batchnorm import batch_statistics
from spa.passes.repair.biases import drop_zero_biases
from spa.passes.repair.curves import LossCurve
from spa.passes.repair.draft import Draft
from spa.passes.repair.gates import drop_gates
from spa.passes.repair.groundwork import Groundwork
from spa.passes.repair.network import Network
from spa.passes.repair.search import Limit, Search
from spa.passes.repair.sequential import LayerReport, Repair
from spa.passes.repair.session import Session
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.seen import marks_of, note_seen
from spa.presets import OURS, Preset, Progress


@dataclass(frozen=True, slots=True)
class Compensation:
    """A dense-shaped model with new weights, the plan to cut from it, and how well it went.

    Attributes:
        difference: of each output on samples that no fit has seen: relative L2, and KL where it gives probabilities.
        before: the cost of the model that was given, by measure.
        curves: what each group loses as its units go, and where it stopped.
    """

    model: ir.Model
    plan: Plan
    layers: Sequence[LayerReport]
    difference: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]
    notes: Sequence[str]
    before: Mapping[str, float]
    curves: Sequence[LossCurve] = ()


def compensate(
    model: ir.Model,
    data: Calibration,
    budget: Budget,
    *,
    preset: str | Preset = "default",
    method: str = OURS,
    inputs: Mapping[str, Sequence[int]] | None = None,
    counted: Mapping[str, Sequence[int]] | None = None,
    made_up: bool = False,
    closed: bool = False,
    goal: Goal | None = None,
    search: Limit | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Compensation:
    """Choose what goes, and refit what stays.

    Args:
        model: normalised; not changed.
        data: samples that the model would see.
        budget: how much goes, of what, and from where.
        preset: fast, default or best, or settings of one's own.
        method: spa, or a published way from `spa.passes.secondorder.BASELINES`, for comparison.
        inputs: shapes to analyse with.
        counted: shapes at which FLOPs are counted; `inputs` unless told.
        made_up: the samples are unlike the training data, and what batch normalisations know of that makes up for it.
        closed: the model gets no new tensors: only biases that are there change.
        goal: of a budget of latency, on which device how much time may stay.
        search: how long a better allocation is searched for; None: there is none. Not with a goal.
        progress: called with the step and the share of it that is done.

    Raises:
        UsageError: there is no such preset or method, or a pattern matches nothing.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        ModelError: a weight holds NaN or an infinite value.
        VerificationError: the result is not finite where the dense network is.
    """
    groundwork = Groundwork.of(
        model, data, budget, preset=preset, method=method, inputs=inputs, counted=counted, made_up=made_up,
        closed=closed, threads=threads, progress=progress,
    )  # fmt: skip
    return compensated(groundwork, budget, goal=goal, search=search)


def compensated(
    groundwork: Groundwork,
    budget: Budget,
    *,
    goal: Goal | None = None,
    search: Limit | None = None,
    progress: Progress | None = None,
) -> Compensation:
    """`compensate` for one ratio of those that share a groundwork, which does not change.

    Args:
        goal: of a budget of latency.
        search: how long a better allocation is searched for; None: there is none. Not with a goal.

    Raises:
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the result is not finite where the dense network is.
    """
    session, curves = groundwork.again(progress), groundwork.scored(budget)
    network, wanted = session.network, groundwork.opened(budget)
    of_experts = session.baseline is not None and session.baseline.experts is not None
    session.notes[:0] = [*([] if of_experts else _left_alone(network, curves)), *_decisions(network)]
    selected: list[Selection] = []

    timed = None if goal is None else goal.bound(network.groups, network.coupling, network.cost)
    cost, whole = network.cost, network.before
    if timed is not None:
        cost, whole = timed.cost, {**whole, LATENCY: timed.cost.of(LATENCY)}

    def allocated(ratio: float, curves: Mapping[str, Curve] = curves) -> Plan:
        def choose(scores: list[np.ndarray]) -> Plan:
            unscored = [group.name for group in network.groups if group.name not in curves]
            selection = select(
                network.groups, scores, cost, replace(wanted, ratio=ratio), unread=unscored,
                first=first_widths(network.model), norms=session.baseline is None, whole=whole,
                device=None if timed is None else timed.device,
            )  # fmt: skip
            selected.append(selection)
            return selection.plan

        return allocate(curves, network.groups, cost, budget.of, choose, None if timed is None else timed.steps)

    with one_thread_each():
        with session.step("allocate"):
            plan = allocated(budget.ratio) if timed is None else timed.meet(allocated, partial(expected_loss, curves))
        chosen = plan
        repair, plan = _repaired(session, curves, chosen)
        if search is not None:
            with session.step("search"):
                searcher = Search(session, curves, partial(allocated, budget.ratio), search)
                better = searcher.run(chosen)
            repair, plan, chosen = _searched(searcher, (repair, plan, chosen), better)
        session.notes.extend(repair.session.notes)
        session.notes.extend(next(selection.given_up for selection in selected if selection.plan is chosen))
        _restore(network, repair.draft, groundwork.trained)
        if not groundwork.made_up and (session.baseline is None or session.baseline.batch_norm):
            _normalise_again(session, repair)
    _check_outputs(repair.difference)
    model = network.model.clone()
    for name, tensor in groundwork.trained.items():
        model.graph.initializers[name].const_value = tensor
    repair.draft.store(model)
    drop_zero_biases(model, network.new_biases)
    drop_gates(model, network.gates)
    note_seen(model, _seen(session))
    stopped = {name: len(units) for name, units in plan.removed.items()}
    return Compensation(
        model, plan, repair.reports, repair.difference, session.seconds, session.notes, network.before,
        [LossCurve.of(curve, stopped.get(name, 0)) for name, curve in curves.items()],
    )  # fmt: skip


def _repaired(session: Session, curves: Mapping[str, Curve], plan: Plan) -> tuple[Repair, Plan]:
    """The sequential pass for a plan, with notes of its own, and the plan with the units chosen on the way."""
    removed = {name: np.array(units) for name, units in plan.removed.items()}
    repair = Repair(replace(session, notes=[]), curves, removed, Draft(shelf=session.shelf()))
    return repair, replace(repair.run(), align=plan.align)


def _seen(session: Session) -> list[str]:
    """The marks of the samples of which a fit or a choice has seen something."""
    numbers = set(session.split.seen) - set(session.split.unseen)
    batches = [session.batches[number] for number in sorted(numbers) if number < session.judged]
    return [mark for batch in batches for mark in marks_of(session.data, batch)]


def _searched(search: Search, first: tuple[Repair, Plan, Plan], better: Plan) -> tuple[Repair, Plan, Plan]:
    """What a search came to: the repair of the plan that it found, where outputs lose less by it.

    They are judged on the samples that chose it, which the last fits may have seen: the report has others.
    """
    session, (before, _, chosen) = search.session, first
    if better is chosen:
        session.notes.append(f"searched {len(search.tried)} plans: none is better")
        return first
    repair, plan = _repaired(session, search.curves, better)
    numbers = session.split.judges
    lost = [session.lost(list(r.measured_outputs(r.draft, numbers).values())) for r in (before, repair)]
    line = f"searched {len(search.tried)} plans: the best loses {lost[1] / lost[0]:.2f}"
    if lost[1] >= lost[0]:
        session.notes.append(f"{line} of what the first does, repaired, on the samples that chose it: the first stays")
        return first
    session.notes.append(f"{line} of what the first does, repaired, on the samples that chose it")
    return repair, plan, better


def _left_alone(network: Network, scored: Container[str]) -> list[str]:
    names = [group.name for group in network.groups if group.off is None and group.name not in scored]
    return [f"left alone, since nodes without weights to refit sum over them: {', '.join(names)}"] if names else []


def _decisions(network: Network) -> list[str]:
    left = [value for value in network.model.graph.outputs if value not in network.compared]
    caches = {value for values in network.coupling.cached.values() for value in values}
    outputs = [str(value.name) for value in left if value not in caches]
    beside = [str(value.name) for value in network.compared if not value.is_graph_output()]
    instead = f"; {', '.join(beside)} before them" if beside else ""
    lines = [f"not compared, being decisions: {', '.join(outputs)}{instead}"] if outputs else []
    kept = [str(value.name) for value in left if value in caches]
    if kept:
        shown = f"{', '.join(kept[:2])}{f' and {len(kept) - 2} more' if len(kept) > 2 else ''}"
        lines.append(f"distances are without the caches, whose heads may go: {shown}")
    return lines


def _restore(network: Network, draft: Draft, trained: Mapping[str, ir.TensorProtocol]) -> None:
    """Give the statistics of training back, moved by what refits made of those of the samples."""
    for name, tensor in trained.items():
        if name in draft.weights:
            aligned = network.array(network.model.graph.initializers[name])
            draft.weights[name] = draft.weights[name] + tensor.numpy() - aligned


def _normalise_again(session: Session, repair: Repair) -> None:
    """Batch normalisations take statistics from the pruned network: always for a baseline, else where outputs gain."""
    network, split = session.network, session.split
    fitted = [session.batches[number] for number in split.fitted]
    statistics = batch_statistics(
        network.model, fitted, weights=repair.draft.weights, sliced=repair.draft.sliced, threads=session.threads
    )
    if not statistics:
        return
    normalised = replace(repair.draft, weights={**repair.draft.weights, **statistics})
    before, after = (
        session.lost(list(repair.measured_outputs(draft, split.judges).values()))
        for draft in (repair.draft, normalised)
    )
    if session.baseline is not None or after < before:
        repair.draft.weights.update(statistics)
        repair.difference = repair.measured_outputs(normalised, split.unseen)
        session.notes.append("batch normalisations took their statistics from the pruned network")


def _check_outputs(difference: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse a result that is not finite where the dense network is: half precision overflows."""
    for name, off in difference.items():
        if not np.isfinite(off["relative_l2"]):
            raise VerificationError(
                f"the repaired network gives no finite numbers for {name!r} on samples on which the dense one does, as "
                "numbers of half precision do beyond their range: prune the float32 model, and convert the result"
            )
