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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group
from spa.analysis.neighbours import normalisation_of
from spa.analysis.plan import Plan
from spa.errors import NothingToPrune, UsageError, VerificationError
from spa.passes.choose.allocation import Curve, allocate
from spa.passes.choose.budget import Budget
from spa.passes.choose.candidates import NESTED, find_candidates
from spa.passes.choose.first import first_widths
from spa.passes.choose.importance.gather import check_finite, stored
from spa.passes.choose.selection import select
from spa.passes.layers.workers import one_thread_each
from spa.passes.repair.batchnorm import batch_statistics
from spa.passes.repair.biases import drop_zero_biases
from spa.passes.repair.curves import find_curves
from spa.passes.repair.draft import Draft
from spa.passes.repair.network import Network, prepare
from spa.passes.repair.rotation import Turned, turn
from spa.passes.repair.sequential import LayerReport, Repair
from spa.passes.repair.session import Session
from spa.passes.repair.settings import OURS, PRESETS, Progress
from spa.passes.samples.calibrate import Calibration
from spa.passes.secondorder import BASELINES


@dataclass(frozen=True, slots=True)
class Compensation:
    """A dense-shaped model with new weights, the plan to cut from it, and how well it went.

    Attributes:
        difference: of each output on samples that no fit has seen: relative L2, and KL where it gives probabilities.
        before: the cost of the model that was given, by measure.
    """

    model: ir.Model
    plan: Plan
    layers: Sequence[LayerReport]
    difference: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]
    notes: Sequence[str]
    before: Mapping[str, float]


def compensate(
    model: ir.Model,
    data: Calibration,
    budget: Budget,
    *,
    preset: str = "default",
    method: str = OURS,
    inputs: Mapping[str, Sequence[int]] | None = None,
    counted: Mapping[str, Sequence[int]] | None = None,
    made_up: bool = False,
    closed: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Compensation:
    """Choose what goes, and refit what stays.

    Args:
        model: normalised; not changed.
        data: samples that the model would see.
        budget: how much goes, of what, and from where.
        preset: fast, default or best.
        method: spa, or a published way from `spa.passes.secondorder.BASELINES`, for comparison.
        inputs: shapes to analyse with.
        counted: shapes at which FLOPs are counted; `inputs` unless told.
        made_up: the samples are noise: what batch normalisations know of the training data makes up for that.
        closed: the model gets no new tensors: only biases that are there change.
        progress: called with the step and the share of it that is done.

    Raises:
        UsageError: there is no such preset or method, or a pattern matches nothing.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        ModelError: a weight holds NaN or an infinite value.
        VerificationError: the result is not finite where the dense network is.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if method not in (OURS, *BASELINES):
        raise UsageError(f"method {method!r}: expected one of {', '.join((OURS, *BASELINES))}")
    chosen = PRESETS[preset]
    network = prepare(model, inputs=inputs, counted=counted, closed=closed)
    for layer in network.layers:
        check_finite(layer.weight, stored(layer.weight), needed=True)
    curves: dict[str, Curve] = {}
    turned: Mapping[str, Turned] = {}
    beside: list[str] = []

    given_up: list[str] = []

    def choose(scores: list[np.ndarray]) -> Plan:
        unscored = [group.name for group in network.groups if group.name not in curves]
        wanted, norms = replace(budget, include=(*budget.include, *beside)), session.baseline is None
        first = first_widths(network.model)
        found = select(
            network.groups, scores, network.cost, wanted, unread=unscored, first=first, norms=norms,
            whole=network.before,
        )  # fmt: skip
        given_up[:] = found.given_up
        return found.plan

    with one_thread_each():
        session = Session.of(
            network, data.first(chosen.samples), chosen, threads=threads, progress=progress or _say_nothing,
            baseline=BASELINES.get(method),
        )  # fmt: skip
        trained = _align(network, session) if made_up else {}
        if session.baseline is None:
            with session.step("turn"):
                turned = turn(session, network.groups)
            beside = [group.name for group in network.groups if group.name in turned and group.off is None]
        groups = _to_score(network, replace(budget, include=(*budget.include, *beside)))
        if session.baseline is not None:
            groups = [group for group in groups if network.only_layers_read(group)]
            if not groups:
                raise NothingToPrune(
                    f"nothing can be repaired by {method}: no group that may go is read by weights alone that can be "
                    "refitted (integers are not, nor is what If, Loop and Scan hold); without data and data-free, the "
                    "weights alone decide"
                )
        session.notes.extend([*_left_alone(network, groups), *_decisions(network)])
        curves |= find_curves(session, groups, budget.ratio, turned)
        with session.step("allocate"):
            plan = allocate(curves, network.groups, network.cost, budget.of, choose)
        repair = Repair(session, curves, {name: np.array(units) for name, units in plan.removed.items()})
        plan = replace(repair.run(), align=plan.align)
        session.notes.extend(given_up)
        _restore(network, repair.draft, trained)
        if not made_up and (session.baseline is None or session.baseline.batch_norm):
            _normalise_again(session, repair)
    _check_outputs(repair.difference)
    repair.draft.store(network.model)
    drop_zero_biases(network.model, network.new_biases)
    return Compensation(
        network.model, plan, repair.reports, repair.difference, session.seconds, session.notes, network.before
    )


def _say_nothing(step: str, share: float) -> None:
    """No progress is shown."""


def _to_score(network: Network, budget: Budget) -> list[Group]:
    """The groups that may be cut; of those that have to be sliced to be measured, not those nested in others."""

    def reaches(number: int) -> bool:
        size = network.groups[number].size
        return round(budget.ratio * size) >= 0.5 * budget.ratio * size

    found = find_candidates(
        network.groups, include=budget.include, exclude=budget.exclude, only=budget.only, norms=True, reaches=reaches
    )
    nested = [number for number, reason in found.left.items() if reason == NESTED]
    beside = [number for number in nested if network.only_layers_read(network.groups[number])]
    return [network.groups[number] for number in sorted([*found.active, *beside])]


def _left_alone(network: Network, scored: Sequence[Group]) -> list[str]:
    names = [group.name for group in network.groups if group.off is None and group not in scored]
    return [f"left alone, since nodes without weights to refit sum over them: {', '.join(names)}"] if names else []


def _decisions(network: Network) -> list[str]:
    outputs = [str(value.name) for value in network.model.graph.outputs if value not in network.compared]
    beside = [str(value.name) for value in network.compared if not value.is_graph_output()]
    instead = f"; {', '.join(beside)} before them" if beside else ""
    return [f"not compared, being decisions: {', '.join(outputs)}{instead}"] if outputs else []


def _align(network: Network, session: Session) -> dict[str, ir.TensorProtocol]:
    """Let batch normalisations take their statistics from the samples; those that they had."""
    normalised = [node.inputs[0] for node in network.model.graph if normalisation_of(node) is not None]
    if not normalised:
        return {}
    batches = [session.batches[number] for number in session.split.seen]
    found = batch_statistics(network.model, batches, threads=session.threads)
    trained = {}
    for name, array in found.items():
        value = network.model.graph.initializers[name]
        assert value.const_value is not None
        trained[name] = value.const_value
        value.const_value = ir.Tensor(array.astype(value.const_value.dtype.numpy()), name=name)
    return trained


def _restore(network: Network, draft: Draft, trained: Mapping[str, ir.TensorProtocol]) -> None:
    """Give the statistics of training back, moved by what refits made of those of the samples."""
    for name, tensor in trained.items():
        value = network.model.graph.initializers[name]
        if name in draft.weights:
            draft.weights[name] = draft.weights[name] + tensor.numpy() - network.array(value)
        value.const_value = tensor


def _normalise_again(session: Session, repair: Repair) -> None:
    """Batch normalisations take statistics from the pruned network: always for a baseline, else where outputs gain."""
    network, split = session.network, session.split
    fitted = [session.batches[number] for number in split.fitted]
    found = batch_statistics(
        network.model, fitted, weights=repair.draft.weights, sliced=repair.draft.sliced, threads=session.threads
    )
    if not found:
        return
    judging = split.judging or split.unseen
    normalised = replace(repair.draft, weights={**repair.draft.weights, **found})
    before, after = (
        session.lost(list(repair.measured_outputs(draft, judging).values())) for draft in (repair.draft, normalised)
    )
    if session.baseline is not None or after < before:
        repair.draft.weights.update(found)
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
