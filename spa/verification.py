"""Check a pruned model in memory against the dense model and the plan; `spa.written` checks files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from spa.analysis.plan import Plan
from spa.errors import VerificationError
from spa.feeds import Feeds
from spa.mapped import release
from spa.options import InputShapes
from spa.passes.cut.boundary import Boundary
from spa.passes.cut.graphs import reached
from spa.passes.cut.masking import mask_consumers
from spa.passes.cut.rounding import RANGE_TOLERANCE, tolerances
from spa.passes.cut.structure import check_structure
from spa.passes.cut.trials import Inputs
from spa.passes.cut.verify import DOES_NOT_LOAD, Comparison, compare, find_culprit, run_both
from spa.report import NOT_COMPARED, VERIFIED, Report
from spa.shapes import infer_shapes
from spa.steps import analyse, boundary_of, cut
from spa.verdict import GIVEN, RANDOM

_MOST_GIVEN = 6
"""Of a model's inputs, so many are named in an advice."""


def verify_plan(
    dense: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    report: Report,
    *,
    inputs: InputShapes | None = None,
    feeds: Feeds | None = None,
    exact: bool | None = None,
    masked: bool = True,
) -> Comparison:
    """All checks of a pruned model against the normalised dense one; fills the report.

    Args:
        inputs, feeds: shapes and values to run with, by input name; what is left out is made up.
        exact: whether no more than rounding may separate the two; by default where the theorem covers the plan.
        masked: whether the removed units are read as zero in the dense model; else it is compared as it is.

    Raises:
        UsageError: a feed does not fit its input.
        VerificationError: with the group at fault, found by halving the plan.
    """
    check = Check(dense, inputs, feeds, report.exact if exact is None else exact, masked)
    try:
        comparison = check.run(pruned, plan)
    except VerificationError as error:
        raise VerificationError(f"{error}; {_culprit(check, plan)}") from error
    report.notes += comparison.notes
    report.difference, report.channel_difference = comparison.difference, comparison.channel
    if comparison.missing:
        report.status, report.missing = NOT_COMPARED, list(comparison.missing)
        loads = not any(reason.startswith(DOES_NOT_LOAD) for reason in comparison.missing)
        report.give = _give(dense, feeds or {}) if loads else []
    else:
        report.status = VERIFIED
    if not report.outputs and not comparison.missing:
        report.outputs, report.outputs_on = _moved(dense, pruned, inputs, feeds, check.boundary(plan))
    return comparison


def _moved(
    dense: ir.Model, pruned: ir.Model, inputs: InputShapes | None, feeds: Feeds | None, boundary: Boundary
) -> tuple[dict[str, dict[str, float]], str]:
    """How far the outputs are from those of the dense model itself, and on what."""
    from spa.passes.repair.moved import moved, traits_of  # nothing else of a plain cut needs that room

    shapes = infer_shapes(dense, inputs=inputs)
    try:
        trials = Inputs.of(dense.graph, shapes, inputs, feeds)
        ran = run_both(dense, pruned, inputs=trials, boundary=boundary)
    except VerificationError:  # units read as zero ran, all of them do not
        return {}, RANDOM
    release(dense)
    if isinstance(ran, str):
        return {}, RANDOM
    expected = [trial.outputs for trial in ran[0]]
    return moved(expected, ran[1], traits=traits_of(dense, shapes)), GIVEN if ran[0][0].fixed else RANDOM


@dataclass(frozen=True, slots=True)
class Check:
    """What every check of a pruned model against one dense model shares; arguments as for `verify_plan`."""

    dense: ir.Model
    inputs: InputShapes | None
    feeds: Feeds | None
    exact: bool
    masked: bool = True

    def boundary(self, plan: Plan) -> Boundary:
        """What the plan leaves of the inputs and outputs."""
        return boundary_of(analyse(self.dense.clone(), inputs=self.inputs), plan)

    def run(self, pruned: ir.Model, plan: Plan) -> Comparison:
        """Compare structure and outputs.

        Raises:
            VerificationError: they are not what the plan says.
        """
        masked = self.dense.clone()
        analysis = analyse(masked, inputs=self.inputs)
        boundary = boundary_of(analysis, plan)
        notes = check_structure(self.dense, pruned, boundary)
        trials = Inputs.of(masked.graph, analysis.shapes, self.inputs, self.feeds)
        ranged = any(group.ranged and group.name in plan.removed for group in analysis.groups)
        limits = tolerances(masked, analysis.shapes.dtypes, least=RANGE_TOLERANCE if ranged else 0.0)
        if self.masked:
            mask_consumers(masked, analysis.coupling, plan.masks(analysis.groups), dtypes=analysis.shapes.dtypes)
        release(self.dense)
        watched = reached(pruned, _cut_names(self.dense, pruned))
        comparison = compare(
            masked, pruned, inputs=trials, limits=limits, watched=watched or None, exact=self.exact, boundary=boundary
        )
        if self.exact and not comparison.agrees:
            raise VerificationError(
                f"the pruned model differs from the masked dense model by {comparison.channel:.1e} of its own size in "
                f"{comparison.place}, more than {comparison.limit:.0e}"
            )
        return replace(comparison, notes=(*notes, *comparison.notes))


def _cut_names(dense: ir.Model, pruned: ir.Model) -> set[str]:
    """Stored tensors that became smaller."""
    shapes = {name: value.const_value.shape for name, value in dense.graph.initializers.items() if value.const_value}
    return {
        name
        for name, value in pruned.graph.initializers.items()
        if value.const_value is not None and name in shapes and value.const_value.shape != shapes[name]
    }


def _give(model: ir.Model, feeds: Feeds) -> list[str]:
    """The options with which the outputs may be compared."""
    values = [value for value in model.graph.inputs if not value.is_initializer() and value.name not in feeds]
    open_ = [value for value in values if value.shape is None or not value.shape.is_static()]
    return [
        *(f"--input {value.name}=SIZES" for value in open_[:_MOST_GIVEN]),
        *(f"--feed {value.name}=VALUES" for value in values[:_MOST_GIVEN]),
    ]


def _culprit(check: Check, plan: Plan) -> str:
    def fails(names: Sequence[str]) -> bool:
        part = Plan({n: plan.removed[n] for n in names}, {n: plan.sizes[n] for n in names})
        pruned = check.dense.clone()
        cut(analyse(pruned, inputs=check.inputs), part)
        try:
            check.run(pruned, part)
        except VerificationError:
            return True
        return False

    names = list(plan.removed)
    if not fails(names):
        return "what the plan makes of the dense model does pass: the pruned model is another one, or was changed since"
    names = find_culprit(names, fails)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"at fault: {', '.join(map(repr, names[:3]))}{more}; leave it out with exclude, and please report the model"
