"""Values for a model's inputs when it runs: the user's own, or a word for them.

    {"ids": "range:50257", "attention_mask": "ones", "x": array, "sr": 16000}

`--feed attention_mask=ones` says the same at the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spa.arrays import UnreadableError, load
from spa.errors import UsageError

Feed = np.ndarray | str | float | Sequence[Any]
"""An array or numbers; or one of the words ones, zeros and range:N (whole numbers from 0 up to N - 1, at random)."""

Feeds = Mapping[str, Feed]

Bounds = Mapping[str, tuple[float, float]]
"""The least and the largest number of an input, by name."""

Given = Mapping[str, Any] | Iterable[Any] | np.ndarray
"""Samples that a caller has: arrays by input name, samples or batches one by one, or the array of the only input."""

LABELS = "labels"
"""The entry of samples that holds labels, unless told."""

WORDS = "ones, zeros, range:N (whole numbers below N), numbers such as 1,2,3, or a file .npy or .npz"


def check(feeds: Feeds, inputs: Sequence[str]) -> None:
    """Refuse feeds that no input can take.

    Raises:
        UsageError: there is no such input, or the word or the numbers mean nothing.
    """
    for name, feed in feeds.items():
        if name not in inputs:
            raise UsageError(f"feed {name!r}: there is no such input; the inputs are {', '.join(map(repr, inputs))}")
        if isinstance(feed, str):
            _limit(name, feed)
        else:
            numbers(name, feed)


def numbers(name: str, feed: Feed) -> np.ndarray:
    """The array that a feed is.

    Raises:
        UsageError: these are no numbers, or rows of several lengths.
    """
    try:
        array = np.asarray(feed)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "fiub" and array.dtype.type.__module__ != "ml_dtypes":
        raise UsageError(f"feed {name!r}: expected numbers in rows of one length, found {str(feed)[:60]!r}")
    return array


def sizes(feeds: Feeds, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shapes that feeds settle, by input: of arrays with as many axes as the input has."""
    arrays = {name: numbers(name, feed) for name, feed in feeds.items() if not isinstance(feed, str)}
    return {name: array.shape for name, array in arrays.items() if array.ndim == ranks.get(name)}


def as_declared(feeds: Mapping[str, Any], shapes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Feeds of which those without elements have the sizes that a model declares.

    The cache before the first token holds nothing, and has as many heads as the model: fewer than the dense one's.

    Args:
        shapes: of inputs by name; what is no whole number is open.
    """
    made = dict(feeds)
    for name, array in feeds.items():
        shape = shapes.get(name, ())
        if isinstance(array, np.ndarray) and not array.size and len(shape) == array.ndim:
            sizes = [size if isinstance(size, int) else there for size, there in zip(shape, array.shape, strict=True)]
            made[name] = np.zeros(sizes, array.dtype)
    return made


def fill(
    name: str, feed: Feed, shape: Sequence[int], dtype: np.dtype[Any], generator: np.random.Generator
) -> np.ndarray:
    """What an input of this shape and type is given.

    One number stands for all, and as many numbers as there are elements fill them in order.

    Raises:
        UsageError: the numbers do not fit the shape, or the type cannot hold them.
    """
    if isinstance(feed, str):
        limit = _limit(name, feed)
        values = generator.integers(0, limit, shape) if limit else np.full(shape, feed == "ones")
        return values.astype(dtype)
    array = numbers(name, feed)
    if array.size == 1 or array.ndim < len(shape):
        flat = np.broadcast_to(array.reshape(()), shape) if array.size == 1 else array
        array = flat if flat.size != np.prod(shape, dtype=int) else flat.reshape(shape)
    if array.shape != tuple(shape):
        raise UsageError(
            f"feed {name!r} has {array.size} numbers of shape {array.shape}, which the shape {tuple(shape)} does not "
            f"fit; give the shape with --input {name}=SIZES, or as many numbers"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "iub" and np.any(cast != array):
        raise UsageError(f"feed {name!r}: the input takes {dtype}, which cannot hold {array.flat[0]!s} and the rest")
    return cast


def parse(items: Sequence[str]) -> dict[str, Feed]:
    """Feeds from words: NAME=ones, NAME=zeros, NAME=range:N, NAME=1,2,3, NAME=FILE, or FILE.npz of inputs by name.

    Raises:
        UsageError: an item is not of that form, or its file cannot be read.
    """
    feeds: dict[str, Feed] = {}
    for item in items:
        name, _, text = item.rpartition("=")
        if not name and text.endswith(".npz"):
            feeds |= read(Path(text))
        elif not name or not text:
            raise UsageError(f"{item!r}: expected NAME= and {WORDS}; or a file .npz of inputs by name")
        elif text.endswith((".npz", ".npy")):
            feeds |= read(Path(text), name)
        elif text[0].isalpha():
            _limit(name, text)
            feeds[name] = text
        else:
            feeds[name] = numbers(name, _listed(item, text))
    return feeds


def _listed(item: str, text: str) -> list[Any]:
    """1,2,3 or rows in brackets."""
    try:
        listed = json.loads(text if text.startswith("[") else f"[{text}]")
    except ValueError:
        raise UsageError(f"{item!r}: expected NAME= and {WORDS}") from None
    return list(listed)


def _limit(name: str, word: str) -> int:
    """The N of range:N; zero for ones and zeros.

    Raises:
        UsageError: it is another word.
    """
    matched = re.fullmatch(r"range:(\d+)", word)
    if word not in ("ones", "zeros") and (matched is None or not int(matched[1])):
        raise UsageError(f"feed {name!r}: expected {WORDS}, found {word!r}")
    return int(matched[1]) if matched else 0


def read(path: Path, name: str | None = None) -> dict[str, np.ndarray]:
    """Arrays by input name, from an .npz; or, for one input, from an .npy or an .npz that holds it or one array alone.

    Raises:
        UsageError: the file cannot be read, or does not hold the input.
    """
    which = "" if name is None else f"feed {name!r}: "
    try:
        content = load(path)
    except UnreadableError as error:
        raise UsageError(f"{which}cannot read arrays from {str(path)!r}: {error}") from error
    arrays = {name or "": content} if isinstance(content, np.ndarray) else content
    if name is None:
        return arrays
    if name not in arrays and len(arrays) != 1:
        raise UsageError(f"feed {name!r}: {str(path)!r} holds {', '.join(map(repr, arrays)) or 'nothing'}")
    return {name: arrays[name] if name in arrays else next(iter(arrays.values()))}
