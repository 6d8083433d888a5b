"""Judge the cuts of a model: outputs on samples that no fit has seen, and the user's metric."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from spa import verdict
from spa.errors import DataError, ModelError
from spa.frontends.files import onnx_file
from spa.given import calibration
from spa.limit import LimitOptions
from spa.metric import Metric
from spa.options import InputShapes, PruneOptions
from spa.passes.cut.boundary import UNCHANGED
from spa.passes.repair.judge import Judge
from spa.passes.repair.own import OTHERS
from spa.passes.samples.datafree import Recipe
from spa.result import PruneResult
from spa.steps import analyse, boundary_of

Outputs = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Jury:
    """What judges the cuts of one dense model.

    Attributes:
        judge: None: what a report says of the outputs counts, on the samples that a repair held out.
        on: what it measures on.
        dense_metric: the metric of the dense model.
        inputs: shapes to analyse with.
    """

    judge: Judge | None
    on: str
    metric: Metric | None
    dense_metric: float | None
    inputs: InputShapes | None = None

    @classmethod
    def of(cls, dense: ir.Model, options: PruneOptions, limit: LimitOptions, *, outputs: bool = True) -> Jury:
        """What was asked for: samples held out, else a share of the data, else made-up inputs of other kinds.

        Args:
            dense: normalised; not changed.
            outputs: whether outputs are looked at at all, and not a metric alone.

        Raises:
            DataError: the samples do not fit, or nothing can be compared.
            UsageError: the metric does not work for the dense model.
        """
        metric = limit.judged_by
        value = None if metric is None else metric_of(dense, metric)
        judge, on = _judge(dense, options, limit) if outputs else (None, "")
        return cls(judge, on, metric, value, options.run.inputs)

    @property
    def said(self) -> str:
        """What it measures on, in words."""
        return self.on if self.judge is None else f"{self.judge.count} {self.on}"

    def outputs(self, result: PruneResult) -> tuple[Outputs, str]:
        """How far a cut's outputs are from the dense model's, and on what that was measured."""
        report = result.report
        if self.judge is None:
            return report.outputs, report.outputs_on
        boundary = UNCHANGED
        if report.resized:
            boundary = boundary_of(analyse(result.dense.clone(), inputs=self.inputs), result.plan)
        return self.judge.differences(result.model, boundary), self.on


def metric_of(model: ir.Model, metric: Metric) -> float:
    """The metric of a model in memory, written to a file for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_file.save(model, path)
        return metric.of(path)


def _judge(dense: ir.Model, options: PruneOptions, limit: LimitOptions) -> tuple[Judge | None, str]:
    inputs = options.run.inputs
    if limit.held_out is not None:
        filed = isinstance(limit.held_out, (str, os.PathLike))
        given = replace(
            options.repair, data=limit.held_out, data_free=False, weights=False, criterion=None, input_ranges=None,
            images=options.repair.images if filed else None,
        )  # fmt: skip
        return Judge.of(dense, calibration(given, dense), inputs=inputs), verdict.HELD_OUT
    if options.decided_by == "samples" and not options.repair.own_samples:
        return None, verdict.HELD_OUT
    try:
        recipe = Recipe.of(dense, inputs=inputs, bounds=options.repair.input_ranges, feeds=options.run.feeds)
        judge = Judge.of(dense, recipe.others(OTHERS), inputs=inputs)
    except (DataError, ModelError):  # it runs on nothing that can be made up
        return None, verdict.RANDOM
    return judge, verdict.MADE_UP
