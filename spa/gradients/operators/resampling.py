"""Operators that read between positions: Resize and its kin."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import Call, implements, ints


@implements("Upsample", still=(1,))
def upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    given = call.node.attributes.get("scales")
    factors = scales.tolist() if scales is not None else list(given.as_floats()) if given is not None else []
    sizes = [floor(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
    return _resampled(call, x, sizes, factors, mode=call.text("mode", "nearest"), where="asymmetric", nearest="floor")


@implements("Resize", still=(1, 2, 3))
def resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    if call.version < 11:  # (x, scales)
        factors = [] if roi is None else roi.tolist()
        target = [floor(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
        return _resampled(call, x, target, factors, mode=call.text("mode", "nearest"), where="asymmetric",
                          nearest="floor")  # fmt: skip
    axes = call.integers("axes") if call.has("axes") else list(range(x.ndim))
    axes = [axis % x.ndim for axis in axes]
    factors, target = [1.0] * x.ndim, list(x.shape)
    if sizes is not None and sizes.numel():
        wanted = _kept_aspect(call, [x.shape[axis] for axis in axes], ints(sizes))
        for axis, (size, factor) in zip(axes, wanted, strict=True):
            target[axis], factors[axis] = size, factor
    elif scales is not None:
        for axis, factor in zip(axes, scales.tolist(), strict=True):
            factors[axis], target[axis] = factor, floor(x.shape[axis] * factor)
    where = call.text("coordinate_transformation_mode", "half_pixel")
    if where == "tf_crop_and_resize" and roi is not None:
        first, last = [0.0] * x.ndim, [1.0] * x.ndim
        corners = roi.tolist()
        for at, axis in enumerate(axes):
            first[axis], last[axis] = corners[at], corners[at + len(axes)]
        return _cropped_and_resampled(call, x, target, first, last)
    return _resampled(
        call, x, target, factors,
        mode=call.text("mode", "nearest"),
        where=where,
        nearest=call.text("nearest_mode", "round_prefer_floor"),
    )  # fmt: skip


def _kept_aspect(call: Call, sizes: Sequence[int], wanted: Sequence[int]) -> list[tuple[int, float]]:
    """(size, scale) of each axis: as asked for, or with one scale for all."""
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    scales = [goal / size for goal, size in zip(wanted, sizes, strict=True)]
    if policy == "stretch":
        return list(zip(wanted, scales, strict=True))
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [(floor(size * scale + 0.5), scale) for size in sizes]


def _cropped_and_resampled(
    call: Call, x: Tensor, sizes: Sequence[int], first: Sequence[float], last: Sequence[float]
) -> Tensor:
    """A region of the data, given by shares of its axes; what lies outside the data is one number."""
    mode, fill = call.text("mode", "nearest"), call.number("extrapolation_value", 0.0)
    for axis, (size, low, high) in enumerate(zip(sizes, first, last, strict=True)):
        length = x.shape[axis]
        if size == length:  # onnxruntime leaves an axis of scale one as it is, whatever its region
            continue
        steps = np.arange(size) * (high - low) * (length - 1) / max(size - 1, 1)
        places = low * (length - 1) + steps if size > 1 else np.array([0.5 * (low + high) * (length - 1)])
        x = _along(call, x, axis, places, size / max(length * (high - low), 1e-12), mode)
        shape = [1] * x.ndim
        shape[axis] = size
        outside = torch.from_numpy((places < 0) | (places > length - 1)).reshape(shape).to(x.device)
        x = torch.where(outside, torch.full((), fill, dtype=x.dtype, device=x.device), x)
    return x


def _along(call: Call, x: Tensor, axis: int, places: np.ndarray, factor: float, mode: str, nearest: str = "") -> Tensor:
    """The data read at places of one axis."""
    length = x.shape[axis]
    if mode == "nearest":
        nearest = nearest or call.text("nearest_mode", "round_prefer_floor")
        index = np.clip(_rounded(places, nearest), 0, length - 1).astype(np.int64)
        return x.index_select(axis, torch.from_numpy(index).to(x.device))
    matrix = torch.from_numpy(_weights(call, places, length, factor, mode)).to(x.device, x.dtype)
    return torch.tensordot(x, matrix, ([axis], [1])).movedim(-1, axis)


def _resampled(
    call: Call, x: Tensor, sizes: Sequence[int], factors: Sequence[float], *, mode: str, where: str, nearest: str
) -> Tensor:
    """Each axis that changes, resampled by itself: a choice of elements, or a matrix of weights."""
    for axis, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
        length = x.shape[axis]
        if size == length and factor == 1.0:
            continue
        x = _along(call, x, axis, _places(size, length, factor, where), factor, mode, nearest)
    return x


def _places(size: int, length: int, factor: float, where: str) -> np.ndarray:
    """Where the elements of the result lie on the axis of the data."""
    out = np.arange(size, dtype=np.float64)
    match where:
        case "half_pixel":
            return (out + 0.5) / factor - 0.5
        case "half_pixel_symmetric":
            adjusted = size / (factor * length)
            return length / 2 * (1 - adjusted) + (out + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            return (out + 0.5) / factor - 0.5 if size > 1 else np.zeros(size)
        case "align_corners":
            return out * (length - 1) / (size - 1) if size > 1 else np.zeros(size)
        case "asymmetric":
            return out / factor
    from spa.errors import ModelError

    raise ModelError(f"Resize: coordinate_transformation_mode {where!r} is not known")


def _rounded(places: np.ndarray, nearest: str) -> np.ndarray:
    match nearest:
        case "floor":
            return np.floor(places)
        case "ceil":
            return np.ceil(places)
        case "round_prefer_ceil":
            return np.floor(places + 0.5)
    return np.ceil(places - 0.5)


def _weights(call: Call, places: np.ndarray, length: int, factor: float, mode: str) -> np.ndarray:
    """(size, length): what each element of the data weighs in each of the result."""
    stretch = min(1.0, factor) if call.integer("antialias", 0) else 1.0
    reach = (1.0 if mode == "linear" else 2.0) / stretch
    weights = np.zeros((len(places), length))
    for row, place in enumerate(places):
        taps = np.arange(floor(place - reach) + 1, ceil(place + reach))
        if mode == "linear":
            worth = np.maximum(0.0, 1.0 - np.abs(taps - place) * stretch)
        else:
            worth = _cubic((taps - place) * stretch, call.number("cubic_coeff_a", -0.75))
        if call.integer("exclude_outside", 0) or stretch < 1.0:
            worth = np.where((taps >= 0) & (taps < length), worth, 0.0)
        total = worth.sum()
        np.add.at(weights[row], np.clip(taps, 0, length - 1), worth / (total or 1.0))
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@implements("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.text("mode", "linear"), call.text("mode", "linear"))
    padding = call.text("padding_mode", "zeros")
    return functional.grid_sample(x, grid, mode, padding, bool(call.integer("align_corners", 0)))
