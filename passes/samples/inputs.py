"""The inputs of a model as samples are made for them: their shapes with open axes filled in, tables, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.feeds import Feed, Feeds, fill

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""The model, on samples that lie along the first axis of every input."""

Fills = tuple[tuple[int, int], int, int]

OPEN: tuple[Fills, ...] = (
    ((224, 224), 64, 128), ((256, 256), 32, 512), ((48, 320), 16, 4096), ((48, 48), 16, 4096), ((32, 32), 8, 16000),
    ((512, 512), 128, 64),
)  # fmt: skip
"""What open axes become: sides of images, positions of whole numbers, steps of others; the first that a model takes."""

LARGEST_TABLE = 1 << 24

MASKS = 4
"""Of more inputs than that, not every choice is tried."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model.

    Attributes:
        shape: with open axes filled in and the axis of samples first.
        axis: where the model has the axis of samples.
        open: whether the model takes any number of samples.
        rows: how many rows the table has that it indexes; 0: none, or it is no whole number.
        whole: whether a matrix reads its last axis all at once, as of features, where a sound would be run along.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    axis: int = 0
    open: bool = True
    rows: int = 0
    whole: bool = False


def open_sizes(
    values: Sequence[ir.Value], inputs: Mapping[str, Sequence[int]], axes: Mapping[str, int]
) -> dict[str, int]:
    """Sizes of named axes, which inputs share: those given, and one for every axis of samples."""
    sizes: dict[str, int] = {}
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            given = inputs.get(str(value.name))
            if not isinstance(size, int) and size.value is not None and (given or axis == axes[str(value.name)]):
                sizes.setdefault(size.value, given[axis] if given else 1)
    return sizes


def described(
    value: ir.Value, inputs: Mapping[str, Sequence[int]], sizes: dict[str, int], axis: int, fills: Fills
) -> Input:
    """An input with its open axes filled in; what named ones become is added to `sizes`, for the inputs after it."""
    name, dtype = str(value.name), value.dtype
    if dtype is None or value.shape is None:
        raise DataError(f"input {name!r}: samples can only be made of tensors whose type and rank are known")
    declared = [size if isinstance(size, int) else sizes.get(str(size.value)) for size in value.shape]
    if name in inputs:
        declared = list(inputs[name])
    numbers = dtype.is_floating_point()
    image = len(declared) == 4 and numbers
    (height, width), length, steps = fills
    last = max((at for at, size in enumerate(declared) if size is None and at != axis), default=-1)
    shape = [
        size if size is not None
        else 1 if at == axis
        else (width if at == last else height) if image
        else steps if numbers else length
        for at, size in enumerate(declared)
    ]  # fmt: skip
    sizes |= {str(s.value): shape[at] for at, s in enumerate(value.shape) if not isinstance(s, int) and s.value}
    shape.insert(0, shape.pop(axis))
    return Input(name, np.dtype(dtype.numpy()), tuple(shape), axis, not isinstance(value.shape[axis], int))


def scalar_choices(value: ir.Value) -> list[np.ndarray]:
    """What an input without axes may be: a sampling rate, a count, a threshold, a switch; the most likely first."""
    dtype = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    numbers = {"b": (True, False), "i": (16000, 1, 8000, 0), "u": (16000, 1, 0)}.get(dtype.kind, (1.0, 0.5, 0.0))
    return [np.asarray(number, dtype) for number in numbers if dtype.itemsize > 1 or number <= 1]


def of_scalar(value: ir.Value, feed: Feed) -> np.ndarray:
    """What the user says that an input without axes holds.

    Raises:
        UsageError: it cannot.
    """
    dtype = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    return fill(str(value.name), feed, (), dtype, np.random.default_rng(0))


def held(inputs: Sequence[Input], feeds: Feeds, count: int) -> dict[str, np.ndarray]:
    """What the user says that some inputs hold, by name, for so many samples along the first axis.

    An array with an axis of samples is taken again from its beginning where there are more; one without is the same for
    all.

    Raises:
        UsageError: an input cannot hold it.
    """
    arrays = {}
    for input_ in inputs:
        if input_.name not in feeds:
            continue
        feed = feeds[input_.name]
        array = None if isinstance(feed, str) else np.asarray(feed)
        if array is not None and array.ndim == len(input_.shape) and array.shape[input_.axis] != count:
            rows = np.moveaxis(array, input_.axis, 0)
            feed = np.moveaxis(rows[np.arange(count) % len(rows)], 0, input_.axis)
        shape = list(input_.shape[1:])
        shape.insert(input_.axis, count)
        filled = fill(input_.name, feed, shape, input_.dtype, np.random.default_rng(0))
        arrays[input_.name] = np.moveaxis(filled, input_.axis, 0)
    return arrays


def declared_shape(input_: Input, count: int) -> tuple[int, ...]:
    """The shape as the model takes it, with that many samples where it takes any number."""
    shape = list(input_.shape[1:])
    shape.insert(input_.axis, count if input_.open else input_.shape[0])
    return tuple(shape)


def runs_on(run: Run, inputs: Sequence[Input], instead: Mapping[str, np.ndarray]) -> bool:
    """Whether the model runs on zeros of whole numbers and ones of others, but for some arrays that are given."""
    feeds = {
        input_.name: (np.zeros if input_.dtype.kind in "iu" else np.ones)(input_.shape, input_.dtype)
        for input_ in inputs
    }
    try:
        return bool(run({**feeds, **instead}))
    except DataError:
        return False


def with_rows(input_: Input, others: Sequence[Input], run: Run) -> Input:
    """The input with the size of the table that it indexes, by halving: a larger number makes the model fail."""
    if input_.dtype.kind not in "iu":
        return input_

    def runs(number: int) -> bool:
        return runs_on(run, others, {input_.name: np.full(input_.shape, number, input_.dtype)})

    most = min(LARGEST_TABLE, int(np.iinfo(input_.dtype).max))
    if runs(most):
        return input_
    least = 0
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if runs(middle) else (least, middle)
    return replace(input_, rows=most)


def channel_axis(shape: Sequence[int]) -> int:
    """The axis of the colours of pictures (rank four) or films (rank five): of one or three; 0: it is neither."""
    likely = {4: (1, 3), 5: (1, 2, 4)}.get(len(shape), ())
    return next((axis for axis in likely if shape[axis] in (1, 3)), 0)


def is_mask(input_: Input) -> bool:
    """Whether the values of an input are all ones."""
    return input_.dtype.kind == "b" or (
        input_.dtype.kind in "iu" and not input_.rows and not channel_axis(input_.shape)
    )


def unhidden(run: Run, masks: Sequence[Input], size: int, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The samples, with as few masks as need be turned into zeros so that the outputs say something of the rest."""
    names = [mask.name for mask in masks][:MASKS]
    for count in range(len(names) + 1 if names else 0):
        for turned in combinations(names, count):
            shown = samples | {name: np.zeros_like(samples[name]) for name in turned}
            if _tells(run, shown, size):
                return shown
    return samples


def _tells(run: Run, samples: Mapping[str, np.ndarray], size: int) -> bool:
    """Whether some number of the outputs is another for other samples."""
    numbers = np.arange(size), np.arange(size) + max(1, min(size, len(next(iter(samples.values()))) - size))
    try:
        first, second = (
            run({name: array.take(part, 0, mode="wrap") for name, array in samples.items()}) for part in numbers
        )
    except DataError:
        return False
    pairs = [(left, second[name]) for name, left in first.items() if hasattr(left, "shape")]  # sequences have none
    return any(
        left.shape != right.shape or bool(np.any((left != right) & (left == left) & (right == right)))  # NaN is not NaN
        for left, right in pairs
    )
