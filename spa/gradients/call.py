"""Implement an operator in torch: a function of a `Call`, the node's attributes, and of its operands as tensors.

    @implements("LeakyRelu")
    def leaky_relu(call: Call, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, call.number("alpha", 0.01))

Operands come as tensors, absent ones as None; integers that say how a node works (shapes, axes) lie on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

MICROSOFT = "com.microsoft"

DTYPES: Mapping[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
}

RunBody = Callable[[ir.Graph, Sequence[Any]], list[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One node on its way through an implementation.

    Attributes:
        version: the opset version by which the node is read.
        training: whether normalisations take their statistics from the batch, and dropouts drop.
        generator: draws the random numbers.
        body: runs a graph that the node holds, on what its inputs are to be.
    """

    node: ir.Node
    version: int
    training: bool
    generator: torch.Generator
    body: RunBody

    @property
    def where(self) -> str:
        """The node in messages."""
        return f"{self.node.op_type} {self.node.name or self.node.outputs[0].name!r}"

    @property
    def results(self) -> int:
        """How many results are asked for."""
        return len(self.node.outputs)

    def wants(self, position: int) -> bool:
        """Whether a result has a name: optional ones may have none."""
        return position < len(self.node.outputs) and bool(self.node.outputs[position].name)

    def has(self, name: str) -> bool:
        """Whether an attribute is given."""
        return name in self.node.attributes

    def integer(self, name: str, default: int = 0) -> int:
        """An attribute that is a whole number."""
        return self.node.attributes.get_int(name, default)

    def number(self, name: str, default: float = 0.0) -> float:
        """An attribute that is a number."""
        return self.node.attributes.get_float(name, default)

    def text(self, name: str, default: str = "") -> str:
        """An attribute that is text."""
        return self.node.attributes.get_string(name, default)

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """An attribute that is a row of whole numbers."""
        return list(self.node.attributes.get_ints(name, default))

    def dtype(self, name: str = "to") -> torch.dtype | None:
        """An attribute that is an element type; None: it is not given, or zero."""
        number = self.integer(name, 0)
        return DTYPES[ir.DataType(number)] if number else None

    def axes(self, given: Tensor | None, name: str = "axes") -> list[int] | None:
        """Axes as an operand, or in older opsets as an attribute; None: neither."""
        if given is not None:
            return ints(given)
        return self.integers(name) if self.has(name) else None


Implementation = Callable[..., Any]
_registry: dict[tuple[str, str], Implementation] = {}
_still: dict[Implementation, tuple[int, ...]] = {}
_drawing: set[Implementation] = set()
_kinds: dict[Implementation, str] = {}


def implements(
    *names: str, domain: str = "", still: tuple[int, ...] = (), draws: bool = False, vectors: str = ""
) -> Callable[[Implementation], Implementation]:
    """Register what computes operators of a domain ("" is ai.onnx).

    Args:
        still: positions of operands that no gradient moves: running statistics, numbers that say how the node works.
        draws: whether the result is random.
        vectors: what stored vectors are that the operator reads: norms or scales; empty: biases.
    """

    def decorate(function: Implementation) -> Implementation:
        _still[function], _kinds[function] = still, vectors
        if draws:
            _drawing.add(function)
        for name in names:
            if (domain, name) in _registry:
                raise ValueError(f"two implementations of {domain}::{name}")
            _registry[domain, name] = function
        return function

    return decorate


def implementation(node: ir.Node) -> Implementation | None:
    """What computes a node; None: nothing does."""
    return _registry.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def is_still(node: ir.Node, position: int) -> bool:
    """Whether no gradient moves an operand."""
    function = implementation(node)
    return function is None or position in _still[function]


def kind_of(function: Implementation) -> str:
    """What stored vectors are that an operator reads: norms, scales, or empty."""
    return _kinds[function]


def draws(function: Implementation) -> bool:
    """Whether results are random."""
    return function in _drawing


def implemented() -> list[tuple[str, str]]:
    """Every operator that is known, as (domain, name)."""
    return sorted(_registry)


def ints(tensor: Tensor) -> list[int]:
    """The numbers of a tensor of whole numbers."""
    return [int(number) for number in tensor.reshape(-1).tolist()]


def together(*tensors: Tensor | None) -> list[Tensor]:
    """Operands on one device: numbers that were computed on the CPU follow the data."""
    present = [tensor for tensor in tensors if tensor is not None]
    device = next((tensor.device for tensor in present if tensor.device.type != "cpu"), None)
    return present if device is None else [tensor.to(device) for tensor in present]
