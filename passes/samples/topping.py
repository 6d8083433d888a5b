"""Samples of the tool's own beside a few that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.passes.samples.calibrate import Calibration, Recorded
from spa.passes.samples.datafree import MOST_SAMPLES, Recipe
from spa.passes.samples.values import SHIPPED, carry_over

FEW, TOPPED = 64, 24
"""Samples given up to which they may be topped up, and by how many times as many."""


def top_up(
    model: ir.Model, given: Calibration, inputs: Mapping[str, Sequence[int]] | None = None
) -> Calibration | None:
    """Samples to fit beside those given, in their range; None where these are enough, or no pictures or sounds.

    Args:
        model: normalised.
        inputs: shapes by input name, where open axes are to be of some length.
    """
    if len(given) > FEW:
        return None
    recipe = recipe_like(model, given, inputs)
    if recipe is None:
        return None
    enough = recipe.enough(MOST_SAMPLES, None)
    if 2 * len(given) > enough:
        return None
    try:
        return recipe.samples(SHIPPED).beginning_of(min(enough, TOPPED * len(given)))
    except DataError:
        return None


def recipe_like(
    model: ir.Model, given: Calibration, inputs: Mapping[str, Sequence[int]] | None = None
) -> Recipe | None:
    """How samples in the range of those given are made up; None where these are no pictures or sounds.

    Args:
        model, inputs: as of `top_up`.
    """
    if isinstance(given, Recorded) or not any(map(_may_be_sensed, given.samples.values())):
        return None
    shapes = {name: given.sizes(name, 1) for name in given.samples} | dict(inputs or {})
    bounds = {
        name: (float(array.min()), float(array.max()))
        for name, array in given.samples.items()
        if array.dtype.kind == "f" and array.size and float(array.min()) < float(array.max())
    }
    try:
        recipe = Recipe.of(model, inputs=shapes, bounds=bounds)
        return recipe if carry_over(recipe.inputs) else None
    except DataError:
        return None


def _may_be_sensed(array: np.ndarray) -> bool:
    """Whether an input may be pictures or sounds: tokens are not, and to look at them a large model would be loaded."""
    return array.dtype.kind == "f" or array.dtype.itemsize == 1
