"""Operators that move elements: shapes, slices, joins, padding, resampling."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import Call, implements, ints, together


@implements("Reshape")
def reshape(call: Call, x: Tensor, target: Tensor | None = None) -> Tensor:
    sizes = call.integers("shape") if target is None else ints(target)
    if not call.integer("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@implements("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.integer("axis", 1)
    axis += x.ndim if axis < 0 else 0
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, -1) if x.numel() else x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))


@implements("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.integers("perm") or list(range(x.ndim))[::-1])


@implements("Squeeze")
def squeeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.axes(given)
    if axes is None:
        return x.squeeze()
    wanted = {axis % max(x.ndim, 1) for axis in axes}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in wanted])


@implements("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.axes(given) or []
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@implements("Concat")
def concatenate(call: Call, *operands: Tensor) -> Tensor:
    return torch.cat(together(*operands), call.integer("axis", 1))


@implements("Split")
def split(call: Call, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = call.integer("axis", 0)
    sizes = call.axes(given, "split")
    if sizes is None:
        count = call.integer("num_outputs", call.results)
        step = ceil(x.shape[axis] / count)
        sizes = [min(step, x.shape[axis] - step * part) for part in range(count)]
    return torch.split(x, sizes, axis)


@implements("Slice")
def slice_(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first = call.axes(starts, "starts") or []
    last = call.axes(ends, "ends") or []
    along = call.axes(axes) or list(range(len(first)))
    strides = ints(steps) if steps is not None else [1] * len(first)
    index: list[slice] = [slice(None)] * x.ndim
    turned: list[int] = []
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        numbers = range(x.shape[axis])[slice(start, end, step)]
        if step < 0:  # torch takes no negative steps
            turned.append(axis % x.ndim)
            numbers = numbers[::-1]
        index[axis] = slice(numbers.start, numbers.stop, numbers.step) if len(numbers) else slice(0, 0)
    sliced = x[tuple(index)]
    return sliced.flip(turned) if turned else sliced


@implements("Expand")
def expand(_: Call, x: Tensor, target: Tensor) -> Tensor:
    return x.broadcast_to(torch.broadcast_shapes(x.shape, tuple(ints(target))))


@implements("Tile")
def tile(_: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats)) if x.ndim else x


@implements("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    block, (count, channels, height, width) = call.integer("blocksize"), x.shape
    rest = channels // block**2
    if call.text("mode", "DCR") == "DCR":
        x = x.reshape(count, block, block, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(count, rest, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(count, rest, height * block, width * block)


@implements("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    block, (count, channels, height, width) = call.integer("blocksize"), x.shape
    x = x.reshape(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(count, channels * block**2, height // block, width // block)


@implements("Pad", still=(1, 2, 3))
def pad(
    call: Call, x: Tensor, given: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    sizes = call.axes(given, "paddings" if call.version < 2 else "pads") or []
    along = [axis % x.ndim for axis in ints(axes)] if axes is not None else list(range(x.ndim))
    before, behind = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(along):
        before[axis], behind[axis] = sizes[position], sizes[position + len(along)]
    mode = call.text("mode", "constant")
    if mode == "constant":
        fill = call.number("value", 0.0) if value is None else value.item()
        flat = [size for pair in zip(reversed(before), reversed(behind), strict=True) for size in pair]
        return functional.pad(x, flat, value=fill)
    for axis, size in enumerate(list(x.shape)):
        if before[axis] or behind[axis]:
            places = np.arange(-before[axis], size + behind[axis])
            x = x.index_select(axis, torch.from_numpy(_inside(places, size, mode)).to(x.device))
    return x


def _inside(places: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Which element stands at places beyond the ends of an axis."""
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap" or size == 1:
        return places % size
    period = 2 * (size - 1)
    folded = places % period
    return np.where(folded < size, folded, period - folded)


# --------------------------------------------------------------------------------------------------- resampling
