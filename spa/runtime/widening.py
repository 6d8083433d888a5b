"""Models of bfloat16 as ones of float32, for devices that compute nothing in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

NAMED = ("to", "dtype", "output_dtype")
"""Attributes that name the type of a result."""


def widened(model: ir.Model) -> ir.Model | None:
    """The model with float32 wherever it has bfloat16, stored tensors when they are read; None: it has no bfloat16.

    Every bfloat16 is a float32, so that results differ by less rounding alone.
    """
    made = model.clone()
    changed = False
    for graph in made.graphs():
        for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
            if isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.BFLOAT16:
                value.type = ir.TensorType(ir.DataType.FLOAT)  # clones share the type, which is not to change
                changed = True
            if (tensor := value.const_value) is not None and tensor.dtype == ir.DataType.BFLOAT16:
                value.const_value = _wide(tensor)
                changed = True
        for node in graph:
            for attribute in _of_bfloat16(node):
                node.attributes[attribute.name] = attribute
                changed = True
    return made if changed else None


def _of_bfloat16(node: ir.Node) -> Iterator[ir.Attr]:
    """The attributes of a node that say bfloat16, as they say float32."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == ir.DataType.BFLOAT16:
            yield ir.AttrTensor(name, _wide(attribute.value))
        elif name in NAMED and attribute.type == ir.AttributeType.INT and attribute.value == ir.DataType.BFLOAT16:
            yield ir.AttrInt64(name, int(ir.DataType.FLOAT))


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    def read() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)
