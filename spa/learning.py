"""Learn from samples: scores by gradients, and weights by training. torch is imported on use only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import gradients, runtime, verdict
from spa.analysis.caches import caches_behind
from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.clock import Clock
from spa.errors import DataError, NothingToPrune, TeacherError
from spa.feeds import as_declared
from spa.given import given_samples
from spa.gradients.options import ORACLE, WITHOUT_SAMPLES, LearningOptions
from spa.gradients.samples import Split
from spa.gradients.spending import Spend
from spa.options import PruneOptions
from spa.owned import inverted, own_samples
from spa.passes.choose.importance import Criterion
from spa.passes.repair.moved import moved, traits_of
from spa.passes.samples.calibrate import Calibration
from spa.shapes import infer_shapes
from spa.shapes.binding import declared_shapes
from spa.shared import Shared

WIDEST = 32
"""Samples that are run together."""

COMPARED, COMPARED_NBYTES = 512, 1 << 28
"""Samples that tell how far outputs moved where none is held out, and bytes of a model's outputs that are compared."""

SAMPLES = "samples to learn from"
"""Among what is shared."""


def criterion_by_gradients(
    dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared, notes: list[str]
) -> Criterion:
    """The criterion that was named, with the samples that were given, or with samples of the tool's own.

    Args:
        notes: filled with what a user should know of the samples.

    Raises:
        MissingExtra: torch is not installed.
        DataError: samples do not fit the model, or none can be made up.
    """
    asked, name = options.learning, str(options.repair.criterion)
    samples = scoring_samples(dense, options, clock, shared)
    if samples is None:
        return gradients.criterion(name)
    notes += samples.calibration.notes
    if not samples.beside and asked.loss is None:
        measured = "the loss is the distance from the model's own outputs"
        drawn = "targets are drawn from the model's own outputs"
        notes.append(f"no labels: {measured if name == ORACLE else drawn}")
    return gradients.criterion(
        name, data=samples, labels=_labels(samples, asked.loss), loss=asked.loss, budget=asked.oracle_budget,
        progress=clock.share,
    )  # fmt: skip


def scoring_samples(dense: ir.Model, options: PruneOptions, clock: Clock, shared: Shared) -> Split | None:
    """The samples that a criterion from gradients scores with; None: it takes none."""
    if str(options.repair.criterion) in WITHOUT_SAMPLES:
        return None
    return shared.once(SAMPLES, lambda: learning_samples(dense, options, clock))


def learning_samples(dense: ir.Model, options: PruneOptions, clock: Clock) -> Split:
    """Samples with their labels, those that were given or the tool's own.

    Raises:
        DataError: they do not fit the model, or none can be made up.
    """
    gradients.require()
    asked = options.learning
    with clock.step("samples"):
        if options.repair.own_samples:
            return Split(_own_samples(dense, options, clock), {}, 1)
        return Split.of(*given_samples(options.repair, dense, labels=asked.labels, everything=asked.loss is not None))


def _labels(samples: Split, loss: Any) -> str | None:
    """The entry that holds labels; a loss of one's own gets all of them."""
    return next(iter(samples.beside), None) if loss is None else None


def _own_samples(dense: ir.Model, options: PruneOptions, clock: Clock) -> Calibration:
    try:
        recipe, samples = own_samples(dense, options, clock)
    except NothingToPrune as error:
        raise DataError(f"no samples can be made up ({error}): give data") from error
    return inverted(recipe, samples, clock)


def tune(
    model: ir.Model, dense: ir.Model, options: PruneOptions, samples: Split, spend: Spend, clock: Clock, step: int
) -> tuple[ir.Model, str]:
    """A cut model trained for some time, and how it went, in words.

    Args:
        step: of a prune in several, each of which has a state of its own to go on from.

    Raises:
        MissingExtra: torch is not installed.
        ModelError: an operator has no gradient here.
        VerificationError: onnxruntime does not compute what torch does.
    """
    if not spend.amount:
        return model, "no epoch of training"
    asked = options.learning
    labels = _labels(samples, asked.loss)
    time = {"epochs": int(spend.amount)} if spend.seconds is None else {"minutes": spend.seconds / 60}

    # Texts held out are foretold once, by the result of all steps.
    apart = replace(samples, calibration=replace(samples.calibration, held_out=None))

    def trained(teacher: ir.Model | None) -> gradients.FinetuneResult:
        return gradients.finetune(
            model, teacher=teacher, data=replace(apart, beside=dict(samples.beside)), labels=labels, loss=asked.loss,
            seed=asked.seed, progress=clock.share, resume=_state(asked, step), **time,
        )  # fmt: skip

    with clock.step("finetune"):
        if asked.loss is not None:  # of any size: the distance may count for nothing beside it
            result, by = trained(None), "the loss given"
        else:
            by = "the dense model's outputs" + f" and the labels {labels!r}" * bool(labels)
            try:
                result = trained(dense)
            except TeacherError as error:
                if labels is None:
                    raise
                result, by = trained(None), f"the labels {labels!r} alone ({error})"
    learned = result.report
    return result.model, (
        f"trained by {by} for {learned.epochs} epoch{'s' * (learned.epochs != 1)}: loss on samples held out "
        f"{learned.before:.4g} -> {learned.after:.4g}"
    )


def _state(asked: LearningOptions, step: int) -> Path | None:
    """The file of a step's state."""
    if asked.resume is None:
        return None
    path = Path(asked.resume)
    return path if asked.steps == 1 else path.with_name(f"{path.stem}.{step}{path.suffix}")


def distance(
    dense: ir.Model, model: ir.Model, options: PruneOptions, samples: Split | None, *, trained: bool = True
) -> tuple[dict[str, dict[str, float]], str]:
    """How far outputs are from the dense model's, and on what: on as many samples as `COMPARED_NBYTES` of outputs hold.

    Args:
        trained: on samples that no step of training saw; else on at most `COMPARED` of those that chose what goes.

    Raises:
        ModelError, DataError: onnxruntime does not run a model, or not on the samples.
    """
    assert samples is not None
    sessions = [(each.graph, runtime.session(each, optimize=False)) for each in (dense, model)]

    def outputs(batch: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        results = []
        for graph, session in sessions:
            feeds = as_declared(samples.inputs_of(batch), declared_shapes(graph))
            caches = caches_behind(graph, feeds)
            results.append({name: array for name, array in runtime.run(session, feeds).items() if name not in caches})
        return results

    one = next(replace(samples, batch_size=1).every())
    nbytes = sum(getattr(array, "nbytes", 0) for array in outputs(one)[0].values()) / samples.count(one)
    most = int(np.clip(COMPARED_NBYTES / max(nbytes, 1), 1, len(samples.calibration)))
    wide = replace(samples, batch_size=min(WIDEST, max(1, most // 2)))
    if trained:
        batches = islice(wide.apart_from(model).held_out(), -(-most // wide.batch_size))
    else:
        batches = islice(wide.first(min(most, COMPARED)).every(), None)
    before, after = zip(*map(outputs, batches), strict=True)
    shapes = infer_shapes(dense, inputs=options.run.inputs)
    on = verdict.MADE_UP if options.repair.own_samples else verdict.HELD_OUT if trained else verdict.SAMPLES
    return moved(before, after, traits=traits_of(dense, shapes)), on


def regrowth(
    large: ir.Model, groups: Sequence[Group], plan: Plan, options: PruneOptions, samples: Split
) -> list[np.ndarray]:
    """For each group (units,) how large the gradients are of what would read units that are gone, were they there.

    Args:
        large: as large as the dense model; units that the plan removes are read as zero.
    """
    return gradients.regrowth(
        large, groups, plan.removed, data=samples, labels=_labels(samples, options.learning.loss),
        loss=options.learning.loss,
    )  # fmt: skip
