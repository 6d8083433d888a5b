"""A builder of random ONNX graphs: nodes, constants and shapes written in the ways that exporters write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Axis = int | str
WIDTHS = (2, 3, 4, 5, 6, 8, 9, 12, 16)
OPSETS = (13, 17, 18, 20, 21, 23)
BATCH, STEPS = "N", "T"


@dataclass(frozen=True)
class Tensor:
    """A value's name and shape; a symbolic axis is text, also a product of two (`N*T`)."""

    name: str
    shape: tuple[Axis, ...]

    def size(self, axis: int) -> int:
        """The length of a static axis."""
        length = self.shape[axis]
        assert isinstance(length, int)
        return length


class Builder:
    """A graph that grows."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.merged: dict[tuple[Any, ...], str] = {}  # equal constants, as exporters merge them
        self.merges = self.chance(0.5)
        self.anonymous = self.chance(0.2)  # nodes without names
        self.sources: dict[str, list[tuple[Tensor, int]]] = {}  # symbol -> axes that have its length
        self.count = 0

    # -------------------------------------------------------------------------------------------- chance
    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def width(self, *, multiple: int = 1) -> int:
        return multiple * int(self.pick(WIDTHS if multiple == 1 else WIDTHS[:4]))

    def divisor(self, *sizes: int) -> int:
        """A common divisor."""
        return int(self.pick([d for d in range(1, min(sizes) + 1) if all(size % d == 0 for size in sizes)]))

    # -------------------------------------------------------------------------------------------- growing
    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def op(self, kind: str, *operands: Tensor | None, shape: Sequence[Axis], **attributes: Any) -> Tensor:
        return self.ops(kind, *operands, shapes=[shape], **attributes)[0]

    def ops(
        self, kind: str, *operands: Tensor | None, shapes: Sequence[Sequence[Axis]], **attributes: Any
    ) -> list[Tensor]:
        names = [operand.name if operand else "" for operand in operands]
        while names and not names[-1]:
            names.pop()
        results = [Tensor(self.name(kind.lower()), tuple(shape)) for shape in shapes]
        node = helper.make_node(kind, names, [result.name for result in results], **attributes)
        if not self.anonymous:
            node.name = self.name(f"/{kind}")
        self.nodes.append(node)
        for result in results:
            self.knows(result)
        return results

    def knows(self, tensor: Tensor) -> Tensor:
        """Note where the length of a symbolic axis can be read."""
        for axis, length in enumerate(tensor.shape):
            if isinstance(length, str):
                self.sources.setdefault(length, []).append((tensor, axis))
        return tensor

    def input(self, name: str, shape: Sequence[Axis], dtype: int = onnx.TensorProto.FLOAT) -> Tensor:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return self.knows(Tensor(name, tuple(shape)))

    def output(self, tensor: Tensor, dtype: int = onnx.TensorProto.FLOAT) -> None:
        name = f"out{len(self.outputs)}"
        self.nodes.append(helper.make_node("Identity", [tensor.name], [name], name=f"/{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, dtype, tensor.shape))

    def constant(self, array: np.ndarray, stem: str = "constant") -> Tensor:
        """An initializer, shared with equal ones in graphs that merge, or now and then a Constant node."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if self.merges and key in self.merged and array.size <= 64:
            return Tensor(self.merged[key], array.shape)
        name = self.name(stem)
        if self.chance(0.1):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
        else:
            self.constants[name] = array
        self.merged[key] = name
        return Tensor(name, array.shape)

    def numbers(self, *numbers: int) -> Tensor:
        return self.constant(np.array(numbers, np.int64), "numbers")

    def weight(self, *shape: int, fan: int | None = None, stem: str = "weight") -> Tensor:
        scale = 1.2 / np.sqrt(fan or max(1, prod(shape[1:])))
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32), stem)

    def vector(self, *shape: int, center: float = 0.0) -> Tensor:
        """A bias or scale: random, or all alike (and then merged with others)."""
        if self.chance(0.3):
            return self.constant(np.full(shape, center, np.float32), "flat")
        return self.constant((center + 0.3 * self.rng.standard_normal(shape)).astype(np.float32), "vector")

    # -------------------------------------------------------------------------------------------- shapes
    def reshape(self, x: Tensor, shape: Sequence[Axis]) -> Tensor:
        """To static, marked (0, -1) or computed targets, as exporters write them."""
        open_axes = [k for k, length in enumerate(shape) if isinstance(length, str) and x.shape[k : k + 1] != (length,)]
        if len(open_axes) > 1 or self.chance(0.3):
            return self.op("Reshape", x, self.computed(shape), shape=shape)
        target = [length if isinstance(length, int) else 0 for length in shape]
        for k in range(len(shape)):
            if x.shape[k : k + 1] == (shape[k],) and self.chance(0.3):
                target[k] = 0
        hidden = open_axes or ([int(self.rng.integers(len(shape)))] if self.chance(0.5) else [])
        for k in hidden:
            target[k] = -1
        return self.op("Reshape", x, self.numbers(*target), shape=shape)

    def computed(self, shape: Sequence[Axis]) -> Tensor:
        """A target put together when the graph runs: Shape, Gather, Unsqueeze, Concat."""
        parts = [self.measured(length) if isinstance(length, str) else self.numbers(length) for length in shape]
        return self.op("Concat", *parts, shape=(len(shape),), axis=0)

    def measured(self, length: str) -> Tensor:
        """The length of a symbolic axis, as a vector of one."""
        if length.isdigit():
            return self.numbers(int(length))
        if length not in self.sources:
            first, second = (self.measured(part) for part in length.split("*"))
            return self.op("Mul", first, second, shape=(1,))
        tensor, axis = self.pick(self.sources[length])
        shape = self.op("Shape", tensor, shape=(len(tensor.shape),))
        scalar = self.op("Gather", shape, self.constant(np.array(axis, np.int64)), shape=(), axis=0)
        return self.op("Unsqueeze", scalar, self.numbers(0), shape=(1,))

    def transpose(self, x: Tensor, *order: int) -> Tensor:
        return self.op("Transpose", x, shape=[x.shape[axis] for axis in order], perm=order)

    def reduce(self, kind: str, x: Tensor, axes: Sequence[int], *, keep: bool) -> Tensor:
        inside = {axis % len(x.shape) for axis in axes}
        shape = [1 if axis in inside else length for axis, length in enumerate(x.shape) if keep or axis not in inside]
        if self.opset >= (13 if kind == "ReduceSum" else 18):
            return self.op(kind, x, self.numbers(*axes), shape=shape, keepdims=int(keep))
        return self.op(kind, x, shape=shape, axes=list(axes), keepdims=int(keep))

    def split(self, x: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        if len(set(sizes)) == 1 and self.chance(0.5):
            extra = {"num_outputs": len(sizes)} if self.opset >= 18 else {}
            return self.ops("Split", x, shapes=shapes, axis=axis, **extra)
        return self.ops("Split", x, self.numbers(*sizes), shapes=shapes, axis=axis)

    def slice(self, x: Tensor, axis: int, start: int, end: int) -> Tensor:
        shape = (*x.shape[:axis], end - start, *x.shape[axis + 1 :])
        far = 2**63 - 1 if end == x.shape[axis] and self.chance(0.5) else end
        return self.op("Slice", x, self.numbers(start), self.numbers(far), self.numbers(axis), shape=shape)

    def flat(self, x: Tensor) -> Axis:
        """The length of the first two axes laid out in one."""
        first, second = x.shape[:2]
        return first * second if isinstance(first, int) and isinstance(second, int) else f"{first}*{second}"

    def activation(self, x: Tensor) -> Tensor:
        kind = self.pick(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Clip", "Silu", "Erf", "PRelu"])
        if kind == "Clip":
            bounds = [self.constant(np.array(bound, np.float32)) for bound in (0.0, 6.0)]
            return self.op("Clip", x, *bounds, shape=x.shape)
        if kind == "Silu":
            return self.op("Mul", x, self.op("Sigmoid", x, shape=x.shape), shape=x.shape)
        if kind == "HardSwish" and self.opset < 14:
            kind = "Relu"
        if kind == "PRelu":
            axis = 1 if len(x.shape) == 4 else len(x.shape) - 1
            slope = [x.size(axis)] + [1] * (len(x.shape) - axis - 1)
            return self.op("PRelu", x, self.vector(*slope, center=0.2), shape=x.shape)
        return self.op(kind, x, shape=x.shape)

    def model(self) -> onnx.ModelProto:
        weights = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "random", self.inputs, self.outputs, weights)
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", self.opset)])
        return onnx.shape_inference.infer_shapes(model) if self.chance(0.5) else model
