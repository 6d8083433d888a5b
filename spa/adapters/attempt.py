"""One try to rebuild a framework's model around a plan, and who is at fault where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from spa import pipeline
from spa.adapters.sizes import parts_of, shapes_of
from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.frontends.exporting.exported import Parts, RebuildError, Traced, run_model
from spa.passes.cut.verify import find_culprit

_MOST_WIDTHS = 128  # of a group: so many are tried one by one


class Frontend(Protocol):
    """What a framework's file in frontends/ has for this.

    One that can tell without building anything has ``fits(source, shapes, parts)`` besides: whether `rebuild` takes
    arrays of these shapes.
    """

    def trace(self, source: Any, inputs: Any) -> Traced:
        """The graph whose weights are the framework's arrays."""

    def rebuild(
        self,
        source: Any,
        arrays: Mapping[str, np.ndarray],
        parts: Mapping[str, Parts],
        inputs: Any,
        expected: Sequence[np.ndarray],
    ) -> Any:
        """The framework's model around other arrays, checked; raises RebuildError."""


class Attempt:
    """One plan, brought back into the framework."""

    def __init__(self, frontend: Frontend, source: Any, inputs: Any, traced: Traced, dense: ir.Model) -> None:
        self.frontend, self.source, self.inputs, self.traced, self.dense = frontend, source, inputs, traced, dense
        self.analysis = pipeline.analyse(dense.clone())

    def rebuild(self, plan: Plan, pruned: ir.Model) -> Any:
        stored = pruned.graph.initializers
        arrays = {
            name: tensor.numpy()
            for name in sorted(self.traced.arrays)
            if name in stored and (tensor := stored[name].const_value) is not None
        }
        parts = parts_of(self.analysis.coupling, arrays, plan.masks(self.analysis.groups))
        expected = run_model(pruned, self.traced.feeds, what="the pruned graph")
        return self.frontend.rebuild(self.source, arrays, parts, self.inputs, expected)

    def culprits(self, plan: Plan, error: RebuildError) -> list[str]:
        """The groups of a plan that a part of the framework's model cannot express, and those alike elsewhere."""
        groups = {group.name: group for group in self.analysis.groups}
        where = error.where
        while True:
            inside = _inside([groups[name] for name in plan.removed], where)
            if inside or not where:
                break
            where = where.rpartition(".")[0]
        if not where:
            return find_culprit(list(plan.removed), self.fails(plan))
        kinds = {group.kind for group in inside}
        alike = [
            group
            for path in (error.alike if all(_whole(group, where) for group in inside) else ())
            for group in self.analysis.groups
            if group.kind in kinds and _whole(group, path)
        ]
        return list(dict.fromkeys(group.name for group in (*inside, *alike)))

    def widths(self, names: Sequence[str]) -> tuple[int, ...]:
        """How many units some groups of one size may keep together, fewer than all; none where nobody can tell."""
        groups = [group for group in self.analysis.groups if group.name in names]
        fits = getattr(self.frontend, "fits", None)
        if fits is None or len({group.size for group in groups}) != 1 or groups[0].size > _MOST_WIDTHS:
            return ()
        coupling, counts = self.analysis.coupling, []
        for kept in range(1, groups[0].size):
            plan = Plan.of(groups, {group.name: range(kept, group.size) for group in groups})
            masks = plan.masks(groups)
            shapes, parts = (of(coupling, self.traced.arrays, masks) for of in (shapes_of, parts_of))
            if fits(self.source, shapes, parts):
                counts.append(kept)
        return tuple(counts)

    def fails(self, plan: Plan) -> Callable[[Sequence[str]], bool]:
        def test(names: Sequence[str]) -> bool:
            part = Plan({n: plan.removed[n] for n in names}, {n: plan.sizes[n] for n in names})
            pruned = self.dense.clone()
            pipeline.cut(pipeline.analyse(pruned), part)
            try:
                self.rebuild(part, pruned)
            except RebuildError:
                return True
            return False

        return test


def _inside(groups: Sequence[Group], path: str) -> list[Group]:
    """Groups that lie in the arrays under a path: those that lie nowhere else, or else all that touch it."""
    start = f"{path}." if path else ""
    touching = [g for g in groups if any(str(piece.value.name).startswith(start) for piece in g.slices)]
    return [g for g in touching if _whole(g, path)] or touching


def _whole(group: Group, path: str) -> bool:
    """Whether a group lies in the arrays under a path and nowhere else."""
    start = f"{path}." if path else ""
    return all(str(piece.value.name).startswith(start) for piece in group.slices)
