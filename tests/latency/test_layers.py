from __future__ import annotations

import onnx_ir as ir
import pytest

from spa import profiling
from spa.passes.latency.layers import layer_times
from spa.record import Unit
from tests.latency.networks import SHAPES, chain


def test_every_stored_tensor_has_the_time_of_one_unit():
    pytest.importorskip("onnxruntime")
    layers = profiling.layers(chain(), threads=1, seconds=0.1)
    stored = [name for layer in layers for name in layer.stored if name in SHAPES]
    assert sorted(stored) == sorted(SHAPES)
    assert all(layer.milliseconds > 0 for layer in layers if layer.stored)


def test_units_are_brought_to_the_time_of_the_whole_and_fused_nodes_found_behind_them():
    graph = ir.from_proto(chain()).graph
    units = [
        Unit("b_nchwc", "Conv", (), (), 2.0),
        Unit("ReorderOutput_token_9", "ReorderOutput", (), (), 1.0),
        Unit("y", "Gemm", (), (), 1.0),
    ]
    first, reorder, last = layer_times(graph, units, milliseconds=8.0)
    assert (first.milliseconds, reorder.milliseconds, last.milliseconds) == (4.0, 2.0, 2.0)
    assert first.stored == ("first",)
    assert reorder.stored == reorder.nodes == ()
    assert last.stored == ("depthwise", "second", "third", "classifier")
