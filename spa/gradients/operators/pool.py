"""Pooling: over a sliding window, over all positions, over regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod

import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import Call, implements, ints
from spa.gradients.operators.linear import padded, pads_of

MAXIMA = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


@implements("MaxPool")
def max_pool(call: Call, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
    kernel = call.integers("kernel_shape")
    strides, dilations = call.integers("strides", [1] * len(kernel)), call.integers("dilations", [1] * len(kernel))
    before, behind = _window(call, x, kernel, strides, dilations)
    whole = x
    if any(before) or any(behind):
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        whole = padded(x, before, behind, lowest)
    pool = MAXIMA[len(kernel) - 1]
    if not call.wants(1):
        return pool(whole, kernel, strides, 0, dilations)
    values, index = pool(whole, kernel, strides, 0, dilations, return_indices=True)
    return values, _counted(call, index, x, whole, before)


def _counted(call: Call, index: Tensor, x: Tensor, whole: Tensor, before: Sequence[int]) -> Tensor:
    """Positions in the padded plane, as positions in all of the data."""
    places: list[Tensor] = []
    rest = index
    for size in reversed(whole.shape[2:]):
        places.insert(0, rest % size)
        rest = rest // size
    flat = torch.zeros_like(index)
    order = list(range(len(places)))
    sizes = x.shape[2:]
    if call.integer("storage_order", 0):
        order.reverse()
    for at in order:
        flat = flat * sizes[at] + (places[at] - before[at])
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * int(torch.tensor(sizes).prod())
    return flat + planes.reshape(x.shape[0], x.shape[1], *[1] * len(places))


def _window(
    call: Call, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What stands around the data; where the last window may hang over its end, as much as that one needs."""
    before, behind = pads_of(call, x.shape[2:], kernel, strides, dilations)
    if call.integer("ceil_mode", 0):
        for axis, size in enumerate(x.shape[2:]):
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            whole = before[axis] + size + behind[axis]
            count = ceil((whole - reach) / strides[axis]) + 1
            if (count - 1) * strides[axis] >= size + before[axis]:  # a window that begins in the padding is none
                count -= 1
            behind[axis] += max(0, (count - 1) * strides[axis] + reach - whole)
    return before, behind


@implements("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    return _averaged(call, x)


def _averaged(call: Call, x: Tensor) -> Tensor:
    kernel = call.integers("kernel_shape")
    rank = len(kernel)
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    before, behind = _window(call, x, kernel, strides, dilations)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if call.integer("count_include_pad", 0):
        own_before, own_behind = pads_of(call, x.shape[2:], kernel, strides, dilations)
        inside = padded(inside, own_before, own_behind, 1.0)
        inside = padded(inside, [0] * rank, [more - own for more, own in zip(behind, own_behind, strict=True)])
    else:
        inside = padded(inside, before, behind)
    total, count = (_summed(part, kernel, strides, dilations) for part in (padded(x, before, behind), inside))
    return total / count


def _summed(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """The sum under each window, axis by axis."""
    for axis, (taps, stride, gap) in enumerate(zip(kernel, strides, dilations, strict=True), 2):
        view = x.unfold(axis, gap * (taps - 1) + 1, stride)
        x = view[..., ::gap].sum(-1)
    return x


@implements("LpPool")
def power_pool(call: Call, x: Tensor) -> Tensor:
    p, kernel = call.integer("p", 2), call.integers("kernel_shape")
    strides, dilations = call.integers("strides", [1] * len(kernel)), call.integers("dilations", [1] * len(kernel))
    before, behind = _window(call, x, kernel, strides, dilations)
    return _summed(padded(x.abs() ** p, before, behind), kernel, strides, dilations) ** (1.0 / p)


def _everywhere(function: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    return lambda _, x: function(x, list(range(2, x.ndim)))


implements("GlobalAveragePool")(_everywhere(lambda x, axes: x.mean(axes, True)))
implements("GlobalMaxPool")(_everywhere(lambda x, axes: x.amax(axes, True)))


@implements("GlobalLpPool")
def global_power_pool(call: Call, x: Tensor) -> Tensor:
    p = call.integer("p", 2)
    return (x.abs() ** p).sum(list(range(2, x.ndim)), True) ** (1.0 / p)


@implements("RoiAlign", still=(1, 2))
def region_align(call: Call, x: Tensor, regions: Tensor, numbers: Tensor) -> Tensor:
    """Every bin of a region is the mean, or the maximum, of bilinear samples on a regular grid in it."""
    half = 0.5 if call.text("coordinate_transformation_mode", "half_pixel") == "half_pixel" else 0.0
    height, width = call.integer("output_height", 1), call.integer("output_width", 1)
    boxes = regions * call.number("spatial_scale", 1.0) - half
    pooled = []
    for box, number in zip(boxes, numbers.tolist(), strict=True):
        left, top, right, bottom = box
        wide, tall = right - left, bottom - top
        if not half:
            wide, tall = wide.clamp(min=1.0), tall.clamp(min=1.0)
        rows = _bins(top, tall, height, call.integer("sampling_ratio", 0))
        columns = _bins(left, wide, width, call.integer("sampling_ratio", 0))
        sampled = _bilinear(x[number], rows.reshape(-1), columns.reshape(-1))
        sampled = sampled.reshape(-1, height, rows.shape[1], width, columns.shape[1])
        pooled.append(sampled.amax((2, 4)) if call.text("mode", "avg") == "max" else sampled.mean((2, 4)))
    return torch.stack(pooled) if pooled else x.new_zeros((0, x.shape[1], height, width))


def _bins(start: Tensor, length: Tensor, bins: int, ratio: int) -> Tensor:
    """(bins, samples): coordinates of the samples."""
    count = ratio or max(1, ceil(float(length.detach()) / bins))
    steps = (torch.arange(count, device=start.device) + 0.5) / count
    return start + (torch.arange(bins, device=start.device)[:, None] + steps[None]) * length / bins


def _bilinear(plane: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(channels, rows, columns) of a plane (channels, height, width); nothing beyond a pixel from its border."""
    parts = []
    for places, size in ((rows, plane.shape[1]), (columns, plane.shape[2])):
        there = (places >= -1) & (places <= size)
        at = places.clamp(0, size - 1)
        low = at.floor().long()
        parts.append((low, (low + 1).clamp(max=size - 1), at - low, there))
    (top, bottom, down, inside_y), (left, right, across, inside_x) = parts
    upper = plane[:, top][:, :, left] * (1 - across) + plane[:, top][:, :, right] * across
    lower = plane[:, bottom][:, :, left] * (1 - across) + plane[:, bottom][:, :, right] * across
    made = upper * (1 - down)[:, None] + lower * down[:, None]
    return made * (inside_y[:, None] & inside_x[None])


@implements("MaxUnpool")
def max_unpool(call: Call, x: Tensor, index: Tensor, shape: Tensor | None = None) -> Tensor:
    kernel = call.integers("kernel_shape")
    strides, pads = call.integers("strides", [1] * len(kernel)), call.integers("pads", [0] * 2 * len(kernel))
    sizes = [
        (size - 1) * stride + taps - pads[axis] - pads[axis + len(kernel)]
        for axis, (size, stride, taps) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    whole = [*x.shape[:2], *sizes] if shape is None else ints(shape)
    flat = x.new_zeros(prod(whole)).scatter(0, index.reshape(-1), x.reshape(-1))
    return flat.reshape(whole)
