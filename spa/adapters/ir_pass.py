"""Pruning as a pass of onnx-ir, for pipelines made of other people's passes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from spa import pipeline
from spa.analysis.plan import Plan
from spa.options import PruneOptions
from spa.report import Report


class SpaPass(ir.passes.InPlacePass):
    """`spa.prune` as a pass, to stand in ``onnx_ir.passes.Sequential`` beside onnx-ir's and onnxscript's.

    Args:
        options: as for `spa.prune`, which also says what is raised (onnx-ir wraps it in a ``PassError``).

    Raises:
        UsageError: an option is wrong.

    Attributes:
        plan, report: of the last model that went through; None before.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = PruneOptions.of(**options)
        self.plan: Plan | None = None
        self.report: Report | None = None

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Prune ``model`` in place; on an error it is as it was.

        Raises:
            SpaError: as `spa.prune`; onnx-ir wraps it in a ``PassError``.
        """
        result = pipeline.prune(model, options=self.options)
        self.plan, self.report = result.plan, result.report
        model.graph = result.model.graph
        model.functions.clear()
        model.functions.update(result.model.functions)
        return ir.passes.PassResult(model, modified=bool(result.plan))
