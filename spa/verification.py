"""Is a pruned model what its plan makes of the dense model: of models in memory, and of files that were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.plan import Plan
from spa.errors import VerificationError
from spa.feeds import Feeds
from spa.frontends.files import onnx_file
from spa.mapped import release
from spa.options import InputShapes
from spa.passes.cut.boundary import Boundary
from spa.passes.cut.graphs import reached
from spa.passes.cut.likeness import check_same, different, digest
from spa.passes.cut.masking import mask_consumers
from spa.passes.cut.rounding import RANGE_TOLERANCE, tolerances
from spa.passes.cut.structure import check_structure
from spa.passes.cut.trials import Inputs
from spa.passes.cut.verify import Comparison, compare, find_culprit, run_both
from spa.passes.repair.biases import drop_zero_biases
from spa.passes.repair.moved import logits_of, moved
from spa.passes.repair.network import prepare
from spa.passes.repair.packed import opened
from spa.passes.samples.perplexity import Perplexity, foretells, log_likelihood
from spa.report import NOT_COMPARED, VERIFIED, Report
from spa.shapes import infer_shapes
from spa.shapes.decoder import Decoder
from spa.steps import Source, analyse, boundary_of, cut, load_normal, report_on
from spa.verdict import GIVEN, RANDOM

_MOST_GIVEN = 6
"""Of a model's inputs, so many are named in an advice."""


def perplexity(dense: ir.Model, pruned: ir.Model, ids: np.ndarray) -> Perplexity | None:
    """How well two language models foretell windows of text, (windows, tokens); None: they foretell no tokens."""
    found = []
    for model in (dense, pruned):
        decoder, run = Decoder.of(model.graph), partial(runtime.run, runtime.session(model, optimize=True))
        if decoder is None or not foretells(run, decoder, ids):
            return None
        found.append(float(np.exp(-log_likelihood(run, decoder, ids))))
    return Perplexity(dense=found[0], pruned=found[1], tokens=ids[:, 1:].size, length=ids.shape[1])


def verify_files(
    dense: Source, pruned: Source, plan: Plan, *, inputs: InputShapes | None = None, feeds: Feeds | None = None
) -> Report:
    """Check a pruned model that was written earlier against its dense model and the plan.

    Its nodes, attributes and stored tensors are compared with what the plan makes of the dense model, and then what
    both models compute. Where the plan was made with repair, refitted weights are told by their digests, which the plan
    holds, and the difference that is reported is the distance from the dense model, which the plan foretells.

    Raises:
        VerificationError: it is not what the plan makes of the dense model.
    """
    before, after = load_normal(dense), onnx_file.load(pruned)
    if plan.opened:
        before, after = opened(before), opened(after)
    analysis = analyse(before, inputs=inputs)
    report = report_on(analysis, plan)
    check_structure(before, after, boundary_of(analysis, plan))
    known = not plan.repair or bool(plan.refitted)
    if known:
        report.notes.append(_same_as_planned(before, after, plan, inputs))
    if not plan.repair:
        verify_plan(before, after, plan, report, inputs=inputs, feeds=feeds)
        return report
    report.reference = f"the dense model, whose weights were refitted ({plan.repair})"
    found = verify_plan(before, after, plan, report, inputs=inputs, feeds=feeds, exact=False, masked=False)
    _check_distance(plan, found, report)
    if not known:
        report.status, report.give = NOT_COMPARED, []
        report.missing = [*report.missing, "this plan holds no digests of the refitted weights: make it anew"]
    return report


def _same_as_planned(dense: ir.Model, pruned: ir.Model, plan: Plan, inputs: InputShapes | None) -> str:
    """What was compared of a pruned model with the dense one, cut by the plan.

    Raises:
        VerificationError: names what differs.
    """
    try:
        alike = check_same(_planned(dense, plan, inputs), pruned, plan.refitted)
    except VerificationError as error:
        raise VerificationError(f"{error}; the pruned model is another one, or was changed since") from error
    release(dense)
    refitted = f", {alike.refitted} are those that the repair made" if plan.repair else ""
    return f"nodes and attributes are as planned; {alike.kept} stored tensors are the dense model's, cut{refitted}"


def _planned(dense: ir.Model, plan: Plan, inputs: InputShapes | None) -> ir.Model:
    """What a plan makes of the dense model; refitted weights as they were, and the biases that a repair adds zero."""
    model = dense.clone()
    if plan.repair:
        network = prepare(dense, inputs=inputs)
        model = network.model
        drop_zero_biases(model, [name for name in network.new_biases if name not in plan.refitted])
    cut(analyse(model, inputs=inputs), plan)
    return model


def _check_distance(plan: Plan, found: Comparison, report: Report) -> None:
    """Hold the distance from the dense model to what the plan foretells.

    Raises:
        VerificationError: an output is farther off, or nearer.
    """
    if not plan.distance or found.fed != plan.fed:
        report.notes.append("the distance from the dense model is not foretold for these inputs")
        return
    for name, expected in plan.distance.items():
        distance = found.moved.get(name, float("inf"))
        if not abs(distance - expected) <= found.limits[name] * (1 + expected):
            raise VerificationError(
                f"output {name!r} is {distance:.3g} from the dense model's (relative L2); the plan says {expected:.3g}"
            )


def seal(plan: Plan, dense: ir.Model, reference: ir.Model, pruned: ir.Model) -> Plan:
    """A plan with the digests of what a repair made: stored tensors that are not the dense model's.

    Args:
        reference: as large as the dense model, with the refitted weights.
    """
    before = {name: value.const_value for name, value in dense.graph.initializers.items()}
    refitted = {}
    for name, value in reference.graph.initializers.items():
        old, new, made = before.get(name), value.const_value, pruned.graph.initializers.get(name)
        if new is None or made is None or made.const_value is None or new is old:
            continue
        if old is None or old.dtype != new.dtype or old.shape != new.shape or different(old, new):
            refitted[name] = digest(made.const_value)
    return replace(plan, refitted=refitted)


def foretell(plan: Plan, dense: ir.Model, pruned: ir.Model, *, inputs: InputShapes | None, feeds: Feeds | None) -> Plan:
    """A plan with the distance of the outputs from the dense model's, on the inputs of verification."""
    found = _Check(dense, inputs, feeds, exact=False, masked=False).run(pruned, plan)
    return replace(plan, distance=found.moved, fed=found.fed) if found.moved else plan


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
    check = _Check(dense, inputs, feeds, report.exact if exact is None else exact, masked)
    try:
        found = check.run(pruned, plan)
    except VerificationError as error:
        raise VerificationError(f"{error}; {_culprit(check, plan)}") from error
    report.notes += found.notes
    report.difference, report.channel_difference = found.difference, found.channel
    if found.missing:
        report.status, report.missing = NOT_COMPARED, list(found.missing)
        report.give = _give(dense, feeds or {})
    else:
        report.status = VERIFIED
    if not report.outputs and not found.missing:
        report.outputs, report.outputs_on = _moved(dense, pruned, inputs, feeds, check.boundary(plan))
    return found


def _moved(
    dense: ir.Model, pruned: ir.Model, inputs: InputShapes | None, feeds: Feeds | None, boundary: Boundary
) -> tuple[dict[str, dict[str, float]], str]:
    """How far the outputs are from those of the dense model itself, and on what."""
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
    return moved(expected, ran[1], logits=logits_of(dense, shapes)), GIVEN if ran[0][0].fixed else RANDOM


@dataclass(frozen=True, slots=True)
class _Check:
    """What every check of a pruned model against one dense model shares."""

    dense: ir.Model
    inputs: InputShapes | None
    feeds: Feeds | None
    exact: bool
    masked: bool = True

    def boundary(self, plan: Plan) -> Boundary:
        return boundary_of(analyse(self.dense.clone(), inputs=self.inputs), plan)

    def run(self, pruned: ir.Model, plan: Plan) -> Comparison:
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
        found = compare(
            masked, pruned, inputs=trials, limits=limits, watched=watched or None, exact=self.exact, boundary=boundary
        )
        if self.exact and not found.agrees:
            raise VerificationError(
                f"the pruned model differs from the masked dense model by {found.channel:.1e} of its own size in "
                f"{found.place}, more than {found.limit:.0e}"
            )
        return replace(found, notes=(*notes, *found.notes))


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


def _culprit(check: _Check, plan: Plan) -> str:
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
