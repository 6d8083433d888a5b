"""Make a model smaller: in one cut, by weights or by samples, or in several with training between.

Only what is asked for is loaded: a cut by weights alone needs no room of a repair, of training or of made-up samples.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.plan import Plan
from spa.clock import Clock
from spa.decision import Decision, Made, by_weights
from spa.errors import DataError, ModelError
from spa.options import PruneOptions
from spa.passes.choose.importance import random
from spa.repair import RepairOptions
from spa.shared import Shared
from spa.steps import analyse, cut, report_on


def make(dense: ir.Model, options: PruneOptions, clock: Clock, *, closed: bool, shared: Shared) -> Made:
    """Prune in as many steps as were asked for, and train between and after them.

    Args:
        shared: with other ratios, where there is one step; of several steps, what does the work.

    Raises:
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
    """
    options = controlled(options)
    if options.learning.steps == 1 and options.learning.finetune is None:
        untouched = dense.clone()
        return _compared(untouched, once(dense, options, clock, shared, closed=closed), options, clock, shared)
    from spa.gradual import Gradual

    def step(model: ir.Model, options: PruneOptions, clock: Clock) -> Made:
        return once(model, options, clock, Shared(executor=shared.executor, failed=shared.failed), closed=closed)

    return _compared(dense, Gradual(dense, options, clock, step).run(), options, clock, shared)


def _compared(dense: ir.Model, made: Made, options: PruneOptions, clock: Clock, shared: Shared) -> Made:
    """What was cut by gradients, with how far its outputs moved on the samples that scored it.

    What was trained has been compared; what onnxruntime does not run is not.
    """
    done = options.learning.finetune is not None or options.run.dry_run
    if options.decided_by != "gradients" or done or not runtime.available():
        return made
    from spa import learning

    samples = learning.scoring_samples(dense, options, clock, shared)
    if samples is None:
        return made
    with clock.step("compare"), suppress(ModelError, DataError):
        figures = learning.distance(dense, made.model, options, samples, trained=False)
        made.report.outputs, made.report.outputs_on = figures
    return replace(made, held_out=samples.calibration.held_out)


def once(dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared, *, closed: bool) -> Made:
    """Decide what goes, and cut it."""
    untouched = dense.clone()
    analysis, plan, report, base, packing, held_out = _decide(dense, options, clock, shared, closed=closed)
    if options.learning.control == "shuffled":
        notes = [*report.notes, "control: units drawn at random, as many of each group as were chosen"]
        analysis, base = analyse(untouched, inputs=options.run.inputs), untouched.clone()
        plan, packing, held_out = shuffled(plan, options.learning.seed), None, None
        report = report_on(analysis, plan)
        report.notes = notes
    reference = analysis.model.clone()  # the analysed model itself is cut: clones share weights, at no cost in memory
    if options.run.dry_run and not plan.repair:
        return Made(reference, reference, plan, report, base, None, held_out)
    with clock.step("slice"):
        cut(analysis, plan)
    if packing is not None and not options.run.dry_run:
        with clock.step("round"):
            packing.round(analysis.model, reference)
    return Made(analysis.model, reference, plan, report, base, packing, held_out)


def _decide(dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared, *, closed: bool) -> Decision:
    """What goes, by what was asked for.

    Args:
        shared: with other ratios.
    """
    if options.budget.protect is None:
        return _decided(dense, options, clock, shared, closed=closed)
    from spa.attending import protected

    with clock.step("protect"):
        options, said = protected(dense, options, shared)
    decision = _decided(dense, options, clock, shared, closed=closed)
    decision.report.notes.append(said)
    return decision


def _decided(dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared, *, closed: bool) -> Decision:
    if options.decided_by == "weights":
        return by_weights(dense, options, clock, shared)
    if options.decided_by == "gradients":
        from spa.learning import criterion_by_gradients

        return by_weights(
            dense, options, clock, shared, learn=partial(criterion_by_gradients, dense, options, clock, shared)
        )
    if shared.failed:
        return by_weights(dense, options, clock, shared, why=shared.failed)
    if options.repair.own_samples and not runtime.available():
        return by_weights(dense, options, clock, shared, why="onnxruntime is not installed, and a repair needs it")
    from spa import sampled

    return sampled.decide(dense, options, clock, shared, closed=closed)


def controlled(options: PruneOptions) -> PruneOptions:
    """The options of a control: the same share of every group, or units drawn at random and nothing repaired."""
    control = options.learning.control
    if control == "uniform":
        return replace(options, budget=replace(options.budget, scope="local"))
    if control == "random":
        trains = options.learning.finetune is not None
        criterion, read = random(options.learning.seed), options.repair
        repair = RepairOptions(criterion=criterion)
        if trains:
            repair = replace(read, criterion=criterion, weights=False, preset=repair.preset, search=None)
        kept = options.learning if trains else replace(options.learning, labels=None, loss=None, oracle_budget="5m")
        run = replace(options.run, checkpoint=None)  # of a repair, which the command line keeps
        return replace(options, repair=repair, learning=kept, run=run)
    return options


def shuffled(plan: Plan, seed: int) -> Plan:
    """As many units of each group, drawn at random; of a repair nothing is left."""
    drawing = np.random.default_rng(seed)
    removed = {
        name: tuple(sorted(map(int, drawing.choice(plan.sizes[name], len(units), replace=False))))
        for name, units in plan.removed.items()
    }
    return Plan(removed, plan.sizes, align=plan.align)
