"""Decide by weights alone which units go; `spa.sampled` decides by samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx_ir as ir

from spa.analysis.group import find_frozen
from spa.analysis.plan import Plan
from spa.clock import Clock
from spa.errors import ModelError, NothingToPrune
from spa.options import InputShapes, PruneOptions
from spa.passes.choose.allocation import weighed
from spa.passes.choose.first import first_widths
from spa.passes.choose.importance import Criterion, score_groups
from spa.passes.choose.importance.trained import trained_for_sparsity
from spa.passes.choose.selection import select
from spa.presets import METHODS
from spa.report import Report
from spa.shapes import infer_shapes, infer_static
from spa.shared import Shared
from spa.steps import Analysis, analyse, report_on

if TYPE_CHECKING:
    from spa.packing import Packing

Learn = Callable[[list[str]], Criterion]
"""A criterion learned from samples; fills a list with what a user should know of it."""


class Decision(NamedTuple):
    """What goes, and what it was decided on.

    Attributes:
        dense: what the plan is for: the dense model, or with its packed weights opened.
        packing: of weights that were opened; None: there are none.
        held_out: (windows, tokens) of text that no choice and no fit has seen; None: there is none.
    """

    analysis: Analysis
    plan: Plan
    report: Report
    dense: ir.Model
    packing: Packing | None = None
    held_out: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A cut model, and what it was cut from; `packing` and `held_out` as those of `Decision`.

    Attributes:
        reference: as large as the dense model, with the weights that the cut one has.
        plan: of the dense model.
        base: what the plan is for: the dense model, or with its packed weights opened.
    """

    model: ir.Model
    reference: ir.Model
    plan: Plan
    report: Report
    base: ir.Model
    packing: Packing | None = None
    held_out: np.ndarray | None = None


def by_weights(
    dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared, *, why: str = "", learn: Learn | None = None
) -> Decision:
    """What goes by the size of weights; nothing else changes.

    Args:
        why: they decide although nobody asked for it.
        learn: the criterion by which weights are scored; None: the one that was named.
    """
    notes = [f"weights alone decided: {why}; --data SAMPLES repairs"] if why else []
    inputs = options.run.inputs
    with clock.step("couple"):
        analysis = analyse(dense, inputs=inputs)
    with clock.step("score"):
        scores, said = shared.once("scores", lambda: _scores(analysis, options, learn))
        notes += said
    with clock.step("select"), hint_at_inputs(dense, inputs):
        frozen = find_frozen(analysis.coupling)
        goal = options.device.goal
        timed = None if goal is None else goal.bound(analysis.groups, analysis.coupling, analysis.cost)
        cost, device = (analysis.cost, None) if timed is None else (timed.cost, timed.device)
        scores = weighed(scores, analysis.groups, cost, options.budget.of)
        first = first_widths(dense)
        limits: list[str] = []

        def choose(ratio: float) -> Plan:
            budget = replace(options.budget, ratio=ratio)
            selection = select(analysis.groups, scores, cost, budget, first=first, frozen=frozen, device=device)
            limits[:] = selection.limits
            return selection.plan

        plan = choose(options.budget.ratio) if timed is None else timed.meet(choose)
    report = report_on(analysis, plan)
    report.notes += [*notes, *limits]
    return Decision(analysis, plan, report, dense)


def _scores(analysis: Analysis, options: PruneOptions, learn: Learn | None) -> tuple[list[np.ndarray], list[str]]:
    """For each group (units,) what a unit is worth, and what a user should know of it."""
    notes: list[str] = []
    criterion = None if options.repair.criterion in METHODS else options.repair.criterion
    if learn is not None:
        criterion = learn(notes)
    elif criterion is None and (said := trained_for_sparsity(analysis.groups)):
        criterion = "bn_scale"
        notes.append(said)
    return score_groups(analysis.groups, criterion, options.scoring, notes=notes), notes


@contextmanager
def hint_at_inputs(model: ir.Model, inputs: InputShapes | None) -> Iterator[None]:
    """Where nothing can go, say which node does not take its operands; it may be that the graph takes certain sizes
    only, and was analysed with others.

    Raises:
        ModelError: a node takes its operands in no sizes.
    """
    try:
        yield
    except NothingToPrune as error:
        if fault := infer_static(model).fault:
            raise ModelError(f"the model is not valid: {fault}; export it again with operands that fit") from error
        open_ = [
            str(value.name)
            for value in model.graph.inputs
            if not value.is_initializer() and (value.shape is None or not value.shape.is_static())
        ]
        fault = infer_shapes(model, inputs=inputs).fault
        if not fault and (inputs or not open_ or error.by_option):
            raise
        why = f"nothing can be removed: {fault}" if fault else str(error)
        advice = (
            f"; if the model takes certain sizes only, give the shape of {', '.join(map(repr, open_[:3]))} "
            "with inputs, on the command line --input"
        )
        raise NothingToPrune(why + advice * bool(open_), by_option=error.by_option) from error
