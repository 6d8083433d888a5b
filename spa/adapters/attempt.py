"""One try to rebuild a framework's model around a plan, and who is at fault where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from spa import pipeline
from spa.analysis.group import Group, Masks, keep_mask
from spa.analysis.plan import Plan
from spa.frontends.exporting.exported import Parts, RebuildError, Traced, run_model
from spa.notation.dims import Factor, Kind
from spa.passes.cut.verify import find_culprit

_MOST_PARTS = 32  # of one axis; beyond, only the whole axis is a size that code would carry


class Frontend(Protocol):
    """What a framework's file in frontends/ has for this."""

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
        masks = plan.masks(self.analysis.groups)
        stored = pruned.graph.initializers
        arrays = {
            name: tensor.numpy()
            for name in sorted(self.traced.arrays)
            if name in stored and (tensor := stored[name].const_value) is not None
        }
        parts = {
            str(value.name): {key: sizes for axis, dim in enumerate(dims) for key, sizes in _parts(axis, dim, masks)}
            for value, dims in self.analysis.coupling.axes.items()
            if value.name in arrays
        }
        expected = run_model(pruned, self.traced.feeds, what="the pruned graph")
        return self.frontend.rebuild(self.source, arrays, parts, self.inputs, expected)

    def culprits(self, plan: Plan, error: RebuildError) -> list[str]:
        """The groups of a plan that a part of the framework's model cannot express, and those alike elsewhere."""
        groups = {group.name: group for group in self.analysis.groups}
        where = error.where
        while True:
            found = _inside([groups[name] for name in plan.removed], where)
            if found or not where:
                break
            where = where.rpartition(".")[0]
        if not where:
            return find_culprit(list(plan.removed), self.fails(plan))
        kinds = {group.kind for group in found}
        alike = [
            group
            for path in (error.alike if all(_whole(group, where) for group in found) else ())
            for group in self.analysis.groups
            if group.kind in kinds and _whole(group, path)
        ]
        return list(dict.fromkeys(group.name for group in (*found, *alike)))

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


def _parts(axis: int, dim: Factor, masks: Masks) -> Iterator[tuple[tuple[int, int, int], tuple[int, int]]]:
    """The sizes of an axis and of all its parts that stand side by side, before and after."""

    def kept(factor: Factor) -> int:
        mask = keep_mask(factor, masks)
        return factor.size if mask is None else int(mask.sum())

    def spread(factor: Factor, start: int) -> tuple[int, list[tuple[int, int, int, int]]]:
        """Where the factor ends, counted in leaves, and its runs: (start, end, before, after)."""
        root = factor.root
        if root.kind is Kind.LEAF:
            return start + 1, [(start, start + 1, root.size, kept(root))]
        ends, inner, at = [], [], start
        for part in root.parts:
            end, runs = spread(part, at)
            ends.append((at, end, part.size, kept(part)))
            inner += runs
            at = end
        if root.kind is Kind.SUM:
            return at, [*inner, (start, at, root.size, kept(root))]
        joined = []
        for first in range(len(ends)):
            before = after = 1
            for _, end, old, new in ends[first:]:
                before, after = before * old, after * new
                joined.append((ends[first][0], end, before, after))
        return at, [*inner, *joined]

    if sum(1 for _ in _leaves(dim)) > _MOST_PARTS:
        yield (axis, 0, _MOST_PARTS + 1), (dim.size, kept(dim))
        return
    end, runs = spread(dim, 0)
    whole = (0, end)
    for first, last, before, after in sorted(runs, key=lambda run: run[:2] != whole):
        yield (axis, first, last), (before, after)


def _leaves(dim: Factor) -> Iterator[Factor]:
    root = dim.root
    if root.kind is Kind.LEAF:
        yield root
        return
    for part in root.parts:
        yield from _leaves(part)
