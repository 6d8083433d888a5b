"""What can be left out of a sum: a residual branch, a block, or an expert with weights of its own."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from spa.analysis.stored import has_parameters
from spa.analysis.unread import Edge
from spa.notation.dims import Factor

ADDED = "spa.added"
"""Mark in the metadata of a stored tensor that the model did not come with: no group is named after it."""


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """What can be left out of a sum, or of several.

    Attributes:
        gate: whether it is there; one index.
        edges: the addition, and the operand that the branch is; of an expert or a block the operands of all sums.
        nodes: what nothing else reads, in graph order.
        stored: the stored tensors that nothing else reads.
        ends: names of inputs and outputs of the graph that go with it: the caches of an attention.
        block: how the names of its stored tensors begin, if it is a block.
    """

    gate: Factor
    edges: tuple[Edge, ...]
    nodes: tuple[ir.Node, ...]
    stored: tuple[ir.Value, ...]
    ends: tuple[str, ...]
    block: str = ""

    @property
    def edge(self) -> Edge:
        """The first of its edges."""
        return self.edges[0]

    @property
    def value(self) -> ir.Value:
        """The addend."""
        node, position = self.edge
        value = node.inputs[position]
        assert value is not None
        return value

    @property
    def parameters(self) -> list[ir.Value]:
        """Those of its stored tensors that hold parameters."""
        return [value for value in self.stored if has_parameters(value)]

    @property
    def name(self) -> str:
        """Its block; or the last matrix of its own that the model came with, or where there is none the addend."""
        if self.block:
            return f"{self.block.rstrip('.')}:block"
        own = [value for value in self.parameters if ADDED not in value.meta]
        matrices = [value for value in own if value.const_value is not None and len(value.const_value.shape) > 1]
        return f"{(matrices or own or [self.value])[-1].name}:branch"
