"""How strongly the rows of an input are damped."""

from __future__ import annotations

import numpy as np

from spa.passes.secondorder.linalg import Array, Indices
from spa.passes.secondorder.problem import Consumer

DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)

VARIANCE_FLOOR = 1e-10
"""A row whose variance is below this share of the mean variance does not vary, but for rounding."""

FEW_ROWS = 0.25
"""Of the rows of an input: where fewer may go, their loss hardly depends on the damping, and nobody chooses one."""


def ridge(gram: Array, damping: float) -> Array:
    """Diagonal Lambda of damping, (d,): lambda_j = damping * sqrt(H_jj * mean H_jj).

    Half-way, on a logarithmic scale, between damping all rows alike, which silences rows of small variance where a
    few rows have a large one, and damping each in proportion to its variance, which lets rows through that hardly
    ever vary. Of the three it had the smallest error on unseen samples of real layers.
    """
    diagonal = np.diagonal(gram)
    mean = float(diagonal.mean())
    if mean <= 0.0:
        return np.full(len(diagonal), VARIANCE_FLOOR)
    return np.asarray(damping * np.sqrt(np.maximum(diagonal, VARIANCE_FLOOR * mean) * mean))


def default_damping(consumer: Consumer) -> float:
    """Effective rank over number of rows, within `DAMPINGS`: what to damp with when there is nothing to choose it on.

    The effective rank tr(K)^2 / ||K||_F^2 of the correlations K says how many directions the rows fill, and so how many
    numbers an average row of samples has to fix; width would overstate it for the usual, strongly correlated input.
    """
    moments = consumer.moments
    gram = moments.gram
    deviation = np.sqrt(np.diagonal(gram))
    alive = deviation > 0.0
    if not np.any(alive):
        return DAMPINGS[-1]
    correlation = gram[np.ix_(alive, alive)] / deviation[alive] / deviation[alive, None]
    rank = len(correlation) ** 2 / float(np.vdot(correlation, correlation))
    return float(np.clip(rank / moments.effective_count, DAMPINGS[0], DAMPINGS[-1]))


def few_rows(units: Indices) -> bool:
    """Whether so few rows have one of the ``units`` (..., width) that `default_damping` will do; -1: none.

    A layer behind a concatenation reads dozens of groups: to choose for each of them is work that grows with the
    square of the depth (DenseNet121: nine tenths of all).
    """
    return bool(np.mean(units >= 0) < FEW_ROWS)
