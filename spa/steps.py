"""The steps that every command shares: load, normalise, couple, group, cut, and the costs before and after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Union

import onnx
import onnx_ir as ir

from spa.analysis.cost import MEASURES, Cost, measure
from spa.analysis.couple import couple
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group, find_groups
from spa.analysis.plan import Plan
from spa.analysis.roles import sizes_by_role
from spa.analysis.unread import cache_pairs
from spa.frontends.files import folder, onnx_file
from spa.frontends.files.layers import Depth
from spa.frontends.files.weights import Origin, set_origin
from spa.options import InputShapes
from spa.passes.choose.first import note_widths
from spa.passes.cut.boundary import Boundary
from spa.passes.cut.forwarding import forward
from spa.passes.cut.slicing import slice_model
from spa.passes.normalize.normalize import normalize
from spa.report import Report, frozen_shares, group_rows, resized_note
from spa.shapes import Shapes, infer_shapes
from spa.shapes.sizes import Sizes, count_sizes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Source = Union[str, "os.PathLike[str]", onnx.ModelProto, ir.Model, "gs.Graph"]


@dataclass(frozen=True, slots=True)
class Normal:
    """A model that is normalised as the caller wants it; the steps that follow cut it in place.

    Attributes:
        closed: a repair adds no tensors to it, which whoever holds its weights could not take.
    """

    model: ir.Model
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything known of a normalised model."""

    model: ir.Model
    shapes: Shapes
    coupling: Coupling
    groups: Sequence[Group]
    cost: Cost
    sizes: Sizes = field(default_factory=Sizes)


def analyse(model: ir.Model, *, inputs: InputShapes | None = None, counted: InputShapes | None = None) -> Analysis:
    """Couple and group a normalised model.

    Args:
        inputs: shapes to couple with, by input name.
        counted: shapes at which FLOPs are counted; `inputs` unless told.
    """
    shapes = infer_shapes(model, inputs=inputs)
    coupling = couple(model, shapes)
    groups = find_groups(coupling)
    sizes = count_sizes(model, shapes, inputs=inputs if counted is None else counted)
    return Analysis(model, shapes, coupling, groups, measure(coupling, sizes), sizes)


def load_normal(source: Source | Normal) -> ir.Model:
    """A model as the coupling sees it."""
    if isinstance(source, Normal):
        return source.model
    return normalize(onnx_file.load(source))


def cut(analysis: Analysis, plan: Plan) -> None:
    """Apply a plan to the analysed model, in place."""
    set_origin(analysis.model, _resized(analysis, plan))
    masks = plan.masks(analysis.groups)
    slice_model(analysis.model, analysis.coupling, analysis.shapes, masks)
    forward(analysis.model, analysis.coupling, masks)
    note_widths(analysis.model, plan)


def boundary_of(analysis: Analysis, plan: Plan) -> Boundary:
    """What a plan leaves of the inputs and outputs of a model that is not cut yet."""
    return Boundary.of(analysis.model.graph, analysis.coupling, plan.masks(analysis.groups))


def _resized(analysis: Analysis, plan: Plan) -> Origin:
    """The origin of a model that is cut: of a folder, with the sizes that its configs are to say."""
    origin = onnx_file.origin_of(analysis.model)
    if origin.folder is None:
        return origin
    masks = plan.masks(analysis.groups)
    sizes = sizes_by_role(analysis.coupling, analysis.groups, masks)
    return replace(origin, sizes=sizes, depth=depth_of(analysis, plan))


def depth_of(analysis: Analysis, plan: Plan) -> Depth:
    """What a plan leaves of the layers of a model that is not cut yet."""
    graph, coupling = analysis.model.graph, analysis.coupling
    masks = plan.masks(analysis.groups)
    caches = {str(value.name) for present, pasts in cache_pairs(graph).items() for value in (present, *pasts)}
    ends = [str(value.name) for value in (*graph.inputs, *graph.outputs) if value.name in caches]
    branches = [bool(masks.get(branch.gate, (True,))[0]) for branch in coupling.branches]
    return Depth.of(ends, boundary_of(analysis, plan).gone, branches)


def report_on(analysis: Analysis, plan: Plan) -> Report:
    """What a plan does to a model's cost, and what holds the rest."""
    masks = plan.masks(analysis.groups)
    before = {name: analysis.cost.before(name) for name in MEASURES}
    after = {name: analysis.cost.of(name, masks) for name in MEASURES}
    shares = frozen_shares(analysis.coupling, analysis.groups, before["params"])
    rows, exact = group_rows(analysis.groups, plan), is_exact(analysis.groups, plan)
    resized = boundary_of(analysis, plan).changes(analysis.model.graph)
    origin = _resized(analysis, plan)
    notes = [*origin.notes, *(folder.notes(origin) if plan.removed else [])]
    if resized:
        notes.append(resized_note(resized))
    report = Report(before, after, rows, shares, sizes=analysis.sizes.inputs, resized=resized, exact=exact, notes=notes)
    if any(group.barred for group in analysis.groups if group.name in plan.removed):
        report.reference += ", and scores of experts as minus infinity"
    return report


def is_exact(groups: Sequence[Group], plan: Plan) -> bool:
    """Whether the exactness theorem covers a plan: no unit of it enters a norm, mean or softmax."""
    return all(group.exact for group in groups if group.name in plan.removed)
