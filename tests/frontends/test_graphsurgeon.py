from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest

from spa import errors
from spa.frontends import graphsurgeon
from spa.frontends.files import onnx_file

TEXT = """
<ir_version: 9, opset_import: ["" : 18]>
linear (float[batch, 3] x) => (float[batch, 2] y)
<float[3, 2] weight = {1, 2, 3, 4, 5, 6}>
{
    y = MatMul(x, weight)
}
"""


def test_graph_in_model_out() -> None:
    model = onnx_file.load(gs.import_onnx(onnx.parser.parse_model(TEXT)))
    assert [node.op_type for node in model.graph] == ["MatMul"]
    assert (model.ir_version, model.opset_imports[""]) == (9, 18)
    weight = model.graph.initializers["weight"].const_value
    assert weight is not None
    assert weight.numpy().tolist() == [[1, 2], [3, 4], [5, 6]]
    assert str(model.graph.inputs[0].shape) == "[batch,3]"


def test_model_in_graph_out() -> None:
    graph = graphsurgeon.to_graph(onnx_file.load(onnx.parser.parse_model(TEXT)))
    assert isinstance(graph, gs.Graph)
    assert [node.op for node in graph.nodes] == ["MatMul"]
    assert np.array_equal(graph.tensors()["weight"].values, np.arange(1, 7, dtype=np.float32).reshape(3, 2))
    assert gs.export_onnx(graph).ir_version == 9


def test_graph_made_from_scratch_gets_an_ir_version_that_runtimes_take() -> None:
    x = gs.Variable("x", np.float32, (1, 3))
    y = gs.Variable("y", np.float32, (1, 3))
    graph = gs.Graph([gs.Node("Relu", inputs=[x], outputs=[y])], [x], [y], opset=18)
    assert onnx_file.load(graph).ir_version == 10
    assert graph.ir_version is None  # the graph itself stays as it was


def test_graph_that_is_no_model() -> None:
    x, y = gs.Variable("x"), gs.Variable("y")  # without types
    graph = gs.Graph([gs.Node("Relu", inputs=[x], outputs=[y])], [x], [y], opset=18)
    with pytest.raises(errors.ModelError, match=r"^graphsurgeon cannot export the graph: .*x") as caught:
        onnx_file.load(graph)
    assert "\n" not in str(caught.value)
