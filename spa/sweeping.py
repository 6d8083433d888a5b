"""Prunes to several ratios, side by side: what is found out of the network once serves all of them.

import spa
report = spa.sweep("net.onnx", ratios="0.1:0.7", of="flops", data="samples.npz")
report.save_plot("sweep.svg")
print(report.to_csv())
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from spa import runtime
from spa.clock import Progress, within
from spa.errors import BudgetError, NothingToPrune, SpaError, UsageError
from spa.executing import executing
from spa.fields import takes_options
from spa.frontends.files import onnx_file
from spa.judging import Jury
from spa.latency import runs_on
from spa.limit import LimitOptions
from spa.options import PARTS, PruneOptions
from spa.passes.choose.budget import LATENCY
from spa.pipeline import prune_shared
from spa.points import Point, SweepReport
from spa.provenance import digest
from spa.ratios import SweepOptions
from spa.result import PruneResult
from spa.shared import Shared
from spa.steps import Source, load_normal
from spa.timing import BenchReport, bench
from spa.verdict import RANDOM, unusable

DENSE = "dense"


@takes_options(SweepOptions, *PARTS.values())
def sweep(source: Source, *, progress: Progress | None = None, **keywords: Any) -> SweepReport:
    """Prune a model to several ratios: ``sweep("net.onnx", ratios="0.1:0.7", of="flops", data="samples.npz")``.

    What does not depend on the ratio is found out once: samples, their moments, what each group loses. Losses are
    measured at shares that serve all ratios, so that a point may differ a little from `spa.prune` to its ratio alone.

    Args:
        source: as for `spa.prune`; never changed.
        progress: called with the name of each step before it, and on the way with the share (0..1) of it that is done.
        options: of the sweep, and those of `spa.prune`.

    Raises:
        UsageError, DataError, ModelError: an option, the samples, the metric or the source are wrong.
        NothingToPrune, BudgetError: no ratio can be met.
        MissingExtra: onnxruntime is not installed.
    """
    chosen, options, limit, device = _options(keywords)
    runtime.require()
    start = time.perf_counter()
    report = progress or _say_nothing
    report("normalise", None)
    dense = load_normal(source)
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "model"
    with ExitStack() as stack:
        shared = Shared(chosen.ratios, executor=stack.enter_context(executing(options.run.on)))
        folder = Path(chosen.keep) if chosen.keep is not None else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        jury = Jury.of(dense, options, limit)
        maker = _Maker(dense, options, shared, jury, place, Path(name).stem, kept=folder is not None, progress=report)
        points = maker.all(chosen.ratios)
        if not maker.files:
            raise maker.last or BudgetError("no ratio can be met")
        timing = None
        if chosen.seconds:
            report("bench", None)
            timing = _timed(source, dense, maker, options, {**device, "seconds": chosen.seconds}, stack, report)
            points = _with_times(points, maker, timing)
    of, before = options.budget.of, maker.before
    asked = {**options.asked(), **chosen.asked(), **{name: value for name, value in device.items() if value}}
    asked.pop("ratio", None)
    return SweepReport(
        name, digest(dense), of, before, points, jury.said, None if jury.metric is None else jury.metric.name,
        jury.dense_metric, timing, asked, time.perf_counter() - start, shared.seconds, tuple(maker.notes),
    )  # fmt: skip


def _say_nothing(step: str, share: float | None = None, /) -> None:
    """No progress is shown."""


def _options(keywords: Mapping[str, Any]) -> tuple[SweepOptions, PruneOptions, LimitOptions, dict[str, Any]]:
    """The options of the sweep, of each prune, of what judges, and the device on which all are timed.

    Raises:
        UsageError: one cannot be used, or has no effect in a sweep.
    """
    own, others = SweepOptions.taken_from(keywords)
    for vain, why in (
        ("ratio", "ratios say how much"),
        ("target", "ratios say how much"),
        ("max_loss", "prune takes it"),
        ("distance", "all are shown"),
    ):
        if others.get(vain) is not None:
            raise UsageError(f"{vain} has no effect in a sweep ({why}): leave it out")
    if others.get("dry_run"):
        raise UsageError("dry_run has no effect in a sweep, which measures what it makes: leave it out")
    judged = {name: others.pop(name) for name in ("metric", "lower_is_better", "held_out") if name in others}
    limit = LimitOptions(**{name: value for name, value in judged.items() if value is not None})
    device = {name: others.get(name) for name in ("threads", "provider")}
    if others.get("of") != LATENCY:  # there they say whose time is a budget
        others = {name: value for name, value in others.items() if name not in device}
    chosen = PruneOptions.of(ratio=own.ratios[0], **others)
    return own, chosen, limit, runs_on(chosen.device) if chosen.budget.of == LATENCY else device


@dataclass(slots=True)
class _Maker:
    """Makes the points, and writes their models."""

    dense: ir.Model
    options: PruneOptions
    shared: Shared
    jury: Jury
    place: Path
    stem: str
    kept: bool
    progress: Progress
    files: dict[float, Path] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    last: SpaError | None = None

    def all(self, ratios: Sequence[float]) -> list[Point]:
        """A point for each ratio: the first in this process, the others where the work is done."""
        points = [self.point(ratios[0], 0, len(ratios))]
        rest = ratios[1:]
        if self.shared.executor is not None and self.shared.executor.remote and rest:
            from spa import elsewhere

            start = time.perf_counter()
            told = partial(_told, self.progress, len(rest))
            made = elsewhere.others(self.dense, self.options, self.shared, rest, told)
            if made is not None:
                each = (time.perf_counter() - start) / len(rest)
                return points + [self.judged(ratio, result, each) for ratio, result in zip(rest, made, strict=True)]
        return points + [self.point(ratio, number, len(ratios)) for number, ratio in enumerate(rest, 1)]

    def point(self, ratio: float, number: int, total: int) -> Point:
        """Prune to one ratio, judge and write."""
        start = time.perf_counter()
        options = replace(self.options, budget=replace(self.options.budget, ratio=ratio))
        step = within(self.progress, f"ratio {ratio:g} ({number + 1} of {total}): ")
        made: PruneResult | SpaError
        try:
            made = prune_shared(self.dense.clone(), options, progress=step, shared=self.shared)
        except (BudgetError, NothingToPrune) as error:
            made = error
        return replace(self.judged(ratio, made, 0.0), seconds=time.perf_counter() - start)

    def judged(self, ratio: float, result: PruneResult | SpaError, seconds: float) -> Point:
        """The point of a result, which is judged and written; of an error, what it says.

        Raises:
            SpaError: another than that a ratio cannot be met.
        """
        if isinstance(result, SpaError):
            if not isinstance(result, (BudgetError, NothingToPrune)):
                raise result
            self.last = result
            return Point(ratio, seconds=seconds, said=str(result))
        outputs, on = self.jury.outputs(result)
        path = self.place / f"{self.stem}.{self.options.budget.of}-{ratio:g}.onnx"
        onnx_file.save(result.model, path)
        self.files[ratio] = path
        self.before = dict(result.report.before)
        metric = None if self.jury.metric is None else self.jury.metric.of(path)
        usable = None if not outputs or on == RANDOM else not unusable(outputs, on)
        self.notes.update(dict.fromkeys(result.report.notes))
        return Point(
            ratio, {name: result.report.removed_share(name) for name in result.report.before},
            result.plan.repair or "weights", outputs, usable, metric,
            seconds=seconds, file=str(path) if self.kept else None,
            notes=tuple(result.report.notes),
        )  # fmt: skip


def _told(progress: Progress, total: int, done: int) -> None:
    progress("ratios", done / total)


def _timed(
    source: Source, dense: ir.Model, maker: _Maker, options: PruneOptions, device: Mapping[str, Any], stack: ExitStack,
    progress: Callable[..., None],
) -> BenchReport:  # fmt: skip
    """All files side by side, the dense one as it came."""
    first: Any = source
    if not isinstance(source, (str, os.PathLike)):
        first = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "dense.onnx"
        onnx_file.save(dense, first)
    names = [DENSE, *(f"{ratio:g}" for ratio in maker.files)]
    return bench(
        [first, *maker.files.values()], names=names, inputs=options.run.inputs, feeds=options.run.feeds,
        progress=progress, **device,
    )  # fmt: skip


def _with_times(points: Sequence[Point], maker: _Maker, timing: BenchReport) -> list[Point]:
    rows = dict(zip(maker.files, zip(timing.rows[1:], timing.comparisons, strict=True), strict=True))
    timed = []
    for point in points:
        if point.ratio in rows:
            row, beside = rows[point.ratio]
            point = replace(
                point, milliseconds=row.milliseconds, low=row.low, high=row.high, time=beside.ratio,
                interval=beside.interval,
            )  # fmt: skip
        timed.append(point)
    return timed
