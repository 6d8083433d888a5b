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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from spa import pipeline
from spa.adapters.attempt import Attempt, Frontend
from spa.adapters.early import check_samples
from spa.analysis.branches import BLOCKS
from spa.analysis.cost import MEASURES
from spa.analysis.group import DEPTH, Group
from spa.analysis.plan import Plan
from spa.errors import BudgetError, NothingToPrune, UsageError
from spa.fields import takes_options
from spa.frontends.exporting.exported import RebuildError, Traced, close_inputs, open_arrays
from spa.gradients.options import LearningOptions
from spa.latency import profiled
from spa.options import PARTS, PruneOptions
from spa.passes.choose.budget import LATENCY, Budget
from spa.passes.normalize.normalize import normalize
from spa.repair import RepairOptions

logger = logging.getLogger("spa")

_LEVELLINGS = 16
_STEP = 1e-7  # of a share


@dataclass(frozen=True, slots=True)
class Restored:
    """A smaller model of the framework, and the pruned graph with its plan and report.

    Attributes:
        source: the framework's model, of the class it was.
        left: groups that the framework cannot express, with the reason.
        widths: for groups of which it takes some numbers of units only, these.
    """

    source: Any
    result: pipeline.PruneResult
    left: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, Sequence[int]] = field(default_factory=dict)


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
        MissingExtra: the framework, or onnxruntime, is not installed.
        ModelError: the model cannot be exported.
        UsageError, DataError: `even` with a scope other than local, or an option or the samples are wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the smaller model does not compute what the pruned graph does.
    """
    if even and (options.get("of") == LATENCY or options.get("target") is not None):
        raise UsageError(
            "of latency: here one number says the size of all layers, so that time cannot decide which gives more; "
            "give another measure, or prune the exported ONNX file"
        )
    blocks = even and _asks_for(DEPTH, options.get("include"))
    if blocks and not _asks_for(DEPTH, options.get("only"), alone=True):
        raise UsageError(
            "include depth: here one number says the size of all layers, so that layers go whole and alone: give "
            "only=depth besides, and prune the result again for widths"
        )
    if even and options.get("scope") is None:
        options["scope"] = "global" if blocks else "local"
    chosen = PruneOptions.of(**options)
    if chosen.limit.max_loss is not None:
        raise UsageError("max_loss gives ONNX, whose outputs can be judged: give a ratio, or let the output be ONNX")
    if chosen.decided_by == "best":  # what a framework holds is trained on: no samples of ours
        chosen = replace(chosen, repair=replace(chosen.repair, weights=True))
    if even and not blocks and chosen.budget.scope != "local":
        raise UsageError(
            f"scope {chosen.budget.scope!r}: here one number says the size of all layers, which only a plan of "
            "scope='local' can keep equal"
        )
    check_samples(frontend, source, inputs, chosen)
    traced = frontend.trace(source, inputs)
    dense = normalize_around(traced)
    if blocks:
        dense.graph.meta[BLOCKS] = starts_of_blocks(traced.arrays)
    if chosen.budget.of == LATENCY and chosen.device.profile is None:  # once for all trials
        chosen = replace(chosen, device=profiled(pipeline.Normal(dense.clone()), chosen))
    search = _Search(frontend, source, inputs, traced, dense, chosen.budget, even and not blocks)
    start = chosen.budget.ratio
    for trial in _rehearsed(chosen):
        smaller, result, start = search.settle(start, trial)
    result.report.notes += search.notes()
    if chosen.run.verify:
        pipeline.verify_plan(
            result.reference, result.model, result.plan, result.report,
            inputs=chosen.run.inputs, feeds=chosen.run.feeds,
        )  # fmt: skip
    return Restored(smaller, result, search.left, search.widths)


def _asks_for(kind: str, patterns: str | Sequence[str] | None, *, alone: bool = False) -> bool:
    """Whether patterns have a kind among them; or nothing else."""
    kinds = [patterns] if isinstance(patterns, str) else list(patterns or ())
    return kind in kinds and not (alone and len(kinds) > 1)


def starts_of_blocks(names: Collection[str]) -> list[str]:
    """How the names of the arrays of each block begin, such as ``model.layers.0.``: the outermost number counts."""
    matches = (re.match(r"^.*?\.\d+\.", name) for name in sorted(names))
    return list(dict.fromkeys(match.group() for match in matches if match is not None))


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
    widths: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What the framework could not express, in lines."""
        taken = {f"of {_listed(numbers)} units alone" for numbers in self.widths.values()}
        names = list(self.widths)
        some = [f"{len(names)} groups such as {names[0]!r} keep numbers {' or '.join(sorted(taken))}"] if names else []
        return [*some, *(f"left alone: {reason}" for reason in dict.fromkeys(self.left.values()))]

    def settle(self, start: float, options: PruneOptions) -> tuple[Any, pipeline.PruneResult, float]:
        """The framework's smaller model, its graph, and the share that its plan took; tried first with some share."""
        while True:
            try:
                excluded = (*self.budget.exclude, *self.left)
                budget = replace(self.budget, ratio=start, exclude=excluded, widths=self.widths)
                result, reached = _plan(self.dense, replace(options, budget=budget), even=self.even)
            except (NothingToPrune, BudgetError) as error:
                if start > self.budget.ratio:  # less may do
                    start = self.budget.ratio
                    continue
                if not self.left:
                    raise
                reasons = "; ".join(dict.fromkeys(self.left.values()))
                raise type(error)(f"{error}; left alone besides: {reasons}") from error
            attempt = Attempt(self.frontend, self.source, self.inputs, self.traced, self.dense)
            try:
                return attempt.rebuild(result.plan, result.model), result, reached
            except RebuildError as error:
                culprits = attempt.culprits(result.plan, error)
                if self.even:
                    culprits = _with_likes(culprits, attempt.analysis.groups)
                if not self.widths.keys() & set(culprits) and (numbers := attempt.widths(culprits)):
                    self.widths.update(dict.fromkeys(culprits, numbers))
                    start = self.budget.ratio
                    continue
                reason = f"{len(culprits)} group{'s' * (len(culprits) != 1)} such as {culprits[0]!r}: {error}"
                self.left.update(dict.fromkeys(culprits, reason))
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
    if not options.repair.has_samples and options.learning.finetune is None:
        return [options]
    return [replace(options, repair=RepairOptions(weights=True), learning=LearningOptions()), options]


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
            like[_likeness(group)].append(group)
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
    return 1 - analysis.cost.of(of, levelled.masks(analysis.groups)) / analysis.cost.before(of)


def _likeness(group: Group) -> tuple[str, str, int]:
    """The same for groups in the same place of other layers."""
    return re.sub(r"\d+", "0", group.name.partition("#")[0]), group.kind, group.size


def _with_likes(names: Sequence[str], groups: Sequence[Group]) -> list[str]:
    """Groups with all that are like them: one number says the size of all."""
    wanted = {_likeness(group) for group in groups if group.name in names}
    return list(dict.fromkeys([*names, *(group.name for group in groups if _likeness(group) in wanted)]))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")


def normalize_around(traced: Traced) -> ir.Model:
    """The normalised graph; what the framework's arrays go through on their way to an operator stays as it is."""
    model = traced.model.clone()
    held = open_arrays(model, traced.arrays)  # an input is nothing that could be folded
    normal = normalize(model)
    close_inputs(normal, held)
    return normal
