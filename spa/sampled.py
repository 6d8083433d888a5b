"""Decide by samples which units go: the caller's, or the tool's own where these do better than weights alone.

Loaded by `spa.making` where samples decide: nothing else of a prune needs the rooms of a repair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from spa import verdict
from spa.clock import Clock
from spa.decision import Decision, by_weights, hint_at_inputs
from spa.errors import BudgetError, DataError, ModelError, NothingToPrune, UsageError, VerificationError
from spa.given import calibration
from spa.gradients.spending import Spend
from spa.options import InputShapes, PruneOptions
from spa.owned import inverted, own_recipe, samples_of
from spa.packing import Packing
from spa.passes.choose.budget import LATENCY
from spa.passes.repair import own
from spa.passes.repair.compensate import compensated
from spa.passes.repair.groundwork import Groundwork
from spa.passes.repair.journal import Journal, key_of
from spa.passes.repair.kinds import column_axes
from spa.passes.repair.packed import opened
from spa.passes.repair.search import Limit
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.datafree import Recipe
from spa.passes.samples.effort import effort, thinned
from spa.passes.samples.topping import top_up
from spa.passes.samples.values import MADE_UP, SHIPPED, carry_over
from spa.presets import OURS, PRESETS, Preset
from spa.shapes import infer_shapes
from spa.shapes.sizes import count_sizes
from spa.shared import Shared
from spa.steps import analyse, boundary_of, cut, report_on


def decide(dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared, *, closed: bool) -> Decision:
    """What goes by the samples that were given, else by the better of the tool's own and weights alone."""
    if not options.repair.own_samples:
        with clock.step("samples"):
            labels = options.learning.labels
            samples = shared.once("samples", lambda: calibration(options.repair, dense, labels=labels))
        return _by_given_samples(dense, samples, options, clock, shared, closed=closed)
    try:
        return _by_own_samples(dense, options, clock, shared, closed=closed)
    except (NothingToPrune, BudgetError, DataError, ModelError, VerificationError, own.WeightsDoBetter) as reason:
        try:
            return by_weights(dense, options, clock, shared, why=str(reason))
        except NothingToPrune:
            if isinstance(reason, DataError):  # the model runs on nothing so far: that may be why
                raise reason from None
            raise


def _by_given_samples(
    dense: ir.Model, samples: Calibration, options: PruneOptions, clock: Clock, shared: Shared, *, closed: bool
) -> Decision:
    """What goes by the caller's samples: few are topped up with those of the tool, where held-out ones gain by it."""
    alone = _by_samples(dense, samples, options, clock, shared, closed=closed)
    with clock.step("samples"):
        ours = options.repair.method == OURS
        beside = shared.once("beside", lambda: top_up(dense, samples, options.run.inputs)) if ours else None
    if beside is None:
        return alone
    topped_up = replace(samples, beside=beside)
    together = _by_samples(dense, topped_up, options, clock, shared, closed=closed, name="groundwork, topped up")
    before, after = (own.mean_loss(decision.report.outputs) for decision in (alone, together))
    if not after < own.TOPPED_UP * before:
        return alone
    together.report.notes.append(
        f"{len(samples)} samples are few: {len(beside)} of our own were fitted besides, by which those held out lose "
        f"{after / before:.2f} of what they lost without"
    )
    return together


def _by_own_samples(dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared, *, closed: bool) -> Decision:
    """What goes by samples of the tool's own.

    Raises:
        NothingToPrune, BudgetError, DataError, ModelError, VerificationError: there are none, or no repair by them.
        WeightsDoBetter: nobody asked for them, and they gain little, or take long.
    """
    asked = options.decided_by == "samples"
    with clock.step("samples"):
        kinds = MADE_UP if options.repair.data_free else SHIPPED
        recipe, samples, seconds, preset = shared.once("own samples", lambda: _own_samples(dense, options, clock))
    if seconds > own.PATIENCE and not asked:
        raise own.WeightsDoBetter(f"a repair would take about {own.in_words(seconds)}, and --data builtin asks for it")
    if seconds > own.AT_ONCE and "groundwork" not in shared.known:
        clock.say(f"a repair takes about {own.in_words(seconds)}; --weights cuts at once")
    analysis, plan, report, base, packing, _ = _by_samples(
        dense, samples, options, clock, shared, closed=closed, settings=preset
    )
    if not asked:
        with clock.step("compare"):
            weighed, other, told, *_ = by_weights(dense.clone(), options.apart(), Clock(None), shared)
            boundary = boundary_of(weighed, other)
            cut(weighed, other)
            axes, known = column_axes(recipe.coupling), {str(value.name): value for value in recipe.coupling.axes}
            names = [name for name in report.outputs if name not in {**report.resized, **told.resized}]
            columns = {name: axes(known[name]) if name in known else None for name in names}
            own.check_gain(
                dense, analysis.model, weighed.model, columns, recipe.others_apart(own.OTHERS), boundary,
                carried_over=carry_over(recipe.inputs),
            )  # fmt: skip
    if kinds == SHIPPED and recipe.shown:
        report.outputs_on = verdict.SHIPPED
    said = recipe.said(kinds)
    rest = [note for note in report.notes if note != said]
    report.notes = [f"repaired with samples of our own ({said}); {own.ALTERNATIVES}", *rest]
    return Decision(analysis, plan, report, base, packing, samples.held_out)


def _own_samples(dense: ir.Model, options: PruneOptions, clock: Clock) -> tuple[Recipe, Calibration, float, Preset]:
    """How samples are made up, as many as do, the seconds that a repair with them takes, and its settings.

    Where nobody asked for a repair, fewer samples and probes keep it within `own.TARGET`, and a language model writes
    texts once it is known that it will be repaired.
    """
    preset, asked = PRESETS[options.repair.preset], options.decided_by == "samples"
    recipe = own_recipe(dense, options)
    samples = samples_of(recipe, options, clock, drafted=not asked)
    known = partial(effort, recipe, widest=preset.widest, probes=preset.probes)
    if not asked:
        usual = known(samples, probe_flops=preset.probe_flops, nominal=True)
        count, share = thinned(usual, len(samples), own.TARGET)
        samples, preset = samples.beginning_of(count), replace(preset, probe_flops=share * preset.probe_flops)
    seconds = sum(known(samples, probe_flops=preset.probe_flops).values())
    if asked or seconds <= own.PATIENCE:  # else weights decide
        if not asked and recipe.writer is not None:
            samples = samples_of(recipe, options, clock).beginning_of(len(samples))
        samples = inverted(recipe, samples, clock, hurried=not asked)
    return recipe, samples, seconds, preset


def _by_samples(
    dense: ir.Model,
    samples: Calibration,
    options: PruneOptions,
    clock: Clock,
    shared: Shared,
    *,
    closed: bool,
    settings: Preset | None = None,
    name: str = "groundwork",
) -> Decision:
    """What goes by what its readers lose on samples; the model analysed has the refitted weights.

    Args:
        settings: other than those of the preset that the options name.
        name: of what is found out once for all ratios.
    """
    inputs, preset, method = options.run.inputs, options.repair.preset, options.repair.method
    made_up = options.repair.own_samples
    with hint_at_inputs(dense, inputs):
        counted = inputs if made_up else _sampled(dense, samples, inputs)
        base = opened(dense)
        given: dict[str, Any] = {
            "preset": settings or preset, "method": method, "closed": closed,
            "made_up": made_up and not samples.inverted, "counted": counted,
            "inputs": _apart(dense, samples, inputs), "ratios": shared.ratios, "progress": clock.share,
            "executor": shared.executor, "memory": options.run.memory,
        }  # fmt: skip
        journal = _journal(base, samples, options, clock, shared, given, name)
        groundwork = shared.once(name, lambda: Groundwork.of(base, samples, options.budget, journal=journal, **given))
        search = _limit(options.repair.search)
        compensation = compensated(
            groundwork, options.budget, goal=options.device.goal, search=search, progress=clock.share
        )
    clock.seconds |= compensation.seconds
    with clock.step("couple"):
        analysis = analyse(compensation.model, inputs=inputs, counted=counted)
    repair = f"{method}, {preset}, {len(samples)} samples"
    plan = replace(compensation.plan, repair=repair, opened=base is not dense)
    report = report_on(analysis, plan)
    report.before, report.layers, report.curves = compensation.before, compensation.layers, compensation.curves
    report.outputs = {name: moved for name, moved in compensation.difference.items() if name not in report.resized}
    judged = verdict.FITTED if len(samples) == 1 else verdict.HELD_OUT
    report.outputs_on = verdict.MADE_UP if made_up else judged
    report.notes += [*samples.notes, *compensation.notes]
    return Decision(analysis, plan, report, base, Packing.of(analysis, plan, samples), samples.held_out)


def _limit(search: str | None) -> Limit | None:
    """How long a search goes on, from a text such as 5m or 200r."""
    if search is None:
        return None
    spend = Spend.of(search)
    return Limit(plans=int(spend.amount)) if spend.seconds is None else Limit(seconds=spend.seconds)


def _journal(
    model: ir.Model,
    samples: Calibration,
    options: PruneOptions,
    clock: Clock,
    shared: Shared,
    given: Mapping[str, Any],
    name: str,
) -> Journal | None:
    """What keeps what is found, where one repair was asked for: not of several ratios, steps or plans, or a time."""
    folder, several = options.run.checkpoint, shared.ratios or options.learning.steps > 1 or options.repair.search
    if folder is None or several or options.budget.of == LATENCY or options.run.dry_run or name in shared.known:
        return None
    said = {key: value for key, value in given.items() if key not in ("progress", "executor", "memory")}
    key = partial(key_of, model, samples, (options.budget, sorted(said.items())))
    return Journal(Path(folder) / name.replace(", ", "-").replace(" ", "-"), key, clock.say)


def _sampled(model: ir.Model, samples: Calibration, inputs: InputShapes | None) -> InputShapes | None:
    """Shapes to count with: those that a caller gives, else those of one sample."""
    if inputs:
        return inputs
    ranked = (str(value.name) for value in model.graph.inputs if not value.is_initializer() and value.shape is not None)
    shapes = {name: samples.sizes(name, 1) for name in ranked}
    try:
        count_sizes(model, infer_shapes(model), inputs=shapes)
    except UsageError:  # one name for axes that differ: onnxruntime takes them
        return None
    return shapes


def _apart(model: ir.Model, samples: Calibration, inputs: InputShapes | None) -> dict[str, list[int]] | None:
    """Shapes to analyse with: an open axis of size one could not be told from none, and samples have another size."""
    if inputs is None:
        return None
    shapes = {name: list(shape) for name, shape in inputs.items()}
    for value in model.graph.inputs:
        sizes, shape = shapes.get(str(value.name)), value.shape
        if not sizes or shape is None or len(sizes) != len(shape) or value.is_initializer():
            continue
        runs_with = samples.sizes(str(value.name), 2)
        for axis, declared in enumerate(shape):
            if sizes[axis] == 1 and not isinstance(declared, int):
                sizes[axis] = runs_with[axis]
    return shapes
