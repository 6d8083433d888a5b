"""Models of some nodes of a graph, whose weights are the graph's own, and sessions of them that several may run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from spa.analysis.reading import reads

Batch = Mapping[str, np.ndarray]
Weights = Mapping[str, np.ndarray]


class Sessions:
    """Sessions of pieces that have the dense network's weights, for all streams that run them.

    Args:
        limit_nbytes: of the weights of all that are kept; with more, those that are there go.
        threads: that work inside an operator.
    """

    def __init__(self, limit_nbytes: int, threads: int | None) -> None:
        self.limit_nbytes, self.threads = limit_nbytes, threads
        self.known: dict[Hashable, Any] = {}
        self.nbytes = 0
        self.lock = threading.Lock()

    def get(self, key: Hashable | None, make: Callable[[int | None], tuple[Any, int]]) -> Any:
        """The session of a piece, made where it is not there yet; any thread may call this.

        Args:
            key: what tells pieces apart; None: nobody else has this one.
            make: a session with so many threads, and the bytes of its weights.
        """
        if key is None:
            return make(self.threads)[0]
        with self.lock:
            if key not in self.known:
                session, nbytes = make(self.threads)
                if self.nbytes + nbytes > self.limit_nbytes:
                    self.close()
                self.known[key] = session
                self.nbytes += nbytes
            return self.known[key]

    def close(self) -> None:
        """Forget all."""
        self.known.clear()
        self.nbytes = 0


def piece(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    weights: Weights,
    fixed: Container[str] = (),
) -> ir.Model:
    """A model of some nodes; its weights are the model's own, not copies.

    Args:
        inputs: a sample of each value that comes from outside; its type is taken, its shape is left open.
        weights: stored tensors that replace the model's, by name.
        fixed: inputs that have the sample's shape always.
    """
    graph = onnx.GraphProto(name="piece")
    for node in nodes:
        graph.node.append(ir.serde.serialize_node(node))
    read = {str(value.name): value for node in nodes for value in reads(node)}
    for name, sample in inputs.items():
        info = graph.input.add(name=name)
        if isinstance(sample, np.ndarray):
            info.type.tensor_type.elem_type = int(ir.DataType.from_numpy(sample.dtype))
            rank = info.type.tensor_type.shape
            rank.SetInParent()
            for axis, size in enumerate(sample.shape):  # named: shape inference reads nameless sizes as no sizes at all
                rank.dim.add(**({"dim_value": size} if name in fixed else {"dim_param": f"{name}/{axis}"}))
        elif (kind := read[name].type) is not None:
            ir.serde.serialize_type_into(info.type, kind)
    known = model.graph.initializers
    stored = {name: _tensor(model, name, weights) for name in read if name in known and name not in inputs}
    for name, tensor in stored.items():
        graph.input.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), tensor.shape.numpy()))
    taken = {info.name: info for info in graph.input}
    graph.output.extend(taken.get(name, onnx.ValueInfoProto(name=name)) for name in outputs)
    opsets = [
        onnx.OperatorSetIdProto(domain=domain, version=version) for domain, version in model.graph.opset_imports.items()
    ]
    part = ir.from_proto(onnx.ModelProto(graph=graph, ir_version=max(model.ir_version or 0, 8), opset_import=opsets))
    for value in [value for value in part.graph.inputs if value.name in stored]:
        part.graph.inputs.remove(value)
        value.const_value = stored[str(value.name)]
        part.graph.register_initializer(value)
    return part


def _tensor(model: ir.Model, name: str, weights: Weights) -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    if name not in weights:
        return tensor
    return ir.Tensor(np.ascontiguousarray(weights[name].astype(tensor.dtype.numpy(), copy=False)), dtype=tensor.dtype)
