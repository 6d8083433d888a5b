"""Weights that were opened, on their grids again: rounded so that what is read on samples gives the same outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from spa import runtime
from spa.analysis.coupling import Coupling
from spa.analysis.group import Masks, keep_mask
from spa.passes.repair.packed import Packed, packed_weights, rounded_scales
from spa.passes.secondorder.grid import Grid, on_grid

Feeds = Mapping[str, np.ndarray]

SAME = 1e-6
"""Share of a weight's largest number that its values may be off by for it to count as unchanged."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Which rows and columns of an opened weight a plan keeps, (width,) and (outputs,) bool."""

    rows: np.ndarray
    columns: np.ndarray


def kept_of(model: ir.Model, coupling: Coupling, masks: Masks) -> dict[str, Kept]:
    """What a plan keeps of the opened weights of a model that is not cut yet."""
    found = {}
    for name in packed_weights(model):
        value = model.graph.initializers.get(name)
        if value is None or value not in coupling.axes:
            continue
        dims = coupling.axes[value]
        parts = [np.ones(dim.size, bool) if (mask := keep_mask(dim, masks)) is None else mask for dim in dims]
        found[name] = Kept(*parts)
    return found


def grids_of(model: ir.Model, kept: Mapping[str, Kept], batches: Iterable[Feeds] = ()) -> dict[str, Grid]:
    """The opened weights of a model that was cut, on their grids.

    Those that only lost columns keep their levels. The others are rounded anew, by what is read on samples.

    Args:
        batches: what the cut model is fed; none: all columns count alike.
    """
    known, found, changed = packed_weights(model), {}, []
    for name, parts in kept.items():
        weight = _values(model, name)
        if parts.rows.all() and (same := _unchanged(known[name], weight, parts.columns)) is not None:
            found[name] = same
        else:
            changed.append(name)
    grams = _grams(model, changed, batches)
    for name in changed:
        form = known[name].grid.form
        found[name] = rounded_scales(on_grid(_values(model, name), form, grams.get(name)), known[name])
    return found


def put_on_grids(model: ir.Model, grids: Mapping[str, Grid], kept: Mapping[str, Kept] | None = None) -> None:
    """Give opened weights the values that their grids hold, in place.

    Args:
        kept: where the values lie in a model that is not cut; None: it is.
    """
    for name, grid in grids.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy()
        values = grid.values().T.astype(array.dtype)
        if kept is not None:
            whole = array.copy()
            whole[np.ix_(kept[name].rows, kept[name].columns)] = values
            values = whole
        value.const_value = ir.Tensor(np.ascontiguousarray(values), dtype=value.const_value.dtype, name=name)


def _values(model: ir.Model, name: str) -> np.ndarray:
    """(outputs, width)."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.asarray(tensor.numpy().astype(np.float64).T)


def _unchanged(stored: Packed, weight: np.ndarray, columns: np.ndarray) -> Grid | None:
    grid = stored.grid
    part = Grid(grid.form, grid.levels[columns], grid.scales[columns], grid.zeros[columns])
    values = part.values()
    if values.shape != weight.shape:
        return None
    gap = np.abs(values - weight).max(initial=0)
    return part if gap <= SAME * np.abs(values).max(initial=0) else None


def _grams(model: ir.Model, names: Iterable[str], batches: Iterable[Feeds]) -> dict[str, np.ndarray]:
    """Sums of products of what the node of each weight reads, (width, width)."""
    batches = list(batches)
    reads = {name: _data(model, name) for name in names} if batches else {}
    wanted = list(dict.fromkeys(str(value.name) for value in reads.values()))
    if not wanted:
        return {}
    part = model.clone()
    known = {str(value.name): value for node in part.graph for value in node.outputs}
    part.graph.outputs[:] = [known[name] for name in wanted if name in known]
    RemoveUnusedNodesPass()(part)
    session = runtime.session(part, optimize=True)
    sums: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, array in runtime.run(session, batch).items():
            rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
            sums[name] = sums.get(name, 0.0) + rows.T @ rows
    return {name: sums[str(value.name)] for name, value in reads.items() if str(value.name) in sums}


def _data(model: ir.Model, name: str) -> ir.Value:
    node, _ = next(iter(model.graph.initializers[name].uses()))
    value = node.inputs[0]
    assert value is not None
    return value
