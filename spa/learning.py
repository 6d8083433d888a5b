"""What a prune learns from samples: scores by gradients. torch is imported on use only."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from spa import gradients
from spa.clock import Clock
from spa.errors import DataError, NothingToPrune
from spa.gradients.options import ORACLE, WITHOUT_SAMPLES
from spa.options import PruneOptions
from spa.passes.choose.importance import Criterion
from spa.passes.repair.settings import PRESETS
from spa.passes.samples.beside import apart
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.checking import check_samples
from spa.passes.samples.datafree import MOST_SAMPLES, Recipe
from spa.passes.samples.values import MADE_UP, SHIPPED
from spa.repair import given_samples


def criterion_by_gradients(dense: ir.Model, options: PruneOptions, clock: Clock, notes: list[str]) -> Criterion:
    """The criterion that was named, with the samples that were given, or with samples of the tool's own.

    Args:
        notes: filled with what a user should know of the samples.

    Raises:
        MissingExtra: torch is not installed.
        DataError: samples do not fit the model, or none can be made up.
    """
    asked, name = options.learning, str(options.repair.criterion)
    if name in WITHOUT_SAMPLES:
        return gradients.criterion(name)
    samples = learning_samples(dense, options, clock)
    notes += samples.calibration.notes
    if not samples.beside and asked.loss is None:
        measured = "the loss is the distance from the model's own outputs"
        drawn = "targets are drawn from the model's own outputs"
        notes.append(f"no labels: {measured if name == ORACLE else drawn}")
    return gradients.criterion(
        name, data=samples, labels=_labels(samples, asked.loss), loss=asked.loss, budget=asked.oracle_budget,
        progress=clock.share,
    )  # fmt: skip


def learning_samples(dense: ir.Model, options: PruneOptions, clock: Clock) -> gradients.Split:
    """Samples with their labels, those that were given or the tool's own.

    Raises:
        DataError: they do not fit the model, or none can be made up.
    """
    gradients.require()
    asked = options.learning
    with clock.step("samples"):
        if options.repair.own_samples:
            return gradients.Split(_own_samples(dense, options, clock), {}, 1)
        given = given_samples(options.repair, dense)
        inputs = {str(value.name) for value in dense.graph.inputs if not value.is_initializer()}
        given, beside = apart(given, inputs, labels=asked.labels, everything=asked.loss is not None)
        return gradients.Split.of(check_samples(given, dense), beside)


def _labels(samples: gradients.Split, loss: Any) -> str | None:
    """The entry that holds labels; a loss of one's own gets all of them."""
    return next(iter(samples.beside), None) if loss is None else None


def _own_samples(dense: ir.Model, options: PruneOptions, clock: Clock) -> Calibration:
    preset = PRESETS[options.repair.preset]
    recipe = Recipe.of(dense, inputs=options.run.inputs, bounds=options.repair.input_ranges)
    kinds = MADE_UP if options.repair.data_free else SHIPPED
    most = min(preset.samples or MOST_SAMPLES, MOST_SAMPLES)
    try:
        return recipe.samples(kinds, most=most, widest=preset.widest, progress=clock.share)
    except NothingToPrune as error:
        raise DataError(f"no samples can be made up ({error}): give data") from error
