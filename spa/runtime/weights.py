"""A serialised model without its large weights: these are lent to onnxruntime where they lie, or go through a file."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from spa.mapped import release
from spa.runtime.arrays import ort_value

# Weights of at least this many bytes are kept out of serialised models; onnx makes these external, too.
LARGE_NBYTES = 1024

_SPILLED_NBYTES, _ALIGNMENT = 1 << 25, 64

_ONE_AT_A_TIME = threading.Lock()
"""To serialise names each tensor after the initializer that holds it, and models of several threads share tensors."""


def large_weights(graphs: Iterable[ir.Graph]) -> dict[ir.Value, ir.TensorProtocol]:
    """The initializers that are worth keeping out of a serialised model."""
    return {
        value: value.const_value
        for graph in graphs
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and (value.const_value.nbytes >= LARGE_NBYTES or isinstance(value.const_value, ir.ExternalTensor))
    }


def serialized_without(
    model: ir.Model, weights: Mapping[ir.Value, ir.TensorProtocol], offsets: Mapping[ir.Value, int], location: str
) -> onnx.ModelProto:
    """The model's messages, with these weights as external tensors at these offsets; the model stays as it is."""
    try:
        for value, tensor in weights.items():
            value.const_value = ir.ExternalTensor(
                location,
                offsets.get(value, 0),
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name),
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props) or None,
            )
        with _ONE_AT_A_TIME:
            return ir.to_proto(model)
    finally:
        for value, tensor in weights.items():
            value.const_value = tensor


def _lendable(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    """Large weights that onnxruntime looks for: not those that nothing reads, which it drops before."""
    read = {value for node in ir.traversal.RecursiveGraphIterator(model.graph) for value in node.inputs}
    read.update(model.graph.outputs)
    return {
        value: tensor
        for value, tensor in large_weights((model.graph,)).items()
        if not value.is_graph_input() and tensor.dtype.bitwidth >= 8 and value in read
    }


def lend(model: ir.Model, options: Any) -> tuple[bytes, list[np.ndarray]]:
    """The model for onnxruntime, which is to use large weights where they lie: no copy, no limit of 2 GB.

    Returns the bytes of the model without these weights, and the arrays, which have to live as long as the session.
    """
    weights = _lendable(model)
    # In a file numbers start at any byte; onnxruntime's kernels expect them at multiples of their size.
    arrays = [np.require(tensor.numpy(), requirements=["C", "ALIGNED"]) for tensor in weights.values()]
    options.add_external_initializers([str(value.name) for value in weights], [ort_value(array) for array in arrays])
    return serialized_without(model, weights, {}, "lent").SerializeToString(), arrays


class _Folder:
    """A temporary folder that goes when nobody holds this any more."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="spa-")
        weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)


def to_file(model: ir.Model, options: Any) -> tuple[bytes, _Folder] | None:
    """The model for onnxruntime with its large weights in a file, and the folder, which has to live as long.

    None: there are few, or no room for a file.
    """
    weights = _lendable(model)
    if sum(tensor.nbytes for tensor in weights.values()) < _SPILLED_NBYTES:
        return None
    folder = _Folder()
    offsets: dict[ir.Value, int] = {}
    held = 0
    try:
        with (Path(folder.name) / "weights").open("wb") as file:
            for value, tensor in weights.items():
                file.write(bytes(-file.tell() % _ALIGNMENT))
                offsets[value] = file.tell()
                file.write(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
                held += tensor.nbytes
                if held > _SPILLED_NBYTES:  # what is written is not read again
                    release(model)
                    held = 0
        release(model)
    except OSError:
        return None
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder.name)
    return serialized_without(model, weights, offsets, "weights").SerializeToString(), folder
