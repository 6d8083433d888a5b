"""The places that a convolution's window takes, and the patch of the data under it at each.

    patches(data, Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)), None)       (places of all samples, channels, 3, 3)

`spa.notation.products.Window` says what slides over which axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from spa.notation.products import Window


def slid_over(window: Window, shape: Sequence[int]) -> Sequence[int]:
    """The sizes of the axes that the window slides over, of data of that shape."""
    return shape[1:-1] if window.last else shape[2:]


def channels_behind(window: Window, data: np.ndarray) -> np.ndarray:
    """The data with its channels as the last axis."""
    return data if window.last else np.moveaxis(data, 1, -1)


def places(window: Window, sizes: Sequence[int]) -> list[int]:
    """How many places the window takes along each axis of these sizes."""
    pads, counts = _pads(window, sizes), []
    for axis, size in enumerate(sizes):
        spread = (size - 1) * window.spread[axis] + 1 if window.spread else size
        whole = spread + pads[axis] + pads[axis + len(sizes)]
        reach = window.dilations[axis] * (window.kernel[axis] - 1) + 1
        counts.append(max(0, (whole - reach) // window.strides[axis] + 1))
    return counts


def _pads(window: Window, sizes: Sequence[int]) -> tuple[int, ...]:
    if window.pads is not None:
        return window.pads
    before, behind = [], []
    for size, taps, stride, gap in zip(sizes, window.kernel, window.strides, window.dilations, strict=True):
        missing = max(0, (ceil(size / stride) - 1) * stride + gap * (taps - 1) + 1 - size)
        less, more = missing // 2, missing - missing // 2
        before.append(less if window.same == "upper" else more)
        behind.append(more if window.same == "upper" else less)
    return (*before, *behind)


def patches(data: np.ndarray, window: Window, positions: np.ndarray | None) -> np.ndarray:
    """Patches under the window, (positions, channels, *taps); only those wanted are ever made."""
    if window.last:
        data = np.moveaxis(data, -1, 1)
    sizes, rank = data.shape[2:], len(window.kernel)
    pads, counts = _pads(window, sizes), places(window, sizes)
    if window.spread:
        wide = np.zeros(
            (*data.shape[:2], *((size - 1) * gap + 1 for size, gap in zip(sizes, window.spread, strict=True))),
            data.dtype,
        )
        wide[:, :, *(slice(None, None, gap) for gap in window.spread)] = data
        data = wide
    before, behind = pads[:rank], pads[rank:]
    inside = [slice(max(0, -b), size - max(0, -e)) for b, e, size in zip(before, behind, data.shape[2:], strict=True)]
    data = data[:, :, *inside]
    data = np.pad(data, [(0, 0), (0, 0), *((max(0, b), max(0, e)) for b, e in zip(before, behind, strict=True))])
    reach = [gap * (taps - 1) + 1 for gap, taps in zip(window.dilations, window.kernel, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(data, reach, axis=tuple(range(2, 2 + rank)))
    steps = tuple(
        slice(0, (count - 1) * stride + 1, stride) for count, stride in zip(counts, window.strides, strict=True)
    )
    taps = tuple(slice(None, None, -gap if window.spread else gap) for gap in window.dilations)
    view = view[(slice(None), slice(None), *steps, *taps)]  # n (g i) *t *k
    view = np.moveaxis(view, 1, 1 + rank)  # n *t (g i) *k
    if positions is None:
        return view.reshape(-1, *view.shape[1 + rank :])
    return view[np.unravel_index(positions, view.shape[: 1 + rank])]
