"""Samples from the model alone, for where there are no data: the ladder of data-free calibration, chosen by the graph.

- Images and films: textures and shapes with the spectrum and the colours of natural ones
  (`spa.passes.samples.pictures`).
- Other numbers: noise whose spectrum falls off along the last axis, as that of sound does; white where it is short.
- Whole numbers that index a table: uniform over the table's rows. Where the model gives, at each position, a score for
  each of those rows, it is a language model, and writes the samples itself: they are drawn from its own distribution.
- Whole numbers that index nothing, and truth values: ones (attention masks), or zeros where ones hide everything.

How large a table is, is found by trying: a number beyond its end fails. Nothing here knows an operator or a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.coupling import couple
from spa.errors import DataError
from spa.passes.layers.consumers import find_layers
from spa.passes.layers.problems import Problem
from spa.passes.layers.statistics import enough_rows
from spa.passes.samples.calibrate import Calibration, check_samples, sample_axes
from spa.passes.samples.pictures import films, pictures
from spa.shapes import infer_shapes

Progress = Callable[[str, float], None]
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""The model, on samples that lie along the first axis of every input."""

OPEN = ((224, 64, 128), (256, 32, 512), (48, 16, 4096), (32, 8, 16000), (512, 128, 64))
"""What open axes become: sides of images, positions of whole numbers, steps of others; the first that a model takes."""

LARGEST_TABLE = 1 << 24
ROUNDS = 8
"""Of a language model rewriting all positions at once: the first that many are drawn exactly, the others nearly so."""

GREY, CONTRAST = 127.5, 60.0
"""Of pictures whose pixels are bytes."""

WRITTEN_AT_ONCE = 8
LEAST_SAMPLES = 16
MASKS = 4
"""Of more inputs than that, not every choice is tried."""

SHORT_AXIS = 16
STEADY = 1e-6


@dataclass(frozen=True, slots=True)
class _Input:
    """An input of the model.

    Attributes:
        shape: with open axes filled in and the axis of samples first.
        axis: where the model has the axis of samples.
        open: whether the model takes any number of samples.
        rows: how many rows the table has that it indexes; 0: none, or it is no whole number.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    axis: int = 0
    open: bool = True
    rows: int = 0


def make_samples(
    model: ir.Model,
    *,
    most: int = 512,
    widest: int | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Samples that a model can be calibrated with, as many as give its layers rows enough.

    Args:
        model: normalised.
        most: how many, at most.
        widest: rows of convolutions that would be longer are channels only, as in a preset; None: all are exact.
        inputs: shapes by input name, where open axes are to be of some length.

    Raises:
        DataError: an input is of no type that samples can be made of, or the model runs on none.
    """
    rng = np.random.default_rng(seed)
    session = runtime.session(model, optimize=True)
    given = [value for value in model.graph.inputs if not value.is_initializer()]
    axes = sample_axes(given)

    def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return runtime.run(session, {name: np.moveaxis(array, 0, axes[name]) for name, array in feeds.items()})

    for fills in OPEN:
        sizes = _sizes(given, inputs or {}, axes)
        found = [_described(value, inputs or {}, sizes, axes[str(value.name)], fills) for value in given]
        if _runs(run, found, {}):
            break
    else:
        raise DataError(
            f"the model does not run on inputs of zeros and ones, of shapes {[_declared(one, 1) for one in found]} "
            "or others: give shapes with --input NAME=SIZES, or calibration data"
        )
    found = [_with_rows(one, found, run) for one in found]
    counts = [one.shape[0] for one in found if not one.open]
    total = max([_enough(model, found, most, widest), *counts])
    samples = {one.name: _values(one, total, rng) for one in found}
    samples = _seen(run, [one for one in found if _is_mask(one)], found[0].shape[0], samples)
    said = "samples were made up from the model alone"
    words = [one for one in found if one.rows > 2 and len(one.shape) == 2]
    if len(words) == 1 and _writes(run, words[0], samples):
        total = min(total, max(WRITTEN_AT_ONCE, most // 8))
        samples = {name: array[:total] for name, array in samples.items()}
        _write(run, words[0], samples, rng, progress)
        said = "samples were written by the model itself"
    checked = check_samples({name: np.moveaxis(array, 0, axes[name]) for name, array in samples.items()}, model)
    return replace(checked, notes=(*checked.notes, said))


def _sizes(values: Sequence[ir.Value], inputs: Mapping[str, Sequence[int]], axes: Mapping[str, int]) -> dict[str, int]:
    """Sizes of named axes, which inputs share: those given, and one for every axis of samples."""
    found: dict[str, int] = {}
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            given = inputs.get(str(value.name))
            if not isinstance(size, int) and size.value is not None and (given or axis == axes[str(value.name)]):
                found.setdefault(size.value, given[axis] if given else 1)
    return found


def _described(
    value: ir.Value, inputs: Mapping[str, Sequence[int]], sizes: dict[str, int], axis: int, fills: tuple[int, int, int]
) -> _Input:
    """An input with its open axes filled in; what named ones become is added to `sizes`, for the inputs after it."""
    name, dtype = str(value.name), value.dtype
    if dtype is None or value.shape is None:
        raise DataError(f"input {name!r}: samples can only be made of tensors whose type and rank are known")
    if not len(value.shape):
        raise DataError(f"input {name!r} is a scalar, and what it may be cannot be made up: give calibration data")
    declared = [size if isinstance(size, int) else sizes.get(str(size.value)) for size in value.shape]
    if name in inputs:
        declared = list(inputs[name])
    numbers = dtype.is_floating_point()
    image = len(declared) == 4 and numbers
    side, length, steps = fills
    fill = side if image else steps if numbers else length
    shape = [size if size is not None else (1 if at == axis else fill) for at, size in enumerate(declared)]
    sizes |= {str(s.value): shape[at] for at, s in enumerate(value.shape) if not isinstance(s, int) and s.value}
    shape.insert(0, shape.pop(axis))
    return _Input(name, np.dtype(dtype.numpy()), tuple(shape), axis, not isinstance(value.shape[axis], int))


def _declared(one: _Input, count: int) -> tuple[int, ...]:
    """The shape as the model takes it, with that many samples where it takes any number."""
    shape = list(one.shape[1:])
    shape.insert(one.axis, count if one.open else one.shape[0])
    return tuple(shape)


def _enough(model: ir.Model, inputs: Sequence[_Input], most: int, widest: int | None) -> int:
    """How many samples give every layer rows enough.

    A layer that reads one row of a sample (behind a pooling over all positions) does not count: it could do with any
    number. Where all layers do, there are as many as may be.
    """
    # an open axis of size one could not be told from none
    shapes = infer_shapes(model, inputs={one.name: _declared(one, 2) for one in inputs})
    size = min(2 if one.open else one.shape[0] for one in inputs)
    found = []
    for layer in find_layers(model, couple(model, shapes)):
        problem = Problem.of(layer, widest=widest or layer.width)
        rows = problem.row_count(shapes.of[problem.data]) / size if problem.data in shapes.of else 0
        found += [ceil(enough_rows(problem.width) / rows)] if rows > 1 else []
    return min(most, max([LEAST_SAMPLES, *found])) if found else most


# ------------------------------------------------------------------------------------------------------ tables
def _runs(run: Run, inputs: Sequence[_Input], instead: Mapping[str, np.ndarray]) -> bool:
    """Whether the model runs on zeros of whole numbers and ones of others, but for some arrays that are given."""
    feeds = {one.name: (np.zeros if one.dtype.kind in "iu" else np.ones)(one.shape, one.dtype) for one in inputs}
    try:
        return bool(run({**feeds, **instead}))
    except DataError:
        return False


def _with_rows(one: _Input, others: Sequence[_Input], run: Run) -> _Input:
    """The input with the size of the table that it indexes, by halving: a larger number makes the model fail."""
    if one.dtype.kind not in "iu":
        return one

    def runs(number: int) -> bool:
        return _runs(run, others, {one.name: np.full(one.shape, number, one.dtype)})

    most = min(LARGEST_TABLE, int(np.iinfo(one.dtype).max))
    if runs(most):
        return one
    least = 0
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if runs(middle) else (least, middle)
    return replace(one, rows=most)


# ------------------------------------------------------------------------------------------------------ values
def _values(one: _Input, count: int, rng: np.random.Generator) -> np.ndarray:
    shape = (count, *one.shape[1:])
    if one.dtype.kind == "b":
        return np.ones(shape, one.dtype)
    axis = _channels(shape)
    if one.dtype.kind in "iu" and axis and not one.rows:
        plain = _values(_Input(one.name, np.dtype(np.float32), one.shape), count, rng)
        return np.clip(GREY + CONTRAST * plain, 0, 2 * GREY).astype(one.dtype)
    if one.dtype.kind in "iu":
        top = one.rows if one.rows > 2 else 1  # a table of one or two rows tells segments apart: the first
        return rng.integers(0, top, shape).astype(one.dtype) if one.rows else np.ones(shape, one.dtype)
    if axis:
        *frames, height, width = (size for at, size in enumerate(shape) if at not in (0, axis))
        size = shape[axis], height, width
        made = films(count, frames[0], *size, rng) if frames else pictures(count, *size, rng)
        return np.moveaxis(made, 1, axis).astype(one.dtype)
    if len(shape) > 1 and shape[-1] >= SHORT_AXIS:
        return _sounds(shape, rng).astype(one.dtype)
    return rng.standard_normal(shape).astype(one.dtype)


def _channels(shape: Sequence[int]) -> int:
    """The axis of the colours of pictures (rank four) or films (rank five): of one or three; 0: it is neither."""
    likely = {4: (1, 3), 5: (1, 2, 4)}.get(len(shape), ())
    return next((axis for axis in likely if shape[axis] in (1, 3)), 0)


def _is_mask(one: _Input) -> bool:
    """Whether the values of an input are all ones."""
    return one.dtype.kind == "b" or (one.dtype.kind in "iu" and not one.rows and not _channels(one.shape))


def _seen(run: Run, masks: Sequence[_Input], size: int, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The samples, with as few masks as need be turned into zeros so that the outputs say something of the rest."""
    names = [one.name for one in masks][:MASKS]
    for count in range(len(names) + 1 if names else 0):
        for turned in combinations(names, count):
            found = samples | {name: np.zeros_like(samples[name]) for name in turned}
            if _tells(run, found, size):
                return found
    return samples


def _tells(run: Run, samples: Mapping[str, np.ndarray], size: int) -> bool:
    """Whether some number of the outputs is another for other samples."""
    numbers = np.arange(size), np.arange(size) + max(1, min(size, len(next(iter(samples.values()))) - size))
    try:
        one, other = (
            run({name: array.take(part, 0, mode="wrap") for name, array in samples.items()}) for part in numbers
        )
    except DataError:
        return False
    pairs = [(left, other[name]) for name, left in one.items() if hasattr(left, "shape")]  # sequences have none
    return any(
        left.shape != right.shape or bool(np.any((left != right) & (left == left) & (right == right)))  # NaN is not NaN
        for left, right in pairs
    )


def _sounds(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Pink noise along the last axis, of variance one, each sample of a loudness of its own."""
    noise = np.fft.rfft(rng.standard_normal(shape))
    steps = np.sqrt(np.maximum(np.arange(noise.shape[-1]), 1.0))
    found = np.fft.irfft(noise / steps, n=shape[-1])
    found /= found.std(axis=-1, keepdims=True) + STEADY
    return np.asarray(found * np.exp(0.5 * rng.standard_normal((shape[0], *[1] * (len(shape) - 1)))))


# ------------------------------------------------------------------------------------------------------ words
def _writes(run: Run, words: _Input, samples: Mapping[str, np.ndarray]) -> bool:
    """Whether the first output scores, at each position, each row of the table that the words index."""
    size = words.shape[0]
    first = run({name: array[:size] for name, array in samples.items()})
    scores = next(iter(first.values()))
    if scores.dtype.kind != "f" or scores.shape[1:] != (words.shape[1], words.rows):
        return False
    return _looks_back(run, words, samples)


def _looks_back(run: Run, words: _Input, samples: Mapping[str, np.ndarray]) -> bool:
    """Whether a word changes no score before it."""
    feeds = {name: array[: words.shape[0]].copy() for name, array in samples.items()}
    before = next(iter(run(feeds).values()))
    feeds[words.name][:, -1] = (feeds[words.name][:, -1] + 1) % words.rows
    after = next(iter(run(feeds).values()))
    return bool(np.allclose(before[:, :-1], after[:, :-1], atol=1e-4 * np.abs(before).max()))


def _write(
    run: Run,
    words: _Input,
    samples: dict[str, np.ndarray],
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Words drawn from the model, in place: all positions at once, again and again, with the same random numbers.

    Drawing with Gumbel noise that stays makes the rewriting deterministic: a position is final as soon as all before it
    are (the Jacobi iteration of parallel decoding).
    """
    written = samples[words.name]
    total = len(written)
    size = words.shape[0] if words.shape[0] > 1 else WRITTEN_AT_ONCE
    for start in range(0, total, size):
        part = np.arange(start, start + size) % total
        noise = -np.log(rng.standard_exponential((len(part), words.shape[1] - 1, words.rows), np.float32) + 1e-20)
        for number in range(ROUNDS):
            if progress is not None:
                progress("samples", (start + size * number / ROUNDS) / (total + size))
            feeds = {name: array[part] for name, array in samples.items()}
            scores = next(iter(run(feeds).values()))
            written[part, 1:] = np.argmax(scores[:, :-1] + noise, axis=-1)
