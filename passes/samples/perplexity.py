"""Measure how well a language model foretells texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spa.shapes.decoder import Decoder

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean negative log-likelihood of a token behind those before it, in a window of text.

    Attributes:
        dense, pruned: of the model before and after.
        tokens: how many were foretold.
        length: tokens of a window.
    """

    dense: float
    pruned: float
    tokens: int
    length: int

    def __str__(self) -> str:
        """The line of a report."""
        times = self.pruned / self.dense
        return f"{self.dense:.4g} -> {self.pruned:.4g} ({times:.4g} times) on {self.tokens} tokens of texts held out"


def foretells(run: Run, decoder: Decoder, ids: np.ndarray) -> bool:
    """Whether a model scores every token of some windows, and no score knows of a token behind it."""
    if decoder.scores is None:
        return False
    part = ids[np.arange(decoder.batch or 1) % len(ids)]
    scores = run(decoder.feeds(part))[decoder.scores]
    if scores.shape[:2] != part.shape or scores.shape[-1] <= ids.max():
        return False
    changed = part.copy()
    changed[:, -1] = np.where(part[:, -1] > 0, part[:, -1] - 1, part[:, -1] + 1)
    other = run(decoder.feeds(changed))[decoder.scores]
    return bool(np.allclose(scores[:, :-1], other[:, :-1], atol=1e-4 * float(np.abs(scores).max())))


def log_likelihood(run: Run, decoder: Decoder, ids: np.ndarray) -> float:
    """The mean log-likelihood, in nats, of each token but the first of windows of text.

    Args:
        run: all outputs of the model by name.
        ids: (windows, tokens).
    """
    assert decoder.scores is not None
    total, size = 0.0, decoder.batch or 1
    for start in range(0, len(ids), size):
        part = ids[np.arange(start, start + size) % len(ids)]
        scores = run(decoder.feeds(part))[decoder.scores][:, :-1].astype(np.float64)
        part, scores = part[: len(ids) - start], scores[: len(ids) - start]
        scores -= scores.max(axis=-1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        total += float(np.take_along_axis(logs, part[:, 1:, None], axis=-1).sum())
    return total / max(1, ids[:, 1:].size)
