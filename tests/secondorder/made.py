"""Consumers and moments made of random rows, for all tests of one group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spa.passes.secondorder import Consumer, Moments
from spa.passes.secondorder.damping import ridge
from spa.passes.secondorder.problem import importance, normal_equations
from spa.passes.secondorder.system import System, by_input

Array = npt.NDArray[np.float64]
DAMPING = 1e-2


def correlated(rng: np.random.Generator, count: int, width: int) -> Array:
    """Rows with correlated columns, means and scales of their own."""
    mixing = rng.standard_normal((width, width)) / np.sqrt(width) + np.eye(width)
    return np.asarray(
        rng.standard_normal((count, width)) @ mixing * rng.uniform(0.3, 3, width) + rng.normal(0, 2, width)
    )


def moments_of(rows: Array, dense: Array | None = None, **options: Any) -> Moments:
    drift = options.pop("drift", None)
    moments = Moments(
        rows.shape[1],
        dense_width=None if dense is None else dense.shape[1],
        drift_width=0 if drift is None else drift.shape[1],
        precision=np.float64,
    )
    moments.update(rows, dense, drift=drift, **options)
    return moments


def asymmetric(
    seed: int, *, count: int = 300, sizes: tuple[int, ...] = (3, 1, 2, 2, 1, 3, 1, 2), **options: Any
) -> Consumer:
    """A consumer of blocks of different sizes and two rows of no unit, its input disturbed by pruning further up."""
    rng = np.random.default_rng(seed)
    units = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), [-1, -1]])
    order = rng.permutation(len(units))
    dense = correlated(rng, count, len(units))
    outputs = options.pop("outputs", 6)
    return Consumer(
        moments_of(dense + 0.4 * correlated(rng, count, len(units)), dense),
        rng.standard_normal((len(units), outputs)),
        units[order],
        bias=rng.standard_normal(outputs),
        **options,
    )


def family(seed: int) -> list[Consumer]:
    """Four consumers of the same eight units: three inputs, one of them read twice, weighted errors."""
    rng = np.random.default_rng(seed)
    first = asymmetric(seed, output_weight=np.cov(rng.standard_normal((6, 20))), alpha=0.7)
    twin = replace(
        first, weight=rng.standard_normal((len(first.unit_of_row), 40)), bias=None, output_weight=None, alpha=None
    )
    symmetric = correlated(rng, 200, 8)
    narrow = Consumer(
        moments_of(symmetric), rng.standard_normal((8, 3)), rng.permutation(8), output_weight=rng.uniform(0, 2, 3)
    )
    return [first, twin, narrow, asymmetric(seed + 1, sizes=(1, 1, 0, 4, 1, 1, 1, 2), free_bias=False)]


def scratch_loss(consumers: list[Consumer], kept: Any, damping: float = DAMPING) -> float:
    """Formula (2), each consumer by itself, F written out."""
    total = 0.0
    for consumer in consumers:
        equations = normal_equations(consumer)
        damped = equations.gram + np.diag(ridge(equations.gram, damping))
        target = equations.target + ridge(equations.gram, damping)[:, None] * consumer.anchored
        rows, weight = consumer.kept_rows(np.asarray(kept)), consumer.output_weight
        square = np.eye(target.shape[1]) if weight is None else np.diag(weight) if weight.ndim == 1 else weight
        best = np.linalg.solve(damped[np.ix_(rows, rows)], target[rows])
        total -= importance(consumer, equations) * float(np.trace(square @ target[rows].T @ best))
    return total


def systems_of(consumers: list[Consumer], kept: Any, units: int = 8) -> tuple[list[System], npt.NDArray[np.bool_]]:
    systems = [System(group, DAMPING) for group in by_input(consumers)]
    mask = np.isin(np.arange(units), kept)
    for system in systems:
        system.factorise(mask)
    return systems, mask


def few_samples(seed: int, *, count: int, width: int = 40) -> Consumer:
    """The pruned input is the dense one with noise of its own, which asymmetric targets would have to fit."""
    rng = np.random.default_rng(seed)

    def drawn(rows: int) -> Moments:
        dense = rng.standard_normal((rows, width))
        return moments_of(dense + 0.5 * rng.standard_normal((rows, width)), dense)

    weight = rng.standard_normal((width, 5))
    return Consumer(drawn(count), weight, np.arange(width), held_out=drawn(2000))


def low_rank(seed: int, *, count: int, width: int = 40) -> Consumer:
    """The same of a dense input that varies in eight directions and a little in all: a few samples tell much of it."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((8, width))

    def drawn(rows: int) -> Moments:
        dense = rng.standard_normal((rows, 8)) @ mixing + 0.3 * rng.standard_normal((rows, width))
        return moments_of(dense + 0.5 * rng.standard_normal((rows, width)), dense)

    return Consumer(drawn(count), rng.standard_normal((width, 5)), np.arange(width), held_out=drawn(2000))
