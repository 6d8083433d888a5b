"""What multiplies with a stored weight is refitted by its note alone, and reports what fresh samples show."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import onnx_ir as ir
import onnxruntime
import pytest

from spa import pipeline
from spa.analysis.couple import couple
from spa.passes.layers.finding import find_layers
from spa.passes.layers.problems import Problem
from spa.passes.normalize.normalize import normalize
from spa.passes.repair.biases import add_biases
from spa.shapes import infer_shapes

MICROSOFT = "com.microsoft"
BATCH = 24


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    """Correlated weights, so that some units make up for others."""
    random = np.random.default_rng([seed, *name.encode()])
    array = random.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) < 3 else np.prod(shape[1:]))
    return nh.from_array(array.astype(np.float32), name)


def model(
    nodes: list[onnx.NodeProto], x: list[Any], y: list[Any], stored: list[onnx.TensorProto], domain: str = MICROSOFT
) -> onnx.ModelProto:
    values = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", x), ("y", y))]
    graph = oh.make_graph(nodes, "g", values[:1], values[1:], stored)
    imports = [oh.make_opsetid("", 20), oh.make_opsetid(domain, 1)]
    return oh.make_model(graph, opset_imports=imports, ir_version=10)


def fused(operator: str, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    """Two products of one kind, and a plain one that reads the second."""
    biases = [["a"], ["b"]] if bias else [[], []]
    nodes = [
        oh.make_node(operator, ["x", "u", *biases[0]], ["h"], domain=MICROSOFT, name="first", **attributes),
        oh.make_node(operator, ["h", "v", *biases[1]], ["g"], domain=MICROSOFT, name="second", **attributes),
        oh.make_node("MatMul", ["g", "w"], ["y"], name="third"),
    ]
    stored = [weight("u", 12, 32), weight("v", 32, 24), weight("w", 24, 6), weight("a", 32), weight("b", 24)]
    return model(nodes, ["n", 12], ["n", 6], stored if bias else stored[:3])


def fused_convolutions(*, joined: bool = False) -> onnx.ModelProto:
    attributes: dict[str, Any] = {"activation": "Relu", "pads": [1, 1, 1, 1]}
    added = ["h"] if joined else []
    nodes = [
        oh.make_node("FusedConv", ["x", "u", "a"], ["h"], domain=MICROSOFT, name="first", **attributes),
        oh.make_node("FusedConv", ["h", "v", "b"], ["g"], domain=MICROSOFT, name="second", **attributes),
        oh.make_node("FusedConv", ["g", "w", "c", *added], ["z"], domain=MICROSOFT, name="third", **attributes),
        oh.make_node("Conv", ["z", "o"], ["y"], name="last"),
    ]
    stored = [weight("u", 16, 3, 3, 3), weight("v", 16, 16, 3, 3), weight("w", 16, 16, 3, 3), weight("o", 4, 16, 1, 1)]
    return model(nodes, ["n", 3, 6, 6], ["n", 4, 6, 6], [*stored, *(weight(name, 16) for name in "abc")])


def fresh(dense: onnx.ModelProto, pruned: onnx.ModelProto, samples: np.ndarray) -> float:
    """The relative L2 error on samples that nobody has seen."""
    expected, actual = (run(model, samples) for model in (dense, pruned))
    centred = expected - expected.reshape(-1, expected.shape[-1]).mean(0)
    return float(np.sqrt(np.sum((expected - actual) ** 2) / np.sum(centred**2)))


def run(model: onnx.ModelProto, samples: np.ndarray) -> np.ndarray:
    """As it is written: onnxruntime 1.25 rewrites a FusedConv with a sum to one that it cannot run."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": samples})[0])


def samples(*shape: int, seed: int) -> np.ndarray:
    """Correlated data."""
    random = np.random.default_rng(seed)
    mixed = np.random.default_rng(9).standard_normal((shape[-1], shape[-1])) / np.sqrt(shape[-1])
    return np.asarray(random.standard_normal(shape) @ mixed, np.float32)


FUSED = {
    "FusedMatMul": fused("FusedMatMul", bias=False, alpha=0.7),
    "FusedGemm": fused("FusedGemm", activation="LeakyRelu", activation_alpha=0.2, alpha=0.8, beta=0.5),
    "FusedGemm without a bias": fused("FusedGemm", bias=False, activation="Relu"),
    "FusedConv": fused_convolutions(),
    "FusedConv with a sum": fused_convolutions(joined=True),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_products_are_refitted(name: str) -> None:
    dense = FUSED[name]
    shape = [dim.dim_value for dim in dense.graph.input[0].type.tensor_type.shape.dim][1:]
    result = pipeline.prune(dense, ratio=0.3, align=1, data=samples(2400, *shape, seed=1))
    unseen = samples(600, *shape, seed=2)
    (reported,) = (measures["relative_l2"] for measures in result.report.outputs.values())
    measured = fresh(dense, ir.to_proto(result.model), unseen)
    assert measured == pytest.approx(reported, rel=0.15, abs=1e-5)
    assert measured < 0.8 * fresh(
        dense, ir.to_proto(pipeline.prune(dense, ratio=0.3, align=1, weights=True).model), unseen
    )


def test_a_bias_behind_an_activation_is_none_of_the_product() -> None:
    """No kernel of onnxruntime's runs GemmFastGelu here: which weights are refitted, and with which bias."""
    dense = fused("GemmFastGelu")
    dense.graph.node.insert(1, oh.make_node("Add", ["h", "c"], ["k"], name="add"))
    dense.graph.node[2].input[0] = "k"
    dense.graph.initializer.append(weight("c", 32))
    dense.graph.value_info.extend(
        oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size]) for name, size in (("h", 32), ("g", 24))
    )
    graph = normalize(ir.from_proto(dense))
    layers = find_layers(graph, couple(graph, infer_shapes(graph)))
    names = [(layer.weight.name, layer.bias and layer.bias.name) for layer in layers]
    assert names == [("u", "a"), ("v", "b"), ("w", None)]
    assert [layer.mixing.result_axes is None for layer in layers] == [True, True, False]


@pytest.mark.parametrize("coarse", [False, True])
def test_channels_may_be_last(coarse: bool) -> None:
    """Rows of NhwcConv are those of the same Conv, in the same order: taps of the first channel first."""
    array = np.random.default_rng(3).standard_normal((6, 4, 3, 2)).astype(np.float32)
    pads: dict[str, Any] = {"pads": [1, 0, 1, 1], "kernel_shape": [3, 2]}
    nodes = {
        "Conv": oh.make_node("Conv", ["x", "w"], ["y"], **pads),
        "NhwcConv": oh.make_node("NhwcConv", ["x", "w"], ["y"], domain=MICROSOFT, **pads),
    }
    weights = {"Conv": array, "NhwcConv": np.ascontiguousarray(np.moveaxis(array, 1, -1))}
    shapes = {"Conv": (["n", 4, 5, 7], ["n", 6, 5, 7]), "NhwcConv": (["n", 5, 7, 4], ["n", 5, 7, 6])}
    data = np.random.default_rng(4).standard_normal((3, 4, 5, 7)).astype(np.float32)
    rows, matrices = [], []
    for name, node in nodes.items():
        graph = ir.from_proto(model([node], *shapes[name], [nh.from_array(weights[name], "w")]))
        (layer,) = find_layers(graph, couple(graph, infer_shapes(graph)))
        problem = Problem.coarsely(layer) if coarse else Problem(layer)
        given = data if name == "Conv" else np.moveaxis(data, 1, -1)
        assert problem.rows(given).shape[1] == problem.row_count(given.shape)
        rows.append(problem.rows(given, np.array([0, 40, 17])))
        matrices.append(layer.matrix(weights[name]))
        np.testing.assert_array_equal(layer.weight_of(matrices[-1]), weights[name])
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(matrices[0], matrices[1])


def test_nothing_is_added_behind_an_activation() -> None:
    """FusedMatMulActivation takes no bias: it is refitted without one."""
    dense = ir.from_proto(fused("FusedMatMulActivation", bias=False, activation="Relu"))
    dense.graph.sort()
    for node, size in zip(dense.graph, (32, 24), strict=False):
        node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(["n", size]), ir.DataType.FLOAT
    layers = find_layers(dense, couple(dense, infer_shapes(dense)))
    assert [layer.weight.name for layer in layers] == ["u", "v", "w"]
    assert add_biases(dense, layers) == ["w/bias"]


def gated(directions: int = 1, *, layers: int = 1) -> onnx.ModelProto:
    """GRUs whose new gate reads the state times the reset gate, and a matrix behind."""
    hidden, width, data, nodes, stored = 20, 8, "x", [], []
    direction = "bidirectional" if directions == 2 else "forward"
    for k in range(layers):
        operands = [data, f"w{k}", f"r{k}", f"b{k}"]
        nodes += [
            oh.make_node("GRU", operands, [f"h{k}"], name=f"gru{k}", hidden_size=hidden, direction=direction),
            oh.make_node("Transpose", [f"h{k}"], [f"t{k}"], perm=[0, 2, 1, 3]),
            oh.make_node("Reshape", [f"t{k}", "shape"], [f"s{k}"]),
        ]
        shapes = {"w": (3 * hidden, width), "r": (3 * hidden, hidden), "b": (6 * hidden,)}
        stored += [weight(f"{name}{k}", directions, *shape) for name, shape in shapes.items()]
        data, width = f"s{k}", directions * hidden
    nodes.append(oh.make_node("MatMul", [data, "v"], ["y"], name="behind"))
    stored += [weight("v", width, 5), nh.from_array(np.array([0, 0, width]), "shape")]
    return model(nodes, [7, "b", 8], [7, "b", 5], stored)


@pytest.mark.parametrize(("directions", "layers"), [(1, 1), (2, 1), (1, 2)])
def test_what_a_recurrence_sums_over_is_counted(directions: int, layers: int) -> None:
    """No row of the state is multiplied with such a weight: its units are told by their readers, and it reads zeros."""
    dense = gated(directions, layers=layers)
    result = pipeline.prune(dense, ratio=0.3, data=[{"x": samples(7, 40, 8, seed=seed)} for seed in range(24)])
    (reported,) = (measures["relative_l2"] for measures in result.report.outputs.values())
    assert result.report.verified
    assert fresh(dense, ir.to_proto(result.model), samples(7, 400, 8, seed=99)) == pytest.approx(reported, rel=0.1)
