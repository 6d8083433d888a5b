"""Nodes that held integers, opened by `spa.passes.repair.fused`, closed again.

close_integers(model, levels, opened)    in place
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from spa.passes.repair.fused import INT32, operand, take_over
from spa.passes.repair.quantised import CLOSE, FUSED, OPEN, Levels, Quantised

_TEMPORARY = "/levels"


def close_integers(model: ir.Model, levels: Mapping[str, Levels], opened: Mapping[str, Quantised]) -> None:
    """Store integers again, in place: in the nodes that held them, as far as these are still what they were."""
    graph = model.graph
    for node in list(graph):
        weight = operand(node, 1)
        name = None if weight is None else str(weight.name)
        stored = None if name is None or name not in levels else opened[name]
        if stored is not None and stored.fused is not None:
            _close_fused(graph, node, stored, levels, opened)
    for name, numbers in levels.items():
        if name in graph.initializers and graph.initializers[name].uses():
            _close_alone(graph, name, numbers, opened[name])
    for name in levels:
        value = graph.initializers.get(name)
        if value is not None and not value.uses():
            graph.initializers.pop(name)
        value = graph.initializers.get(name + _TEMPORARY)
        if value is not None:
            graph.initializers.pop(name + _TEMPORARY)
            value.name = name
            graph.register_initializer(value)


def _stored(graph: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    """A stored tensor of that name, made if it is not there."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.Tensor(np.asarray(array.astype(dtype.numpy()), order="C"), dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def _operands(graph: ir.Graph, name: str, numbers: Levels, stored: Quantised) -> list[ir.Value | None]:
    """Integers, scale and zero point, stored."""
    scale = None if stored.scale is None else _stored(graph, stored.scale, numbers.scales, stored.plain)
    zero = None if stored.zero is None else _stored(graph, stored.zero, numbers.zeros, stored.dtype)
    return [_stored(graph, name + _TEMPORARY, numbers.numbers, stored.dtype), scale, zero]


def _close_alone(graph: ir.Graph, name: str, numbers: Levels, stored: Quantised) -> None:
    plain = graph.initializers[name]
    if stored.scale is None:
        stored = replace(stored, scale=f"{name}/scale")
    inputs = _operands(graph, name, numbers, stored)
    while inputs[-1] is None:
        inputs.pop()
    node = ir.Node(stored.domain, OPEN, inputs, name=stored.node or f"{stored.result or name}/DequantizeLinear")
    for attribute in stored.attributes:
        node.attributes[attribute.name] = attribute
    if numbers.scales.ndim:
        node.attributes["axis"] = ir.AttrInt64("axis", numbers.axis)
    if numbers.block:
        node.attributes["block_size"] = ir.AttrInt64("block_size", numbers.block)
    made = node.outputs[0]
    made.type, made.shape = plain.type, plain.shape
    for reader, position in list(plain.uses()):
        reader.replace_input_with(position, made)
    made.name = stored.result or f"{name}/plain"
    graph.insert_before(graph[0], node)


def _close_fused(
    graph: ir.Graph, node: ir.Node, stored: Quantised, levels: Mapping[str, Levels], integers: Mapping[str, Quantised]
) -> None:
    """A plain node between what dequantises and what quantises becomes the one that it was."""
    assert stored.fused is not None
    said = FUSED[stored.fused[0], stored.fused[1]]
    data, weight, bias = (operand(node, position) for position in range(3))
    opening = None if data is None else data.producer()
    uses = list(node.outputs[0].uses())
    closing = uses[0].node if said.result and len(uses) == 1 and uses[0].node.op_type == CLOSE else None
    bias_name = None if bias is None else str(bias.name)
    if node.op_type != said.plain or opening is None or opening.op_type != OPEN or weight is None:
        return
    if bias_name is not None and (bias_name not in levels or integers[bias_name].bits != 32 or said.bias is None):
        return
    if said.result and closing is None and not said.plain_too:
        return
    size = 1 + max(at for at in (*said.data, *said.weight, *(said.result or ()), said.bias) if at is not None)
    inputs: list[ir.Value | None] = [None] * size
    _lay(inputs, said.data, [operand(opening, position) for position in range(3)])
    _lay(inputs, said.weight, _operands(graph, str(weight.name), levels[str(weight.name)], stored))
    if closing is not None and said.result is not None:
        _lay(inputs, said.result, [operand(closing, 1), operand(closing, 2)])
    if bias_name is not None and said.bias is not None:
        inputs[said.bias] = _stored(graph, bias_name + _TEMPORARY, levels[bias_name].numbers, INT32)
    while inputs and inputs[-1] is None:
        inputs.pop()
    last = node if closing is None else closing
    made = ir.Node(stored.fused[0], stored.fused[1], inputs, name=last.name)
    made.attributes.update({each.name: each for each in node.attributes.values() if each.name != "beta"})
    old, result = last.outputs[0], made.outputs[0]
    result.type = old.type if said.scaled else ir.TensorType(INT32)
    result.shape = old.shape
    graph.insert_before(last, made)
    take_over(old, result)
    graph.remove([each for each in (node, closing) if each is not None], safe=True)
    if not opening.outputs[0].uses():
        graph.remove(opening, safe=True)


def _lay(inputs: list[ir.Value | None], positions: tuple[int | None, ...], values: list[ir.Value | None]) -> None:
    """Put values at their positions."""
    for position, value in zip(positions, values, strict=True):
        if position is not None:
            inputs[position] = value
