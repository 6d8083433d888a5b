"""Read a graph for a module: its stored tensors as torch's, its bodies, and names that are free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from spa.gradients.call import DTYPES
from spa.notation.operation import entry_of

if TYPE_CHECKING:
    pass


def to_torch(tensor: ir.TensorProtocol) -> Tensor:
    """A stored tensor; types that torch does not compute with become the next wider one."""
    array = tensor.numpy()
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    if tensor.dtype not in DTYPES:
        wide = np.float32 if tensor.dtype.is_floating_point() else np.int8 if tensor.dtype.is_signed() else np.uint8
        return torch.from_numpy(np.asarray(array).astype(wide))
    return torch.from_numpy(np.array(array, order="C"))


def bits(tensor: Tensor) -> Tensor:
    """The bits, so that a NaN equals itself."""
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().cpu().contiguous().view(widths[tensor.element_size()])


def stored_tensors(model: ir.Model) -> Iterator[tuple[int, ir.Value, ir.TensorProtocol]]:
    """Every initializer and every tensor of a Constant node, with the number of the graph that holds it."""
    for place, graph in enumerate(_graphs(model.graph)):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield place, value, value.const_value
        for node in graph:
            if entry_of(node).holds and "value" in node.attributes:
                yield place, node.outputs[0], node.attributes["value"].as_tensor()


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for body in bodies(node):
            yield from _graphs(body)


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node runs."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs += attribute.as_graphs()
    return graphs


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, by its bodies too."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        yield from body.outputs
        for inner in body:
            yield from reads(inner)


def free_name(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; it is taken then."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    taken.add(free)
    return free
