"""Views of the photographs that ship with the tool: parts of them, mirrored, of other contrast, some as negatives."""

from __future__ import annotations

import numpy as np

from spa.passes.samples import library
from spa.passes.samples.resize import resized

SMALLEST_PART = 0.35
"""Of the side of a photograph that a view shows, at least."""

LARGE = 400
"""Pixels of the shorter side from which a view may be put together from several, so that it holds as much detail."""

NEGATIVES = 0.1


def photographs(count: int, channels: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(count, channels, height, width) float32 from 0 to 1; of one channel grey, of three red, green, blue."""
    stored = np.moveaxis(library.photographs(), -1, 1)
    order = np.concatenate([rng.permutation(len(stored)) for _ in range(-(-4 * count // len(stored)))])
    images = np.empty((count, channels, height, width), np.float32)
    for number in range(count):
        if min(height, width) >= LARGE and rng.uniform() < 0.5:
            halves = (height - height // 2, height // 2), (width - width // 2, width // 2)
            parts = [
                _view(stored[order[4 * number + at]], halves[0][at // 2], halves[1][at % 2], rng) for at in range(4)
            ]
            view = np.concatenate([np.concatenate(parts[at : at + 2], -1) for at in (0, 2)], -2)
        else:
            view = _view(stored[order[number]], height, width, rng)
        view = np.einsum("c,chw->hw", library.BRIGHTNESS, view)[None] if channels == 1 else view
        images[number] = _developed(view, rng)
    return images


def _view(photograph: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A part of a photograph that has the shape wanted, (3, height, width), from 0 to 1."""
    side = photograph.shape[-1]
    part = side * rng.uniform(SMALLEST_PART, 1.0)
    stretch = np.exp(0.15 * rng.standard_normal())
    rows = int(np.clip(part * height / max(height, width) * stretch, 4, side))
    columns = int(np.clip(part * width / max(height, width) / stretch, 4, side))
    top, left = rng.integers(0, side - rows + 1), rng.integers(0, side - columns + 1)
    cut = photograph[:, top : top + rows, left : left + columns]
    if rng.uniform() < 0.5:
        cut = cut[..., ::-1]
    return resized(cut, height, width) / np.float32(255)


def _developed(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A view with another contrast and brightness."""
    level = view.mean()
    view = level + (view - level) * np.exp(0.25 * rng.standard_normal()) + 0.08 * rng.standard_normal()
    view = np.clip(view, 0.0, 1.0)
    return np.asarray(1.0 - view if rng.uniform() < NEGATIVES else view)
