"""Samples of the tool's own: made up or shipped, and brought to what normalisations stored of the training data.

torch is imported where the model has such normalisations; without it samples stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from spa import gradients
from spa.analysis.cost import measure
from spa.analysis.neighbours import Normalisation, normalisation_of
from spa.clock import Clock
from spa.errors import MissingExtra, ModelError
from spa.options import PruneOptions
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.datafree import MOST_SAMPLES, Recipe
from spa.passes.samples.values import MADE_UP, SHIPPED, is_number
from spa.presets import PRESETS

PASSES, HURRIED, LEAST_PASSES = 80, 20, 5
"""Of gradients over all samples: usually, where nobody asked for a repair, and below which it is not begun."""

GRADIENT_FLOPS, BACKWARDS = 6e10, 3.0
"""A second on a core of 2026, and what a pass of gradients takes for one of the network."""

SECONDS, PATIENCE = 20.0, 300.0
"""That a prune spends on it which nobody told to repair, and one that was told to."""


def own_samples(dense: ir.Model, options: PruneOptions, clock: Clock) -> tuple[Recipe, Calibration]:
    """How samples are made up, and as many as do, with what ships unless only made-up ones are asked for.

    Raises:
        DataError: none can be made up.
    """
    recipe = own_recipe(dense, options)
    return recipe, samples_of(recipe, options, clock)


def own_recipe(dense: ir.Model, options: PruneOptions) -> Recipe:
    """How samples are made up.

    Raises:
        DataError: none can be.
    """
    return Recipe.of(dense, inputs=options.run.inputs, bounds=options.repair.input_ranges, feeds=options.run.feeds)


def samples_of(recipe: Recipe, options: PruneOptions, clock: Clock, *, drafted: bool = False) -> Calibration:
    """As many samples as do, with what ships unless only made-up ones are asked for.

    Args:
        drafted: texts are as many and as long, but not yet written.
    """
    preset = PRESETS[options.repair.preset]
    kinds = MADE_UP if options.repair.data_free else SHIPPED
    most = min(preset.samples or MOST_SAMPLES, MOST_SAMPLES)
    return recipe.samples(kinds, most=most, widest=preset.widest, progress=clock.share, drafted=drafted)


def inverted(recipe: Recipe, samples: Calibration, clock: Clock, *, hurried: bool = False) -> Calibration:
    """The samples, brought to the statistics that the model's normalisations stored.

    Args:
        hurried: within `SECONDS` or not at all; else within `PATIENCE`.
    """
    kept = stored_statistics(recipe)
    if not kept:
        return samples
    seconds = BACKWARDS * flops_of(recipe) * len(samples) / GRADIENT_FLOPS
    most, spent = (HURRIED, SECONDS) if hurried else (PASSES, PATIENCE)
    passes = min(most, int(spent / max(seconds, 1e-9)))
    if passes < LEAST_PASSES:
        return samples
    try:
        gradients.require()
        from spa.gradients.inversion import invert

        inversion = invert(recipe.model, samples, _moved(recipe), kept, passes=passes, progress=clock.share)
    except MissingExtra:
        note = (
            f"{len(kept)} normalisations know the training data's statistics; with torch, samples are brought to them"
        )
        return replace(samples, notes=(*samples.notes, f"{note}: pip install 'spa-onnx[torch]'"))
    except ModelError:  # an operator has no gradient here
        return samples
    if not inversion.after < inversion.before:
        return samples
    left = f"{np.sqrt(inversion.after / inversion.before):.2g} of the distance is left"
    note = f"samples were brought to the statistics that {len(kept)} normalisations stored: {left}"
    return replace(inversion.samples, notes=(*samples.notes, note))


def flops_of(recipe: Recipe) -> float:
    """Of one sample."""
    return measure(recipe.coupling).of("flops") / min(2 if input_.open else input_.shape[0] for input_ in recipe.inputs)


def stored_statistics(recipe: Recipe) -> list[Normalisation]:
    """Normalisations behind the inputs that can be moved, whose statistics were learned: not still zeros and ones."""
    reached = {value for value in recipe.model.graph.inputs if value.name in _moved(recipe)}
    normalisations = []
    for node in recipe.model.graph:
        if not any(value in reached for value in node.inputs):
            continue
        data, normalisation = node.inputs[0], normalisation_of(node)
        if normalisation is not None and data is not None and data.producer() is not None and _learned(normalisation):
            normalisations.append(normalisation)
        reached.update(node.outputs)
    return normalisations


def _moved(recipe: Recipe) -> list[str]:
    """Inputs of floating-point numbers that are free."""
    free = [input_ for input_ in recipe.inputs if is_number(input_) and input_.name not in recipe.feeds]
    return [input_.name for input_ in free if input_.dtype.kind == "f"]


def _learned(normalisation: Normalisation) -> bool:
    mean, variance = normalisation.mean.const_value, normalisation.variance.const_value
    assert mean is not None
    assert variance is not None
    return bool(np.any(mean.numpy() != 0) or np.any(variance.numpy() != 1))
