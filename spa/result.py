"""The result of a prune: the smaller model, the plan that made it, and the report."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from spa.analysis.plan import Plan
from spa.frontends.files import onnx_file
from spa.report import Report


@dataclass(frozen=True, slots=True)
class PruneResult:
    """A smaller model, the plan that made it, and what happened on the way.

    Attributes:
        model: the smaller one.
        plan: which units went; `spa.apply_plan` repeats it.
        report: costs before and after, what cannot shrink and why, and what verification found.
        dense: the model that went in, normalised.
        reference: as large as the dense model, and what the smaller one was cut from: the dense model itself, or with
            the weights that a repair refitted.
    """

    model: ir.Model
    plan: Plan
    report: Report
    dense: ir.Model = field(repr=False)
    reference: ir.Model = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a `path`, whole or not at all; one of a folder to a folder, unless it ends in .onnx.

        Raises:
            UsageError: the target cannot be written, or the model was read from it.
            ModelError: a file that the model was read from has changed since.
        """
        onnx_file.save(self.model, path)

    def to_proto(self) -> onnx.ModelProto:
        """The model as onnx has it in memory; its weights are copied."""
        return ir.to_proto(self.model)

    def _repr_html_(self) -> str:
        """The report's tables, for notebooks."""
        from spa.pages.notebook import result_html

        return result_html(json.loads(self.report.to_json()))
