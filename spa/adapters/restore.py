"""Prune what a framework holds and give it back: the plan is applied to the framework's own arrays.

A frontend traces its model to a graph whose weights are the framework's arrays under their own names, and rebuilds
the model around smaller ones. This module stands between the two, the only one that knows pruning and frameworks.
Where a model's code cannot express a group (it computes a head size from the width, say), the group is left alone,
which is said, and the plan is made anew.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from spa import pipeline
from spa.analysis.cost import MEASURES
from spa.analysis.group import Group, Masks, keep_mask
from spa.analysis.plan import Plan
from spa.errors import BudgetError, NothingToPrune, UsageError
from spa.fields import takes_options
from spa.frontends.exporting.exported import Parts, RebuildError, Traced, close_inputs, open_arrays, run_model
from spa.notation.dims import Factor, Kind
from spa.options import PARTS, PruneOptions
from spa.passes.choose.budget import Budget
from spa.passes.cut.verify import find_culprit
from spa.passes.normalize.normalize import normalize
from spa.repair import RepairOptions

logger = logging.getLogger("spa")

_LEVELLINGS = 16
_STEP = 1e-7  # of a share
_MOST_PARTS = 32  # of one axis; beyond, only the whole axis is a size that code would carry


class Frontend(Protocol):
    """What a framework's file in frontends/ has for this."""

    def trace(self, source: Any, inputs: Any) -> Traced:
        """The graph whose weights are the framework's arrays."""
        ...

    def rebuild(
        self,
        source: Any,
        arrays: Mapping[str, np.ndarray],
        parts: Mapping[str, Parts],
        inputs: Any,
        expected: Sequence[np.ndarray],
    ) -> Any:
        """The framework's model around other arrays, checked; raises RebuildError."""
        ...


@dataclass(frozen=True, slots=True)
class Restored:
    """A smaller model of the framework, and the pruned graph with its plan and report.

    Attributes:
        source: the framework's model, of the class it was.
        left: groups that the framework cannot express, with the reason.
    """

    source: Any
    result: pipeline.PruneResult
    left: Mapping[str, str] = field(default_factory=dict)


@takes_options(*PARTS.values())
def prune(frontend: Frontend, source: Any, inputs: Any, *, even: bool = False, **options: Any) -> Restored:
    """Prune a framework's model and give it back smaller.

    Args:
        frontend: a module of `spa.frontends` that has `trace` and `rebuild`.
        source: never changed.
        inputs: example inputs, as the frontend takes them.
        even: like layers must lose equally many units, as where one number says the size of all of them; `scope` is
            local then, unless told.
        options: as for `spa.prune`.

    Raises:
        UsageError: `even` with a scope other than local, or an option is wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the smaller model does not compute what the pruned graph does.
    """
    if even and options.get("scope") is None:
        options["scope"] = "local"
    chosen = PruneOptions.of(**options)
    if chosen.decided_by == "best":  # what a framework holds is trained on: no samples of ours
        chosen = replace(chosen, repair=replace(chosen.repair, weights=True))
    if even and chosen.budget.scope != "local":
        raise UsageError(
            f"scope {chosen.budget.scope!r}: here one number says the size of all layers, which only a plan of "
            "scope='local' can keep equal"
        )
    traced = frontend.trace(source, inputs)
    dense = normalize_around(traced)
    search = _Search(frontend, source, inputs, traced, dense, chosen.budget, even)
    start = chosen.budget.ratio
    for trial in _rehearsed(chosen):
        smaller, result, start = search.settle(start, trial)
    left = search.left
    result.report.notes += [f"left alone: {reason}" for reason in dict.fromkeys(left.values())]
    if chosen.run.verify:
        pipeline.verify_plan(
            result.reference, result.model, result.plan, result.report,
            inputs=chosen.run.inputs, feeds=chosen.run.feeds,
        )  # fmt: skip
    return Restored(smaller, result, left)


def prune_model(model: ir.Model, **options: Any) -> ir.Model:
    """A smaller model, for frontends whose form of a model needs nothing traced or rebuilt."""
    result: pipeline.PruneResult = pipeline.prune(model, **options)
    return result.model


@dataclass(slots=True)
class _Search:
    """The way to a plan that the framework can express."""

    frontend: Frontend
    source: Any
    inputs: Any
    traced: Traced
    dense: ir.Model
    budget: Budget
    even: bool
    left: dict[str, str] = field(default_factory=dict)

    def settle(self, start: float, options: PruneOptions) -> tuple[Any, pipeline.PruneResult, float]:
        """The framework's smaller model, its graph, and the share that its plan took; tried first with some share."""
        while True:
            try:
                budget = replace(self.budget, ratio=start, exclude=(*self.budget.exclude, *self.left))
                result, reached = _plan(self.dense, replace(options, budget=budget), even=self.even)
            except (NothingToPrune, BudgetError) as error:
                if start > self.budget.ratio:  # less may do
                    start = self.budget.ratio
                    continue
                if not self.left:
                    raise
                reasons = "; ".join(dict.fromkeys(self.left.values()))
                raise type(error)(f"{error}; left alone besides: {reasons}") from error
            attempt = _Attempt(self.frontend, self.source, self.inputs, self.traced, self.dense)
            try:
                return attempt.rebuild(result.plan, result.model), result, reached
            except RebuildError as error:
                found = attempt.culprits(result.plan, error)
                reason = f"{len(found)} group{'s' * (len(found) != 1)} such as {found[0]!r}: {error}"
                self.left.update(dict.fromkeys(found, reason))
                start = self.budget.ratio
                offer = (
                    ""
                    if self.budget.scope == "local"
                    else "; scope='local' gives like layers like sizes, which may fit"
                )
                logger.warning("left alone: %s%s", reason, offer)


def _rehearsed(options: PruneOptions) -> list[PruneOptions]:
    """The options of each trial: with samples, sizes that the framework can express are found without them first.

    A repair takes minutes where a plan by weights takes seconds, and one is made for every group that has to stay.
    """
    if not options.repair.has_samples:
        return [options]
    return [replace(options, repair=RepairOptions(weights=True)), options]


def _plan(dense: ir.Model, options: PruneOptions, *, even: bool) -> tuple[pipeline.PruneResult, float]:
    """Prune a copy of the graph, unchecked, and the share that it took.

    Where `even`, that is as much more as it takes until like groups lose equally much.
    """
    analysis = pipeline.analyse(dense.clone())
    reached = options.budget.ratio
    for _ in range(_LEVELLINGS):
        budget, run = replace(options.budget, ratio=reached), replace(options.run, verify=False)
        trial = replace(options, budget=budget, run=run)
        result = pipeline.prune(pipeline.Normal(dense.clone(), closed=True), options=trial)
        if not even or (level := _level(analysis, result.plan, options.budget.of)) is None:
            break
        reached = max(reached + _STEP, level - _STEP)  # just short of it, or one more unit would go
    return result, reached


def _level(analysis: pipeline.Analysis, plan: Plan, of: str) -> float | None:
    """The share that goes when all like groups lose as many units as the one that loses most; None: they do."""
    like: dict[tuple[str, str, int], list[Group]] = defaultdict(list)
    for group in analysis.groups:
        if group.name in plan.removed:
            like[re.sub(r"\d+", "0", group.name.partition("#")[0]), group.kind, group.size].append(group)
    removed = {name: list(units) for name, units in plan.removed.items()}
    for groups in like.values():
        most = max(len(plan.removed[group.name]) for group in groups)
        for group in groups:  # which units is of no matter for the size
            rest = [unit for unit in range(group.size) if unit not in set(removed[group.name])]
            removed[group.name] += rest[: most - len(removed[group.name])]
    if all(len(units) == len(plan.removed[name]) for name, units in removed.items()):
        return None
    levelled = Plan.of(analysis.groups, removed)
    if of not in MEASURES:
        total = sum(group.size for group in analysis.groups if group.off is None)
        return sum(map(len, levelled.removed.values())) / total
    return 1 - analysis.cost.of(of, levelled.masks(analysis.groups)) / analysis.cost.of(of)


def normalize_around(traced: Traced) -> ir.Model:
    """The normalised graph; what the framework's arrays go through on their way to an operator stays as it is."""
    model = traced.model.clone()
    held = open_arrays(model, traced.arrays)  # an input is nothing that could be folded
    normal = normalize(model)
    close_inputs(normal, held)
    return normal


class _Attempt:
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
