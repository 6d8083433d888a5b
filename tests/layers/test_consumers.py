"""Rows times matrix plus bias is what the node computes, for every kind of node that mixes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa import runtime
from spa.analysis.couple import couple
from spa.analysis.group import find_groups
from spa.passes.layers.consumers import Layer
from spa.passes.layers.finding import find_layers
from spa.passes.repair.biases import add_biases, drop_zero_biases
from spa.shapes import infer_shapes


def model_of(text: str, weights: dict[str, tuple[int, ...]], *, seed: int = 0) -> ir.Model:
    """A model of one graph; weights are seeded noise."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    generator = np.random.default_rng(seed)
    for name, shape in weights.items():
        array = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def layers_of(model: ir.Model) -> list[Layer]:
    return find_layers(model, couple(model, infer_shapes(model)))


def stored(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def product(layer: Layer, data: np.ndarray) -> np.ndarray:
    """(blocks, positions, outputs)"""
    bias = layer.bias_vector(None if layer.bias is None else stored(layer.bias))
    return np.asarray(layer.rows(data.astype(np.float64)) @ layer.matrix(stored(layer.weight)) + bias[:, None])


CONVOLUTIONS = {
    "plain": ("", (6, 4, 3, 3), (2, 4, 7, 6)),
    "strides and pads": ("strides=[2,1], pads=[1,0,2,1]", (6, 4, 3, 2), (2, 4, 7, 6)),
    "dilations": ("dilations=[2,1], pads=[2,1,2,1]", (6, 4, 3, 3), (2, 4, 7, 6)),
    "groups": ("group=2, pads=[1,1,1,1]", (6, 2, 3, 3), (2, 4, 7, 6)),
    "depthwise": ("group=4", (4, 1, 3, 3), (2, 4, 7, 6)),
    "pointwise": ("", (6, 4, 1, 1), (2, 4, 5, 6)),
    "pointwise in groups": ("group=2", (6, 2, 1, 1), (2, 4, 5, 6)),
    "same upper": ('auto_pad="SAME_UPPER", strides=[2,3]', (6, 4, 3, 4), (2, 4, 7, 6)),
    "same lower": ('auto_pad="SAME_LOWER", strides=[2,3]', (6, 4, 3, 4), (2, 4, 7, 6)),
    "valid": ('auto_pad="VALID"', (6, 4, 3, 3), (2, 4, 7, 6)),
    "one axis": ("pads=[2,1]", (6, 4, 4), (2, 4, 9)),
    "three axes": ("", (6, 4, 2, 3, 1), (2, 4, 5, 4, 3)),
}
TRANSPOSED = {
    "plain": ("", (4, 6, 3, 3), (2, 4, 5, 4)),
    "strides": ("strides=[2,3]", (4, 6, 3, 2), (2, 4, 5, 4)),
    "pads": ("strides=[2,2], pads=[1,0,1,2], output_padding=[1,0]", (4, 6, 3, 3), (2, 4, 5, 4)),
    "groups": ("strides=[2,1], group=2", (4, 3, 3, 3), (2, 4, 5, 4)),
    "dilations": ("dilations=[2,1], strides=[2,2]", (4, 6, 2, 3), (2, 4, 5, 4)),
    "pads beyond the kernel": ("pads=[2,2,2,2]", (4, 6, 2, 2), (2, 4, 6, 6)),
}


@pytest.mark.parametrize(
    ("kind", "attributes", "weight", "data"),
    [("Conv", *case) for case in CONVOLUTIONS.values()] + [("ConvTranspose", *case) for case in TRANSPOSED.values()],
    ids=[*CONVOLUTIONS, *(f"transposed {name}" for name in TRANSPOSED)],
)
def test_convolution(kind, attributes, weight, data):
    groups = int(attributes.partition("group=")[2][:1] or 1)
    made = weight[1] * groups if kind == "ConvTranspose" else weight[0]
    shape = ",".join(map(str, data))
    y = ",".join(["N"] * len(data))
    call = f"{kind}<{attributes}>" if attributes else kind
    model = model_of(f"(float[{shape}] x) => (float[{y}] y) {{ y = {call}(x, w, b) }}", {"w": weight, "b": (made,)})
    x = np.random.default_rng(1).standard_normal(data).astype(np.float32)
    (layer,) = layers_of(model)
    (expected,) = runtime.run(runtime.session(model, optimize=False), {"x": x}).values()
    assert layer.block_count == groups
    actual = product(layer, x)
    np.testing.assert_allclose(actual, layer.output_rows(expected), rtol=1e-4, atol=1e-5)
    actual = actual.reshape(groups, data[0], *expected.shape[2:], made // groups)
    actual = np.moveaxis(actual, (1, 0, -1), (0, 1, 2)).reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert layer.row_count(x.shape) == layer.rows(x).shape[1]
    some = np.array([3, 0, layer.row_count(x.shape) - 1])
    np.testing.assert_array_equal(layer.rows(x, some), layer.rows(x)[:, some])


PRODUCTS = {
    "matmul": ("(float[2,5,4] x) => (float[a,b,c] y) { y = MatMul(x, w) }", (4, 3), (2, 5, 4), "rows"),
    "weight on the left": ("(float[2,4,5] x) => (float[a,b,c] y) { y = MatMul(w, x) }", (3, 4), (2, 4, 5), "left"),
    "gemm": ("(float[5,4] x) => (float[a,b] y) { y = Gemm<alpha=0.5>(x, w) }", (4, 3), (5, 4), "rows"),
    "gemm transposed": (
        "(float[4,5] x) => (float[a,b] y) { y = Gemm<transA=1, transB=1>(x, w) }",
        (3, 4),
        (4, 5),
        "rows",
    ),
    "experts": ("(float[2,5,4] x) => (float[a,b,c] y) { y = MatMul(x, w) }", (2, 4, 3), (2, 5, 4), "rows"),
    "einsum": (
        '(float[2,5,4] x) => (float[a,b,c] y) { y = Einsum<equation="bsi,oi->bso">(x, w) }',
        (3, 4),
        (2, 5, 4),
        "rows",
    ),
    "two axes": (
        '(float[5,2,4] x) => (float[a,b] y) { y = Einsum<equation="shd,hdo->so">(x, w) }',
        (2, 4, 3),
        (5, 2, 4),
        "rows",
    ),
}


@pytest.mark.parametrize(("text", "weight", "data", "order"), PRODUCTS.values(), ids=PRODUCTS)
def test_product(text, weight, data, order):
    model = model_of(text, {"w": weight})
    x = np.random.default_rng(1).standard_normal(data).astype(np.float32)
    (layer,) = layers_of(model)
    (expected,) = runtime.run(runtime.session(model, optimize=False), {"x": x}).values()
    actual = product(layer, x)
    np.testing.assert_allclose(actual, layer.output_rows(expected), rtol=1e-4, atol=1e-5)
    if order == "left":
        actual = actual.reshape(2, 5, 3).transpose(0, 2, 1)
    np.testing.assert_allclose(actual.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    again = layer.weight_of(layer.matrix(stored(layer.weight)))
    np.testing.assert_allclose(again, stored(layer.weight), rtol=1e-12)


def test_bias_of_gemm_counts_with_its_factor():
    text = "(float[5,4] x) => (float[5,3] y) { y = Gemm<alpha=0.5, beta=3.0>(x, w, b) }"
    model = model_of(text, {"w": (4, 3), "b": (3,)})
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    (layer,) = layers_of(model)
    expected = runtime.run(runtime.session(model, optimize=False), {"x": x})["y"]
    np.testing.assert_allclose(product(layer, x)[0], expected, rtol=1e-4, atol=1e-5)
    bias = stored(layer.bias)
    np.testing.assert_allclose(layer.bias_of(layer.bias_vector(bias), bias), bias)


def recurrent(kind: str, gates: int, attributes: str = "") -> ir.Model:
    text = f"(float[6,2,4] x) => (float[6,d,2,5] y) {{ y = {kind}<hidden_size=5{attributes}>(x, w, r, b) }}"
    directions = 2 if "bidirectional" in attributes else 1
    shapes = {"w": (directions, gates * 5, 4), "r": (directions, gates * 5, 5), "b": (directions, 2 * gates * 5)}
    return model_of(text.replace("d,", f"{directions},"), shapes)


@pytest.mark.parametrize("attributes", ["", ', direction="bidirectional"', ', direction="reverse"'])
def test_recurrence_reads_the_step_before(attributes):
    """h(t) = tanh(W x(t) + R h(t-1) + both biases), in each direction."""
    model = recurrent("RNN", 1, attributes)
    x = np.random.default_rng(1).standard_normal((6, 2, 4)).astype(np.float32)
    y = runtime.run(runtime.session(model, optimize=False), {"x": x})["y"].astype(np.float64)
    fed, again = layers_of(model)
    directions = y.shape[1]
    inputs = product(fed, x).reshape(6, 2, directions, 5).transpose(0, 2, 1, 3)  # W and its outputs of all directions
    states = product(again, y).reshape(directions, 5, 2, 5)
    for direction, back in enumerate(again.mixing.product.back):
        later = slice(None, -1) if back else slice(1, None)
        expected = np.tanh(inputs[later, direction] + states[direction])
        np.testing.assert_allclose(expected, y[later, direction], rtol=1e-4, atol=1e-5)


def test_new_gate_that_reads_a_gated_state_is_left_alone():
    assert [layer.weight.name for layer in layers_of(recurrent("GRU", 3))] == ["w"]
    assert [layer.weight.name for layer in layers_of(recurrent("GRU", 3, ", linear_before_reset=1"))] == ["w", "r"]


def test_halves_of_a_recurrent_bias_are_written_apart():
    fed, again = layers_of(recurrent("LSTM", 4))
    bias = stored(fed.bias)
    np.testing.assert_array_equal(fed.bias_vector(bias).reshape(-1), bias[0, :20])
    np.testing.assert_array_equal(again.bias_vector(bias).reshape(-1), bias[0, 20:])
    changed = again.bias_of(np.ones((1, 20)), bias)
    np.testing.assert_array_equal(changed[0], [*bias[0, :20], *np.ones(20)])


def test_unit_of_follows_flatten():
    """A channel behind Flatten is a block of positions."""
    text = "(float[1,3,4,4] x) => (float[1,2] y) { c = Conv(x, w)  f = Flatten(c)  y = Gemm(f, v) }"
    model = model_of(text, {"w": (5, 3, 3, 3), "v": (20, 2)})
    groups = find_groups(couple(model, infer_shapes(model)))
    assert len(groups) == 1
    coupling = couple(model, infer_shapes(model))
    group = find_groups(coupling)[0]
    gemm = find_layers(model, coupling)[1]
    np.testing.assert_array_equal(gemm.unit_of(group), [np.repeat(np.arange(5), 4)])


def test_unit_of_repeats_over_taps():
    text = "(float[1,3,6,6] x) => (float[1,2,2,2] y) { c = Conv(x, w)  r = Relu(c)  y = Conv(r, v) }"
    model = model_of(text, {"w": (5, 3, 3, 3), "v": (2, 5, 3, 3)})
    coupling = couple(model, infer_shapes(model))
    (group,) = find_groups(coupling)
    reads = [layer.unit_of(group) for layer in find_layers(model, coupling)]
    assert np.all(reads[0] == -1)
    np.testing.assert_array_equal(reads[1], [np.repeat(np.arange(5), 9)])


BIASES = {
    "conv": "(float[1,3,6,6] x) => (float[1,4,4,4] y) { y = Conv(x, w) }",
    "graph output": "(float[2,3] x) => (float[2,4] y) { y = MatMul(x, v) }",
    "gemm with a matrix to add": "(float[2,3] x, float[2,4] c) => (float[2,4] y) { y = Gemm(x, v, c) }",
    "two readers": "(float[2,3] x) => (float[2,4] y, float[2,4] z) { h = MatMul(x, v)  y = Relu(h)  z = Neg(h) }",
}


@pytest.mark.parametrize("text", BIASES.values(), ids=BIASES)
def test_added_bias_changes_nothing_until_it_is_set(text):
    model = model_of(
        text, {name: shape for name, shape in {"w": (4, 3, 3, 3), "v": (3, 4)}.items() if f", {name}" in text}
    )
    nodes = len(model.graph)
    feeds = runtime.random_feeds(model, shapes={}, seed=0)
    before = runtime.run(runtime.session(model, optimize=False), feeds)
    names = add_biases(model, layers_of(model))
    assert len(names) == 1
    (layer,) = layers_of(model)
    assert layer.bias is not None
    assert layer.bias.name == names[0]
    for name, array in runtime.run(runtime.session(model, optimize=False), feeds).items():
        np.testing.assert_array_equal(array, before[name])
    layer.bias.const_value = ir.Tensor(np.ones(layer.bias_shape(), np.float32), name=names[0])
    moved = runtime.run(runtime.session(model, optimize=False), feeds)
    assert any(np.abs(moved[name] - before[name]).max() > 0.5 for name in before)
    layer.bias.const_value = ir.Tensor(np.zeros(layer.bias_shape(), np.float32), name=names[0])
    drop_zero_biases(model, names)
    assert len(model.graph) == nodes
    for name, array in runtime.run(runtime.session(model, optimize=False), feeds).items():
        np.testing.assert_array_equal(array, before[name])


def test_constant_that_is_added_behind_is_the_bias():
    text = "(float[2,5,3] x) => (float[2,5,4] y) { h = MatMul(x, v)  y = Add(b, h) }"
    (layer,) = layers_of(model_of(text, {"v": (3, 4), "b": (1, 1, 4)}))
    assert layer.bias is not None
    assert layer.bias.name == "b"
    positions = "(float[2,5,3] x) => (float[2,5,4] y) { h = MatMul(x, v)  y = Add(h, b) }"
    (other,) = layers_of(model_of(positions, {"v": (3, 4), "b": (5, 4)}))
    assert other.bias is None


def test_weight_of_two_nodes_is_known_as_shared():
    text = "(float[2,4] x) => (float[2,4] y) { h = MatMul(x, v)  y = MatMul(h, v) }"
    assert [layer.shared for layer in layers_of(model_of(text, {"v": (4, 4)}))] == [True, True]


def test_a_weight_behind_a_permutation_is_the_stored_one() -> None:
    model = model_of(
        "(float[2,3,6] x) => (float[2,3,4] y) { t = Transpose<perm=[1,0]>(w)  y = MatMul(x, t) }", {"w": (4, 6)}
    )
    (layer,) = layers_of(model)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 6)).astype(np.float32)}
    assert layer.weight.name == "w"
    assert not layer.shared
    actual = product(layer, feeds["x"]).reshape(2, 3, 4)
    assert actual == pytest.approx(runtime.run(runtime.session(model, optimize=False), feeds)["y"], abs=1e-5)
    assert np.array_equal(layer.weight_of(layer.matrix(stored(layer.weight))), stored(layer.weight))


def test_a_permutation_that_others_read_too_is_no_weight() -> None:
    model = model_of(
        "(float[3,6] x) => (float[3,4] y, float[6,4] z) { t = Transpose(w)  y = MatMul(x, t)  z = Neg(t) }",
        {"w": (4, 6)},
    )
    assert not layers_of(model)


def test_the_mean_of_a_normalisation_is_a_bias_where_none_can_be_added() -> None:
    model = model_of(
        "(float[2,3,5,5] x) => (float[2,4,3,3] y) { c = Conv(x, w)  y = BatchNormalization(c, s, b, m, v) }",
        {"w": (4, 3, 3, 3), "s": (4,), "b": (4,), "m": (4,), "v": (4,)},
    )
    coupling = couple(model, infer_shapes(model))
    (open_one,), (layer,) = find_layers(model, coupling), find_layers(model, coupling, closed=True)
    assert open_one.bias is None
    assert layer.bias is not None
    assert layer.bias.name == "m"
    mean = stored(layer.bias)
    assert np.array_equal(layer.bias_vector(mean), -mean[None])
    assert np.array_equal(layer.bias_of(layer.bias_vector(mean), mean), mean)


def test_a_bias_that_counts_for_nothing_is_none() -> None:
    model = model_of("(float[3,6] x) => (float[3,4] y) { y = Gemm<beta=0.0>(x, w, b) }", {"w": (6, 4), "b": (4,)})
    (layer,) = layers_of(model)
    assert layer.bias is None
    add_biases(model, [layer])
    (layer,) = layers_of(model)
    assert layer.bias is not None
    assert [node.op_type for node, _ in layer.bias.uses()] == ["Add"]
    assert np.array_equal(layer.bias_of(layer.bias_vector(np.ones(4)), np.zeros(4)), np.ones(4))
