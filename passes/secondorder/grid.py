"""Weights of a few bits: blocks of numbers that share a scale and a zero point, rounded so that outputs stay.

    on_grid(weight, Form(bits=4, block=32, symmetric=True), gram).values()     (outputs, width), as near as it gets

With a Gram matrix of the rows that are read, each column's rounding error is made up for by the columns behind it
(GPTQ, Frantar et al. 2023, algorithm 1); without one, every number goes to its nearest level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spa.passes.secondorder.linalg import inverse

Array = npt.NDArray[np.float64]
Fixed = tuple[Array, Array]
"""Scales and zero points that stay, (outputs, blocks) both."""

DAMPING = 0.01
"""Share of the mean of the Gram matrix's diagonal that is added to it (GPTQ, section 3.3)."""

CHUNK, FEW = 128, 16
"""Columns that are solved before the others hear of it (GPTQ, section 3.3); of smaller blocks, several together."""

WHOLE = 0.01
"""Of a step of all that a grid has, by which a number on it may be off: the type that it is stored in rounds it."""

SAME = 1e-6
"""Share of a weight's largest number that its values may be off by for it to count as unchanged."""

SHRINKING = tuple(np.linspace(1.0, 0.7, 13))
"""Shares of a block's range that are tried as its range: clipping what is rare makes the levels finer."""


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are stored.

    Attributes:
        bits: of a number.
        block: numbers along the width that share a scale.
        symmetric: whether zero is the level in the middle; else every block has a zero point.
        low, high: the levels that may be used; None: from the first to the last.
    """

    bits: int
    block: int
    symmetric: bool
    low: int = 0
    high: int | None = None

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return int(2**self.bits)

    @property
    def top(self) -> int:
        """The highest level that may be used."""
        return self.levels - 1 if self.high is None else self.high

    @property
    def middle(self) -> int:
        """The level of zero where a form is symmetric."""
        return self.levels // 2


@dataclass(frozen=True, slots=True)
class Grid:
    """Weights as levels: value = (level - zero) x scale.

    Attributes:
        levels: (outputs, width) whole numbers from 0.
        scales, zeros: (outputs, blocks).
    """

    form: Form
    levels: npt.NDArray[np.unsignedinteger[Any]]
    scales: Array
    zeros: Array

    def values(self) -> Array:
        """(outputs, width) what the levels stand for."""
        width = self.levels.shape[1]
        scales, zeros = (np.repeat(each, self.form.block, axis=1)[:, :width] for each in (self.scales, self.zeros))
        return (self.levels - zeros) * scales


def on_grid(weight: Array, form: Form, gram: Array | None = None, fixed: Fixed | None = None) -> Grid:
    """A weight in a form, the better of both ways of rounding by the Gram matrix.

    Args:
        weight: (outputs, width).
        gram: (width, width) sums of products of what is read; None: all columns count alike.
        fixed: scales and zero points that stay, (outputs, blocks) both; None: they are chosen.
    """
    plain = _rounded(weight, form, None if gram is None else np.diagonal(gram), fixed)
    if gram is None or not np.any(np.diagonal(gram)):
        return plain
    solved = _solved(weight, form, gram, fixed)
    return min((solved, plain), key=lambda grid: lost(weight, grid, gram))


def same(values: Array, weight: Array) -> bool:
    """Whether a weight is what a grid holds."""
    if values.shape != weight.shape:
        return False
    return bool(np.abs(values - weight).max(initial=0) <= SAME * np.abs(values).max(initial=0))


def recovered(weight: Array, form: Form) -> Grid | None:
    """The grid that a weight (outputs, width) is on already; None: it is on none of the form."""
    blocks = []
    for at in _starts(weight.shape[1], form):
        block = _recovered(weight[:, at : at + form.block], form)
        if block is None:
            return None
        blocks.append(block)
    if not blocks:
        return None
    levels, scales, zeros = ([block[at] for block in blocks] for at in range(3))
    return Grid(form, np.hstack(levels).astype(_dtype(form)), np.stack(scales, axis=1), np.stack(zeros, axis=1))


def _recovered(block: Array, form: Form) -> tuple[Array, Array, Array] | None:
    """Levels (outputs, width), scales and zero points (outputs,) of a block; None: some output is on no grid."""
    largest = np.abs(block).max(axis=1)
    levels, scales = np.full(block.shape, float(form.middle)), np.ones(len(block))
    zeros, left = np.full(len(block), float(form.middle)), np.flatnonzero(largest)
    if len(left) > FEW:  # a few outputs tell at once that there is none
        some = _recovered(block[left[:FEW]], form)
        if some is None:
            return None
    for steps in range(1, form.top - form.low + 1):
        numbers = block[left] * (steps / largest[left, None])
        whole = np.round(numbers)
        near = np.abs(numbers - whole).max(axis=1, initial=0.0) <= WHOLE * steps / (form.top - form.low)
        at, whole = left[near], whole[near]
        for sign in (1.0, -1.0) if form.symmetric else (1.0,):
            low, high = (sign * whole).min(axis=1, initial=0.0), (sign * whole).max(axis=1, initial=0.0)
            zero = np.full(len(at), float(form.middle)) if form.symmetric else form.low - low
            fits = (low + zero >= form.low) & (high + zero <= form.top)
            mine, steps_of = at[fits], whole[fits]
            levels[mine] = sign * steps_of + zero[fits, None]
            scales[mine] = sign * np.sum(block[mine] * steps_of, axis=1) / np.sum(steps_of**2, axis=1)
            zeros[mine] = zero[fits]
            at, whole = at[~fits], whole[~fits]
            left = np.setdiff1d(left, mine)
    return None if len(left) else (levels, scales, zeros)


def lost(weight: Array, grid: Grid, gram: Array) -> float:
    """The sum of squares by which the outputs are off."""
    error = grid.values() - weight
    return float(np.sum((error @ gram) * error))


def _rounded(weight: Array, form: Form, weights: Array | None, fixed: Fixed | None = None) -> Grid:
    """Every number at its nearest level."""
    width = weight.shape[1]
    if fixed is None:
        parts = [scaled(weight[:, at : at + form.block], form, _part(weights, at, form)) for at in _starts(width, form)]
        fixed = np.stack([scale for scale, _ in parts], axis=1), np.stack([zero for _, zero in parts], axis=1)
    scales, zeros = fixed
    scale, zero = (np.repeat(each, form.block, axis=1)[:, :width] for each in (scales, zeros))
    return Grid(form, _levels(weight, scale, zero, form), scales, zeros)


def _starts(width: int, form: Form) -> range:
    return range(0, width, form.block)


def _part(weights: Array | None, at: int, form: Form) -> Array | None:
    return None if weights is None else weights[at : at + form.block]


def _levels(weight: Array, scale: Array, zero: Array, form: Form) -> npt.NDArray[np.unsignedinteger[Any]]:
    return np.asarray(np.clip(np.round(weight / scale) + zero, form.low, form.top), _dtype(form))


def scaled(block: Array, form: Form, weights: Array | None) -> tuple[Array, Array]:
    """The scale and the zero point of a block for each output, with the least error: (outputs,) both."""
    counts = np.ones(block.shape[1]) if weights is None else weights + 1e-12 * max(float(weights.max(initial=0)), 1e-30)
    best = np.full(len(block), np.inf)
    scale, zero = np.ones(len(block)), np.full(len(block), float(form.middle))
    for share in SHRINKING:
        for tried, point in _choices(block, form, share):
            levels = np.clip(np.round(block / tried[:, None]) + point[:, None], form.low, form.top)
            error = np.sum(counts * ((levels - point[:, None]) * tried[:, None] - block) ** 2, axis=1)
            better = error < best
            best = np.where(better, error, best)
            scale, zero = np.where(better, tried, scale), np.where(better, point, zero)
    return scale, zero


def _choices(block: Array, form: Form, share: float) -> list[tuple[Array, Array]]:
    """Scales and zero points for a share of the range of each output."""
    low, high = (share * np.minimum(block.min(axis=1), 0.0), share * np.maximum(block.max(axis=1), 0.0))
    if not form.symmetric:
        scale = _positive((high - low) / (form.top - form.low))
        return [(scale, np.clip(form.low + np.round(-low / scale), form.low, form.top))]
    half, middle = form.middle, np.full(len(block), float(form.middle))
    if form.low > 0:
        reach = min(half - form.low, form.top - half)
        return [(_positive(np.maximum(-low, high) / max(reach, 1)), middle)]
    furthest = np.where(-low > high, -low, -high)  # the level farthest from zero is on one side only
    signed = np.where(furthest == 0, 1.0, furthest / half)
    return [(signed, middle), (_positive(np.maximum(-low, high) / (half - 1)), middle)]


def _positive(scale: Array) -> Array:
    return np.where(scale > 0, scale, 1.0)


def _solved(weight: Array, form: Form, gram: Array, fixed: Fixed | None = None) -> Grid:
    """Column after column, what is left of the error spread over those behind: some at once, the others in one go."""
    from scipy.linalg import cholesky

    width = weight.shape[1]
    damped = gram + DAMPING * float(np.mean(np.diagonal(gram))) * np.eye(width)
    upper = cholesky(inverse(damped), lower=False, check_finite=False)
    left, levels = weight.copy(), np.zeros(weight.shape, _dtype(form))
    scales, zeros = (np.zeros((len(weight), len(_starts(width, form)))) for _ in range(2)) if fixed is None else fixed
    for start in range(0, width, _chunk(form)):
        end = min(start + _chunk(form), width)
        errors = np.zeros((len(weight), end - start))
        for at in range(start, end):
            block, first = divmod(at, form.block)
            if fixed is None and not first:
                stop = min(at + form.block, width)
                scales[:, block], zeros[:, block] = scaled(left[:, at:stop], form, np.diagonal(gram)[at:stop])
            scale, zero = scales[:, block], zeros[:, block]
            levels[:, at] = _levels(left[:, at], scale, zero, form)
            errors[:, at - start] = (left[:, at] - (levels[:, at] - zero) * scale) / upper[at, at]
            left[:, at + 1 : end] -= errors[:, at - start, None] * upper[at, at + 1 : end]
        left[:, end:] -= errors @ upper[start:end, end:]
    return Grid(form, levels, scales, zeros)


def _chunk(form: Form) -> int:
    """Columns that are solved one by one before the others hear of it: whole blocks, or parts of one."""
    return min(form.block, CHUNK) if form.block >= FEW else form.block * (CHUNK // form.block)


def _dtype(form: Form) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if form.bits <= 8 else np.uint16


def scale_for_all(parts: Sequence[tuple[Array, Array | None]], form: Form) -> tuple[float, float]:
    """One scale and one zero point for several weights (outputs, width), each with how much its columns count."""
    whole = np.concatenate([weight.reshape(1, -1) for weight, _ in parts], axis=1)
    counts = [np.ones(weight.shape) if each is None else np.broadcast_to(each, weight.shape) for weight, each in parts]
    scale, zero = scaled(whole, form, np.concatenate([each.reshape(-1) for each in counts]))
    return float(scale[0]), float(zero[0])
