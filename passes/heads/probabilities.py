"""Compute how much each query of each head attends to each key, on samples: (heads, samples, queries, keys).

A fused operator does not say. But what it gives is the mean of the values, weighed: with values of which each names one
position (`spa.passes.heads.named`), that is the weights themselves, with whatever rotation, mask or scale the operator
has inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from spa import runtime
from spa.analysis.coupling import Coupling
from spa.errors import DataError, ModelError
from spa.passes.heads.attentions import Attention, shapes_of
from spa.passes.heads.named import Form, Sizes
from spa.passes.repair.own import values_of

Feeds = Mapping[str, np.ndarray]


class Probabilities:
    """The attentions of a model, run on samples.

    Args:
        model: the coupled model; not changed.
    """

    def __init__(self, model: ir.Model, coupling: Coupling, attentions: Sequence[Attention]) -> None:
        self.model, self.coupling, self.attentions = model, coupling, attentions
        self.notes: dict[str, str] = {}
        self.sessions: dict[str, Any] = {}

    def of(self, feeds: Feeds) -> Iterator[tuple[Attention, np.ndarray]]:
        """Each attention with its probabilities on one batch; those that cannot be told are noted and left out."""
        wanted: dict[str, None] = {}
        for attention in self.attentions:
            read = [value for value in attention.node.inputs if value is not None]
            values = [attention.value] if attention.values is None else read
            wanted |= dict.fromkeys(str(value.name) for value in values)
        arrays = {name: by_batch[0] for name, by_batch in values_of(self.model, list(wanted), [feeds]).items()}
        for attention in self.attentions:
            try:
                yield attention, self.one(attention, arrays)
            except (DataError, ModelError, ValueError) as error:
                self.notes[attention.name] = f"not told: {str(error).splitlines()[0][:160]}"

    def one(self, attention: Attention, arrays: Feeds) -> np.ndarray:
        """The probabilities of one attention, from the values that it reads or gives."""
        if attention.values is None:
            array = arrays[str(attention.value.name)].astype(np.float32)
            return heads_first(self.coupling, attention, array)
        return self.asked(attention, arrays)

    def asked(self, attention: Attention, arrays: Feeds) -> np.ndarray:
        """What a fused operator gives for values that name positions, some at a time."""
        assert attention.values is not None
        operands = [None if value is None else arrays[str(value.name)] for value in attention.node.inputs]
        form = Form.of(attention.values, operands, self.sizes(attention))
        parts = []
        for start in range(0, form.tokens, form.size):
            pairs = zip(attention.node.inputs, form.naming(start), strict=True)
            feeds = {str(value.name): array for value, array in pairs if value is not None and array is not None}
            result = runtime.run(self.session(attention, feeds), feeds)[str(attention.value.name)].astype(np.float32)
            result = form.read(result)
            if result.ndim == 3:
                result = result.reshape(*result.shape[:2], -1, form.size).transpose(0, 2, 1, 3)
            parts.append(result[..., : form.tokens - start])
        return np.concatenate(parts, axis=-1).transpose(1, 0, 2, 3)

    def sizes(self, attention: Attention) -> Sizes:
        """How many heads a fused operator has, and how many of them its values have, each of so many numbers.

        Raises:
            ValueError: the graph does not tell.
        """
        assert attention.values is not None
        axes, at = shapes_of(self.coupling, attention.value), attention.values.operand
        width = prod(leaf.size for leaf in axes[-1])
        size = width if len(axes) == 4 else width // attention.count
        stored = attention.node.inputs[at] if at is not None and at < len(attention.node.inputs) else None
        if stored is None:
            return Sizes(attention.count, None, size)
        mine = [leaf for axis in shapes_of(self.coupling, stored) for leaf in axis if leaf in attention.heads]
        return Sizes(attention.count, prod(leaf.size for leaf in mine), size)

    def session(self, attention: Attention, feeds: Feeds) -> Any:
        """A session of the operator alone."""
        if attention.name not in self.sessions:
            kind = onnx.helper.np_dtype_to_tensor_dtype
            node = ir.serde.serialize_node(attention.node)
            made = onnx.helper.make_tensor_value_info
            inputs = [made(name, kind(array.dtype), [None] * array.ndim) for name, array in feeds.items()]
            versions = self.model.graph.opset_imports.items()
            opsets = [onnx.helper.make_opsetid(name, version) for name, version in versions]
            output = onnx.ValueInfoProto(name=str(attention.value.name))
            graph = onnx.helper.make_graph([node], "attention", inputs, [output])
            proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
            self.sessions[attention.name] = runtime.session(ir.from_proto(proto), optimize=False)
        return self.sessions[attention.name]


def heads_first(coupling: Coupling, attention: Attention, array: np.ndarray) -> np.ndarray:
    """(heads, samples, queries, keys) of probabilities as the graph has them, whatever the order of their axes.

    Raises:
        ValueError: an axis is a product of several parts whose sizes the data decide.
    """
    sizes: list[int] = []
    at_heads: list[int] = []
    keys = -1
    for axis, parts in enumerate(shapes_of(coupling, attention.value)):
        if axis == len(array.shape) + attention.keys:
            keys, at = len(sizes), [array.shape[axis]]
        elif any(leaf in attention.heads for leaf in parts):
            at_heads += [len(sizes) + n for n, leaf in enumerate(parts) if leaf in attention.heads]
            others = [n for n, leaf in enumerate(parts) if leaf not in attention.heads]
            at = [leaf.size for leaf in parts]
            known = int(np.prod([leaf.size for leaf in parts if leaf in attention.heads]))
            if len(others) > 1:
                raise ValueError("heads together with several other axes")
            for n in others:
                at[n] = array.shape[axis] // known
        else:
            at = [array.shape[axis]]
        sizes += at
    split = array.reshape(sizes)
    rest = [axis for axis in range(len(sizes)) if axis not in (*at_heads, keys)]
    queries, samples = rest[-1], rest[:-1]
    ordered = split.transpose(*at_heads, *samples, queries, keys)
    count = int(np.prod([sizes[axis] for axis in at_heads], dtype=int))
    return ordered.reshape(count, -1, sizes[queries], sizes[keys])
