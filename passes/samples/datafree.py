"""Samples from the model alone, and from what ships with the tool, for where there are no data; the graph chooses.

- Images and films: textures and shapes with the spectrum and the colours of natural ones
  (`spa.passes.samples.pictures`), and from the library photographs and rendered text.
- Sound: notes and noise (`spa.passes.samples.sounds`). Other numbers: several families (`spa.passes.samples.features`).
- Whole numbers that index a table: uniform over the table's rows. Where the model gives, at each position, a score for
  each of those rows, it is a language model, and writes the samples itself: they are drawn from its own distribution.
- Whole numbers that index nothing, and truth values: ones (attention masks), or zeros where ones hide everything.

What range numbers have, the first layers tell (`spa.passes.samples.ranges`). How large a table is, is found by trying:
a number beyond its end fails. Nothing here knows an operator or a model.

One file: one recipe, whose steps share what was found out about the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from math import ceil
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from spa import runtime
from spa.analysis.cost import measure
from spa.analysis.couple import couple
from spa.analysis.coupling import Coupling
from spa.errors import DataError
from spa.feeds import Bounds, Feeds
from spa.feeds import sizes as sizes_of
from spa.passes.layers.consumers import Layer
from spa.passes.layers.finding import find_layers
from spa.passes.layers.problems import Problem
from spa.passes.layers.statistics import enough_rows
from spa.passes.layers.workers import one_thread_each
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.checking import check_samples, sample_axes
from spa.passes.samples.decoding import decoder_inputs
from spa.passes.samples.feeds import Together, together
from spa.passes.samples.inputs import (
    OPEN,
    Input,
    Run,
    declared_shape,
    described,
    held,
    is_mask,
    of_scalar,
    open_sizes,
    runs_on,
    scalar_choices,
    unhidden,
    with_rows,
)
from spa.passes.samples.likely import TRIED, likely, read_whole
from spa.passes.samples.ranges import Range, between
from spa.passes.samples.response import shares, silent
from spa.passes.samples.values import (
    MADE_UP,
    OTHERS,
    SHIPPED,
    carry_over,
    is_number,
    is_picture,
    kinds_of,
    values,
)
from spa.passes.samples.words import growing, writes
from spa.passes.samples.writing import Writer
from spa.presets import Progress
from spa.shapes import Shapes, infer_shapes
from spa.shapes.decoder import Decoder

LEAST_SAMPLES = 16
ENOUGH_SAMPLES, SAMPLES_FLOPS = 96, 2e11
"""Samples of large models: that many, and as many more as that many FLOPs take."""

MOST_SAMPLES = 512
"""Of our own: real ones are rarely more."""


def make_samples(
    model: ir.Model,
    *,
    most: int = 512,
    widest: int | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    bounds: Bounds | None = None,
    library: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Samples that a model can be calibrated with, as many as give its layers rows enough.

    Args:
        model: normalised.
        most: how many, at most.
        widest: rows of convolutions that would be longer are channels only, as in a preset; None: all are exact.
        inputs: shapes by input name, where open axes are to be of some length.
        bounds: what inputs take, where it is known.
        library: whether what ships with the tool is used besides.

    Raises:
        DataError: an input is of no type that samples can be made of, or the model runs on none.
    """
    recipe = Recipe.of(model, inputs=inputs, bounds=bounds)
    return recipe.samples(SHIPPED if library else MADE_UP, most=most, widest=widest, seed=seed, progress=progress)


@dataclass(frozen=True)
class Recipe:
    """How samples of a model are made.

    Attributes:
        inputs: those with an axis of samples.
        scalars: the others, and what they are.
        axes: where the model has the axis of samples, by input.
        run: the model, on samples that lie along the first axis.
        bounds: what inputs take, as the user said.
        decoder: of a model that takes the keys and values of earlier tokens; None: it takes none.
        feeds: what some inputs hold in every sample, as the user said.
    """

    model: ir.Model
    inputs: Sequence[Input]
    scalars: Mapping[str, np.ndarray]
    axes: Mapping[str, int]
    run: Run
    bounds: Bounds
    decoder: Decoder | None = None
    feeds: Feeds = field(default_factory=dict)
    sessions: dict[tuple[str, ...], Any] = field(default_factory=dict)
    responses: dict[tuple[str, ...], Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: ir.Model,
        *,
        inputs: Mapping[str, Sequence[int]] | None = None,
        bounds: Bounds | None = None,
        feeds: Feeds | None = None,
    ) -> Recipe:
        """Find sizes that the model runs with.

        Args:
            feeds: what some inputs hold in every sample, as the user said.

        Raises:
            DataError: there are none, or an input is of no type that samples can be made of.
            UsageError: a feed does not fit its input.
        """
        fed = dict(feeds or {})
        session = runtime.session(model, optimize=True)
        given = [value for value in model.graph.inputs if not value.is_initializer()]
        if unknown := sorted((bounds or {}).keys() - {str(value.name) for value in given}):
            names = ", ".join(repr(str(value.name)) for value in given)
            raise DataError(f"input range: the model has no input {unknown[0]!r}; its inputs are {names}")
        axes = sample_axes(given)
        if together(model, given, axes) is Together.NEVER:
            raise DataError(
                "no samples can be made up: the model sums over the axis along which they would lie, so that it takes "
                "whole feeds (the nodes of a graph, say); give recorded ones as data"
            )
        single = [value for value in given if value.shape is not None and not len(value.shape)]
        decoder = Decoder.of(model.graph)
        if decoder is not None and decoder.caches:
            return cls._of_decoder(model, decoder, session, inputs or {}, bounds or {})
        given = [value for value in given if value not in single]
        if not given:
            raise DataError("the model has no inputs with axes, so there is nothing to make samples for")
        choices = [scalar_choices(value) for value in single if value.name not in fed]
        ranks = {str(value.name): len(value.shape or ()) for value in given}
        inputs = sizes_of(fed, ranks) | dict(inputs or {})
        told = {str(v.name): of_scalar(v, fed[str(v.name)]) for v in single if v.name in fed}
        single = [value for value in single if value.name not in fed]
        for fills in OPEN:
            sizes = open_sizes(given, inputs or {}, axes)
            sized = [described(value, inputs or {}, sizes, axes[str(value.name)], fills) for value in given]
            for choice in list(zip_longest(*choices)) or [()]:
                known = {
                    str(value.name): options[0] if number is None else number
                    for value, options, number in zip(single, choices, choice, strict=True)
                } | told

                def run(
                    feeds: Mapping[str, np.ndarray],
                    known: Mapping[str, np.ndarray] = known,
                    sized: Sequence[Input] = sized,
                ) -> Mapping[str, np.ndarray]:
                    feeds = {**feeds, **held(sized, fed, len(next(iter(feeds.values()))))}
                    moved = {name: np.moveaxis(array, 0, axes[name]) for name, array in feeds.items()}
                    return runtime.run(session, {**moved, **known})

                if runs_on(run, sized, {}):
                    sized = [input_ if input_.name in fed else with_rows(input_, sized, run) for input_ in sized]
                    recipe = cls(model, sized, known, axes, run, bounds or {}, feeds=fed)
                    looked_at = [read_whole(recipe, input_) for input_ in sized]
                    return recipe if looked_at == sized else replace(recipe, inputs=looked_at)
        raise DataError(
            f"the model does not run on inputs of zeros and ones, of shapes "
            f"{[declared_shape(input_, 1) for input_ in sized]} or others: give shapes with --input NAME=SIZES, "
            "or calibration data"
        )

    @classmethod
    def _of_decoder(
        cls, model: ir.Model, decoder: Decoder, session: Any, inputs: Mapping[str, Sequence[int]], bounds: Bounds
    ) -> Recipe:
        def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            return runtime.run(session, feeds)

        token_inputs = decoder_inputs(run, decoder, inputs.get(str(decoder.tokens.name)))
        return cls(model, token_inputs, {}, {input_.name: 0 for input_ in token_inputs}, run, bounds, decoder)

    def samples(
        self,
        kinds: Sequence[str] = MADE_UP,
        *,
        most: int = 512,
        widest: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        drafted: bool = False,
    ) -> Calibration:
        """As many samples as give the layers rows enough, pictures of some kinds; else as `make_samples`.

        Args:
            drafted: texts are as many and as long, but not yet written.
        """
        counts = [input_.shape[0] for input_ in self.inputs if not input_.open]
        total = max([self.enough(most, widest), *counts])
        arrays = self.made(kinds, total, seed)
        writer = self.writer
        if writer is None:
            return self.checked(arrays, self.said(kinds))
        texts = {name: array[: writer.affordable(most // 8)] for name, array in arrays.items()}
        if not drafted:
            writer.write(texts, np.random.default_rng(seed), progress)
        return self.checked(texts, self.said(kinds) if self.decoder else "samples were written by the model itself")

    def others(self, count: int, seed: int = 1, kinds: Sequence[str] = OTHERS) -> Calibration:
        """Samples that `samples` has none of: of other kinds, or with this seed of the same."""
        arrays = self.made(kinds, max(count, *(input_.shape[0] for input_ in self.inputs)), seed)
        return self.checked(arrays, "")

    def others_apart(self, count: int) -> list[Calibration]:
        """The same, each kind of features apart: a repair has to do on all of them. Others speak for real samples
        together, each by how much the network responds to it; where it does not, new samples of the usual kinds do."""
        if carry_over(self.inputs):
            pictures = [input_ for input_ in self.inputs if is_picture(input_)]
            quiet = any(silent(self, input_, OTHERS, SHIPPED, self.ranges[input_.name]) for input_ in pictures)
            return [self.others(count, kinds=SHIPPED if quiet else OTHERS)]
        calibration = self.others(count)
        kinds = max(len(kinds_of(input_, OTHERS)) for input_ in self.inputs)
        return [
            replace(calibration, samples={name: array[at::kinds] for name, array in calibration.samples.items()})
            for at in range(kinds)
        ]

    def made(self, kinds: Sequence[str], count: int, seed: int) -> dict[str, np.ndarray]:
        """So many samples, by input, in the ranges that the inputs may have."""
        rng = np.random.default_rng(seed)
        if self.decoder is not None:
            tokens = self.inputs[0]
            return self.decoder.feeds(rng.integers(0, tokens.rows, (count, *tokens.shape[1:])))
        with one_thread_each():
            arrays = {
                input_.name: values(input_, count, self.ranges[input_.name], kinds, rng, self.shares(input_, kinds))
                for input_ in self.inputs
            }
        arrays |= held(self.inputs, self.feeds, count)
        return unhidden(
            self.run, [input_ for input_ in self.inputs if is_mask(input_)], self.inputs[0].shape[0], arrays
        )

    def checked(self, samples: Mapping[str, np.ndarray], said: str) -> Calibration:
        """Samples as calibration data, each of which counts as much as any other, however large its numbers."""
        moved = {name: np.moveaxis(array, 0, self.axes[name]) for name, array in samples.items()}
        calibration = check_samples(moved | dict(self.scalars), self.model)
        return replace(
            calibration, notes=(*calibration.notes, *([said] if said else [])), balanced=True,
            unlike=carry_over(self.inputs) and any(map(is_number, self.inputs)),
        )  # fmt: skip

    @cached_property
    def writer(self) -> Writer | None:
        """How a language model writes texts; None: it is none."""
        words = [input_ for input_ in self.inputs if input_.rows > 2 and len(input_.shape) == 2]
        if len(words) != 1 or not writes(self.run, words[0], self.made(MADE_UP, words[0].shape[0], 0)):
            return None
        size = min(2 if input_.open else input_.shape[0] for input_ in self.inputs)
        values = {str(value.name): value for value in self.model.graph.inputs}
        axes = {} if self.decoder else growing(self.inputs, values, words[0])
        return Writer(self.run, words[0], axes, self.decoder, measure(self.coupling).of("flops") / size)

    @property
    def shown(self) -> bool:
        """Whether some input takes pictures, of which the library holds some."""
        return any(is_picture(input_) for input_ in self.inputs)

    def said(self, kinds: Sequence[str]) -> str:
        """What samples of some kinds are, in a line."""
        if self.decoder is not None:
            return "texts that the model wrote itself"
        made_up = f"{'pictures' if self.shown else 'samples'} made up from the model alone"
        content = ", ".join(kinds) if self.shown and len(kinds) > 1 else made_up
        parts = [
            f"{input_.name} in {' and '.join(chosen.name for chosen in self.ranges[input_.name])}"
            for input_ in self.inputs
            if self.ranges[input_.name]
        ]
        return f"{content}{'; ' if parts else ''}{', '.join(parts)}"

    # ------------------------------------------------------------------------------------------------ ranges
    @cached_property
    def shapes(self) -> Shapes:
        """Of the model's values, for two samples: an open axis of size one could not be told from none."""
        return infer_shapes(self.model, inputs={input_.name: declared_shape(input_, 2) for input_ in self.inputs})

    @cached_property
    def coupling(self) -> Coupling:
        """Of the model's axes."""
        return couple(self.model, self.shapes)

    @cached_property
    def layers(self) -> Sequence[Layer]:
        """The layers of the model."""
        return find_layers(self.model, self.coupling)

    @cached_property
    def ranges(self) -> Mapping[str, Sequence[Range]]:
        """The ranges that each input may have; none for those whose numbers are no question."""
        by_input: dict[str, Sequence[Range]] = {}
        for input_ in self.inputs:
            if self.decoder is not None:
                by_input[input_.name] = []
            elif input_.name in self.bounds:
                by_input[input_.name] = [
                    between("the range given", *self.bounds[input_.name], picture=is_picture(input_))
                ]
            elif not is_number(input_):
                by_input[input_.name] = []
            elif input_.dtype.kind in "iu":
                low, high = (-128, 127) if input_.dtype == np.int8 else (0, 255)
                by_input[input_.name] = [between(f"{low}..{high}", low, high, picture=True)]
            else:
                by_input[input_.name] = likely(self, input_)
        return by_input

    def shares(self, input_: Input, kinds: Sequence[str]) -> Sequence[float]:
        """Of pictures that are fitted on, how many should be of each kind; empty: as many of each."""
        if not is_picture(input_) or set(kinds) <= set(OTHERS) or input_.name in self.feeds:
            return ()
        if (input_.name, *kinds) not in self.responses:
            self.responses[input_.name, *kinds] = shares(self, input_, kinds, self.ranges[input_.name])
        return self.responses[input_.name, *kinds]

    def fetch(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[ir.Value]) -> Sequence[np.ndarray]:
        """Some values of the model, from samples that lie along the first axis."""
        names = tuple(str(value.name) for value in wanted)
        size = max((input_.shape[0] for input_ in self.inputs if not input_.open), default=TRIED)
        batches = []
        for start in range(0, TRIED, size):  # a model that takes one sample at a time gets them one by one
            moved = {
                input_.name: np.moveaxis(feeds[input_.name][start : start + size], 0, input_.axis)
                for input_ in self.inputs
            }
            if all(array.shape[input_.axis] == size for input_, array in zip(self.inputs, moved.values(), strict=True)):
                batches.append(runtime.run(self.session(names), moved | dict(self.scalars)))
        return [np.concatenate([made[name] for made in batches]) for name in names]

    def whole(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The outputs of the model, from a batch as it takes it."""
        return runtime.run(self.session(tuple(str(value.name) for value in self.model.graph.outputs)), batch)

    def session(self, names: tuple[str, ...]) -> Any:
        """A session of what gives some values."""
        if names not in self.sessions:
            part = self.model.clone()
            stored = part.graph.initializers.values()  # an output may be one
            known = {str(value.name): value for value in (*part.graph.inputs, *stored, *_results(part))}
            part.graph.outputs[:] = [known[name] for name in names]
            RemoveUnusedNodesPass()(part)
            self.sessions[names] = runtime.session(part, optimize=True)
        return self.sessions[names]

    def enough(self, most: int, widest: int | None) -> int:
        """How many samples give every layer rows enough.

        A layer that reads one row of a sample (behind a pooling over all positions) does not count: it could do with
        any number. Where all layers do, there are as many as may be.
        """
        size = min(2 if input_.open else input_.shape[0] for input_ in self.inputs)
        counts = []
        for layer in self.layers:
            problem = Problem.of(layer, widest=widest or layer.width)
            rows = problem.row_count(self.shapes.of[problem.data]) / size if problem.data in self.shapes.of else 0
            counts += [ceil(enough_rows(problem.width) / rows)] if rows > 1 else []
        flops = measure(self.coupling).of("flops") / size
        most = min(most, max(ENOUGH_SAMPLES, int(SAMPLES_FLOPS / max(flops, 1.0))))
        return min(most, max([LEAST_SAMPLES, *counts])) if counts else most


def _results(model: ir.Model) -> Iterator[ir.Value]:
    return (value for node in model.graph for value in node.outputs)
