"""Make samples of one input: pictures, sounds, features or numbers of a table, each of several kinds by turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from spa.passes.samples.features import FAMILIES, OTHER_FAMILIES, features
from spa.passes.samples.inputs import Input, channel_axis, is_mask
from spa.passes.samples.photographs import photographs
from spa.passes.samples.pictures import films, gratings, pictures
from spa.passes.samples.ranges import Range
from spa.passes.samples.sounds import chirps, sounds, voices
from spa.passes.samples.text import text

GREY, CONTRAST = 0.5, 0.235
"""Mean and deviation of made-up pictures that go from 0 to 1."""

SHORT_AXIS, SOUND = 16, 512
"""Last axes of that length or more are taken for sequences, and for samples of sound."""


def _made_up(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    return np.clip(GREY + CONTRAST * pictures(count, channels, height, width, rng), 0.0, 1.0)


def _gratings(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    return np.clip(GREY + CONTRAST * gratings(count, channels, height, width, rng), 0.0, 1.0)


PICTURES: Mapping[str, Callable[..., np.ndarray]] = {
    "photographs": photographs, "made-up pictures": _made_up, "lines of text": text, "gratings": _gratings,
}  # fmt: skip

SOUNDS: Mapping[str, Callable[..., np.ndarray]] = {"notes": sounds, "chirps": chirps, "voices": voices}

SHIPPED = ("photographs", "made-up pictures", "lines of text")
"""Kinds of pictures with the library, of which the first and the last need it."""

MADE_UP = ("made-up pictures",)
OTHERS = ("gratings",)
OTHER_SOUNDS = ("chirps", "voices")
"""Kinds that nothing is fitted on."""


def is_picture(input_: Input) -> bool:
    """Whether an input may hold pictures or films."""
    return bool(channel_axis(input_.shape)) and input_.dtype.kind in "fiu" and not input_.rows


def is_number(input_: Input) -> bool:
    """Whether an input holds numbers whose range is a question."""
    return input_.dtype.kind == "f" or is_picture(input_)


def carry_over(inputs: Sequence[Input]) -> bool:
    """Whether what a network makes of made-up samples tells what it makes of real ones: pictures and sounds do, numbers
    of unknown meaning need not."""
    return all(is_picture(input_) or is_sound(input_) or is_mask(input_) for input_ in inputs)


def kinds_of(input_: Input, kinds: Sequence[str]) -> Sequence[str]:
    """The kinds of samples that an input may get where pictures would be of some kinds; one where there is no choice.

    Args:
        kinds: of pictures, from `PICTURES`.
    """
    others = set(kinds) <= set(OTHERS)
    if is_picture(input_):
        return kinds
    if input_.dtype.kind != "f":
        return ("numbers",)
    if is_sound(input_):
        return OTHER_SOUNDS if others else ("notes",)
    return OTHER_FAMILIES if others else FAMILIES


def turns(shares: Sequence[float], count: int) -> np.ndarray:
    """(count,): which kind each sample is of, so that any number of the first are in proportion to the shares."""
    kinds, taken = np.empty(count, int), np.zeros(len(shares))
    wanted = np.asarray(shares) / np.sum(shares)
    for number in range(count):
        kinds[number] = np.argmax(np.round(wanted * (number + 1) - taken, 9))
        taken[kinds[number]] += 1
    return kinds


def values(
    input_: Input,
    count: int,
    ranges: Sequence[Range],
    kinds: Sequence[str],
    rng: np.random.Generator,
    shares: Sequence[float] = (),
) -> np.ndarray:
    """(count, ...) samples of an input; kinds take turns, and the samples of each kind take turns among ranges.

    Args:
        ranges: what the input may take; empty: numbers are left as they are made.
        kinds: of pictures, from `PICTURES`.
        shares: of the samples, of each of `kinds_of`; empty: all the same.
    """
    shape = (count, *input_.shape[1:])
    if input_.dtype.kind == "b":
        return np.ones(shape, input_.dtype)
    if input_.dtype.kind in "iu" and not is_picture(input_):
        top = input_.rows if input_.rows > 2 else 1  # a table of one or two rows tells segments apart: the first
        return rng.integers(0, top, shape).astype(input_.dtype) if input_.rows else np.ones(shape, input_.dtype)
    names = kinds_of(input_, kinds)
    order = turns(shares or [1.0] * len(names), count)
    if is_picture(input_):
        plain = _pictures(shape, channel_axis(shape), [names[kind] for kind in order], rng)
    elif is_sound(input_):
        plain = np.empty(shape, np.float32)
        for kind in np.unique(order):
            plain[order == kind] = SOUNDS[names[kind]]((np.count_nonzero(order == kind), *shape[1:]), rng)
    else:
        plain = features(shape, [names[kind] for kind in order], rng)
    samples = np.empty(shape, np.float32)
    for number, kind in enumerate(order):
        turn = int(np.count_nonzero(order[:number] == kind))
        chosen = ranges[turn % len(ranges)] if ranges else None
        samples[number] = plain[number] if chosen is None else spread(chosen, input_, plain[number])
    if input_.dtype.kind in "iu":
        limits = np.iinfo(input_.dtype)
        return np.clip(np.rint(samples), limits.min, limits.max).astype(input_.dtype)
    return samples.astype(input_.dtype)


def spread(chosen: Range, input_: Input, plain: np.ndarray) -> np.ndarray:
    """One sample in the numbers of a range; scales of several channels lie along the channels."""
    if chosen.scale.shape == plain.shape and plain.ndim:
        return np.asarray(plain * chosen.scale + chosen.shift)
    if chosen.scale.size == 1:
        return np.asarray(plain * chosen.scale.reshape(()) + chosen.shift.reshape(()))
    along = [1] * plain.ndim
    along[channel_axis(input_.shape) - 1] = -1
    return np.asarray(plain * chosen.scale.reshape(along) + chosen.shift.reshape(along))


def _pictures(shape: tuple[int, ...], axis: int, kinds: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Pictures or films from 0 to 1, each of a kind."""
    *frames, height, width = (size for at, size in enumerate(shape) if at not in (0, axis))
    images = np.empty(shape, np.float32)
    for kind in dict.fromkeys(kinds):
        places = [at for at, other in enumerate(kinds) if other == kind]
        made = PICTURES[kind](len(places), shape[axis], height, width, rng)
        if frames:
            made = films(made, frames[0], rng)
        images[places] = np.moveaxis(made, 1, axis)
    return images


def is_sound(input_: Input) -> bool:
    """Whether an input may hold sounds."""
    return input_.dtype.kind == "f" and len(input_.shape) in (2, 3) and input_.shape[-1] >= SOUND and not input_.whole
