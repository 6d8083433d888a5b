"""Weights of a few bits opened into plain ones, so that they can be cut anywhere and refitted, and closed again.

    MatMulNBits(x, packed, scales)   ->   MatMul(x, weight)   ->   MatMulNBits(x, packed, scales)

Those of integers, with `DequantizeLinear` or in nodes of their own, are opened by `spa.passes.repair.fused` and closed
by `spa.passes.repair.closing`. A weight keeps the name of its packed form. What an opened node was is kept with the
graph, and so with its copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.notation.operation import MICROSOFT
from spa.passes.normalize.fold import Names
from spa.passes.repair.closing import close_integers
from spa.passes.repair.fused import is_quantised, open_integers
from spa.passes.repair.quantised import Levels, Quantised
from spa.passes.secondorder.grid import Form, Grid

OPERATOR, _META = "MatMulNBits", "spa.packed"
_BITS = (2, 4, 8)
_KEPT = ("accuracy_level",)
_WEIGHT, _SCALES, _ZEROS, _ORDER, _BIAS = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Packed:
    """How a node stored its weight.

    Attributes:
        grid: the weight as it was, (outputs, width).
        scales, zeros: names of what is stored beside it; None: there are no zero points.
        flat: whether these are vectors.
        whole: whether zero points are packed as the weight is, rather than stored as floats.
        attributes: of the node, beside the sizes.
    """

    grid: Grid
    scales: str
    zeros: str | None
    flat: bool
    whole: bool
    dtype: ir.DataType
    attributes: Mapping[str, int]

    @property
    def bits(self) -> int:
        """Of a number."""
        return self.grid.form.bits


def packed_weights(model: ir.Model) -> Mapping[str, Packed | Quantised]:
    """What was opened, by the name of the weight; empty where nothing was."""
    weights: Mapping[str, Packed | Quantised] = model.graph.meta.get(_META, {})
    return weights


def of_few_bits(model: ir.Model) -> Mapping[str, Packed]:
    """What was opened of `MatMulNBits`; it may go from one process to another."""
    return {name: stored for name, stored in packed_weights(model).items() if isinstance(stored, Packed)}


def remembering(model: ir.Model, weights: Mapping[str, Packed]) -> ir.Model:
    """A model that was read from bytes, told how weights were stored that were opened before."""
    if weights:
        model.graph.meta[_META] = dict(weights)
    return model


def opened(model: ir.Model) -> ir.Model:
    """A copy in which every weight of a few bits is a plain one; the model itself where there is none.

    Left as they are: weights in an order of their own (g_idx), of bits or in forms that are not known here.
    """
    if not any(_can_open(node) or is_quantised(node) for node in model.graph):
        return model
    model = model.clone()
    weights: dict[str, Packed] = {}
    names = Names(model)
    for node in [node for node in model.graph if _can_open(node)]:
        _open(model.graph, node, weights, names)
    for packed in weights.values():
        for name in (packed.scales, packed.zeros):
            if name is not None and name in model.graph.initializers and not model.graph.initializers[name].uses():
                model.graph.initializers.pop(name)
    integers: dict[str, Quantised] = {}
    open_integers(model, integers, names)
    model.graph.meta[_META] = {**weights, **integers}
    return model


def _stored(node: ir.Node, position: int) -> np.ndarray | None:
    value = node.inputs[position] if position < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _number(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _has(node: ir.Node, position: int) -> bool:
    return position < len(node.inputs) and node.inputs[position] is not None


def _can_open(node: ir.Node) -> bool:
    if node.op_type != OPERATOR or node.domain != MICROSOFT or _number(node, "bits", 4) not in _BITS:
        return False
    known = all(not _has(node, at) or _stored(node, at) is not None for at in (_WEIGHT, _SCALES, _ZEROS))
    plain = not _has(node, _ORDER) and not _number(node, "weight_prepacked", 0)
    return known and plain


def _open(graph: ir.Graph, node: ir.Node, weights: dict[str, Packed], names: Names) -> None:
    data, weight = node.inputs[0], node.inputs[_WEIGHT]
    assert weight is not None
    name = str(weight.name)
    if name not in weights:
        weights[name] = _read(node)
        stored = weights[name]
        array = stored.grid.values().T.astype(stored.dtype.numpy())
        graph.initializers.pop(name)
        weight = ir.Value(
            name=name, type=ir.TensorType(stored.dtype), shape=ir.Shape(array.shape),
            const_value=ir.Tensor(np.ascontiguousarray(array), dtype=stored.dtype, name=name),
        )  # fmt: skip
        graph.register_initializer(weight)
    weight = graph.initializers[name]
    bias = node.inputs[_BIAS] if _has(node, _BIAS) else None
    if bias is not None:  # the node becomes the sum, so that its results stay
        product = ir.Node("", "MatMul", [data, weight], name=node.name)
        result = node.outputs[0]
        product.outputs[0].name = names.free(f"{result.name}/MatMul")
        product.outputs[0].type, product.outputs[0].shape = result.type, result.shape
        graph.insert_before(node, product)
        node.name = names.free(f"{node.name}/Add")
        _become(node, "", "Add", [product.outputs[0], bias], {})
        return
    _become(node, "", "MatMul", [data, weight], {})


def _become(
    node: ir.Node, domain: str, operator: str, inputs: list[ir.Value | None], attributes: Mapping[str, int]
) -> None:
    """Make a node another one with the same results."""
    node.domain, node.op_type = domain, operator
    node.resize_inputs(len(inputs))
    for position, value in enumerate(inputs):
        node.replace_input_with(position, value)
    node.attributes.clear()
    for name, number in attributes.items():
        node.attributes[name] = ir.AttrInt64(name, number)


def _read(node: ir.Node) -> Packed:
    bits, block = _number(node, "bits", 4), _number(node, "block_size", 32)
    width, outputs = _number(node, "K", 0), _number(node, "N", 0)
    packed, scales, zeros = (_stored(node, at) for at in (_WEIGHT, _SCALES, _ZEROS))
    assert packed is not None
    assert scales is not None
    blocks = -(-width // block)
    whole = zeros is not None and zeros.dtype == np.uint8
    middle = np.full((outputs, blocks), float(2 ** (bits - 1)))
    points = middle if zeros is None else zeros.reshape(outputs, -1)
    if whole:
        points = _unpacked(points, bits)[:, :blocks]
    levels = _unpacked(packed.reshape(outputs, blocks, -1), bits)[..., :block].reshape(outputs, -1)[:, :width]
    form = Form(bits, block, symmetric=zeros is None)
    grid = Grid(
        form, np.ascontiguousarray(levels), scales.reshape(outputs, blocks).astype(np.float64),
        points.astype(np.float64),
    )  # fmt: skip
    scale, zero = node.inputs[_SCALES], node.inputs[_ZEROS] if zeros is not None else None
    assert scale is not None
    assert scale.dtype is not None
    kept = {key: _number(node, key, 0) for key in _KEPT if key in node.attributes}
    name = None if zero is None else str(zero.name)
    return Packed(grid, str(scale.name), name, scales.ndim == 1, whole, scale.dtype, kept)


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of a few bits along the last axis, the lower bits of a byte first."""
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & (2**bits - 1)
    return np.asarray(numbers.reshape(*packed.shape[:-1], -1), np.uint8)


def _repacked(numbers: np.ndarray, bits: int) -> np.ndarray:
    """The reverse of `_unpacked`; what is missing of the last byte is zero."""
    if bits == 8:
        return np.ascontiguousarray(numbers, np.uint8)
    each = 8 // bits
    padded = np.zeros((*numbers.shape[:-1], -(-numbers.shape[-1] // each) * each), np.uint8)
    padded[..., : numbers.shape[-1]] = numbers
    parts = padded.reshape(*padded.shape[:-1], -1, each) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(parts, axis=-1), np.uint8)


# ------------------------------------------------------------------------------------------------------ closing
def rounded_scales(grid: Grid, stored: Packed) -> Grid:
    """A grid with the numbers that can be stored: scales and zero points in their types."""
    scales = grid.scales.astype(stored.dtype.numpy()).astype(np.float64)
    levels = grid.levels
    if not scales.all():  # too small for their type
        wide = [np.repeat(each, grid.form.block, axis=1)[:, : levels.shape[1]] for each in (scales, grid.zeros)]
        levels = np.where(wide[0] == 0, np.round(wide[1]), levels).astype(levels.dtype)
    zeros = grid.zeros if stored.whole or stored.zeros is None else grid.zeros.astype(stored.dtype.numpy())
    return Grid(grid.form, levels, np.where(scales == 0, 1.0, scales), zeros.astype(np.float64))


def close(model: ir.Model, grids: Mapping[str, Grid | Levels], new: Mapping[str, Quantised] | None = None) -> None:
    """Pack the opened weights again, in place.

    Args:
        grids: by the name of the weight: (outputs, width) as `rounded_scales` gives them, or integers in its layout.
        new: how biases are stored that were not there when the model was opened.
    """
    known = packed_weights(model)
    integers = {name: stored for name, stored in {**known, **(new or {})}.items() if isinstance(stored, Quantised)}
    close_integers(model, {name: each for name, each in grids.items() if isinstance(each, Levels)}, integers)
    _close_packed(
        model,
        {name: grid for name, grid in grids.items() if isinstance(grid, Grid)},
        {name: stored for name, stored in known.items() if isinstance(stored, Packed)},
    )
    model.graph.meta.pop(_META, None)


def _close_packed(model: ir.Model, grids: Mapping[str, Grid], known: Mapping[str, Packed]) -> None:
    if not grids:
        return
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" and node.domain == "" and len(node.inputs) == 2 else None
        if weight is None or weight.name not in grids or weight.const_value is None:
            continue
        name = str(weight.name)
        _close(model.graph, node, known[name], grids[name], name)
    for name in grids:
        value = model.graph.initializers.get(name)
        if value is not None and value.dtype is not ir.DataType.UINT8:
            model.graph.initializers.pop(name)
    _rename(model.graph, grids)
    model.graph.opset_imports.setdefault(MICROSOFT, 1)


_TEMPORARY = "/packed"


def _close(graph: ir.Graph, node: ir.Node, stored: Packed, grid: Grid, name: str) -> None:
    form, (outputs, width) = grid.form, grid.levels.shape
    blocks = grid.scales.shape[1]
    padded = np.full((outputs, blocks * form.block), form.levels // 2, np.uint8)
    padded[:, :width] = grid.levels
    packed = _repacked(padded.reshape(outputs, blocks, form.block), form.bits)
    shape = (-1,) if stored.flat else (outputs, blocks)
    inputs = [node.inputs[0], _put(graph, name + _TEMPORARY, packed)]
    inputs.append(_put(graph, stored.scales, grid.scales.reshape(shape).astype(stored.dtype.numpy())))
    if stored.zeros is not None:
        points = grid.zeros.astype(np.uint8 if stored.whole else stored.dtype.numpy())
        points = _repacked(points, form.bits) if stored.whole else points
        inputs.append(_put(graph, stored.zeros, points.reshape((-1,) if stored.flat else (outputs, -1))))
    sizes = {"K": width, "N": outputs, "bits": form.bits, "block_size": form.block}
    _become(node, MICROSOFT, OPERATOR, inputs, sizes | dict(stored.attributes))


def _put(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def _rename(graph: ir.Graph, grids: Mapping[str, Grid]) -> None:
    """Give packed weights their names back, which the plain ones had until now."""
    for name in grids:
        value = graph.initializers.get(name + _TEMPORARY)
        if value is None:
            continue
        graph.initializers.pop(name + _TEMPORARY)
        value.name = name
        graph.register_initializer(value)
