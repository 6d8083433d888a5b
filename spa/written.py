"""Check files that were written earlier: ``verify_files("net.onnx", "net.pruned.onnx", plan)``.

Of a repair a plan remembers enough for that: digests of its weights (`seal`), and the distance it leaves (`foretell`).
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from spa.analysis.plan import Plan
from spa.errors import VerificationError
from spa.feeds import Feeds
from spa.frontends.files import onnx_file
from spa.frontends.files.layers import Depth, rename
from spa.mapped import release
from spa.options import InputShapes
from spa.passes.cut.likeness import check_same, different, digest
from spa.passes.cut.structure import check_structure
from spa.passes.cut.verify import Comparison
from spa.passes.repair.biases import drop_zero_biases
from spa.passes.repair.network import prepare
from spa.passes.repair.packed import opened
from spa.report import NOT_COMPARED, Report
from spa.steps import Source, analyse, boundary_of, cut, depth_of, load_normal, report_on
from spa.verification import Check, verify_plan


def verify_files(
    dense: Source, pruned: Source, plan: Plan, *, inputs: InputShapes | None = None, feeds: Feeds | None = None
) -> Report:
    """Check a pruned model that was written earlier against its dense model and the plan.

    Its nodes, attributes and stored tensors are compared with what the plan makes of the dense model, and then what
    both models compute. Where the plan was made with repair, refitted weights are told by their digests, which the plan
    holds, and the difference that is reported is the distance from the dense model, which the plan foretells.

    Args:
        dense, pruned: as `spa.prune` takes a source; never changed.
        plan: that led from one to the other.
        inputs: shapes by input name, where open axes are not enough.
        feeds: values by input name, which outputs are compared on; what is left out is made up.

    Raises:
        ModelError: one of them is no valid model, or the plan was made for another.
        UsageError: a feed does not fit its input.
        VerificationError: it is not what the plan makes of the dense model.
    """
    before, after = load_normal(dense), onnx_file.load(pruned)
    if plan.opened:
        before, after = opened(before), opened(after)
    analysis = analyse(before, inputs=inputs)
    _number_as_before(after, depth_of(analysis, plan))
    report = report_on(analysis, plan)
    check_structure(before, after, boundary_of(analysis, plan))
    known = not plan.repair or plan.refitted is not None
    if known:
        report.notes.append(_same_as_planned(before, after, plan, inputs))
    if not plan.repair:
        verify_plan(before, after, plan, report, inputs=inputs, feeds=feeds)
        return report
    report.reference = f"the dense model, whose weights were refitted ({plan.repair})"
    comparison = verify_plan(before, after, plan, report, inputs=inputs, feeds=feeds, exact=False, masked=False)
    _check_distance(plan, comparison, report)
    if not known:
        report.status, report.give = NOT_COMPARED, []
        report.missing = [*report.missing, "this plan holds no digests of the refitted weights: make it anew"]
    return report


def _number_as_before(pruned: ir.Model, depth: Depth) -> None:
    """Give caches that a folder numbers anew the names that they had, in place."""
    names = {value.name for value in (*pruned.graph.inputs, *pruned.graph.outputs)}
    left_out = set(depth.renamed) - set(depth.renamed.values())
    if left_out and names.isdisjoint(left_out):
        rename(pruned, {after: before for before, after in depth.renamed.items()})


def _same_as_planned(dense: ir.Model, pruned: ir.Model, plan: Plan, inputs: InputShapes | None) -> str:
    """What was compared of a pruned model with the dense one, cut by the plan.

    Raises:
        VerificationError: names what differs.
    """
    try:
        alike = check_same(_planned(dense, plan, inputs), pruned, plan.refitted or {})
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
        drop_zero_biases(model, [name for name in network.new_biases if name not in (plan.refitted or {})])
    cut(analyse(model, inputs=inputs), plan)
    return model


def _check_distance(plan: Plan, comparison: Comparison, report: Report) -> None:
    """Hold the distance from the dense model to what the plan foretells.

    Raises:
        VerificationError: an output is farther off, or nearer.
    """
    if not plan.distance or comparison.fed != plan.fed:
        report.notes.append("the distance from the dense model is not foretold for these inputs")
        return
    for name, expected in plan.distance.items():
        distance = comparison.moved.get(name, float("inf"))
        if not abs(distance - expected) <= comparison.limits[name] * (1 + expected):
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
    comparison = Check(dense, inputs, feeds, exact=False, masked=False).run(pruned, plan)
    return replace(plan, distance=comparison.moved, fed=comparison.fed) if comparison.moved else plan
