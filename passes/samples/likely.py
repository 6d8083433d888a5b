"""Find the ranges that an input may have, by how the first layers respond to samples of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.passes.layers.consumers import Layer
from spa.passes.samples.inputs import Input, Run, channel_axis
from spa.passes.samples.ranges import MOST, Fetch, FirstLayers, Range, candidates, plausible
from spa.passes.samples.values import MADE_UP, SHIPPED, is_picture, is_sound, values

TRIED = 12
"""Samples on which ranges are compared."""


class Model(Protocol):
    """What of a recipe is needed here."""

    @property
    def model(self) -> ir.Model:
        """Normalised."""

    @property
    def inputs(self) -> Sequence[Input]:
        """Those with an axis of samples."""

    @property
    def run(self) -> Run:
        """The model, on samples that lie along the first axis."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers of the model."""

    @property
    def fetch(self) -> Fetch:
        """Some values of the model, from samples that lie along the first axis."""


def likely(recipe: Model, input_: Input) -> Sequence[Range]:
    """The ranges on which the first layers' results look as training left them.

    Where a size and a mean of its own for each number does better than one for all, these come first.
    """
    ranges = candidates(picture=is_picture(input_), sound=is_sound(input_))
    first = FirstLayers.of(recipe.model, recipe.layers, input_.name)
    if not first.layers:
        return ranges[:1]
    count = max(TRIED, input_.shape[0])
    rng = np.random.default_rng(0)
    feeds = {other.name: values(other, count, [], MADE_UP, rng) for other in recipe.inputs}
    constants = [
        {**feeds, input_.name: np.full((count, *input_.shape[1:]), number, input_.dtype)} for number in range(3)
    ]
    try:
        if is_picture(input_):
            ranges = [*first.inside(recipe.fetch, constants, input_.shape[channel_axis(input_.shape)]), *ranges]
        told = None if is_picture(input_) or is_sound(input_) else _told(recipe, input_, first, feeds, count)
        tried = [*ranges, *([told] if told else [])]
        made = [values(input_, count, [chosen], SHIPPED, np.random.default_rng(0)) for chosen in tried]
        scores = [first.score(recipe.fetch, {**feeds, input_.name: array}) for array in made]
    except DataError:
        return ranges[:1]
    chosen = plausible(scores[: len(ranges)], ranges, picture=is_picture(input_), sound=is_sound(input_))
    better = told is not None and scores[-1] < min(scores[: len(ranges)])
    return [told, *chosen][:MOST] if told is not None and better else chosen


def read_whole(recipe: Model, input_: Input) -> Input:
    """The input, with whether a matrix reads its last axis at once: of what may be sound by its shape."""
    if not is_sound(input_):
        return input_
    first = FirstLayers.of(recipe.model, recipe.layers, input_.name).layers
    whole = [layer.mixing.window is None and layer.width % input_.shape[-1] == 0 for layer in first]
    return replace(input_, whole=bool(whole) and all(whole))


def _told(
    recipe: Model, input_: Input, first: FirstLayers, feeds: Mapping[str, np.ndarray], count: int
) -> Range | None:
    """Means and sizes of the single numbers of an input, where its first layer tells them."""
    counted = np.arange(int(np.prod(input_.shape[1:])), dtype=np.float64).reshape(input_.shape[1:])
    numbers = np.broadcast_to(counted, (count, *input_.shape[1:])).astype(input_.dtype)
    return first.columns(recipe.fetch, {**feeds, input_.name: numbers}, input_.shape)
