"""Texts that a language model writes itself: drawn from its own distribution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.passes.samples.inputs import Input, Run
from spa.presets import Progress

PIECE = 32
"""Words that are drawn exactly, each behind all before it."""

ROUNDS = 8
"""Of a language model rewriting all positions at once, at least: the first that many are exact, the others are not."""

REPEATED_FLOPS = 2e13
"""What writing without caches may cost, but for the first few texts."""

WRITTEN_AT_ONCE, PIECES_AT_ONCE = 8, 32

SCORES = 1 << 25
"""Numbers that a run gives at most."""


def gumbel(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise: the largest of scores with it is drawn from their softmax."""
    return np.asarray(-np.log(rng.standard_exponential(shape, np.float32) + 1e-20))


def writes(run: Run, words: Input, samples: Mapping[str, np.ndarray]) -> bool:
    """Whether the first output scores, at each position, each row of the table that the words index."""
    size = words.shape[0]
    first = run({name: array[:size] for name, array in samples.items()})
    scores = next(iter(first.values()))
    if scores.dtype.kind != "f" or scores.shape[1:] != (words.shape[1], words.rows):
        return False
    return _looks_back(run, words, samples)


def _looks_back(run: Run, words: Input, samples: Mapping[str, np.ndarray]) -> bool:
    """Whether a word changes no score before it."""
    feeds = {name: array[: words.shape[0]].copy() for name, array in samples.items()}
    before = next(iter(run(feeds).values()))
    feeds[words.name][:, -1] = (feeds[words.name][:, -1] + 1) % words.rows
    after = next(iter(run(feeds).values()))
    return bool(np.allclose(before[:, :-1], after[:, :-1], atol=1e-4 * np.abs(before).max()))


def growing(inputs: Sequence[Input], values: Mapping[str, ir.Value], words: Input) -> dict[str, list[int]]:
    """The axes that are as long as a text, by input; none where texts have a fixed length.

    Args:
        inputs: with the axis of samples first.
        values: the model's inputs, by name.
    """
    axes = {
        input_.name: [
            axis
            for axis, size in enumerate(_samples_first(values[input_.name].shape or (), input_.axis))
            if axis and isinstance(size, ir.SymbolicDim) and size.value == _length(values[words.name], words)
        ]
        for input_ in inputs
    }
    return axes if axes[words.name] else {}


def write(
    run: Run,
    words: Input,
    samples: dict[str, np.ndarray],
    axes: Mapping[str, Sequence[int]],
    rounds: int,
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Words drawn from the model, in place, in pieces of `PIECE` words that are put one behind another.

    Without caches each word costs a run of all before it, so that pieces of a quarter of a text cost a quarter; behind
    one another they are texts as calibration data often are, documents one after another.

    Args:
        axes: those that are as long as a text, by input (`growing`); none: the model takes texts of one length, of
            which all positions are rewritten at once.
        rounds: so often, at most, and `ROUNDS` times at least.
    """
    written = samples[words.name]
    count, length = written.shape
    size = min(PIECE, length)
    if axes and _runs_shorter(run, samples, axes):
        pieces = -(-written.size // size)
        starts = rng.integers(0, words.rows, pieces)
        texts = np.empty((pieces, size), written.dtype)
        some = int(np.clip(SCORES // (size * words.rows), 1, PIECES_AT_ONCE))
        for start in range(0, pieces, some):
            part = slice(start, min(start + some, pieces))
            begin = starts[part] if not start else rng.choice(texts[:start].reshape(-1), part.stop - start)
            texts[part] = _grown(run, words, samples, axes, begin, size, rng)
            if progress is not None:
                progress("samples", part.stop / (pieces + some))
        written[:] = texts.reshape(-1)[: written.size].reshape(count, length)
        return
    _rewrite(run, words, samples, max(rounds, ROUNDS), rng, progress)


def runs_of_text(axes: Mapping[str, Sequence[int]]) -> float:
    """How many runs of a whole text its words cost at least; arguments as for `write`."""
    return PIECE / 2 if axes else ROUNDS


def _grown(
    run: Run,
    words: Input,
    samples: Mapping[str, np.ndarray],
    axes: Mapping[str, Sequence[int]],
    begin: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Pieces of so many words that begin with some, (pieces, words)."""
    pieces = np.empty((len(begin), size), samples[words.name].dtype)
    pieces[:, 0] = begin
    numbers = np.arange(len(begin)) % len(samples[words.name])
    rest = {name: array[numbers] for name, array in samples.items() if name != words.name}
    for at in range(1, size):
        scores = next(iter(run(_shortened(rest, axes, at) | {words.name: pieces[:, :at]}).values()))[:, -1]
        pieces[:, at] = np.argmax(scores + gumbel(scores.shape, rng), axis=-1)
    return pieces


def _runs_shorter(run: Run, samples: Mapping[str, np.ndarray], axes: Mapping[str, Sequence[int]]) -> bool:
    """Whether the model gives scores of each of two words where texts are as short."""
    beginning = {name: array[:1] for name, array in samples.items()}
    try:
        scores = next(iter(run(_shortened(beginning, axes, 2)).values()))
    except DataError:
        return False
    return bool(scores.shape[:2] == (1, 2))


def _shortened(
    samples: Mapping[str, np.ndarray], axes: Mapping[str, Sequence[int]], length: int
) -> dict[str, np.ndarray]:
    shorter = dict(samples)
    for name in samples:
        for axis in axes[name]:
            shorter[name] = shorter[name][(slice(None),) * axis + (slice(length),)]
    return shorter


def _length(value: ir.Value, words: Input) -> str | None:
    """The name of the axis along which words lie."""
    size = _samples_first(value.shape or (), words.axis)[1]
    return size.value if isinstance(size, ir.SymbolicDim) else None


def _samples_first(shape: Iterable[int | ir.SymbolicDim], axis: int) -> list[int | ir.SymbolicDim]:
    sizes = list(shape)
    sizes.insert(0, sizes.pop(axis))
    return sizes


def _rewrite(
    run: Run,
    words: Input,
    samples: dict[str, np.ndarray],
    rounds: int,
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
        noise = gumbel((len(part), words.shape[1] - 1, words.rows), rng)
        for number in range(min(rounds, words.shape[1] - 1)):
            if progress is not None:
                progress("samples", (start + size * number / rounds) / (total + size))
            feeds = {name: array[part] for name, array in samples.items()}
            scores = next(iter(run(feeds).values()))
            drawn = np.argmax(scores[:, :-1] + noise, axis=-1)
            if np.array_equal(written[part, 1:], drawn):
                break
            written[part, 1:] = drawn
