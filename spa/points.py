"""The report of a sweep: a point for each ratio, as rows, CSV, JSON or a picture.

    report = spa.sweep("net.onnx", ratios="0.1:0.7", of="flops")
    report.save_plot("sweep.svg")
    print(report.to_csv())

`spa.sweeping` makes it.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from spa.timing import BenchReport


@dataclass(frozen=True, slots=True)
class Point:
    """One ratio.

    Attributes:
        ratio: as asked for, between 0 and 1.
        removed: the share (0..1) of each measure that went: params, flops, bytes.
        decided_by: what chose what went: a repair by samples, or weights.
        usable: whether nothing says that it needs fine-tuning (`spa.verdict`); None: no output was compared, or on
            random inputs alone.
        outputs: for each output how far it is from the dense model's, as in `spa.report.Report`.
        metric: the user's, of the pruned model.
        milliseconds: of a run, the median; `low` and `high` bound the middle half.
        time: of a run over that of the dense model, the median over rounds, and the interval that holds it with 95 %.
        seconds: that it took to make.
        file: where it was written, if it was.
        said: why there is no such model; empty where there is.
        notes: what a user should know of it.
    """

    ratio: float
    removed: Mapping[str, float] = field(default_factory=dict)
    decided_by: str = ""
    outputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    usable: bool | None = None
    metric: float | None = None
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None
    time: float | None = None
    interval: tuple[float, float] | None = None
    seconds: float = 0.0
    file: str | None = None
    said: str = ""
    notes: Sequence[str] = ()

    def figure(self, name: str) -> float | None:
        """The figure of a `name` of the output that is furthest off: relative_l2 or kl the largest, top1 the least."""
        values = [figures[name] for figures in self.outputs.values() if name in figures]
        if not values:
            return None
        return min(values) if name == "top1" else max(values)


FIGURES = ("kl", "relative_l2", "top1")
COLUMNS = (
    "ratio", "params", "flops", "bytes", "milliseconds", "low", "high", "time", *FIGURES, "metric", "file", "said",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SweepReport:
    """All ratios of a model.

    Attributes:
        source: the name of the model; `sha256` of its file, where it came from one.
        of: what ratios are shares of.
        before: params, flops and bytes of the dense model, as in `spa.report.Report`.
        points: one for each ratio, in the order in which they were asked for.
        outputs_on: what distances were measured on, in words.
        metric: the name of the user's metric, and `dense_metric` of the dense model.
        timing: how times were taken: the report of all files side by side; None: they were not.
        options: what was asked for, by name.
        seconds: that all of it took; `shared_seconds` went into what all ratios share.
        notes: what a user should know of it.
    """

    source: str
    sha256: str | None
    of: str
    before: Mapping[str, float]
    points: Sequence[Point]
    outputs_on: str
    metric: str | None
    dense_metric: float | None
    timing: BenchReport | None
    options: Mapping[str, Any]
    seconds: float
    shared_seconds: float
    notes: Sequence[str] = ()

    @property
    def made(self) -> list[Point]:
        """The points of which there is a model."""
        return [point for point in self.points if not point.said]

    def rows(self) -> list[dict[str, Any]]:
        """A row for the dense model and for each point, with the columns of `COLUMNS`."""
        dense = Point(0.0, dict.fromkeys(self.before, 0.0), metric=self.dense_metric)
        if self.timing is not None:
            first = self.timing.rows[0]
            dense = replace(dense, milliseconds=first.milliseconds, low=first.low, high=first.high, time=1.0)
        return [_row(point) for point in (dense, *self.points)]

    def to_csv(self) -> str:
        """A line for the dense model and for each point."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return text.getvalue()

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.data(), indent=1)

    def data(self) -> dict[str, Any]:
        """The report as JSON knows it."""
        data = asdict(self)
        data["timing"] = None if self.timing is None else json.loads(self.timing.to_json())
        return data

    def save_plot(self, path: str | os.PathLike[str]) -> None:
        """Draw what is lost and gained over what went, into the .svg or .png at a `path`.

        Raises:
            UsageError: the name ends in something else.
            MissingExtra: the library that draws is not installed.
        """
        from spa.pages.pictures import save

        save(self.data(), Path(path))

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        from spa.pages.notebook import sweep_html

        return sweep_html(self.data())


def _row(point: Point) -> dict[str, Any]:
    removed = {name: point.removed.get(name) for name in ("params", "flops", "bytes")}
    figures = {name: point.figure(name) for name in FIGURES}
    return {
        "ratio": point.ratio, **removed, "milliseconds": point.milliseconds, "low": point.low, "high": point.high,
        "time": point.time, **figures, "metric": point.metric, "file": point.file, "said": point.said,
    }  # fmt: skip
