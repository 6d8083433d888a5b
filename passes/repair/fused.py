"""Nodes that hold integers, opened into plain ones and closed again; `spa.passes.repair.quantised` has the numbers.

open_integers(model, opened, names)      in place; what was opened is added to `opened`, by the name of the weight
close_integers(model, levels, opened)    in place
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from spa.analysis.branch import ADDED
from spa.notation.operation import entry_of
from spa.passes.normalize.fold import Names
from spa.passes.repair.biases import BARE
from spa.passes.repair.quantised import ALIKE, CLOSE, FUSED, OPEN, WITHOUT_BIAS, Fused, Levels, Quantised, known_type

INT32 = ir.DataType.INT32


def is_quantised(node: ir.Node) -> bool:
    """Whether a node holds integers that can be opened."""
    return _spelled(node) is not None or _stands_alone(node)


def open_integers(model: ir.Model, opened: dict[str, Quantised], names: Names) -> None:
    """Open the integers of a model, in place: fused nodes first, then all that is dequantised."""
    graph = model.graph
    for node in list(graph):
        spelled = _spelled(node)
        if spelled is not None:
            _open_fused(graph, node, spelled, opened, names)
    alone = [node for node in graph if _stands_alone(node)]
    for node in alone:
        _open_alone(graph, node, opened)
    _note_biases(graph, opened)
    for stored in opened.values():
        for name in (stored.scale, stored.zero):
            if name is not None and name in graph.initializers and not graph.initializers[name].uses():
                graph.initializers.pop(name)


# ------------------------------------------------------------------------------------------------------ opening
def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """What a value that the model alone reads holds; None: it is computed, or comes from outside."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
        return None
    return value.const_value


def operand(node: ir.Node, position: int | None) -> ir.Value | None:
    """What a node reads at a position; None: nothing."""
    return None if position is None or position >= len(node.inputs) else node.inputs[position]


def _stands_alone(node: ir.Node) -> bool:
    """Whether a node dequantises stored integers, with a stored scale."""
    if node.op_type != OPEN or not isinstance(node.graph, ir.Graph) or node.outputs[0].is_graph_output():
        return False
    levels, scale, zero = (operand(node, position) for position in range(3))
    numbers, by = constant(levels), constant(scale)
    if levels is None or numbers is None or by is None or not known_type(numbers.dtype) or len(levels.uses()) != 1:
        return False
    if (
        not by.dtype.is_floating_point()
        or by.dtype.numpy().itemsize < 2
        or (zero is not None and constant(zero) is None)
    ):
        return False
    shared = scale is not None and len(scale.uses()) > 1
    return not (shared and by.numpy().ndim > 1)


def _open_alone(graph: ir.Graph, node: ir.Node, integers: dict[str, Quantised]) -> None:
    result = node.outputs[0]
    axis = node.attributes.get_int("axis", 1)
    block = node.attributes.get_int("block_size", 0)
    attributes = tuple(each for each in node.attributes.values() if each.name not in ("axis", "block_size"))
    weight = _plain(graph, node, (0, 1, 2), integers, axis=axis, block=block, result=str(result.name),
                    domain=node.domain, attributes=attributes)  # fmt: skip
    for reader, position in list(result.uses()):
        reader.replace_input_with(position, weight)
    graph.remove(node, safe=True)
    if any(_is_bare(reader) for reader, _ in weight.uses()):
        weight.meta[BARE] = True


def _is_bare(node: ir.Node) -> bool:
    """Whether what a node gives is quantised at once, so that nothing may be added to it behind the node."""
    uses = [] if not node.outputs else list(node.outputs[0].uses())
    return node.op_type in WITHOUT_BIAS and len(uses) == 1 and uses[0].node.op_type == CLOSE


def _plain(
    graph: ir.Graph,
    node: ir.Node,
    positions: tuple[int, int | None, int],
    integers: dict[str, Quantised],
    *,
    axis: int,
    block: int = 0,
    result: str | None = None,
    domain: str = "",
    attributes: tuple[ir.Attr, ...] = (),
    fused: tuple[str, str] | None = None,
) -> ir.Value:
    """The plain weight in the place of the integers that a node reads, noted in `integers`."""
    value, scale, zero = (operand(node, position) for position in positions)
    assert value is not None
    assert value.const_value is not None
    name = str(value.name)
    numbers = value.const_value.numpy().astype(np.int64)
    by = np.ones(()) if scale is None or scale.const_value is None else scale.const_value.numpy().astype(np.float64)
    point = np.zeros(by.shape, np.int64)
    if zero is not None and zero.const_value is not None:
        stored = zero.const_value.numpy().astype(np.int64)
        by, point = np.broadcast_arrays(by, stored.reshape(by.shape) if stored.size == by.size else stored)
    axis = axis % numbers.ndim if numbers.ndim else 0
    if by.ndim > 1 and not block:
        block = -(-numbers.shape[axis] // by.shape[axis])
    plain = ir.DataType.FLOAT if scale is None or scale.dtype is None else scale.dtype
    own = scale is not None and all(each is None or len(each.uses()) == 1 for each in (scale, zero))
    levels = Levels(numbers, np.array(by), np.array(point), axis, block)
    integers[name] = Quantised(
        levels, value.const_value.dtype, plain, None if scale is None else str(scale.name),
        None if zero is None else str(zero.name), result, attributes, domain, own, None, fused, str(node.name or ""),
    )  # fmt: skip
    return _in_place_of(graph, value, levels.values().astype(plain.numpy()), plain)


def _in_place_of(graph: ir.Graph, value: ir.Value, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    """Another stored tensor of the name of one, for all that reads it."""
    name, uses = str(value.name), list(value.uses())
    graph.initializers.pop(name)
    made = ir.Value(
        name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape),
        const_value=ir.Tensor(np.asarray(array, order="C"), dtype=dtype, name=name),
    )  # fmt: skip
    graph.register_initializer(made)
    for reader, position in uses:
        reader.replace_input_with(position, made)
    return made


def _spelled(node: ir.Node) -> Fused | None:
    """Where a node that computes with integers has what, where its weight, and all that quantises, is stored."""
    said = FUSED.get((node.domain, node.op_type))
    if said is None or not isinstance(node.graph, ir.Graph):
        return None
    weight = operand(node, said.weight[0])
    numbers = constant(weight)
    if weight is None or numbers is None or not known_type(numbers.dtype) or len(weight.uses()) != 1:
        return None
    stored = [*said.weight[1:], *((said.data[1],) if said.scaled else ()), *(said.result or ()), said.bias]
    if any(operand(node, position) is not None and constant(operand(node, position)) is None for position in stored):
        return None
    if said.scaled and (operand(node, said.data[1]) is None or operand(node, said.weight[1]) is None):
        return None
    if not said.scaled and not _is_cast_alone(node):
        return None
    by = operand(node, said.weight[1])
    if by is not None and by.const_value is not None and len(by.const_value.shape) > 1:
        return None
    bias = constant(operand(node, said.bias))
    return said if bias is None or bias.dtype is INT32 else None


def _is_cast_alone(node: ir.Node) -> bool:
    """Whether the integers that a node gives become plain numbers, and nothing else reads them."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or not entry_of(uses[0].node).casts or node.outputs[0].is_graph_output():
        return False
    return uses[0].node.attributes.get_int("to", 0) == int(ir.DataType.FLOAT)


def _axis(node: ir.Node, said: Fused) -> int:
    """The axis of a fused node's weight along which it has scales: that of the outputs."""
    if said.outputs is not None:
        return said.outputs
    return -2 if node.attributes.get_int("transB", 0) else -1


def _open_fused(graph: ir.Graph, node: ir.Node, said: Fused, integers: dict[str, Quantised], names: Names) -> None:
    """A node that computes with integers becomes a plain one between what dequantises and what quantises."""
    kind, result = (node.domain, node.op_type), node.outputs[0]
    weight = _plain(graph, node, said.weight, integers, axis=_axis(node, said), fused=kind)
    data = _dequantised(graph, node, said, names)
    inputs: list[ir.Value | None] = [data, weight]
    if operand(node, said.bias) is not None:
        inputs.append(_plain_bias(graph, node, said, integers, str(weight.name)))
    if said.bias is None:
        weight.meta[BARE] = True
    attributes = {each.name: each for each in node.attributes.values()}
    name = node.name or str(result.name)
    plain = ir.Node("", said.plain, inputs, name=names.free(f"{name}/plain"))
    plain.attributes.update(attributes)
    made = plain.outputs[0]
    made.name, made.shape = names.free(f"{result.name}/plain"), result.shape
    made.type = ir.TensorType(weight.dtype or ir.DataType.FLOAT)
    graph.insert_before(node, plain)
    by = operand(node, said.result[0]) if said.result else None
    if by is not None and said.result is not None:
        point = operand(node, said.result[1])
        closing = ir.Node("", CLOSE, [made, by, *([] if point is None else [point])], name=node.name)
        closing.outputs[0].type, closing.outputs[0].shape = result.type, result.shape
        graph.insert_before(node, closing)
        made = closing.outputs[0]
    else:
        plain.name = node.name
    take_over(result, made)
    graph.remove(node, safe=True)


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let a value stand where another did, with its name."""
    name = str(old.name)
    old.name = None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name = name


def _dequantised(graph: ir.Graph, node: ir.Node, said: Fused, names: Names) -> ir.Value:
    data, scale, point = (operand(node, position) for position in said.data)
    assert data is not None
    title = node.name or str(node.outputs[0].name)
    if scale is None:
        unit = ir.Tensor(np.ones((), np.float32), name=names.free(f"{title}/one"))
        scale = ir.Value(name=unit.name, type=ir.TensorType(unit.dtype), shape=ir.Shape(()), const_value=unit)
        graph.register_initializer(scale)
    opening = ir.Node("", OPEN, [data, scale, *([] if point is None else [point])], name=names.free(f"{title}/data"))
    made = opening.outputs[0]
    made.name, made.shape = names.free(f"{node.outputs[0].name}/data"), data.shape
    made.type = ir.TensorType(scale.dtype or ir.DataType.FLOAT)
    graph.insert_before(node, opening)
    return made


def _plain_bias(graph: ir.Graph, node: ir.Node, said: Fused, integers: dict[str, Quantised], weight: str) -> ir.Value:
    """The bias of a fused node, whose scale is not stored: it is that of the data times that of the weight."""
    value, data = operand(node, said.bias), constant(operand(node, said.data[1]))
    assert value is not None
    assert value.const_value is not None
    assert data is not None
    factor = float(data.numpy().reshape(-1)[0]) * node.attributes.get_float("alpha", 1.0)
    scales = integers[weight].levels.scales.reshape(-1) * factor
    plain = integers[weight].plain
    scales = scales.astype(plain.numpy()).astype(np.float64)  # as a stored one would be
    numbers = value.const_value.numpy().astype(np.int64)
    scales = scales.reshape(()) if scales.size == 1 else scales
    levels = Levels(numbers, scales, np.zeros(scales.shape, np.int64), max(numbers.ndim - 1, 0))
    name = str(value.name)
    integers[name] = Quantised(
        levels, INT32, plain, None, None, None, follows=(weight, factor), fused=(node.domain, node.op_type)
    )
    return _in_place_of(graph, value, levels.values().astype(plain.numpy()), plain)


def _note_biases(graph: ir.Graph, integers: dict[str, Quantised]) -> None:
    """Let biases follow the weights beside them, where their scales did."""
    for name, stored in list(integers.items()):
        if stored.bits < 32 or stored.follows is not None:
            continue
        uses = list(graph.initializers[name].uses())
        data = _scale_of_data(uses[0].node) if len(uses) == 1 else None
        beside = (
            [str(value.name) for value in uses[0].node.inputs if value is not None and value.name in integers]
            if uses
            else []
        )
        weight = next((other for other in beside if other != name and integers[other].bits < 32), None)
        if data is None or weight is None:
            continue
        expected, scales = integers[weight].levels.scales.reshape(-1) * data, stored.levels.scales.reshape(-1)
        if expected.size in (1, scales.size) and np.allclose(scales, expected, rtol=ALIKE, atol=0):
            integers[name] = replace(stored, follows=(weight, data))


def _scale_of_data(node: ir.Node) -> float | None:
    """The scale of what a node multiplies with a weight, where it is dequantised, all with one stored scale."""
    data = operand(node, 0)
    producer = None if data is None else data.producer()
    if producer is None or producer.op_type != OPEN:
        return None
    scale = constant(operand(producer, 1))
    return float(scale.numpy().reshape(-1)[0]) if scale is not None and scale.size == 1 else None


def new_biases(graph: ir.Graph, opened: Mapping[str, Quantised]) -> dict[str, Quantised]:
    """How biases that a repair added beside integers are to be stored, by name: as kernels take them."""
    made = {}
    for name, stored in opened.items():
        value = graph.initializers.get(name)
        for node, position in value.uses() if value is not None and stored.bits < 32 else ():
            bias, data = operand(node, 2), _scale_of_data(node)
            tensor = constant(bias)
            if position != 1 or bias is None or ADDED not in bias.meta or data is None or tensor is None:
                continue
            if bias.name in opened or len(bias.uses()) != 1 or len(tensor.shape) != 1:
                continue
            data *= node.attributes.get_float("alpha", 1.0) / node.attributes.get_float("beta", 1.0)
            scales = np.broadcast_to(stored.levels.scales.reshape(-1), (tensor.size,)) * data
            levels = Levels(np.zeros(tensor.shape.numpy(), np.int64), scales, np.zeros(scales.shape, np.int64))
            made[str(bias.name)] = Quantised(
                levels, INT32, stored.plain, f"{bias.name}/scale", None, f"{bias.name}/plain", follows=(name, data),
                fused=stored.fused,
            )  # fmt: skip
    return made
