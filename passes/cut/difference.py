"""How far outputs are from those of a reference, slice by slice, each against its own size.

One tensor may hold pixel boxes and scores, so the largest number of a tensor says nothing of what a channel may be off
by. Every slice along the last axis, and along the others where slices hold some values, is judged on its own: it may be
off by a share of its own largest value, or by what rounding does to the sums that made it. That is measured: it is how
far the slice moves when every weight is off by a rounding error or two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spa.errors import VerificationError

Outputs = Mapping[str, Any]

ROUNDING_MARGIN = 10.0
MOST = 2.0  # of its own size: as far as two numbers of that size can be apart
LEAST_SLICE = 8
"""Values that a slice holds along other axes than the last: fewer say little of its size."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The slice that is farthest from its reference for its size.

    Attributes:
        place: the output, and where in it.
        channel: the largest distance in the slice, relative to the largest value in it, or to what stands for that
            where rounding is larger.
        whole: the largest distance in any output, relative to the largest value of that output.
        limit: what `channel` may be in that output.
    """

    place: str = ""
    channel: float = 0.0
    whole: float = 0.0
    limit: float = 1.0

    @property
    def within(self) -> bool:
        """Whether every slice is as near as it has to be."""
        return self.channel <= self.limit


def largest_gap(
    expected: Sequence[Outputs],
    results: Sequence[Outputs],
    moved: Sequence[Sequence[Outputs]],
    *,
    limits: Mapping[str, float],
) -> Gap:
    """Where two models differ most, over several runs.

    Args:
        expected, results: of each run.
        moved: of each run the reference's outputs with weights that are off by a rounding error, several times.
        limits: the share of its own size that a slice may be off by, by output; whole numbers may not be off at all.

    Raises:
        VerificationError: outputs have other shapes or types.
    """
    worst = Gap()
    for number, (left, right) in enumerate(zip(expected, results, strict=True)):
        off = [shaken[number] for shaken in moved]
        for name in left:
            limit = limits[name]
            for gap in _gaps(name, left[name], right[name], [outputs[name] for outputs in off], limit):
                whole = max(gap.whole, worst.whole)
                worse = gap.channel / limit > worst.channel / worst.limit
                worst = Gap(gap.place, gap.channel, whole, limit) if worse else replace(worst, whole=whole)
    return worst


def relative_l2(expected: Sequence[Outputs], results: Sequence[Outputs]) -> dict[str, float]:
    """The distance of each output that is a tensor of finite numbers, over several runs."""
    distance: dict[str, float] = {}
    for name in expected[0]:
        pairs = [(left[name], right[name]) for left, right in zip(expected, results, strict=True)]
        if all(isinstance(each, np.ndarray) and _wide(each).dtype.kind in "fiub" for pair in pairs for each in pair):
            with np.errstate(invalid="ignore", over="ignore"):
                size = sum(float(np.sum(_numbers(left) ** 2)) for left, _ in pairs)
                off = sum(float(np.sum((_numbers(left) - _numbers(right)) ** 2)) for left, right in pairs)
            if np.isfinite(size) and np.isfinite(off):
                distance[name] = (off / size) ** 0.5 if size else off**0.5
    return distance


def same_form(left: object, right: object) -> bool:
    """Whether two values of an output have the same arrays, of the same shapes and types."""
    left_form, right_form = (
        [(at, getattr(a, "shape", None), getattr(a, "dtype", None)) for at, a in leaves("", v)] for v in (left, right)
    )
    return left_form == right_form


def leaves(name: str, value: object) -> Iterator[tuple[str, Any]]:
    """The arrays of an output: itself, or the elements of a sequence or a map."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from leaves(f"{name}[{key!r}]", value[key])
    elif isinstance(value, (list, tuple)):
        for number, element in enumerate(value):
            yield from leaves(f"{name}[{number}]", element)
    else:
        yield name, value if value is None else np.asarray(value)


def tells(value: object) -> bool:
    """Whether an output says anything: there are numbers, and some are finite."""
    arrays = [array for _, array in leaves("", value) if array is not None]
    return any(array.size and (array.dtype.kind != "f" or np.isfinite(array).any()) for array in map(_wide, arrays))


def _wide(array: np.ndarray) -> np.ndarray:
    """Numbers of a type that numpy itself lacks, as float32."""
    return array.astype(np.float32) if array.dtype.type.__module__ == "ml_dtypes" else array


def _gaps(name: str, expected: object, result: object, moved: Sequence[object], limit: float) -> Iterator[Gap]:
    left, right, off = dict(leaves(name, expected)), dict(leaves(name, result)), [dict(leaves(name, m)) for m in moved]
    if left.keys() != right.keys():
        raise VerificationError(f"output {name!r} holds {len(right)} arrays, expected {len(left)}")
    for place, reference in left.items():
        other = right[place]
        if reference is None or other is None:
            if reference is not other:
                raise VerificationError(f"output {place!r} is there in one model only")
            continue
        if reference.shape != other.shape or reference.dtype != other.dtype:
            raise VerificationError(
                f"output {place!r} has shape {other.shape} of {other.dtype}, "
                f"expected {reference.shape} of {reference.dtype}"
            )
        yield _gap(place, reference, other, [each[place] for each in off if place in each], limit)


def _gap(name: str, reference: np.ndarray, result: np.ndarray, moved: Sequence[np.ndarray], limit: float) -> Gap:
    if not reference.size or _wide(reference).dtype.kind not in "fiub":
        return Gap() if np.array_equal(reference, result) else Gap(f"output {name!r}", float("inf"), float("inf"))
    number = _wide(reference).dtype.kind == "f"
    smallest = _smallest(reference.dtype) if number else 0.0
    size, distance = np.abs(_numbers(reference)), _distance(reference, result)
    size[~np.isfinite(size)] = 0.0
    rounding = np.zeros_like(size)
    for other in moved:
        if other.shape != reference.shape:
            raise VerificationError(f"the shape of output {name!r} depends on rounding")
        np.maximum(rounding, _distance(reference, other), out=rounding)
    whole = float(distance.max() / (size.max() or 1.0))
    worst = Gap("", 0.0, whole)
    for axis in _axes(reference.shape) if number else (None,):
        rest = None if axis is None else tuple(at for at in range(size.ndim) if at != axis)
        parts = [np.atleast_1d(each.max(axis=rest)) for each in (distance, size, rounding)]
        # Where half of the slices move by some share of their size, any slice may: a step of a quantised output is
        # taken or not, and a few tries do not see each slice take one.
        usual = np.median(np.where(parts[1] > 0, _ratio(parts[2], parts[1]), 0.0)) if moved else 0.0
        off = np.maximum(parts[2], min(float(usual), MOST) * parts[1])
        stands = np.maximum(parts[1] if number else 0.0, (ROUNDING_MARGIN * off + smallest) / limit)
        channel = _ratio(parts[0], stands)
        at = int(np.argmax(channel))
        if channel[at] > worst.channel:
            where = "" if axis is None else f" at index {at} of axis {axis}"
            worst = Gap(f"output {name!r}{where}", float(channel[at]), whole)
    return worst


def _axes(shape: Sequence[int]) -> list[int | None]:
    """The axes along which a tensor is judged slice by slice; None: as a whole."""
    if len(shape) < 2:
        return [None]
    size = int(np.prod(shape))
    last = len(shape) - 1
    return [axis for axis, length in enumerate(shape) if axis == last or size // length >= LEAST_SLICE]


def _ratio(above: Any, below: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == 0, 0.0, np.asarray(above) / below)


def _numbers(array: np.ndarray) -> np.ndarray:
    """As float64; a scalar as an array of one."""
    return np.atleast_1d(_wide(array).astype(np.float64))


def _distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each number; infinite where one is no number and the other is; equal infinities differ by nothing."""
    first, second = _numbers(left), _numbers(right)
    with np.errstate(invalid="ignore"):
        distance: np.ndarray = np.abs(np.where(first == second, 0.0, first - second))
    neither = np.isnan(first) & np.isnan(second)
    distance[neither] = 0.0
    distance[np.isnan(distance)] = np.inf
    return distance


def _smallest(dtype: np.dtype[Any]) -> float:
    """What numbers of a type are off by near zero: runtimes flush what is below the smallest normal one of float32."""
    wide = np.finfo(np.float32 if dtype.itemsize < 4 else dtype)
    if dtype == np.float16:
        return 4 * float(np.finfo(np.float16).smallest_subnormal)
    return float(wide.tiny)
