"""Checkpoints that were trained for sparsity, told by the scales of normalisations (as Network Slimming makes them)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spa.analysis.group import Group
from spa.passes.choose.importance.gather import as_floats, by_unit, is_weight, positions, stored
from spa.passes.choose.importance.weights import scales

SMALL = 1e-2
"""Of the largest scale of its group: a unit below it does next to nothing."""

LEAST = 0.1
"""Of all units with a scale, so many are small in a checkpoint that was trained for it."""


def small_scales(groups: Sequence[Group]) -> tuple[int, int]:
    """How many units have a scale that is next to zero, and how many have one at all."""
    small = total = 0
    for group in (group for group in groups if group.branch is None):
        size, holders = np.zeros(group.size), np.zeros(group.size)
        for piece in group.slices:
            if not is_weight(piece) or not scales(piece):
                continue
            numbers = np.abs(as_floats(stored(piece.value), piece.value.const_value, np.float64)).reshape(-1)
            if len(numbers) != len(piece.unit_of):
                continue
            size += by_unit(piece, group.size, numbers)
            holders += positions(piece, group.size)
        held = holders > 0
        if held.any() and np.isfinite(size).all():
            small += int(np.sum(size[held] < SMALL * size[held].max()))
            total += int(held.sum())
    return small, total


def trained_for_sparsity(groups: Sequence[Group]) -> str:
    """Why scales of normalisations should decide, in words; empty: they are like any network's."""
    small, total = small_scales(groups)
    if not total or small < LEAST * total:
        return ""
    return (
        f"{small} of {total} scales of normalisations are next to zero: this checkpoint was trained for sparsity, and "
        "bn_scale decides (--criterion l2 goes by all weights)"
    )
