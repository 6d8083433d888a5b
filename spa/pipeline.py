"""`prune` and its steps: load, normalise, couple, group, score, select, slice, verify."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Union

import onnx
import onnx_ir as ir

from spa.cost import MEASURES, Cost, measure
from spa.coupling import Coupling, couple
from spa.errors import VerificationError
from spa.frontends import onnx_file
from spa.group import Group, find_frozen, find_groups
from spa.passes import verify as verification
from spa.passes.importance import score_groups
from spa.passes.masking import mask_consumers
from spa.passes.normalize import normalize
from spa.passes.selection import select
from spa.passes.slicing import slice_model
from spa.plan import Plan
from spa.report import Report, frozen_shares, group_rows
from spa.shapes import Shapes, infer_shapes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Source = Union[str, "os.PathLike[str]", onnx.ModelProto, ir.Model, "gs.Graph"]
InputShapes = Mapping[str, Sequence[int]]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Normal:
    """A model that is normalised as the caller wants it; the steps that follow cut it in place."""

    model: ir.Model


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything known of a normalised model."""

    model: ir.Model
    shapes: Shapes
    coupling: Coupling
    groups: Sequence[Group]
    cost: Cost


@dataclass(frozen=True, slots=True)
class PruneResult:
    """A smaller model, the plan that made it, and what happened on the way."""

    model: ir.Model
    plan: Plan
    report: Report
    dense: ir.Model = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model; the target appears whole or not at all."""
        onnx_file.save(self.model, path)


def analyse(model: ir.Model, *, inputs: InputShapes | None = None) -> Analysis:
    """Couple and group a normalised model."""
    shapes = infer_shapes(model, inputs=inputs)
    coupling = couple(model, shapes)
    groups = find_groups(coupling)
    return Analysis(model, shapes, coupling, groups, measure(coupling))


def load_normal(source: Source | Normal) -> ir.Model:
    """A model as the coupling sees it."""
    if isinstance(source, Normal):
        return source.model
    return normalize(onnx_file.load(source))


def prune(
    source: Source | Normal,
    *,
    ratio: float,
    of: str = "params",
    criterion: str = "l2",
    gather: str | None = None,
    roles: str | None = None,
    normalise: str | None = None,
    scope: str | None = None,
    align: int = 1,
    min_keep: float = 0.1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    inputs: InputShapes | None = None,
    verify: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Remove a share of a model, whole structures at a time.

    Args:
        source: a path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`; never changed.
        ratio: the share to remove, between 0 and 1.
        of: of what: params, flops or bytes of the whole model, or channels (the same share of every group).
        criterion, gather, roles, normalise: how units are scored; see `spa.passes.importance`.
        scope: global, local (the same share of every group) or isomorphic.
        align: kept widths are multiples of this where the group allows.
        min_keep: the share of each group that stays at least.
        include: kinds or groups that are off by default and shall take part (width, head_dim).
        exclude, only: patterns of group, tensor or node names.
        inputs: shapes to analyse and verify with, by input name, where symbolic axes are not enough.
        verify: check the result (`spa.passes.verify`).
        dry_run: stop at the plan; the model returned is the dense one.
        progress: called with a few words before each step.

    Raises:
        ModelError, UsageError: the source or an option is wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the result failed its checks; names the group at fault.
    """
    clock = _Clock(progress)
    with clock.step("normalise"):
        dense = load_normal(source)
    with clock.step("couple"):
        analysis = analyse(dense, inputs=inputs)
    with clock.step("score"):
        scores = score_groups(analysis.groups, criterion, gather=gather, roles=roles, normalise=normalise)
    with clock.step("select"):
        selection = select(
            analysis.groups, scores, analysis.cost, ratio=ratio, of=of, scope=scope, align=align, min_keep=min_keep,
            include=include, exclude=exclude, only=only, frozen=find_frozen(analysis.coupling),
        )  # fmt: skip
    report = report_on(analysis, selection.plan)
    report.seconds = clock.seconds
    if dry_run:
        return PruneResult(dense, selection.plan, report, dense)
    reference = dense.clone()  # the analysed model itself is cut: clones share weights, so this costs no memory
    with clock.step("slice"):
        cut(analysis, selection.plan)
    if verify:
        with clock.step("verify"):
            verify_plan(reference, dense, selection.plan, report, inputs=inputs)
    return PruneResult(dense, selection.plan, report, reference)


def cut(analysis: Analysis, plan: Plan) -> None:
    """Apply a plan to the analysed model, in place."""
    slice_model(analysis.model, analysis.coupling, analysis.shapes, plan.masks(analysis.groups))


def apply_plan(source: Source, plan: Plan, *, inputs: InputShapes | None = None, verify: bool = True) -> PruneResult:
    """Prune a model by a plan that was saved; the same plan gives the same bytes."""
    dense = load_normal(source)
    analysis = analyse(dense, inputs=inputs)
    report = report_on(analysis, plan)
    reference = dense.clone()
    cut(analysis, plan)
    if verify:
        verify_plan(reference, dense, plan, report, inputs=inputs)
    return PruneResult(dense, plan, report, reference)


def verify_files(dense: Source, pruned: Source, plan: Plan, *, inputs: InputShapes | None = None) -> Report:
    """Check a pruned model that was written earlier against its dense model and the plan.

    Raises:
        VerificationError: it is not what the plan makes of the dense model.
    """
    before = load_normal(dense)
    report = report_on(analyse(before, inputs=inputs), plan)
    verify_plan(before, onnx_file.load(pruned), plan, report, inputs=inputs)
    return report


def report_on(analysis: Analysis, plan: Plan) -> Report:
    """What a plan does to a model's cost, and what holds the rest."""
    masks = plan.masks(analysis.groups)
    before = {name: analysis.cost.of(name) for name in MEASURES}
    after = {name: analysis.cost.of(name, masks) for name in MEASURES}
    shares = frozen_shares(analysis.coupling, analysis.groups, before["params"])
    return Report(before, after, group_rows(analysis.groups, plan), shares, exact=is_exact(analysis.groups, plan))


def is_exact(groups: Sequence[Group], plan: Plan) -> bool:
    """Whether the exactness theorem covers a plan: no unit of it enters a norm, mean or softmax."""
    return all(group.off is None for group in groups if group.name in plan.removed)


# ------------------------------------------------------------------------------------------------ verification
def verify_plan(
    dense: ir.Model, pruned: ir.Model, plan: Plan, report: Report, *, inputs: InputShapes | None = None
) -> None:
    """All checks of a pruned model against the normalised dense one; fills the report.

    Raises:
        VerificationError: with the group at fault, found by halving the plan.
    """
    report.notes += verification.check_structure(dense, pruned)
    limit = verification.tolerance(dense)
    try:
        found = _compare(dense, pruned, plan, inputs)
    except VerificationError as error:
        raise VerificationError(f"{error}{_culprit(dense, plan, limit, inputs)}") from error
    report.notes += found.notes
    report.difference = found.difference
    if report.exact and not found.agrees(limit):
        raise VerificationError(
            f"the pruned model differs from the masked dense model by {found.difference:.1e} (relative), more than "
            f"{limit:.0e}{_culprit(dense, plan, limit, inputs)}"
        )


def _compare(dense: ir.Model, pruned: ir.Model, plan: Plan, inputs: InputShapes | None) -> verification.Comparison:
    masked = dense.clone()
    analysis = analyse(masked, inputs=inputs)
    shapes = {
        str(v.name): analysis.shapes.of[v]
        for v in masked.graph.inputs
        if v in analysis.shapes.of and not v.is_initializer()
    }
    mask_consumers(masked, analysis.coupling, plan.masks(analysis.groups))
    return verification.compare(masked, pruned, shapes=shapes)


def _culprit(dense: ir.Model, plan: Plan, limit: float, inputs: InputShapes | None) -> str:
    def fails(names: Sequence[str]) -> bool:
        part = Plan({n: plan.removed[n] for n in names}, {n: plan.sizes[n] for n in names})
        pruned = dense.clone()
        try:
            cut(analyse(pruned, inputs=inputs), part)
            return not _compare(dense, pruned, part, inputs).agrees(limit)
        except VerificationError:
            return True

    names = verification.find_culprit(list(plan.removed), fails)
    return f"; at fault: {', '.join(map(repr, names[:3]))}{' ...' if len(names) > 3 else ''} (please report this model)"


class _Clock:
    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if self.progress is not None:
            self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
