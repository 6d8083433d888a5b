"""onnx-graphsurgeon graphs, the form that TensorRT-style scripts work with, to ``onnx_ir.Model`` and back.

The package is imported on use only: no one who has files pays for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from spa.errors import ModelError
from spa.frontends.files import onnx_file

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# A graph made from scratch has no IR version, and the newest, which onnx would take, is ahead of the runtimes.
_IR_VERSION = 10


def load(graph: gs.Graph) -> ir.Model:
    """Check a graph and turn it into a model. The graph is not changed.

    Raises:
        ModelError: if the graph is not a valid model; one line that says why.
    """
    import onnx_graphsurgeon as gs

    try:
        proto: onnx.ModelProto = gs.export_onnx(graph)
    except Exception as error:  # whatever it is, graphsurgeon found the graph unfit for ONNX
        raise ModelError(f"graphsurgeon cannot export the graph: {' '.join(str(error).split())[:200]}") from error
    if graph.ir_version is None:
        proto.ir_version = _IR_VERSION
    return onnx_file.from_proto(proto)


def to_graph(model: ir.Model) -> gs.Graph:
    """The same model as a graph of onnx-graphsurgeon; reads all weights into memory."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(ir.to_proto(model))
