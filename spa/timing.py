"""Time files side by side: all models run by turns, so that a machine that drifts drifts for all of them.

    import spa
    report = spa.bench(["dense.onnx", "pruned.onnx"], threads=1)
    print(report.comparison.ratio, report.comparison.interval)       # time of the second over that of the first

Rounds in which each model runs once (`spa.turns`); those do not count in which the machine did something else. Times
are medians, with the middle half beside them. Two models are compared round by round: the median of the ratios, and the
interval in which it lies. Loading and peak memory are measured in processes of their own.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, log
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import ondevice, runtime
from spa.errors import SpaError, UsageError
from spa.feeds import Feeds
from spa.frontends.files import onnx_file
from spa.loading import alone
from spa.options import InputShapes
from spa.passes.cut.trials import Inputs, NoTrial
from spa.presets import Progress
from spa.shapes import infer_shapes
from spa.steps import Source, analyse, load_normal
from spa.turns import LEAST_ROUNDS, by_turns, ratio_of


@dataclass(frozen=True, slots=True)
class Row:
    """One model.

    Attributes:
        name: what reports call it.
        milliseconds: of a run, the median; `low` and `high` bound the middle half of the runs.
        load_seconds, peak_nbytes: seconds of a process that loads the file and runs it once, and the bytes by which its
            memory grows. NaN and 0 where it takes inputs of types that numpy does not know.
        params, flops: stored numbers, and operations of a run at the sizes of its inputs, a multiply-accumulate as two;
            None where the graph could not be analysed.
    """

    name: str
    milliseconds: float
    low: float
    high: float
    load_seconds: float
    peak_nbytes: int
    params: float | None
    flops: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second of two models beside the first.

    Attributes:
        ratio: its time over that of the first, the median over rounds.
        interval: in which that ratio lies, with 95 % confidence (percentile bootstrap over rounds, Efron 1979).
        exponent: log(ratio) / log(FLOPs ratio): 1 where all of the FLOPs that went are time that went; None where the
            FLOPs are not known or hardly differ.
    """

    ratio: float
    interval: tuple[float, float]
    exponent: float | None

    @property
    def verdict(self) -> str:
        """faster, slower, or no difference: where the interval holds 1."""
        low, high = self.interval
        return "faster" if high < 1 else "slower" if low > 1 else "no difference"


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Times of all models, and how they were taken.

    Attributes:
        rows: the times of each model, in the order given.
        rounds: how often each ran, by turns, on a machine that did nothing else.
        provider: onnxruntime's name of the device.
        threads: inside an operator; None: one a core.
        inputs: shapes that the models ran on, by model.
        comparison: of two models; None for another number.
        comparisons: of every model behind the first with it.
        disturbed: rounds that do not count, see `spa.ondevice.calm`.
    """

    rows: Sequence[Row]
    rounds: int
    provider: str
    threads: int | None
    inputs: Mapping[str, Mapping[str, tuple[int, ...]]]
    comparison: Comparison | None
    comparisons: Sequence[Comparison] = ()
    disturbed: int = 0

    def to_json(self) -> str:
        """The report as one JSON object."""
        report: dict[str, Any] = asdict(self)
        for row in report["rows"]:
            row["load_seconds"] = row["load_seconds"] if isfinite(row["load_seconds"]) else None
        for comparison, data in zip(self.comparisons, report["comparisons"], strict=True):
            data["verdict"] = comparison.verdict
        if self.comparison is not None:
            report["comparison"]["verdict"] = self.comparison.verdict
        return json.dumps(report, indent=1)

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        from spa.pages.notebook import bench_html

        return bench_html(json.loads(self.to_json()))


def bench(
    models: Sequence[Source] | str | os.PathLike[str],
    *,
    names: Sequence[str] = (),
    threads: int | None = None,
    provider: str | None = None,
    seconds: float = 10.0,
    inputs: InputShapes | None = None,
    feeds: Feeds | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Time models side by side.

    Args:
        models: paths, `onnx.ModelProto`, `onnx_ir.Model` or onnx-graphsurgeon graphs; or the path of one.
        names: what reports call them; by default their paths.
        threads: inside an operator; by default one a core.
        provider: onnxruntime's name of a device; by default CUDA where it works, else the CPU.
        seconds: how long all runs together take, about; never fewer than 10 rounds.
        inputs: shapes by input name; by default a batch of one, and what `spa.shapes.sizes` says of other open axes.
        feeds: values by input name, where random ones do not do.
        progress: called with the step and the share of it that is done.

    Raises:
        UsageError: there is no model, names are not one for each, a number is out of range, the provider does not work
            here, or a model runs on no inputs that were tried.
        ModelError: a model cannot be read or run.
        MissingExtra: onnxruntime is not installed.
    """
    models = [models] if isinstance(models, (str, os.PathLike)) else models
    if not models:
        raise UsageError("bench: expected one model or more, found none")
    check_threads(threads)
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"seconds {seconds:g}: expected a time of 0 or more")
    runtime.require()
    called = list(names) or [_name(model, number) for number, model in enumerate(models)]
    if len(called) != len(models):
        raise UsageError(f"names: expected one for each of {len(models)} models, found {len(called)}")
    with tempfile.TemporaryDirectory() as folder:
        entries = [
            _Entry.of(model, name, Path(folder) / f"{number}.onnx", inputs, feeds)
            for number, (model, name) in enumerate(zip(models, called, strict=True))
        ]
        providers = None if provider is None else [provider]
        sessions = [
            runtime.session(entry.path, optimize=True, providers=providers, threads=threads, spin=True)
            for entry in entries
        ]
        clock = ondevice.clock_of(sessions[0].get_providers()[0], threads)
        taken = by_turns(sessions, [entry.feeds for entry in entries], seconds, progress, clock)
        times = taken[ondevice.calm(taken, least=LEAST_ROUNDS)]
        rows = [
            _row(entry, times[:, at], *alone(entry.path, entry.feeds, sessions[at].get_providers(), threads))
            for at, entry in enumerate(entries)
        ]
    shapes = {entry.name: {k: tuple(v.shape) for k, v in entry.feeds.items()} for entry in entries}
    comparisons = [_compared(rows, times, at) for at in range(1, len(rows))]
    comparison = comparisons[0] if len(rows) == 2 else None
    provider = sessions[0].get_providers()[0]
    left_out = len(taken) - len(times)
    return BenchReport(rows, len(times), provider, threads, shapes, comparison, comparisons, left_out)


def _name(model: Source, number: int) -> str:
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else f"model {number + 1}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A model as a file, what it is fed, and what it costs."""

    name: str
    path: Path
    feeds: Mapping[str, np.ndarray]
    params: float | None
    flops: float | None

    @classmethod
    def of(cls, source: Source, name: str, place: Path, inputs: InputShapes | None, feeds: Feeds | None) -> _Entry:
        model = onnx_file.load(source)
        path = onnx_file.graph_path(source) if isinstance(source, (str, os.PathLike)) else place
        if path is place:
            onnx_file.save(model, place)
        params = flops = None
        shapes = dict(inputs or {})
        try:
            analysis = analyse(load_normal(source), inputs=inputs)
        except SpaError:  # a graph that cannot be analysed can still be timed
            pass
        else:
            params, flops = analysis.cost.of("params"), analysis.cost.of("flops")
            shapes = {**analysis.sizes.inputs, **shapes}
        return cls(name, path, feeds_of(model, shapes, feeds, name=path.name), params, flops)


def check_threads(threads: int | None) -> None:
    """Raise UsageError where no such number of threads can work."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: expected a whole number of threads, 1 or more")


def feeds_of(
    model: ir.Model, shapes: InputShapes, feeds: Feeds | None, *, name: str = "the model"
) -> Mapping[str, np.ndarray]:
    """Inputs that a model runs on.

    Raises:
        UsageError: it ran on nothing that was tried.
    """
    session = runtime.session(model, optimize=False)
    trial = Inputs.of(model.graph, infer_shapes(model, inputs=shapes), shapes, feeds)
    try:
        return trial.trials(lambda given: runtime.run(session, given))[0].feeds
    except NoTrial as error:
        raise UsageError(f"{name}: {error}; give --input NAME=SHAPE or --feed NAME=VALUES") from error


def _row(entry: _Entry, times: np.ndarray, load_seconds: float, peak_nbytes: int) -> Row:
    low, middle, high = (1e3 * float(np.quantile(times, share)) for share in (0.25, 0.5, 0.75))
    return Row(entry.name, middle, low, high, load_seconds, peak_nbytes, entry.params, entry.flops)


def _compared(rows: Sequence[Row], times: np.ndarray, at: int = 1) -> Comparison:
    """A model beside the first."""
    ratio, interval = ratio_of(times[:, [0, at]])
    return Comparison(ratio, interval, _exponent(ratio, rows[0].flops, rows[at].flops))


def _exponent(ratio: float, dense: float | None, pruned: float | None) -> float | None:
    """How much of the FLOPs that went is time that went; None where fewer than 2 % went."""
    if not dense or not pruned or abs(1 - pruned / dense) < 0.02:
        return None
    return log(ratio) / log(pruned / dense)
