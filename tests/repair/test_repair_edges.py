"""Repair of what users bring: odd types, sizes, states, and samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from spa import pipeline
from spa.errors import DataError, ModelError, VerificationError

Shapes = Mapping[str, tuple[int, ...]]


def network(
    text: str, weights: Shapes, *, dtype: Any = np.float32, opset: int = 20, **constants: np.ndarray
) -> onnx.ModelProto:
    """A model without a word on what lies between its inputs and outputs; weights keep the size of what they read."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')
    random = np.random.default_rng(0)
    arrays = dict(constants)
    for name, shape in weights.items():
        fan_in = shape[0] if len(shape) == 2 else np.prod(shape[1:])
        arrays[name] = (random.standard_normal(shape) / np.sqrt(fan_in)).astype(dtype)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def error(result: pipeline.PruneResult) -> float:
    """The largest relative error of an output on held-out samples."""
    return max(measures["relative_l2"] for measures in result.report.outputs.values())


MLP = "(float[n,16] x) => (float[n,5] y) { a=MatMul(x,u) b=Relu(a) c=MatMul(b,v) d=Relu(c) y=MatMul(d,w) }"
MLP_WEIGHTS = {"u": (16, 40), "v": (40, 32), "w": (32, 5)}
ATTENTION = """(float[n,s,32] e) => (float[n,s,7] y) {
    q=MatMul(e,wq) k=MatMul(e,wk) v=MatMul(e,wv) q1=Reshape(q,split) k1=Reshape(k,split) v1=Reshape(v,split)
    q2=Transpose<perm=[0,2,1,3]>(q1) k2=Transpose<perm=[0,2,3,1]>(k1) v2=Transpose<perm=[0,2,1,3]>(v1)
    l=MatMul(q2,k2) m=Mul(l,c) p=Softmax<axis=-1>(m) o=MatMul(p,v2) o1=Transpose<perm=[0,2,1,3]>(o)
    o2=Reshape(o1,join) a=MatMul(o2,wo) r=Add(e,a) y=MatMul(r,hd) }"""
ATTENTION_WEIGHTS = {"wq": (32, 32), "wk": (32, 32), "wv": (32, 32), "wo": (32, 32), "hd": (32, 7)}


def attention(kind: str = "float", dtype: Any = np.float32) -> onnx.ModelProto:
    constants: dict[str, Any] = {
        "split": integers(0, 0, 4, 8),
        "join": integers(0, 0, 32),
        "c": np.full((), 0.35, dtype),
    }
    return network(ATTENTION.replace("float", kind), ATTENTION_WEIGHTS, dtype=dtype, **constants)


@pytest.mark.parametrize("shape", [(1, 9, 32), (2, 1, 32)])
def test_shapes_with_a_size_of_one_are_those_of_the_samples(shape: tuple[int, ...]) -> None:
    result = pipeline.prune(attention(), ratio=0.3, data=random(60, 9, 32), inputs={"e": shape})
    assert result.report.verified
    assert error(result) < 0.5


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_types_where_heads_shrink(kind: str, dtype: Any) -> None:
    result = pipeline.prune(attention(kind, dtype), ratio=0.3, align=1, data=random(60, 10, 32).astype(dtype))
    assert result.report.verified
    assert any(row.removed and row.kind == "head_dim" for row in result.report.groups)


def test_a_recurrent_layer_of_which_only_the_last_state_is_read() -> None:
    text = """(float[n,12,10] x) => (float[n,4] y) {
        t=Transpose<perm=[1,0,2]>(x)  all, last=LSTM<hidden_size=24>(t,w,r)  z=Squeeze(last,zero)  y=MatMul(z,v) }"""
    weights = {"w": (1, 96, 10), "r": (1, 96, 24), "v": (24, 4)}
    model = network(text, weights, zero=integers(0))
    model.graph.node[1].output[0] = ""
    result = pipeline.prune(model, ratio=0.4, data=random(40, 12, 10))
    assert result.report.verified
    assert 0 < error(result) < 0.2


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_an_output_of_large_numbers_does_not_rule_the_others(scale: float) -> None:
    text = """(float[n,16] x) => (float[n,5] y, float[n,4] boxes) {
        a=MatMul(x,u) b=Relu(a)  c=MatMul(b,v) d=Relu(c) y=MatMul(d,w)  e=MatMul(b,v2) f=Relu(e) boxes=MatMul(f,w2) }"""
    weights = {**MLP_WEIGHTS, "v2": (40, 32), "w2": (32, 4)}
    plans = []
    for factor in (1.0, scale):
        model = network(text, weights)
        large = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
        large.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(large) * np.float32(factor), "w2"))
        report = pipeline.prune(model, ratio=0.4, data=random(120, 16)).report
        plans.append([report.outputs["y"]["relative_l2"], report.outputs["boxes"]["relative_l2"]])
    assert plans[1][0] < 1.3 * plans[0][0]


def test_a_dry_run_with_samples_changes_nothing() -> None:
    result = pipeline.prune(network(MLP, MLP_WEIGHTS), ratio=0.3, data=random(60, 16), dry_run=True)
    stored = {name: value.const_value for name, value in result.model.graph.initializers.items()}
    assert set(stored) == set(MLP_WEIGHTS)
    expected = onnx.numpy_helper.to_array(network(MLP, MLP_WEIGHTS).graph.initializer[0])
    assert stored["u"] is not None
    np.testing.assert_array_equal(stored["u"].numpy(), expected)


def test_an_input_of_zeros_or_of_none_beside_others() -> None:
    text = """(float[n,16] x, float[n,16] state) => (float[n,5] y) {
        s=Add(x,state) a=MatMul(s,u) b=Relu(a) c=MatMul(b,v) d=Relu(c) y=MatMul(d,w) }"""
    given = {"x": random(60, 16), "state": np.zeros((60, 16), np.float32)}
    result = pipeline.prune(network(text, MLP_WEIGHTS), ratio=0.3, data=given)
    assert "all samples of input 'state' are zero" in result.report.notes
    with pytest.raises(DataError, match="'x' are zero"):
        pipeline.prune(network(text, MLP_WEIGHTS), ratio=0.3, data={name: a * 0 for name, a in given.items()})


@pytest.mark.parametrize("given", [5, {"x": [[1.0, 2.0], [3.0]]}, [[[1.0, 2.0], [3.0]]]])
def test_what_is_no_array_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match="calibration data"):
        pipeline.prune(network(MLP, MLP_WEIGHTS), ratio=0.3, data=given)


def test_labels_are_no_text() -> None:
    text = """(float[n,16] x, int64[n] label) => (float[n,5] y) {
        e=Gather(t,label) s=Add(x,e) a=MatMul(s,u) b=Relu(a) c=MatMul(b,v) d=Relu(c) y=MatMul(d,w) }"""
    result = pipeline.prune(network(text, {**MLP_WEIGHTS, "t": (5, 16)}), ratio=0.3, data_free=True)
    assert result.report.verified


@pytest.mark.parametrize("layout", ["n,3,20,20", "n,20,20,3"])
def test_made_up_pictures_of_bytes_differ(layout: str) -> None:
    turned = "t=Identity(img)" if layout.startswith("n,3") else "t=Transpose<perm=[0,3,1,2]>(img)"
    text = f"""(uint8[{layout}] img) => (float[n,5] y) {{ {turned} f=Cast<to=1>(t) g=Div(f,most) a=Conv(g,c) b=Relu(a)
        p=GlobalAveragePool(b) q=Flatten(p) y=MatMul(q,w) }}"""
    model = network(text, {"c": (16, 3, 3, 3), "w": (16, 5)}, most=np.full((), 255, np.float32))
    assert 0 < error(pipeline.prune(model, ratio=0.3, data_free=True)) < 1


def test_made_up_inputs_share_the_axes_that_they_name() -> None:
    text = """(float[n,t,40] feats, int64[n,t] kept) => (float[n,t,9] y) {
        f=MatMul(feats,u) g=Relu(f) m=Cast<to=1>(kept) k=Unsqueeze(m,last) h=Mul(g,k)
        i=MatMul(h,v) j=Relu(i) y=MatMul(j,w) }"""
    weights = {"u": (40, 64), "v": (64, 32), "w": (32, 9)}
    result = pipeline.prune(network(text, weights, last=integers(-1)), ratio=0.3, data_free=True)
    assert result.report.verified


def test_shapes_that_no_model_takes_are_asked_for() -> None:
    text = "(float[n,3,h,w] x) => (float[n,5] y) { a=Conv(x,c) b=Relu(a) f=Reshape(b,flat) y=MatMul(f,v) }"
    model = network(text, {"c": (8, 3, 3, 3), "v": (8 * 36, 5)}, flat=integers(0, 8 * 36))
    with pytest.raises(DataError, match="--input"):
        pipeline.prune(model, ratio=0.3, data_free=True)


def test_group_normalisation_without_a_word_on_shapes() -> None:
    text = """(float[n,3,12,12] x) => (float[n,5] y) { a=Conv(x,c) b=GroupNormalization<num_groups=4>(a,s,o) d=Relu(b)
        e=Conv(d,c2) f=Relu(e) p=GlobalAveragePool(f) q=Flatten(p) y=MatMul(q,w) }"""
    weights = {"c": (16, 3, 3, 3), "c2": (16, 16, 3, 3), "w": (16, 5)}
    ones = {"s": np.ones(16, np.float32), "o": np.zeros(16, np.float32)}
    model = network(text, weights, opset=21, **ones)
    assert "c2:0" in pipeline.prune(model, ratio=0.4, weights=True, align=1).plan.removed


def test_scores_that_the_graph_masks_are_left_out_of_the_comparison() -> None:
    text = MLP.replace("y=MatMul(d,w)", "s=MatMul(d,w) y=Add(s,hidden)")
    hidden = np.array([0, 0, -np.inf, 0, 0], np.float32)
    result = pipeline.prune(network(text, MLP_WEIGHTS, hidden=hidden), ratio=0.4, data=random(300, 16))
    plain = pipeline.prune(network(MLP, MLP_WEIGHTS), ratio=0.4, data=random(300, 16))
    assert error(result) == pytest.approx(error(plain), rel=0.3)


def test_a_result_beyond_the_range_of_half_precision_is_refused() -> None:
    """Every sample takes the largest output to just below the largest number: what is off, is off beyond it."""
    data = random(200, 16).astype(np.float64)
    model = network(MLP.replace("float", "float16"), MLP_WEIGHTS, dtype=np.float16)
    u, v, w = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer)
    outputs = np.maximum(np.maximum(data @ u, 0) @ v, 0) @ w
    data /= np.abs(outputs).max(1, keepdims=True)
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array((65000 * w).astype(np.float16), "w"))
    with pytest.raises(VerificationError, match="half precision"):
        pipeline.prune(model, ratio=0.5, data=data.astype(np.float16))


@pytest.mark.parametrize("options", [{"data": random(50, 16)}, {"data_free": True}])
def test_weights_that_are_not_finite_are_named(options: dict[str, Any]) -> None:
    model = network(MLP, {"u": (16, 40), "w": (32, 5)}, v=np.full((40, 32), np.nan, np.float32))
    with pytest.raises(ModelError, match=r"tensor 'v' holds nan at \[0, 0\]: expected finite weights"):
        pipeline.prune(model, ratio=0.4, **options)


@pytest.mark.parametrize("options", [{}, {"inputs": {"x": (1, 16), "factor": ()}}])
def test_an_input_without_axes_is_the_same_for_all_samples(options: dict[str, Any]) -> None:
    text = MLP.replace("x)", "x, float factor)").replace("d=Relu(c)", "d0=Relu(c) d=Mul(d0,factor)")
    data = {"x": random(200, 16), "factor": 2.0}
    result = pipeline.prune(network(text, MLP_WEIGHTS), ratio=0.4, data=data, **options)
    assert result.report.verified
    assert error(result) < 0.6
    assert pipeline.prune(network(text, MLP_WEIGHTS), ratio=0.4, data_free=True).report.verified


@pytest.mark.parametrize("free", [False, True])
def test_states_whose_samples_lie_along_their_second_axis(free: bool) -> None:
    text = """(float[n,6,10] x, float[1,n,16] state) => (float[n,4] y) {
        t=Transpose<perm=[1,0,2]>(x) all,last=GRU<hidden_size=16>(t,w,r,b,,state) s=Squeeze(last,first)
        a=MatMul(s,u) c=Relu(a) y=MatMul(c,v) }"""
    weights = {"w": (1, 48, 10), "r": (1, 48, 16), "b": (1, 96), "u": (16, 40), "v": (40, 4)}
    model = network(text, weights, first=integers(0))
    data = {"x": random(70, 6, 10), "state": random(1, 70, 16)}
    own = {"data_free": True, "input_ranges": {"x": (-2, 2), "state": (-2, 2)}}  # two deviations to either side
    result = pipeline.prune(model, ratio=0.3, align=1, **(own if free else {"data": data}))
    assert result.report.verified
    assert error(result) < 0.5


def test_bodies_inside_bodies_keep_what_they_store_to_themselves() -> None:
    """Behind the layers an If holds another If, which holds a tensor of its own."""

    def choice(name: str, then: onnx.GraphProto, other: onnx.GraphProto) -> onnx.NodeProto:
        return onnx.helper.make_node("If", ["large"], [name], then_branch=then, else_branch=other)

    def body(name: str, node: onnx.NodeProto, *stored: onnx.TensorProto) -> onnx.GraphProto:
        output = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([node], name, [], [output], list(stored))

    half = onnx.numpy_helper.from_array(np.full(1, 0.5, np.float32), "half")
    inner = choice(
        "inner",
        body("halved", onnx.helper.make_node("Mul", ["s", "half"], ["halved"]), half),
        body("negated", onnx.helper.make_node("Neg", ["s"], ["negated"])),
    )
    text = MLP.replace("y=MatMul(d,w)", "s=MatMul(d,w) m=ReduceMax<keepdims=0>(x) large=Greater(m,zero) y=Identity(s)")
    model = network(text, MLP_WEIGHTS, zero=np.zeros((), np.float32))
    outer = choice("y", body("then", inner), body("else", onnx.helper.make_node("Abs", ["s"], ["positive"])))
    model.graph.node[-1].CopyFrom(outer)
    result = pipeline.prune(model, ratio=0.4, data=random(200, 16))
    assert result.report.verified
    assert error(result) < 0.6
