"""The sizes of a framework's arrays under a plan: of axes, and of the parts that code names (heads, head sizes)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.analysis.group import Masks, keep_mask
from spa.frontends.exporting.exported import Parts
from spa.notation.dims import Factor, Kind

_MOST_PARTS = 32  # of one axis; beyond, only the whole axis is a size that code would carry


def parts_of(coupling: Coupling, names: Collection[str], masks: Masks) -> dict[str, Parts]:
    """For each array the sizes of its axes and of all their parts, before and after."""
    return {
        str(value.name): {key: sizes for axis, dim in enumerate(dims) for key, sizes in _parts(axis, dim, masks)}
        for value, dims in _arrays(coupling, names)
    }


def shapes_of(coupling: Coupling, names: Collection[str], masks: Masks) -> dict[str, tuple[int, ...]]:
    """For each array its shape after."""
    return {str(value.name): tuple(_kept(dim, masks) for dim in dims) for value, dims in _arrays(coupling, names)}


def _arrays(coupling: Coupling, names: Collection[str]) -> Iterator[tuple[ir.Value, tuple[Factor, ...]]]:
    return ((value, dims) for value, dims in coupling.axes.items() if value.name in names)


def _kept(factor: Factor, masks: Masks) -> int:
    mask = keep_mask(factor, masks)
    return factor.size if mask is None else int(mask.sum())


def _parts(axis: int, dim: Factor, masks: Masks) -> Iterator[tuple[tuple[int, int, int], tuple[int, int]]]:
    """The sizes of an axis and of all its parts that stand side by side, before and after."""

    def spread(factor: Factor, start: int) -> tuple[int, list[tuple[int, int, int, int]]]:
        """Where the factor ends, counted in leaves, and its runs: (start, end, before, after)."""
        root = factor.root
        if root.kind is Kind.LEAF:
            return start + 1, [(start, start + 1, root.size, _kept(root, masks))]
        ends, inner, at = [], [], start
        for part in root.parts:
            end, runs = spread(part, at)
            ends.append((at, end, part.size, _kept(part, masks)))
            inner += runs
            at = end
        if root.kind is Kind.SUM:
            return at, [*inner, (start, at, root.size, _kept(root, masks))]
        joined = []
        for first in range(len(ends)):
            before = after = 1
            for _, end, old, new in ends[first:]:
                before, after = before * old, after * new
                joined.append((ends[first][0], end, before, after))
        return at, [*inner, *joined]

    if sum(1 for _ in _leaves(dim)) > _MOST_PARTS:
        yield (axis, 0, _MOST_PARTS + 1), (dim.size, _kept(dim, masks))
        return
    end, runs = spread(dim, 0)
    whole = (0, end)
    for first, last, before, after in sorted(runs, key=lambda run: run[:2] != whole):
        yield (axis, first, last), (before, after)


def _leaves(dim: Factor) -> Iterator[Factor]:
    root = dim.root
    if root.kind is Kind.LEAF:
        yield root
        return
    for part in root.parts:
        yield from _leaves(part)
