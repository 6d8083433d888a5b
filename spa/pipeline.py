"""`prune` and its steps: load, normalise, couple, group, score, select, slice, verify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from spa import gradients, runtime
from spa.analysis.cost import stored_bytes
from spa.analysis.plan import Plan
from spa.clock import Clock, Progress
from spa.errors import VerificationError
from spa.executing import executing
from spa.executor import Executor
from spa.feeds import Feeds
from spa.fields import takes_options
from spa.making import make
from spa.options import PARTS, InputShapes, PruneOptions
from spa.passes.choose.budget import LATENCY
from spa.passes.cut.annotations import annotate, written
from spa.provenance import stamp
from spa.result import PruneResult
from spa.shared import Shared
from spa.steps import Analysis, Normal, Source, analyse, cut, is_exact, load_normal, report_on
from spa.verification import verify_plan

if TYPE_CHECKING:
    from spa.latency import Timekeeper

__all__ = [
    "Analysis", "InputShapes", "Normal", "Progress", "PruneResult", "Source", "analyse", "apply_plan", "cut",
    "is_exact", "load_normal", "prune", "report_on", "verify_plan",
]  # fmt: skip


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
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for, or nothing keeps to a limit.
        VerificationError: the result failed its checks; names the group at fault.
        MissingExtra: it is to be checked, and onnxruntime is not installed; or ray is not, and work is to go there.
        ClusterError: the cluster is not there, or no node has the memory that a piece of work needs.
    """
    if options is not None and keywords:
        raise TypeError(f"prune() got options, and besides {', '.join(keywords)}: give one or the other")
    options = PruneOptions.of(**keywords) if options is None else options
    if options.learning.finetune is not None:
        gradients.require()
    with executing(options.run.on) as executor:
        if options.limit.max_loss is None:
            return _prune(source, options, progress, executor=executor)
        from spa.within import prune_within

        return prune_within(_prune, source, options, progress, executor)


def prune_shared(dense: ir.Model, options: PruneOptions, shared: Shared, *, progress: Progress | None) -> PruneResult:
    """`prune` of a normalised model, whose copies are pruned to other ratios too; all are to be timed together.

    Args:
        dense: cut in place; a clone of its own for every ratio.
        shared: what is found out once for all of them.
    """
    return _prune(Normal(dense), options, progress, shared, final=False)


def _prune(
    source: Source | Normal,
    options: PruneOptions,
    progress: Progress | None,
    shared: Shared | None = None,
    *,
    asked: Mapping[str, Any] | None = None,
    final: bool = True,
    executor: Executor | None = None,
) -> PruneResult:
    """`prune` to a share: by weights where a repair that nobody asked for does not pass its check.

    Args:
        asked: what the plan says was asked for, where the share was searched for.
        final: the result is all there is; else the caller measures times beside each other, or drops it.
        executor: what does the work, where nothing is shared.
    """
    verify = options.run.verify and not options.run.dry_run
    if options.decided_by == "samples" or verify or (options.budget.of == LATENCY and not options.device.profile):
        runtime.require()
    clock, shared = Clock(progress), shared or Shared(executor=executor)
    with clock.step("normalise"):
        dense = load_normal(source)
    closed = isinstance(source, Normal) and source.closed
    if options.decided_by != "best":
        return _checked(dense, options, clock, shared, asked=asked, final=final, closed=closed)
    untouched = dense.clone()
    try:
        return _checked(dense, options, clock, shared, asked=asked, final=final, closed=closed)
    except VerificationError as failure:
        by_weights = replace(shared, failed=f"the repair was dropped, since {failure}")
        return _checked(untouched, options, clock, by_weights, asked=asked, final=final, closed=closed)


def _checked(
    dense: ir.Model,
    options: PruneOptions,
    clock: Clock,
    shared: Shared,
    *,
    asked: Mapping[str, Any] | None,
    final: bool,
    closed: bool,
) -> PruneResult:
    """Make a normalised model smaller, and check the result.

    Raises:
        VerificationError: it failed; names the group at fault.
    """
    verify, inputs = options.run.verify and not options.run.dry_run, options.run.inputs
    said = written(dense)
    keeper = None
    if options.budget.of == LATENCY:
        keeper = _timekeeper(dense, options, clock, shared, asked=asked is None)
    solved = options if keeper is None else keeper.solved
    made = make(dense, solved, clock, closed=closed, shared=shared)
    model, reference, report, base = made.model, made.reference, made.report, made.base
    report.seconds = clock.seconds
    plan = replace(made.plan, options=asked or options.asked(), resized=report.resized)
    refitted = bool(plan.repair)
    if refitted:  # what is cut is what the repair made of the dense model
        from spa.written import foretell, seal

        plan = seal(plan, base, reference, model)
        report.reference = report.reference.replace("the dense model", "the refitted model", 1)
    if options.run.dry_run:
        whole = dense if refitted else reference
        report.latency = None if keeper is None else keeper.report(plan, None)
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
        from spa.passes.repair.foretelling import perplexity

        with clock.step("perplexity"):
            report.perplexity = perplexity(dense if refitted else reference, model, made.held_out)
    annotate(model, said)
    stamp(model, plan)
    if refitted and options.repair.own_samples:  # which nobody has to train on
        from spa.passes.samples.seen import KEY

        model.metadata_props.pop(KEY, None)
    if keeper is not None and final:
        with clock.step("time"):
            report.latency = keeper.report(plan, model)
    return PruneResult(model, plan, report, dense if refitted else reference, reference)


def _timekeeper(
    dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared | None, *, asked: bool
) -> Timekeeper:
    """What a budget of time is met by, if one was `asked` for; the device is timed once for all ratios."""
    from spa.latency import Timekeeper, profiled

    if shared is not None and options.device.profile is None:
        with clock.step("profile"):
            profile = shared.once("profile", lambda: profiled(Normal(dense.clone()), options, clock.share).profile)
        options = replace(options, device=replace(options.device, profile=profile))
    return Timekeeper(dense, options, clock, asked=asked)


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

    Args:
        source: as `prune` takes it; never changed.
        plan: of this model; `Plan.from_json` reads one.
        inputs: shapes by input name, where open axes are not enough.
        feeds: values by input name, which outputs are compared on; what is left out is made up.
        verify: check the result.

    Raises:
        ModelError: the source is no valid model, or the plan was made for another.
        UsageError: a feed does not fit its input.
        VerificationError: the result failed its checks; names the group at fault.
        MissingExtra: it is to be checked, and onnxruntime is not installed.
    """
    if verify:
        runtime.require()
    dense = normal = load_normal(source)
    if plan.opened:
        from spa.packing import Packing
        from spa.passes.repair.packed import opened

        dense = opened(normal)
    analysis = analyse(dense, inputs=inputs)
    report = report_on(analysis, plan)
    if plan.repair:
        report.notes.append(f"this plan was made with repair ({plan.repair}); applied to the dense model it only cuts")
    reference, said = dense.clone(), written(dense)
    packing = Packing.of(analysis, plan) if plan.opened else None
    cut(analysis, plan)
    if packing is not None:
        packing.round(dense, reference)
    annotate(dense, said)
    stamp(dense, plan)
    if verify:
        verify_plan(reference, dense, plan, report, inputs=inputs, feeds=feeds)
    if packing is not None:
        report.before = {**report.before, "bytes": stored_bytes(normal)}
        packing.close(dense, report)
    return PruneResult(dense, plan, report, normal if plan.opened else reference, reference)
