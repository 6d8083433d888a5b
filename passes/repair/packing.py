"""Weights that were opened, on their grids again: rounded so that what is read on samples gives the same outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from spa import runtime
from spa.analysis.couple import couple
from spa.analysis.coupling import Coupling
from spa.analysis.group import Masks, keep_mask
from spa.passes.layers.consumers import Layer
from spa.passes.layers.finding import find_layers
from spa.passes.repair.fused import new_biases
from spa.passes.repair.packed import Packed, packed_weights, rounded_scales
from spa.passes.repair.quantised import Levels, Quantised
from spa.passes.secondorder.grid import Grid, on_grid, recovered, same
from spa.shapes import infer_shapes

Feeds = Mapping[str, np.ndarray]
Rounded = Grid | Levels
Kept = Sequence[np.ndarray]
"""For each axis of an opened weight (size,) which positions a plan keeps."""

MOST_ROWS = 1 << 14
"""Of what a layer reads of one batch, drawn evenly."""

WIDEST = 2400
"""Inputs of an output beyond which every integer goes to its nearest level: of eight bits, that costs little."""


def stored_as(model: ir.Model) -> dict[str, Packed | Quantised]:
    """How every opened weight was stored, and biases beside them that were added since are to be."""
    known = dict(packed_weights(model))
    integers = {name: stored for name, stored in known.items() if isinstance(stored, Quantised)}
    return {**known, **new_biases(model.graph, integers)}


def kept_of(model: ir.Model, coupling: Coupling, masks: Masks) -> dict[str, Kept]:
    """What a plan keeps of the opened weights of a model that is not cut yet."""
    kept: dict[str, Kept] = {}
    for name in stored_as(model):
        value = model.graph.initializers.get(name)
        if value is None or value not in coupling.axes:
            continue
        dims = coupling.axes[value]
        kept[name] = [np.ones(dim.size, bool) if (mask := keep_mask(dim, masks)) is None else mask for dim in dims]
    return kept


def grids_of(
    model: ir.Model, known: Mapping[str, Packed | Quantised], kept: Mapping[str, Kept], batches: Iterable[Feeds] = ()
) -> dict[str, Rounded]:
    """The opened weights of a model that was cut, on their grids.

    Those that only lost outputs keep their levels, and those that are on a grid are left there. The others are rounded
    anew, by what is read on samples.

    Args:
        known: how they are stored.
        batches: what the cut model is fed; none: all columns count alike.
    """
    grids: dict[str, Rounded] = {}
    changed = []
    for name, parts in kept.items():
        if name not in model.graph.initializers:
            continue
        stored, weight = known[name], _values(model, name)
        there = _unchanged(stored, weight, parts)
        if there is None and isinstance(stored, Packed):  # a repair rounded it, or it is whole
            there = recovered(weight.T, stored.grid.form)
            there = None if there is None else rounded_scales(there, stored)
        if there is not None:
            grids[name] = there
        else:
            changed.append(name)
    layers = _layers(model, changed)
    wide = {name for name, layer in layers.items() if layer.width > WIDEST and isinstance(known[name], Quantised)}
    grams = _grams(model, {name: layer for name, layer in layers.items() if name not in wide}, list(batches))
    for name in sorted(changed, key=lambda name: _is_bias(known[name])):  # biases follow their weights
        stored, weight = known[name], _values(model, name)
        if isinstance(stored, Packed):
            gram = grams.get(name, [None])[0]
            grids[name] = rounded_scales(on_grid(weight.T, stored.grid.form, gram), stored)
        else:
            integers = {each: levels for each, levels in grids.items() if isinstance(levels, Levels)}
            grids[name] = stored.rounded(weight, kept[name], layers.get(name), grams.get(name), integers)
    return grids


def _is_bias(stored: Packed | Quantised) -> bool:
    return isinstance(stored, Quantised) and stored.follows is not None


def values_of(rounded: Rounded) -> np.ndarray:
    """What levels stand for, in the layout of the plain weight."""
    return rounded.values().T if isinstance(rounded, Grid) else rounded.values()


def put_on_grids(model: ir.Model, grids: Mapping[str, Rounded], kept: Mapping[str, Kept] | None = None) -> None:
    """Give opened weights the values that their grids hold, in place.

    Args:
        kept: where the values lie in a model that is not cut; None: it is.
    """
    for name, grid in grids.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy()
        values = np.asarray(values_of(grid).astype(array.dtype), order="C")  # which keeps scalars as they are
        if kept is not None and array.ndim:
            whole = array.copy()
            whole[np.ix_(*kept[name])] = values
            values = whole
        value.const_value = ir.Tensor(values, dtype=value.const_value.dtype, name=name)


def _values(model: ir.Model, name: str) -> np.ndarray:
    """A stored tensor as it lies, float64."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.asarray(tensor.numpy().astype(np.float64))


def _unchanged(stored: Packed | Quantised, weight: np.ndarray, keep: Kept) -> Rounded | None:
    if isinstance(stored, Quantised):
        follows = stored.follows is not None
        return None if follows else stored.unchanged(weight, keep)
    rows, columns = keep
    if not rows.all():
        return None
    grid = stored.grid
    part = Grid(grid.form, grid.levels[columns], grid.scales[columns], grid.zeros[columns])
    return part if same(part.values().T, weight) else None


def _layers(model: ir.Model, names: Iterable[str]) -> dict[str, Layer]:
    """The first layer that multiplies with each of some weights."""
    wanted = set(names)
    if not wanted:
        return {}
    layers: dict[str, Layer] = {}
    for layer in find_layers(model, couple(model, infer_shapes(model))):
        if layer.weight.name in wanted and layer.mixing.steps is None:
            layers.setdefault(str(layer.weight.name), layer)
    return layers


def _grams(model: ir.Model, layers: Mapping[str, Layer], batches: Sequence[Feeds]) -> dict[str, list[np.ndarray]]:
    """For each weight and each of its blocks, sums of products of what the layer reads, (width, width)."""
    if not layers or not batches:
        return {}
    wanted = list(dict.fromkeys(str(layer.data.name) for layer in layers.values()))
    part = model.clone()
    known = {str(value.name): value for node in part.graph for value in node.outputs}
    part.graph.outputs[:] = [known[name] for name in wanted if name in known]
    RemoveUnusedNodesPass()(part)
    session = runtime.session(part, optimize=True)
    sums: dict[str, list[np.ndarray]] = {}
    for number, batch in enumerate(batches):
        read = {**batch, **runtime.run(session, batch)}
        for name, layer in layers.items():
            rows = _rows(layer, read[str(layer.data.name)], number)
            mine = [block.T @ block for block in rows]
            sums[name] = [old + new for old, new in zip(sums[name], mine, strict=True)] if name in sums else mine
    return sums


def _rows(layer: Layer, data: np.ndarray, seed: int) -> np.ndarray:
    """(blocks, rows, width) some rows of what a layer reads."""
    count = layer.row_count(data.shape)
    positions = None
    if count > MOST_ROWS:
        positions = np.sort(np.random.default_rng(seed).choice(count, MOST_ROWS, replace=False))
    return layer.rows(data, positions).astype(np.float64)
