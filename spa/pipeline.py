"""`prune` and its steps: load, normalise, couple, group, score, select, slice, verify."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnx_ir as ir

from spa import gradients, gradual, runtime
from spa.analysis.plan import Plan
from spa.clock import Clock, Progress
from spa.feeds import Feeds
from spa.fields import takes_options
from spa.frontends.files import onnx_file
from spa.latency import Timekeeper
from spa.options import PARTS, InputShapes, PruneOptions
from spa.packing import Packing, stored_bytes
from spa.passes.choose.budget import LATENCY
from spa.passes.repair.packed import opened
from spa.provenance import stamp
from spa.report import Report
from spa.steps import Analysis, Normal, Source, analyse, cut, is_exact, load_normal, report_on
from spa.verification import foretell, perplexity, seal, verify_files, verify_plan

__all__ = [
    "Analysis", "InputShapes", "Normal", "Progress", "PruneResult", "Source", "analyse", "apply_plan", "cut",
    "is_exact", "load_normal", "prune", "report_on", "verify_files", "verify_plan",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PruneResult:
    """A smaller model, the plan that made it, and what happened on the way.

    Attributes:
        dense: the model that went in, normalised.
        reference: as large as the dense model, and what the smaller one was cut from: the dense model itself, or with
            the weights that a repair refitted.
    """

    model: ir.Model
    plan: Plan
    report: Report
    dense: ir.Model = field(repr=False)
    reference: ir.Model = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model; the target appears whole or not at all."""
        onnx_file.save(self.model, path)

    def to_proto(self) -> onnx.ModelProto:
        """The model as onnx has it in memory; its weights are copied."""
        return ir.to_proto(self.model)


@takes_options(*PARTS.values())
def prune(
    source: Source | Normal,
    *,
    options: PruneOptions | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> PruneResult:
    """Remove a share of a model, whole structures at a time: ``prune("model.onnx", ratio=0.3, of="flops")``.

    What goes is chosen by what its readers lose on samples, and they are refitted in closed form so that the outputs
    stay: no labels, no training (`spa.passes.repair.compensate`). Samples are best given (`data`); else the tool has
    its own, and a cut by weights alone stands wherever they do not do much better. With `weights`, or anything that
    says how weights are scored, weights alone decide, at once, and those that stay do not change.

    Args:
        source: a path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`; never changed.
        progress: called with the name of each step before it, and on the way with the share (0..1) of it that is done.
        options: all of what follows in one object, instead of one by one.

    Raises:
        ModelError, UsageError, DataError: the source, an option or the samples are wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the result failed its checks; names the group at fault.
        MissingExtra: it is to be checked, and onnxruntime is not installed.
    """
    if options is not None and keywords:
        raise TypeError(f"prune() got options, and besides {', '.join(keywords)}: give one or the other")
    options = PruneOptions.of(**keywords) if options is None else options
    if options.learning.finetune is not None:
        gradients.require()
    verify, inputs = options.run.verify and not options.run.dry_run, options.run.inputs
    if options.decided_by == "samples" or verify or (options.budget.of == LATENCY and not options.device.profile):
        runtime.require()
    clock = Clock(progress)
    with clock.step("normalise"):
        dense = load_normal(source)
    closed = isinstance(source, Normal) and source.closed
    keeper = Timekeeper(dense, options, clock) if options.budget.of == LATENCY else None
    made = gradual.make(dense, options if keeper is None else keeper.solved, clock, closed=closed)
    model, reference, report, base = made.model, made.reference, made.report, made.base
    report.seconds = clock.seconds
    plan = replace(made.plan, options=options.asked(), resized=report.resized)
    refitted = bool(plan.repair)
    plan = seal(plan, base, reference, model) if refitted else plan
    if options.run.dry_run:
        whole = dense if refitted else reference
        return PruneResult(whole, plan, report, whole, reference)
    if verify:
        with clock.step("verify"):
            verify_plan(reference, model, plan, report, inputs=inputs, feeds=options.run.feeds)
            if refitted:
                plan = foretell(plan, base, model, inputs=inputs, feeds=options.run.feeds)
    if made.packing is not None:
        report.before = {**report.before, "bytes": stored_bytes(dense)}
        made.packing.close(model, report)
    if made.held_out is not None:
        with clock.step("perplexity"):
            report.perplexity = perplexity(dense, model, made.held_out)
    stamp(model, plan)
    if keeper is not None:
        with clock.step("time"):
            report.latency = keeper.report(model, plan)
    return PruneResult(model, plan, report, dense if refitted else reference, reference)


def apply_plan(
    source: Source,
    plan: Plan,
    *,
    inputs: InputShapes | None = None,
    feeds: Feeds | None = None,
    verify: bool = True,
) -> PruneResult:
    """Prune a model by a plan that was saved; the same plan gives the same bytes.

    Weights are not refitted, even if the plan was made with samples; the report says so.

    Raises:
        ModelError: the source is no valid model, or the plan was made for another.
        VerificationError: the result failed its checks; names the group at fault.
    """
    if verify:
        runtime.require()
    normal = load_normal(source)
    dense = opened(normal) if plan.opened else normal
    analysis = analyse(dense, inputs=inputs)
    report = report_on(analysis, plan)
    if plan.repair:
        report.notes.append(f"this plan was made with repair ({plan.repair}); applied to the dense model it only cuts")
    reference = dense.clone()
    packing = Packing.of(analysis, plan)
    cut(analysis, plan)
    if packing is not None:
        packing.round(dense, reference)
    stamp(dense, plan)
    if verify:
        verify_plan(reference, dense, plan, report, inputs=inputs, feeds=feeds)
    if packing is not None:
        report.before = {**report.before, "bytes": stored_bytes(normal)}
        packing.close(dense, report)
    return PruneResult(dense, plan, report, normal if plan.opened else reference, reference)
