"""Texts that a language model writes itself: drawn from its own distribution."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spa.passes.samples.inputs import Input, Run
from spa.presets import Progress

ROUNDS = 8
"""Of a language model rewriting all positions at once: the first that many are drawn exactly, the others nearly so."""

WRITTEN_AT_ONCE = 8


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


def write(
    run: Run,
    words: Input,
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
        noise = gumbel((len(part), words.shape[1] - 1, words.rows), rng)
        for number in range(ROUNDS):
            if progress is not None:
                progress("samples", (start + size * number / ROUNDS) / (total + size))
            feeds = {name: array[part] for name, array in samples.items()}
            scores = next(iter(run(feeds).values()))
            written[part, 1:] = np.argmax(scores[:, :-1] + noise, axis=-1)
