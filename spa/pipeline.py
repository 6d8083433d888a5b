"""`prune` and its steps: load, normalise, couple, group, score, select, slice, verify."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import onnx
import onnx_ir as ir

from spa import runtime, verdict
from spa.analysis.group import find_frozen
from spa.analysis.plan import Plan
from spa.errors import BudgetError, DataError, ModelError, NothingToPrune, UsageError, VerificationError
from spa.feeds import Feeds
from spa.fields import takes_options
from spa.frontends.files import onnx_file
from spa.options import PARTS, InputShapes, PruneOptions
from spa.passes.choose.allocation import weighed
from spa.passes.choose.first import first_widths
from spa.passes.choose.importance import score_groups
from spa.passes.choose.selection import select
from spa.passes.repair import own
from spa.passes.repair.compensate import compensate
from spa.passes.repair.settings import PRESETS
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.datafree import MOST_SAMPLES, Recipe
from spa.passes.samples.effort import expected_seconds
from spa.passes.samples.values import MADE_UP, SHIPPED
from spa.provenance import stamp
from spa.repair import METHODS, calibration
from spa.report import Report
from spa.shapes import infer_shapes
from spa.shapes.sizes import count_sizes
from spa.steps import Analysis, Normal, Source, analyse, cut, is_exact, load_normal, report_on
from spa.verification import foretell, seal, verify_files, verify_plan

__all__ = [
    "Analysis", "InputShapes", "Normal", "Progress", "PruneResult", "Source", "analyse", "apply_plan", "cut",
    "is_exact", "load_normal", "prune", "report_on", "verify_files", "verify_plan",
]  # fmt: skip


Chosen = tuple[Analysis, Plan, Report]

NOTE = "note: "


class Progress(Protocol):
    """Told of each step before it, and on the way of the share (0..1) of it that is done.

    What begins with `NOTE` is no step, but a line for the user.
    """

    def __call__(self, step: str, share: float | None = None, /) -> None: ...


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
    verify, inputs = options.run.verify and not options.run.dry_run, options.run.inputs
    if options.decided_by == "samples" or verify:
        runtime.require()
    clock = _Clock(progress)
    with clock.step("normalise"):
        dense = load_normal(source)
    closed = isinstance(source, Normal) and source.closed
    analysis, plan, report = _decided(dense, options, clock, closed=closed)
    report.seconds = clock.seconds
    plan = replace(plan, options=options.asked())
    reference = analysis.model.clone()  # the analysed model itself is cut: clones share weights, at no cost in memory
    refitted = bool(plan.repair)
    if options.run.dry_run and not refitted:
        return PruneResult(dense, plan, report, dense, reference)
    with clock.step("slice"):
        cut(analysis, plan)
    plan = seal(plan, dense, reference, analysis.model) if refitted else plan
    if options.run.dry_run:
        return PruneResult(dense, plan, report, dense, reference)
    if verify:
        with clock.step("verify"):
            verify_plan(reference, analysis.model, plan, report, inputs=inputs, feeds=options.run.feeds)
            if refitted:
                plan = foretell(plan, dense, analysis.model, inputs=inputs, feeds=options.run.feeds)
    stamp(analysis.model, plan)
    return PruneResult(analysis.model, plan, report, dense if refitted else reference, reference)


def _decided(dense: ir.Model, options: PruneOptions, clock: _Clock, *, closed: bool) -> Chosen:
    """What goes: by what was asked for, else by the better of our samples and weights alone."""
    if options.decided_by == "weights":
        return _by_weights(dense, options, clock)
    if not options.repair.own_samples:
        with clock.step("samples"):
            samples = calibration(options.repair, dense)
        return _by_samples(dense, samples, options, clock, closed=closed)
    if not runtime.available():
        return _by_weights(dense, options, clock, why="onnxruntime is not installed, and a repair needs it")
    try:
        return _by_own_samples(dense, options, clock, closed=closed)
    except (NothingToPrune, BudgetError, DataError, ModelError, VerificationError, own.WeightsDoBetter) as reason:
        try:
            return _by_weights(dense, options, clock, why=str(reason))
        except NothingToPrune:
            if isinstance(reason, DataError):  # the model runs on nothing so far: that may be why
                raise reason from None
            raise


def _by_own_samples(dense: ir.Model, options: PruneOptions, clock: _Clock, *, closed: bool) -> Chosen:
    """What goes by samples of the tool's own.

    Raises:
        NothingToPrune, BudgetError, DataError, ModelError, VerificationError: there are none, or no repair by them.
        WeightsDoBetter: nobody asked for them, and they gain little, or take long.
    """
    preset, asked = PRESETS[options.repair.preset], options.decided_by == "samples"
    with clock.step("samples"):
        recipe = Recipe.of(dense, inputs=options.run.inputs, bounds=options.repair.input_ranges)
        kinds = MADE_UP if options.repair.data_free else SHIPPED
        most = min(preset.samples or MOST_SAMPLES, MOST_SAMPLES)
        samples = recipe.samples(kinds, most=most, widest=preset.widest, progress=clock.share)
        seconds = expected_seconds(
            recipe, samples, widest=preset.widest, probes=preset.probes, probe_flops=preset.probe_flops
        )
    if seconds > own.PATIENCE and not asked:
        raise own.WeightsDoBetter(f"a repair would take about {own.in_words(seconds)}, and --data builtin asks for it")
    if seconds > own.AT_ONCE:
        clock.say(f"a repair takes about {own.in_words(seconds)}; --weights cuts at once")
    analysis, plan, report = _by_samples(dense, samples, options, clock, closed=closed)
    if not asked:
        with clock.step("compare"):
            weighed, other, _ = _by_weights(dense.clone(), options, _Clock(None))
            cut(weighed, other)
            names, others = list(report.outputs), recipe.others(own.OTHERS)
            own.check_gain(dense, analysis.model, weighed.model, names, others)
    said = recipe.said(kinds)
    rest = [note for note in report.notes if note != said]
    report.notes = [f"repaired with samples of our own ({said}); {own.ALTERNATIVES}", *rest]
    return analysis, plan, report


def _by_weights(dense: ir.Model, options: PruneOptions, clock: _Clock, *, why: str = "") -> Chosen:
    """What goes by the size of weights; nothing else changes.

    Args:
        why: they decide although nobody asked for it.
    """
    notes = [f"weights alone decided: {why}; --data SAMPLES repairs"] if why else []
    inputs = options.run.inputs
    with clock.step("couple"):
        analysis = analyse(dense, inputs=inputs)
    with clock.step("score"):
        criterion = None if options.repair.criterion in METHODS else options.repair.criterion
        scores = score_groups(analysis.groups, criterion, options.scoring, notes=notes)
    with clock.step("select"), _hint_at_inputs(dense, inputs):
        frozen = find_frozen(analysis.coupling)
        scores = weighed(scores, analysis.groups, analysis.cost, options.budget.of)
        first = first_widths(dense)
        selection = select(analysis.groups, scores, analysis.cost, options.budget, first=first, frozen=frozen)
    report = report_on(analysis, selection.plan)
    report.notes += [*notes, *selection.limits]
    return analysis, selection.plan, report


def _by_samples(dense: ir.Model, samples: Calibration, options: PruneOptions, clock: _Clock, *, closed: bool) -> Chosen:
    """What goes by what its readers lose on samples; the model analysed has the refitted weights."""
    inputs, preset, method = options.run.inputs, options.repair.preset, options.repair.method
    made_up = options.repair.own_samples
    with _hint_at_inputs(dense, inputs):
        counted = inputs if made_up else _sampled(dense, samples, inputs)
        found = compensate(
            dense, samples, options.budget, preset=preset, method=method, made_up=made_up,
            inputs=_apart(dense, samples, inputs), counted=counted, closed=closed, progress=clock.share,
        )  # fmt: skip
    clock.seconds |= found.seconds
    with clock.step("couple"):
        analysis = analyse(found.model, inputs=inputs, counted=counted)
    plan = replace(found.plan, repair=f"{method}, {preset}, {len(samples)} samples")
    report = report_on(analysis, plan)
    report.before, report.layers, report.outputs = found.before, found.layers, found.difference
    report.outputs_on = verdict.MADE_UP if made_up else verdict.HELD_OUT
    report.notes += [*samples.notes, *found.notes]
    return analysis, plan, report


def _sampled(model: ir.Model, samples: Calibration, inputs: InputShapes | None) -> InputShapes | None:
    """Shapes to count with: those that a caller gives, else those of one sample."""
    if inputs:
        return inputs
    ranked = (str(value.name) for value in model.graph.inputs if not value.is_initializer() and value.shape is not None)
    found = {name: samples.sizes(name, 1) for name in ranked}
    try:
        count_sizes(model, infer_shapes(model), inputs=found)
    except UsageError:  # one name for axes that differ: onnxruntime takes them
        return None
    return found


def _apart(model: ir.Model, samples: Calibration, inputs: InputShapes | None) -> dict[str, list[int]] | None:
    """Shapes to analyse with: an open axis of size one could not be told from none, and samples have another size."""
    if inputs is None:
        return None
    found = {name: list(shape) for name, shape in inputs.items()}
    for value in model.graph.inputs:
        sizes, shape = found.get(str(value.name)), value.shape
        if not sizes or shape is None or len(sizes) != len(shape) or value.is_initializer():
            continue
        runs_with = samples.sizes(str(value.name), 2)
        for axis, declared in enumerate(shape):
            if sizes[axis] == 1 and not isinstance(declared, int):
                sizes[axis] = runs_with[axis]
    return found


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
    dense = load_normal(source)
    analysis = analyse(dense, inputs=inputs)
    report = report_on(analysis, plan)
    if plan.repair:
        report.notes.append(f"this plan was made with repair ({plan.repair}); applied to the dense model it only cuts")
    reference = dense.clone()
    cut(analysis, plan)
    stamp(dense, plan)
    if verify:
        verify_plan(reference, dense, plan, report, inputs=inputs, feeds=feeds)
    return PruneResult(dense, plan, report, reference, reference)


@contextmanager
def _hint_at_inputs(model: ir.Model, inputs: InputShapes | None) -> Iterator[None]:
    """Where nothing can go, it may be that the graph takes certain sizes only and was analysed with others."""
    try:
        yield
    except NothingToPrune as error:
        open_ = [
            str(value.name)
            for value in model.graph.inputs
            if not value.is_initializer() and (value.shape is None or not value.shape.is_static())
        ]
        if inputs or not open_:
            raise
        raise NothingToPrune(
            f"{error}; if the model takes certain sizes only, give the shape of {', '.join(map(repr, open_[:3]))} "
            f"with inputs, on the command line --input"
        ) from error


class _Clock:
    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if self.progress is not None:
            self.progress(name, None)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def say(self, text: str) -> None:
        """Tell the user something before the work goes on."""
        if self.progress is not None:
            self.progress(f"{NOTE}{text}", None)

    def share(self, name: str, share: float) -> None:
        """Say how much of a step is done."""
        if self.progress is not None:
            self.progress(name, share)
