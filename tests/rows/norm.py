"""Rows of operators that normalise."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np

from tests.soundness import Row, Tensor, row, weight

IMAGE = (2, 4, 3, 3)


def positive(*shape: int) -> Tensor:
    """A constant variance."""
    return Tensor(np.linspace(0.5, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape), constant=True)


def moments(size: int) -> list[Tensor]:
    return [weight(size), weight(size), weight(size), positive(size)]


ROWS: list[Row] = [
    row("BatchNormalization", [IMAGE, *moments(4)], "n c *s, c, c, c, c -> n c *s"),
    row("BatchNormalization", [(2, 4), *moments(4)], "n c *s, c, c, c, c -> n c *s", opset=9),
    row(
        "BatchNormalization",
        [IMAGE, *moments(4)],
        "n c *s, c, c, c, c -> n c *s, c, c | statistic n s: enters a mean and a variance",
        opset=15,
        training_mode=1,
    ),
    row(
        "InstanceNormalization",
        [IMAGE, weight(4), weight(4)],
        "n c *s, c, c -> n c *s | statistic s: enters a mean and a variance",
    ),
    row(
        "GroupNormalization",
        [IMAGE, weight(2), weight(2)],
        "n (g c) *s, g, g -> n (g c) *s | g=2 | statistic c s: enters a mean and a variance | attribute num_groups=g",
        opset=18,
        num_groups=2,
    ),
    row(
        "GroupNormalization",
        [IMAGE, weight(4), weight(4)],
        "n (g c) *s, (g c), (g c) -> n (g c) *s | g=2 | statistic c s: enters a mean and a variance | attribute num_groups=g",
        opset=21,
        num_groups=2,
    ),
    row(
        "LayerNormalization",
        [(2, 3, 4), weight(4), weight(4)],
        "a b c, c, c -> a b c | statistic c: enters a mean and a variance | c is width",
    ),
    row(
        "LayerNormalization",
        [(2, 3, 4), weight(3, 4)],
        "a b c, b c -> a b c | statistic b c: enters a mean and a variance | b is width | c is width",
        axis=1,
    ),
    row(
        "LayerNormalization",
        [(2, 3, 4), weight(4), weight(1)],
        "a b c, c, 1 -> a b c | statistic b c: enters a mean and a variance | b is width | c is width",
        axis=1,
    ),
    row(
        "LayerNormalization",
        [(2, 3, 4), weight(4), weight(4)],
        "a b c, c, c -> a b c, a b 1, a b 1 | statistic c: enters a mean and a variance | c is width",
    ),
    row(
        "RMSNormalization",
        [(2, 3, 4), weight(4)],
        "a b c, c -> a b c | statistic c: enters a root mean square | c is width",
        opset=23,
    ),
    row(
        "SimplifiedLayerNormalization",
        [(2, 3, 4), weight(4)],
        "a b c, c -> a b c | statistic c: enters a root mean square | c is width",
    ),
    row("MeanVarianceNormalization", [IMAGE], "a b c d -> a b c d | statistic a c d: enters a mean and a variance"),
    row(
        "MeanVarianceNormalization",
        [(2, 3, 4)],
        "a b c -> a b c | statistic a c: enters a mean and a variance",
        opset=9,
        axes=[0, 2],
    ),
    row("LpNormalization", [(2, 3, 4)], "a b c -> a b c | statistic c: enters a norm"),
    row("LpNormalization", [(2, 3, 4)], "a b c -> a b c | statistic b: enters a norm", axis=1, p=1),
]
