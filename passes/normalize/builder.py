"""New nodes in place of old ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from spa.passes.normalize.fold import Names
from spa.shapes.types import STANDARD

SIZES_ARE_OPERANDS = {"Slice": 10, "Split": 13, "Squeeze": 13, "Unsqueeze": 13}
"""From which version on an operator reads its axes and sizes from tensors."""


class Builder:
    """Puts nodes before one that is to go; their names are derived from its first result's."""

    def __init__(self, model: ir.Model, node: ir.Node, names: Names) -> None:
        assert node.graph is not None  # it was found in one
        self.node, self.graph, self.names = node, node.graph, names
        imports = model.graph.opset_imports
        self.version = next((imports[domain] for domain in STANDARD if domain in imports), 1)
        self.base = node.outputs[0].name or node.op_type

    def add(
        self, operator: str, inputs: Sequence[ir.Value | None], *, count: int = 1, **attributes: int
    ) -> list[ir.Value]:
        """The results of a new node."""
        name = self.names.free(f"{self.base}/{operator}")
        attrs = [ir.AttrInt64(key, number) for key, number in attributes.items()]
        made = ir.Node("", operator, inputs, attrs, num_outputs=count, name=name)
        for number, value in enumerate(made.outputs):
            value.name = name if count == 1 else self.names.free(f"{name}.{number}")
            value.type = next((v.type for v in inputs if v is not None), None)
        self.graph.insert_before(self.node, made)
        return list(made.outputs)

    def sized(
        self, operator: str, data: ir.Value, *, count: int = 1, axis: int | None = None, **lists: Sequence[int]
    ) -> list[ir.Value]:
        """The results of a new node with lists of numbers, operands in new versions and attributes in old ones."""
        extra = {} if axis is None else {"axis": axis}
        if self.version >= SIZES_ARE_OPERANDS[operator]:
            operands = [self.constant(key, np.array(numbers, np.int64)) for key, numbers in lists.items()]
            return self.add(operator, [data, *operands], count=count, **extra)
        results = self.add(operator, [data], count=count, **extra)
        made = results[0].producer()
        assert made is not None
        for key, numbers in lists.items():
            made.attributes[key] = ir.AttrInt64s(key, list(numbers))
        return results

    def constant(self, tag: str, numbers: np.ndarray) -> ir.Value:
        """A new stored tensor."""
        name = self.names.free(f"{self.base}/{tag}")
        tensor = ir.Tensor(numbers, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(numbers.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def finish(self, results: Sequence[ir.Value]) -> None:
        """Read the new results instead of the node's, and take the node away."""
        for old, new in zip(self.node.outputs, results, strict=True):
            if old.is_graph_output():
                copy = self.add("Identity", [new])[0]
                copy.name, copy.type, copy.shape = old.name, old.type, old.shape
                old.name = None
                new = copy
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)
