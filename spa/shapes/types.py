"""Types of values, and nodes without their tensors' names: what shape inference computes with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import onnx_ir as ir

from spa.notation.partial import Dim, Dims, static

STANDARD = ("", "ai.onnx")  # names of onnx's own operator domain


class Type(NamedTuple):
    """Type of a value. ``Type()`` says that nothing is known."""

    element: int = 0  # onnx element type of a tensor, 0 where unknown
    dims: Dims | None = None  # None: the rank is unknown
    other: bytes = b""  # the TypeProto of what is no tensor (a sequence, a map, an optional)

    def __str__(self) -> str:
        element = ir.DataType(self.element).name.lower() if self.element else "unknown"
        return (
            element if self.dims is None else f"{element}[{', '.join('?' if d is None else str(d) for d in self.dims)}]"
        )

    @classmethod
    def of(cls, tensor: ir.TensorProtocol) -> Type:
        """The type of a tensor."""
        return cls(int(tensor.dtype), tuple(int(dim) for dim in tensor.shape.numpy()))

    @classmethod
    def read(cls, proto: onnx.TypeProto) -> Type:
        """The type that a TypeProto says."""
        if not proto.HasField("tensor_type"):
            return cls(other=proto.SerializeToString()) if proto.WhichOneof("value") else cls()
        tensor = proto.tensor_type
        if not tensor.HasField("shape"):
            return cls(tensor.elem_type)
        dims = (dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
        return cls(tensor.elem_type, tuple(dims))

    @property
    def static(self) -> tuple[int, ...] | None:
        """The dims when each is a number."""
        return static(self.dims)

    def describes(self, array: np.ndarray) -> bool:
        """Whether an array is of this type; never where the rank is unknown."""
        if self.dims is None or self.element != int(ir.DataType.from_numpy(array.dtype)):
            return False
        return len(self.dims) == array.ndim and all(
            size == dim for size, dim in zip(array.shape, self.dims, strict=True) if isinstance(dim, int)
        )

    def join(self, other: Type) -> Type:
        """What holds for both."""
        if self == other:
            return self
        if self.element != other.element or self.other or other.other:
            return Type()
        if self.dims is None or other.dims is None or len(self.dims) != len(other.dims):
            return Type(self.element)
        pairs = zip(self.dims, other.dims, strict=True)
        return Type(self.element, tuple(mine if mine == theirs else None for mine, theirs in pairs))

    def stacked(self, count: Dim, axis: int) -> Type:
        """The type of ``count`` such tensors along a new axis."""
        if self.dims is None:
            return self
        axis %= len(self.dims) + 1
        return self._replace(dims=(*self.dims[:axis], count, *self.dims[axis:]))

    def sliced(self, axis: int) -> Type:
        """The type of one slice along an axis."""
        if not self.dims:
            return self
        axis %= len(self.dims)
        return self._replace(dims=self.dims[:axis] + self.dims[axis + 1 :])


@lru_cache(maxsize=65536)
def type_proto(type_: Type) -> onnx.TypeProto:
    """The TypeProto of a type; not to be written to."""
    if type_.other:
        return cast("onnx.TypeProto", onnx.TypeProto.FromString(type_.other))
    return onnx.helper.make_tensor_type_proto(type_.element, type_.dims) if type_.element else onnx.TypeProto()


@dataclass(frozen=True, slots=True)
class Call:
    """A node without its tensors' names: equal calls on equal operands have equal results."""

    payload: bytes  # NodeProto with inputs "0", "1" ... and outputs "=0", "=1" ...
    op_type: str
    domain: str
    version: int  # of the operator set
    results: int

    @classmethod
    def of(cls, node: ir.Node, version: int) -> Call:
        """The call that a node makes."""
        proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
        proto.input.extend("" if value is None else str(position) for position, value in enumerate(node.inputs))
        proto.output.extend(f"={position}" if value.name else "" for position, value in enumerate(node.outputs))
        proto.attribute.extend(ir.serde.serialize_attribute(attribute) for attribute in node.attributes.values())
        return cls(proto.SerializeToString(), node.op_type, node.domain, version, len(node.outputs))

    @property
    def standard(self) -> bool:
        """Whether the operator is one of onnx itself."""
        return self.domain in STANDARD

    def attribute(self, name: str, default: Any) -> Any:
        """The value of an attribute."""
        attributes = onnx.NodeProto.FromString(self.payload).attribute
        return next(
            (onnx.helper.get_attribute_value(attribute) for attribute in attributes if attribute.name == name), default
        )


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """What a Constant node gives; None for what is no dense tensor."""
    value = node.attributes.get("value")
    if value is not None and value.type == ir.AttributeType.TENSOR:
        return cast("ir.TensorProtocol", value.value)  # as_tensor() would check a protocol, slower than all else here
    return ir.convenience.get_const_tensor(node.outputs[0])
