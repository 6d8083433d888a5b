"""Pictures at another size: linear interpolation, with a window as wide as what a pixel stands for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def resized(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """(..., height, width) float32 of pictures of any size, (..., rows, columns)."""
    rows, columns = pictures.shape[-2:]
    down, across = _weights(rows, height), _weights(columns, width)
    return np.asarray(down @ pictures.astype(np.float32) @ across.T)


@lru_cache(maxsize=4096)
def _weights(before: int, after: int) -> np.ndarray:
    """(after, before): what each new pixel takes of the old ones, in sum one."""
    reach = max(1.0, before / after)
    centres = (np.arange(after)[:, None] + 0.5) * before / after - 0.5
    share = np.maximum(0.0, 1.0 - np.abs(centres - np.arange(before)) / reach)
    return np.asarray(share / share.sum(1, keepdims=True), np.float32)
