"""Training an ONNX graph: `spa train`, before, during and after pruning, with the controls of the literature.

    spa train init.onnx --data labelled.npz --epochs 10 --prune snip --ratio 50%

| control | how |
|---|---|
| uniform, random, shuffled | ``--control``: as `spa prune` has them |
| rewind | ``spa train early.onnx --plan plan.json``: an early checkpoint, cut as the trained was (Frankle 2020) |
| re-initialise | ``--restart``: the small network, from weights drawn anew (Liu et al., Rethinking, 2019) |
| learned masks | ``--sparsify gates``, ``lasso`` or ``scales``: `spa.gradients.sparsity` |
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from spa import gradients
from spa.analysis.plan import Plan
from spa.clock import Progress
from spa.errors import UsageError
from spa.feeds import LABELS
from spa.fields import takes_options
from spa.frontends.files import onnx_file
from spa.gradients.options import CRITERIA, SCORING_SAMPLES, WITHOUT_SAMPLES, TrainOptions
from spa.passes.choose.importance import CRITERIA as WEIGHTS
from spa.pipeline import apply_plan, prune
from spa.steps import Source, analyse, load_normal


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The trained model.

    Attributes:
        model: the graph that came in, cut where that was asked for, with other weights.
        plan: what went before the training; None: nothing.
        report: how the training went (`spa.gradients.tuning.FinetuneReport`).
        notes: what a user should know of the prune.
    """

    model: ir.Model
    plan: Plan | None
    report: Any
    notes: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a `path`; the target appears whole or not at all.

        Raises:
            UsageError: the target cannot be written, or the model was read from it.
            ModelError: a file that the model was read from has changed since.
        """
        onnx_file.save(self.model, path)


@takes_options(TrainOptions)
def train(init: Source, *, progress: Progress | None = None, **options: Any) -> TrainResult:
    """Train a graph by labels, from the weights that it has; normalisations follow the batches.

    Args:
        init: a path, `onnx.ModelProto`, `onnx_ir.Model` or onnx-graphsurgeon graph; never changed.
        progress: called with the step and the share (0..1) of it that is done.
        options: as follows.

    Raises:
        MissingExtra: torch or lightning-fabric, which the extra torch brings, is not installed.
        UsageError, DataError: an option or the samples are wrong.
        ModelError: a model is not valid, or an operator has no gradient here; names it.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: onnxruntime does not compute what torch does on the result.
    """
    asked = TrainOptions(**options)
    gradients.require()
    model = load_normal(init)
    plan: Plan | None = None
    notes: tuple[str, ...] = ()
    samples = gradients.samples_of(asked, model)
    labels = None if asked.loss is not None else asked.labels or next(iter(samples.beside), None)
    if labels is None and asked.loss is None:
        raise UsageError(f"nothing to learn: the data has no entry {LABELS!r}; name one with labels, or give a loss")
    if asked.plan is not None:
        plan = asked.plan if isinstance(asked.plan, Plan) else Plan.from_json(_text(asked.plan))
        model = apply_plan(model, plan, verify=False).model
    elif asked.prune is not None:
        model, plan, notes = _pruned(model, asked, samples, labels, progress)
    if asked.restart:
        gradients.restart(analyse(model).coupling, seed=asked.seed)
    groups = [group for group in analyse(model).groups if group.branch is None] if asked.sparsify else ()
    result = gradients.fit(model, samples, replace(asked, labels=labels), groups, progress=progress)
    return TrainResult(result.model, plan, result.report, notes)


def _text(path: Any) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the plan {str(path)!r}: {error}") from error


def _pruned(
    model: ir.Model, asked: TrainOptions, samples: Any, labels: str | None, progress: Progress | None
) -> tuple[ir.Model, Plan, tuple[str, ...]]:
    """The network as it is cut before it is trained; some of the samples score it."""
    options: dict[str, Any] = {"ratio": asked.ratio, "of": asked.of, "criterion": asked.prune, "verify": False}
    if asked.control is not None:
        options |= {"control": asked.control, "seed": asked.seed}
    if asked.prune not in (*WEIGHTS, *WITHOUT_SAMPLES):
        scored = samples.first(SCORING_SAMPLES)
        learns = asked.prune in CRITERIA
        options["data"] = {**scored.calibration.samples, **(scored.beside if learns else {})}
        if learns:
            options |= {"loss": asked.loss, "labels": labels}
    result = prune(model, progress=progress, **{name: value for name, value in options.items() if value is not None})
    return result.model, result.plan, tuple(result.report.notes)
