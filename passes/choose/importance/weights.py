"""Criteria that need nothing but the weights: each scores the units of all groups, and the smallest scores go.

    @named("half", self_scaled=True)
    def half(groups: Sequence[Group], context: Context) -> Scores:
        return [np.full(group.size, 0.5) for group in groups]

From then on ``criterion="half"`` and ``--criterion half`` name it, and the page Theory shows its docstring.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np

from spa.analysis.group import Group, Slice
from spa.notation.operation import entry_of
from spa.passes.choose.importance.gather import (
    Context,
    Criterion,
    Scores,
    is_weight,
    positions,
    rows_of,
)

_DISTANCES = 1 << 24  # distances held at a time
_criteria: dict[str, Criterion] = {}
_self_scaled: set[str] = set()
CRITERIA: Mapping[str, Criterion] = MappingProxyType(_criteria)
"""Every criterion of weights by its name."""


def is_self_scaled(name: str) -> bool:
    """Whether a criterion's scores can be compared between groups as they are: not normalised unless asked for."""
    return name in _self_scaled


def named(name: str, *, self_scaled: bool = False) -> Callable[[Criterion], Criterion]:
    """Enter a criterion in `CRITERIA` by its name.

    Args:
        self_scaled: its scores can be compared between groups as they are.
    """

    def entered(function: Criterion) -> Criterion:
        _criteria[name] = function
        if self_scaled:
            _self_scaled.add(name)
        return function

    return entered


@named("l1")
def l1(groups: Sequence[Group], context: Context) -> Scores:
    """The sum of absolute weights (Li et al., Pruning Filters for Efficient ConvNets, 2017)."""
    return [context.gathered(group, partial(context.norms, power=1)) for group in groups]


@named("l2")
def l2(groups: Sequence[Group], context: Context) -> Scores:
    """The Euclidean norm of the weights."""
    return [context.gathered(group, partial(context.norms, power=2)) for group in groups]


@named("fpgm")
def fpgm(groups: Sequence[Group], context: Context) -> Scores:
    """The sum of distances to all other units: what lies near the geometric median can be replaced by the rest.

    He et al., Filter Pruning via Geometric Median, 2019.
    """
    return [context.gathered(group, distance_sums) for group in groups]


@named("lamp", self_scaled=True)
def lamp(groups: Sequence[Group], context: Context) -> Scores:
    """s_u^2 / (sum of s_v^2 over the units v of the group that are no smaller), s the L2 score.

    Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, 2021, on whole units.
    """
    results = []
    for scores in l2(groups, context):
        order = np.argsort(-scores, kind="stable")
        squares = scores[order] ** 2
        above = np.cumsum(squares)
        ranked = np.divide(squares, above, out=np.zeros_like(squares), where=above > 0)
        result = np.empty_like(ranked)
        result[order] = ranked
        results.append(result)
    return results


def scales(piece: Slice) -> bool:
    """Whether a constant multiplies a normalised channel."""
    running = ((entry_of(node).running, position) for node, position in piece.uses)
    return any(said is not None and said.scale == position for said, position in running)


@named("bn_scale", self_scaled=True)
def bn_scale(groups: Sequence[Group], context: Context) -> Scores:
    """The size of the batch normalisation's scale (Liu et al., Network Slimming, 2017).

    A group without one is scored by L2, brought to the mean of those that have one; a note says so.
    """
    scaled = [[p for p in group.slices if is_weight(p) and scales(p)] for group in groups]
    norm = partial(context.norms, power=1)
    results = [context.gathered(group, norm, pieces) for group, pieces in zip(groups, scaled, strict=True)]
    without = [number for number, pieces in enumerate(scaled) if not pieces]
    widths = [groups[number] for number in without if groups[number].branch is None]
    if not without:
        return results
    with_scale = [scores for scores, pieces in zip(results, scaled, strict=True) if pieces]
    level = float(np.concatenate(with_scale).mean()) if with_scale else 0.0
    for number, scores in zip(without, l2([groups[number] for number in without], context), strict=True):
        mean = float(scores.mean())
        results[number] = scores * (level / mean) if level and mean else scores
    if widths:
        names = ", ".join(group.name for group in widths[:3])
        context.notes.append(
            f"bn_scale: {len(widths)} of {sum(group.branch is None for group in groups)} groups have no batch "
            f"normalisation ({names}{', ...' if len(widths) > 3 else ''}); they were scored by l2"
        )
    return results


def random(seed: int = 0) -> Criterion:
    """A criterion of uniform numbers from 0 to 1, as a control.

    Args:
        seed: the same seed gives a group the same numbers, whatever other groups there are.
    """

    def scores(groups: Sequence[Group], context: Context) -> Scores:  # noqa: ARG001 (a criterion's form)
        """Uniform numbers, the same for a group whatever other groups there are: a control."""
        return [np.random.default_rng([seed, zlib.crc32(g.name.encode())]).random(g.size) for g in groups]

    return scores


named("random", self_scaled=True)(random())


def distance_sums(piece: Slice, units: int) -> np.ndarray:
    """(units,) the sum of Euclidean distances from each unit's weights to every other unit's, in one tensor.

    Raises:
        ModelError: the tensor holds NaN or infinite values.
    """
    present, vectors = _padded_unit_vectors(piece, units)
    size = float(np.abs(vectors).max(initial=0.0))
    result = np.zeros(units)
    if not size:
        return result
    vectors /= size  # squares stay in range
    vectors -= vectors.mean(axis=0)  # distances stay; their rounding shrinks with the vectors
    squares = np.einsum("ij,ij->i", vectors, vectors)
    step = max(1, _DISTANCES // len(vectors))
    for at in range(0, len(vectors), step):
        rows = slice(at, at + step)
        distances = vectors[rows] @ vectors.T
        distances *= -2.0
        distances += squares[rows, None]
        distances += squares
        np.fill_diagonal(distances[:, at:], 0.0)
        np.maximum(distances, 0.0, out=distances)
        np.sqrt(distances, out=distances)
        result[present[rows]] = size * distances.sum(axis=1, dtype=np.float64)
    return result


def _padded_unit_vectors(piece: Slice, units: int) -> tuple[np.ndarray, np.ndarray]:
    """(the units in a slice, their weights as float32 (units there, weights)); shorter ones filled up with zeros."""
    rows = rows_of(piece)
    counts = positions(piece, units)
    present = np.flatnonzero(counts)
    most = int(counts.max(initial=0))
    vectors = np.zeros((len(present), most, rows.shape[1]), np.float32)
    order = np.argsort(piece.unit_of, kind="stable")[int(np.sum(piece.unit_of < 0)) :]
    row = np.repeat(np.arange(len(present)), counts[present])
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts[present]) - counts[present], counts[present])
    vectors[row, place] = rows[order]
    return present, vectors.reshape(len(present), -1)
