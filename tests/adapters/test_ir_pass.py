from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import onnxscript.optimizer
import pytest
from onnx_ir.passes.common import CheckerPass, NameFixPass, RemoveUnusedNodesPass, ShapeInferencePass
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import gemm_to_matmul_add_rule

import spa
from spa.errors import SpaError
from spa.frontends import graphsurgeon
from spa.frontends.exporting.exported import difference, run_model
from spa.frontends.files import onnx_file

RESNET = Path(__file__).resolve().parents[2] / "models" / "fashion_resnet.onnx"


def feeds(model: ir.Model) -> dict[str, np.ndarray]:
    (value,) = model.graph.inputs
    shape = [size if isinstance(size, int) else 2 for size in value.shape or ()]
    return {str(value.name): np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def test_between_the_passes_of_others() -> None:
    model = onnx_file.load(RESNET)
    pruning = spa.SpaPass(ratio=0.3, weights=True)
    passes = ir.passes.Sequential(
        RewritePass([gemm_to_matmul_add_rule]), RemoveUnusedNodesPass(), pruning, ShapeInferencePass(), NameFixPass(),
        CheckerPass(),
    )  # fmt: skip
    result = passes(model)
    assert result.modified
    assert result.model is model
    assert pruning.report is not None
    assert pruning.report.removed_share("params") >= 0.3
    expected = spa.prune(RESNET, ratio=0.3, weights=True).model
    assert difference(*([run_model(each, feeds(each), what="") for each in (model, expected)])) < 1e-5
    onnxscript.optimizer.optimize(model)
    assert difference(*([run_model(each, feeds(each), what="") for each in (model, expected)])) < 1e-5


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = onnx_file.load(RESNET)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(SpaError):
        spa.SpaPass(ratio=0.9999, weights=True)(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_graph_of_graphsurgeon_comes_back_smaller() -> None:
    graph = gs.import_onnx(onnx.load(RESNET))
    smaller = graphsurgeon.prune(graph, ratio=0.3, weights=True)
    assert isinstance(smaller, gs.Graph)
    sizes = [sum(t.values.size for t in g.tensors().values() if isinstance(t, gs.Constant)) for g in (smaller, graph)]
    assert sizes[0] < 0.72 * sizes[1]
    assert spa.prune(graph, ratio=0.3, weights=True).model.graph.inputs[0].name == graph.inputs[0].name
