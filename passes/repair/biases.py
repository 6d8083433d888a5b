"""A free bias for every mixing layer: what the mean of removed inputs turns into."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from spa.analysis.branch import ADDED
from spa.notation.operation import entry_of
from spa.passes.layers.consumers import Layer, names_along

BARE = "spa.bare"
"""Mark in the metadata of a stored tensor: what it is multiplied with takes no bias, in the node or behind it."""


def add_biases(model: ir.Model, layers: Iterable[Layer]) -> list[str]:
    """Give layers without a stored bias one of zeros, in place; the names of the tensors that are new.

    A node that takes a bias gets it as an operand; behind another, an Add is put, unless it computes more with the
    product. The model computes the same.
    """
    return [_add(model, layer) for layer in layers if layer.bias is None and _takes_one(layer)]


def _takes_one(layer: Layer) -> bool:
    if BARE in layer.weight.meta or layer.mixing.steps is not None:
        return False
    return _is_free(layer) or (not layer.mixing.product.inside and _fits_behind(layer))


def _fits_behind(layer: Layer) -> bool:
    """Whether a bias of the operand's shape can be added behind the node: behind a convolution, whose own bias is
    computed, it would lie along the last axis of pictures."""
    if layer.mixing.bias is None:
        return True
    along, result = names_along(layer.mixing.bias_axes), names_along(layer.mixing.result_axes)
    return result[len(result) - len(along) :] == along


def _is_free(layer: Layer) -> bool:
    """Whether the node takes a bias as an operand, and has none."""
    position, inputs = layer.mixing.bias, layer.node.inputs
    return position is not None and (position >= len(inputs) or inputs[position] is None)


def drop_zero_biases(model: ir.Model, names: Iterable[str]) -> None:
    """Remove, in place, those of the biases added before that are zero still."""
    for name in names:
        value = model.graph.initializers[name]
        assert value.const_value is not None
        if np.any(value.const_value.numpy()):
            continue
        for node, position in list(value.uses()):
            result, total = node.inputs[0], node.outputs[0]
            if entry_of(node).adds and node.name == name and result is not None:
                total.name, result.name = result.name, total.name
                ir.convenience.replace_all_uses_with(total, result, replace_graph_outputs=True)
                model.graph.remove(node, safe=True)
            else:
                node.replace_input_with(position, None)
                while node.inputs and node.inputs[-1] is None:
                    node.resize_inputs(len(node.inputs) - 1)
        del model.graph.initializers[name]


def _add(model: ir.Model, layer: Layer) -> str:
    node, position = layer.node, layer.mixing.bias
    dtype = layer.weight.dtype or ir.DataType.FLOAT
    name = _free_name(model, f"{layer.weight.name}/bias")
    zeros = np.zeros(layer.bias_shape(), dtype.numpy())
    value = ir.Value(
        name=name,
        type=ir.TensorType(dtype),
        shape=ir.Shape(zeros.shape),
        const_value=ir.Tensor(zeros, dtype=dtype, name=name),
    )
    value.meta[ADDED] = True
    model.graph.register_initializer(value)
    if position is not None and _is_free(layer):
        node.resize_inputs(max(len(node.inputs), position + 1))
        node.replace_input_with(position, value)
        return name
    result = node.outputs[0]
    add = ir.node("Add", [result, value], name=name)
    total = add.outputs[0]
    total.type, total.shape = result.type, result.shape
    total.doc_string, result.doc_string = result.doc_string, None
    total.metadata_props.update(result.metadata_props)
    result.metadata_props.clear()
    total.name, result.name = result.name, f"{name}/product"  # what others know, a report too, keeps its name
    for user, at in list(result.uses()):
        if user is not add:
            user.replace_input_with(at, total)
    for at, output in enumerate(model.graph.outputs):
        if output is result:
            model.graph.outputs[at] = total
    model.graph.insert_after(node, add)
    return name


def _free_name(model: ir.Model, wanted: str) -> str:
    name, number = wanted, 1
    while name in model.graph.initializers:
        number += 1
        name = f"{wanted}_{number}"
    return name
