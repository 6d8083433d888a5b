"""Scales and shifts behind a norm, refitted unit by unit.

A norm over a hidden width divides by what all units have, so that without some of them the others come out larger or
smaller. Where a scale and a shift of each unit follow (gamma and beta of LayerNorm, RMSNorm, a global response norm),
these make up for it: the least-squares line from what a unit is in the pruned network to what it is in the dense one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group, Slice
from spa.analysis.neighbours import added_behind
from spa.notation.operation import entry_of
from spa.passes.repair.draft import Draft
from spa.passes.repair.network import Network
from spa.passes.repair.streaming import Stream


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """A stored scale of each unit, and the shift behind it if there is one.

    Attributes:
        result: what they make.
        axis: of the result, along which units lie.
    """

    result: ir.Value
    axis: int
    scale: ir.Value
    shift: ir.Value | None


def find_affines(network: Network, groups: Iterable[Group]) -> list[Affine]:
    """Those of the groups that have a norm of their own."""
    affines = (_affine(network, piece) for group in groups if group.own_norm for piece in group.slices)
    return [affine for affine in affines if affine is not None]


def _affine(network: Network, piece: Slice) -> Affine | None:
    scale = piece.value
    if piece.consumer or len(piece.uses) != 1 or not _is_vector(scale) or not scale.is_initializer():
        return None
    node, position = piece.uses[0]
    affine, shift = entry_of(node).affine, None
    result = node.outputs[0]
    if affine is not None and position == affine[0]:
        at = affine[1]
        shift = node.inputs[at] if at is not None and at < len(node.inputs) else None
    elif any(a.node is node and a.rule.linear == ((0, 1),) for a in network.coupling.applications):
        behind = added_behind(result)
        if behind is not None:
            shift, result = behind[0].inputs[behind[1]], behind[0].outputs[0]
    else:
        return None
    if shift is not None and not (_is_vector(shift) and shift.is_initializer() and len(shift.uses()) == 1):
        return None
    axes, unit = network.coupling.axes, network.coupling.axes[scale][piece.axis].root
    places = [axis for axis, dim in enumerate(axes.get(result, ())) if dim.root is unit]
    if len(places) != 1 or (shift is not None and all(dim.root is not unit for dim in axes[shift])):
        return None
    return Affine(result, places[0], scale, shift)


def _is_vector(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype.is_floating_point() and sum(n > 1 for n in tensor.shape.numpy()) == 1


@dataclass(frozen=True, slots=True)
class _Line:
    """(units,) slope and offset."""

    slope: np.ndarray
    offset: np.ndarray


def refit(
    affine: Affine, dense: Stream, pruned: Stream, draft: Draft, *, fitted: Sequence[int], held_out: Sequence[int]
) -> bool:
    """Refit a scale and its shift in the draft, and what waits to be read in the pruned stream, if that helps.

    Args:
        fitted, held_out: numbers of the batches that lines are fitted to, and of those that judge.
    """
    if affine.result not in pruned.changed:
        return False
    line = _fitted(affine, dense, pruned, fitted)
    same = _Line(np.ones_like(line.slope), np.zeros_like(line.offset))
    if not _lost(affine, dense, pruned, held_out, line) < _lost(affine, dense, pruned, held_out, same):
        return False
    scale = draft.array(affine.scale)
    draft.weights[str(affine.scale.name)] = scale * line.slope.reshape(scale.shape)
    if affine.shift is not None:
        shift = draft.array(affine.shift)
        slope, offset = (each.reshape(shift.shape) for each in (line.slope, line.offset))
        draft.weights[str(affine.shift.name)] = shift * slope + offset
    pruned.rescale(affine.result, affine.axis, line.slope, line.offset)
    return True


def _rows(
    affine: Affine, dense: Stream, pruned: Stream, numbers: Iterable[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, units) of both networks, batch by batch."""
    for number in numbers:
        arrays = (stream.value(affine.result, number) for stream in (dense, pruned))
        left, right = (np.moveaxis(array, affine.axis, -1).astype(np.float64) for array in arrays)
        yield left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])


def _fitted(affine: Affine, dense: Stream, pruned: Stream, numbers: Sequence[int]) -> _Line:
    count, sums = 0, {name: np.zeros(()) for name in ("d", "p", "dp", "pp")}
    for d, p in _rows(affine, dense, pruned, numbers):
        count += len(d)
        for name, array in (("d", d), ("p", p), ("dp", d * p), ("pp", p * p)):
            sums[name] = sums[name] + array.sum(0)
    means: Mapping[str, np.ndarray] = {name: total / max(count, 1) for name, total in sums.items()}
    free = affine.shift is not None
    along = means["dp"] - means["d"] * means["p"] * free
    spread = means["pp"] - means["p"] ** 2 * free
    told = spread > 1e-9 * np.maximum(means["pp"], 1e-30)
    slope = np.where(told, along / np.where(told, spread, 1.0), 1.0)
    gone = means["pp"] == 0  # read as zeros
    offset = np.where(gone, 0.0, means["d"] - slope * means["p"]) if free else np.zeros_like(slope)
    return _Line(np.where(gone, 1.0, slope), offset)


def _lost(affine: Affine, dense: Stream, pruned: Stream, numbers: Sequence[int], line: _Line) -> float:
    """How far the units that stay are from those of the dense network, squared."""
    return sum(
        float(np.sum((d - line.slope * p - line.offset)[:, np.any(p != 0, axis=0)] ** 2))
        for d, p in _rows(affine, dense, pruned, numbers)
    )
