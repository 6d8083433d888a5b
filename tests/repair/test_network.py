"""A dense model made ready for repair."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.passes.repair.draft import Draft
from spa.passes.repair.network import prepare
from spa.pipeline import load_normal
from tests import models


def test_the_same_function_with_a_bias_on_every_layer() -> None:
    model = load_normal(models.residual_cnn())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    network = prepare(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert len(network.new_biases) == 1  # of the one convolution that had none
    assert all(layer.bias is not None for layer in network.layers)
    feeds = runtime.random_feeds(model, shapes={"x": (2, 3, 8, 8)}, seed=0)
    expected, actual = (runtime.run(runtime.session(m, optimize=False), feeds)["y"] for m in (model, network.model))
    assert np.array_equal(expected, actual)


def test_readers_of_a_group() -> None:
    network = prepare(load_normal(models.residual_cnn()))
    readers = {
        name: [reader.layer.weight.name for reader in group_readers] for name, group_readers in network.readers.items()
    }
    assert readers == {"c0:0": ["c1", "w"], "c1:0": ["c2"], "c2:branch": []}
    assert network.others == {"c0:0": [], "c1:0": [], "c2:branch": []}
    (reader,) = network.readers["c1:0"]
    units = reader.units[reader.units >= 0]
    assert np.unique(units).tolist() == list(range(6))


def test_sums_that_no_weight_makes_up_for() -> None:
    """Queries times keys sums over the head_dim without a weight."""
    network = prepare(load_normal(models.attention()))
    assert len(network.others["wq:1#2"]) == 1
    assert network.others["wv:1"] == []
    assert [reader.layer.weight.name for reader in network.readers["wv:1"]] == ["wo"]


def test_a_node_that_reads_sizes_sums_nothing() -> None:
    """Exporters read shapes of queries and keys; that says nothing of what they hold."""
    network = prepare(load_normal(models.computed_targets()))
    shapes = {str(node.name) for node in network.model.graph if node.op_type == "Shape"}
    assert shapes, "the model reads no shapes"
    assert all(not shapes & set(names) for names in network.others.values())


def test_changed_weights_stand_for_the_stored_ones() -> None:
    network = prepare(load_normal(models.gated_mlp()))
    layer = next(layer for layer in network.layers if layer.weight.name == "w1")
    draft, matrix, bias = Draft(), network.dense_matrix(layer), network.dense_bias(layer)
    assert matrix.shape == (1, 8, 6)
    assert matrix.dtype == np.float64
    draft.put(layer, 2 * matrix, bias + 1)
    assert np.allclose(draft.array(layer.weight), 2 * models.filled("w1", [8, 6]))
    assert np.allclose(network.dense_matrix(layer), matrix), "the dense weight stays"
