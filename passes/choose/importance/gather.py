"""From stored tensors to one number for each unit.

A unit lies in several tensors (the filter that makes it, the kernels that read it).  First each tensor is
summed along its axes, then positions are added up by unit, then a unit's tensors are put together, and
last the scores of a group may be brought to a scale that other groups share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group, Slice
from spa.analysis.stored import NUMBERS
from spa.errors import ModelError
from spa.passes.choose.importance.masks import LARGE, is_mask

GATHERS = ("sum", "mean", "max", "l2")
ROLES = ("producers", "consumers", "both")
NORMALISATIONS = ("none", "mean", "max", "sum", "standard")

_BLOCK = 1 << 17  # elements converted and reduced at a time: they stay in the processor's cache
_UNSIGNED = {ir.DataType.UINT8: 128.0, ir.DataType.UINT4: 8.0, ir.DataType.UINT2: 2.0}
"""Where zero usually lies in stored unsigned integers; their zero point is outside the tensor."""


class Tensors:
    """Sums over stored tensors.

    Each tensor is read once, for all axes along which a group needs it, block by block: of a memory-mapped
    weight no more than a block is ever held.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        self._axes: dict[ir.Value, set[int]] = {}
        for group in groups:
            for piece in group.slices:
                self._axes.setdefault(piece.value, set()).add(piece.axis)
        self._sums: dict[tuple[ir.Value, int], dict[int, np.ndarray]] = {}
        self._sizes = {value: prod(stored_shape(value)) for value in self._axes}

    def size(self, value: ir.Value) -> int:
        """How many numbers a tensor holds."""
        return self._sizes[value]

    def power_sums(self, value: ir.Value, axis: int, power: int) -> np.ndarray:
        """(axis size,) the sum of |w| (power 1) or w * w (power 2) at each position of an axis, as float64.

        Zeros for a mask: nothing of it is a weight.

        Raises:
            ModelError: the tensor holds NaN or infinite values.
        """
        by_axis = self._sums.setdefault((value, power), {})
        if axis not in by_axis:
            by_axis |= _power_sums(value, sorted(self._axes.get(value, set()) | {axis}), power)
        return by_axis[axis]


def _power_sums(value: ir.Value, axes: Sequence[int], power: int) -> dict[int, np.ndarray]:
    array = stored(value)
    for dtype in (np.float32, np.float64):  # squares of large float32 numbers need the wider type
        sums = {axis: np.zeros(array.shape[axis]) for axis in axes}
        with np.errstate(over="ignore", invalid="ignore"):
            for start, block in _blocks(array):
                numbers = as_floats(block, value.const_value, dtype)
                numbers = numbers * numbers if power == 2 else np.abs(numbers)
                for axis, total in sums.items():
                    total[start[axis] : start[axis] + block.shape[axis]] += _sum_others(numbers, axis)
        if any(not total.max(initial=0.0) < LARGE for total in sums.values()) and is_mask(array):
            return {axis: np.zeros(array.shape[axis]) for axis in axes}
        if all(np.isfinite(total).all() for total in sums.values()):
            return sums
        check_finite(value, array)
    raise ModelError(f"tensor {value.name!r} holds numbers too large to be scored: their squares are infinite")


def stored_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a stored tensor."""
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def stored(value: ir.Value) -> np.ndarray:
    """The content of a stored tensor, in its own type and without a copy where it is memory-mapped."""
    assert value.const_value is not None
    return value.const_value.numpy()


def as_floats(block: np.ndarray, tensor: ir.TensorProtocol | None, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Stored numbers of any type as floats; integers as they are, unsigned ones from the middle of their range."""
    numbers = block.astype(np.float64 if block.dtype == np.float64 else dtype, copy=False)
    middle = None if tensor is None else _UNSIGNED.get(tensor.dtype)
    return numbers if middle is None else numbers - numbers.dtype.type(middle)


def check_finite(value: ir.Value, array: np.ndarray, *, needed: bool = False) -> None:
    """Refuse tensors that cannot be ranked, or fitted.

    Args:
        needed: the tensor counts whether or not its groups are cut.

    Raises:
        ModelError: naming the tensor and the first position that holds NaN or an infinite value.
    """
    for start, block in _blocks(array):
        wrong = ~np.isfinite(as_floats(block, value.const_value, np.float64))
        if wrong.any():
            inside = np.unravel_index(int(np.argmax(wrong)), block.shape)
            where = [int(a + b) for a, b in zip(start, inside, strict=True)]
            or_else = "" if needed else f", or leave the tensor's groups out with --exclude {value.name}"
            raise ModelError(
                f"tensor {value.name!r} holds {float(block[inside])} at {where}: expected finite weights; "
                f"repair the model{or_else}"
            )


def _blocks(array: np.ndarray, start: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """(first position on each axis, block of at most `_BLOCK` elements), cut along the leading axes."""
    start = start or (0,) * array.ndim
    if array.size <= _BLOCK:
        yield start, array
        return
    axis = next(axis for axis, size in enumerate(array.shape) if size > 1)
    step = max(1, _BLOCK * array.shape[axis] // array.size)
    for at in range(0, array.shape[axis], step):
        corner = (*start[:axis], start[axis] + at, *start[axis + 1 :])
        yield from _blocks(array[(slice(None),) * axis + (slice(at, at + step),)], corner)


def _sum_others(numbers: np.ndarray, axis: int) -> np.ndarray:
    """(axis size,) the sum over all other axes."""
    before, size, behind = prod(numbers.shape[:axis]), numbers.shape[axis], prod(numbers.shape[axis + 1 :])
    rows = numbers.reshape(before, size, behind)
    row: np.ndarray = rows[0] if before == 1 else rows.sum(axis=0)
    # a product with ones: numpy's own sum is slow over many short rows (the taps of a kernel)
    return row[:, 0] if behind == 1 else np.dot(row, np.ones(behind, row.dtype))


# ------------------------------------------------------------------------------------------------ units
@dataclass(frozen=True, slots=True)
class Context:
    """What a criterion may use.

    Attributes:
        tensors: the stored tensors of all groups, each read once.
        gather: how scores of slices become one: l2 (the root of the sum of squares), sum, mean or max.
        roles: which slices count: those of producers, of consumers, or both.
        notes: where to say what a user should know.
    """

    tensors: Tensors
    gather: str = "l2"
    roles: str = "both"
    notes: list[str] = field(default_factory=list)

    def slices(self, group: Group) -> list[Slice]:
        """The slices that count for a `group`.

        Vectors (biases, scales, running statistics) do not, nor do indices and shapes, unless a group has
        nothing else; masks count nothing.  A group without slices in the wanted role is scored by those that it has.
        """
        floats = [piece for piece in group.slices if is_weight(piece)]
        matrices = [piece for piece in floats if self.tensors.size(piece.value) > piece.unit_of.size]
        counting = matrices or floats
        if self.roles == "both":
            return counting
        return [piece for piece in counting if piece.producer == (self.roles == "producers")] or counting

    def gathered(
        self, group: Group, number: Callable[[Slice, int], np.ndarray], slices: Sequence[Slice] | None = None
    ) -> np.ndarray:
        """(units,) `number(slice, units)`, itself (units,), put together over the slices that hold the unit.

        Args:
            group: whose units are scored.
            slices: those that count; by default those of `Context.slices`.
        """
        pieces = self.slices(group) if slices is None else slices
        result, holders = np.zeros(group.size), np.zeros(group.size)
        for piece in pieces:
            numbers = number(piece, group.size)
            holders += positions(piece, group.size) > 0
            if self.gather == "max":
                result = np.maximum(result, numbers)
            else:
                result += numbers * numbers if self.gather == "l2" else numbers
        if self.gather == "mean":
            return result / np.maximum(holders, 1)
        return np.sqrt(result) if self.gather == "l2" else result

    def norms(self, piece: Slice, units: int, power: int) -> np.ndarray:
        """(units,) the L1 (`power` 1) or L2 (2) norm of what a slice (`piece`) holds of each unit; 0 where nothing."""
        sums = self.tensors.power_sums(piece.value, piece.axis, power)
        totals = by_unit(piece, units, sums)
        return np.sqrt(totals) if power == 2 else totals

    def weights(self, piece: Slice) -> np.ndarray:
        """(axis size, weights at a position) what the tensor of a slice (`piece`) holds, finite, the units' axis first.

        Integers as they are, unsigned ones from the middle of their range; zeros for a mask.

        Raises:
            ModelError: the tensor holds NaN or infinite values.
        """
        return rows_of(piece)

    def by_unit(self, piece: Slice, units: int, numbers: np.ndarray) -> np.ndarray:
        """(units,) `numbers` (axis size,), one for each position of a slice (`piece`), added up by their unit."""
        return by_unit(piece, units, numbers)


Scores = list[np.ndarray]


class Criterion(Protocol):
    """What scores units: for each group an array (units,), in any unit of measure; what is higher is kept."""

    def __call__(self, groups: Sequence[Group], context: Context, /) -> Scores: ...


def is_weight(piece: Slice) -> bool:
    """Whether a slice lies in a tensor of parameters, not of indices or shapes."""
    return piece.value.const_value is not None and piece.value.const_value.dtype not in NUMBERS


def by_unit(piece: Slice, units: int, numbers: np.ndarray) -> np.ndarray:
    """(units,) numbers (one for each position of the axis) added up by the unit that they belong to."""
    held = piece.unit_of >= 0
    if held.all():
        return np.bincount(piece.unit_of, weights=numbers, minlength=units)
    return np.bincount(piece.unit_of[held], weights=numbers[held], minlength=units)


def rows_of(piece: Slice) -> np.ndarray:
    """What `Context.weights` gives."""
    array = stored(piece.value)
    with np.errstate(over="ignore"):
        numbers = as_floats(array, piece.value.const_value)
    if not float(np.abs(numbers).max(initial=0.0)) < LARGE:
        if is_mask(array):
            numbers = np.zeros_like(numbers)
        else:
            check_finite(piece.value, array)
    return np.moveaxis(numbers, piece.axis, 0).reshape(array.shape[piece.axis], -1)


def positions(piece: Slice, units: int) -> np.ndarray:
    """(units,) how many positions of the axis each unit has."""
    return np.bincount(piece.unit_of[piece.unit_of >= 0], minlength=units)


def normalised(scores: np.ndarray, how: str) -> np.ndarray:
    """(units,) the scores of one group on a scale of its own; never changes their order.

    none; divided by the mean, max or sum of their sizes; or standard: less the mean, by the deviation.
    """
    if how == "none" or not scores.size:
        return scores
    if how == "standard":
        spread = scores.std()
        return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)
    size = np.abs(scores)
    scale = {"mean": size.mean(), "max": size.max(), "sum": size.sum()}[how]
    return scores / scale if scale > 0 else scores
