"""Which positions of a dim its leaves stand for, as arrays."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from math import prod

import numpy as np

from spa.notation.dims import Factor, Kind

Masks = Mapping[Factor, np.ndarray]
"""Which indices of a leaf stay; a leaf that is not there stays whole."""


def keep_mask(dim: Factor, masks: Masks) -> np.ndarray | None:
    """Which positions of a dim stay, (size,) bool; None: all of them."""
    root = dim.root
    if root.kind is Kind.LEAF:
        return masks.get(root)
    parts = root.parts
    kept = [keep_mask(part, masks) for part in parts]
    if all(mask is None for mask in kept):
        return None
    whole = [np.ones(part.size, bool) if mask is None else mask for part, mask in zip(parts, kept, strict=True)]
    if root.kind is Kind.SUM:
        return np.concatenate(whole)
    result = whole[0]
    for mask in whole[1:]:
        result = (result[:, None] & mask[None, :]).reshape(-1)
    return result


def leaf_positions(dim: Factor, wanted: Container[Factor]) -> Iterator[tuple[Factor, np.ndarray]]:
    """For each occurrence of a wanted factor: it, and its index at each position of the dim (-1: elsewhere)."""
    for leaf, start, index in occurrences(dim, wanted):
        yield leaf, _placed(index, start, dim.size)


def occurrences(dim: Factor, wanted: Container[Factor]) -> Iterator[tuple[Factor, int, np.ndarray]]:
    """For each occurrence of a wanted factor: it, where it starts, and its index at each position from there on.

    A wanted product or sum stands for itself: nothing inside it is looked for.
    """
    root = dim.root
    if root in wanted:
        yield root, 0, np.arange(root.size)
        return
    if root.kind is Kind.LEAF:
        return
    sizes = [part.size for part in root.parts]
    before = 0
    for at, part in enumerate(root.parts):
        for leaf, start, index in occurrences(part, wanted):
            if root.kind is Kind.SUM:
                yield leaf, before + start, index
            else:
                outer, inner = prod(sizes[:at]), prod(sizes[at + 1 :])
                yield leaf, 0, np.tile(np.repeat(_placed(index, start, part.size), inner), outer)
        before += part.size


def _placed(index: np.ndarray, start: int, size: int) -> np.ndarray:
    """(size,) the index from `start` on, -1 elsewhere."""
    if len(index) == size:
        return index
    whole = np.full(size, -1)
    whole[start : start + len(index)] = index
    return whole
