"""Shapes and contents of every value, under numbers for the symbolic axes or without.

One file: a table of graphs, and the two ways to bind their axes.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa.errors import ModelError, UsageError
from spa.shapes import Shapes, infer_shapes, infer_static

needs_runtime = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime")


def parse(
    body: str, weights: Mapping[str, tuple[int, ...]] | None = None, *, opset: int = 18, ir_version: int = 8
) -> ir.Model:
    """The model of ``(inputs) => (outputs) { nodes }``, with float weights of the given shapes."""
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1, "unknown.domain": 1]>'
    proto = onnx.parser.parse_model(f"{header} graph {body}")
    generator = np.random.default_rng(0)
    for name, shape in (weights or {}).items():
        tensor = generator.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(tensor, name))
    return ir.from_proto(proto)


def by_name(model: ir.Model) -> dict[str, ir.Value]:
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    values = [*model.graph.inputs, *(value for node in nodes for value in node.outputs)]
    return {value.name or "": value for value in values}


def shape_of(model: ir.Model, shapes: Shapes, name: str) -> tuple[int, ...] | None:
    return shapes.of.get(by_name(model)[name])


# A graph, shapes of its weights, and the shapes of some values, in terms of the symbolic axes.
GRAPHS: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, str | None]]] = {
    "shape arithmetic": (
        """(float[N,S,64] x) => (float[N,4,S,16] y) <int64 one = {1}, int64 zero = {0}, int64[1] front = {0},
            int64[2] heads = {4, 16}, int64[1] half = {8}> {
            s = Shape(x)  n = Gather(s, zero)  t = Gather(s, one)  n1 = Unsqueeze(n, front)  t1 = Unsqueeze(t, front)
            target = Concat<axis=0>(n1, t1, heads)  r = Reshape(x, target)  y = Transpose<perm=[0,2,1,3]>(r)
        }""",
        {},
        {"r": "N,S,4,16", "y": "N,4,S,16"},
    ),
    "minus one": (
        "(float[N,S,64] x) => (float[P,64] y) <int64[2] rows = {-1, 64}> { y = Reshape(x, rows) }",
        {},
        {"y": "N*S,64"},
    ),
    "range and expand": (
        """(int64[N,S] x) => (int64[N,S] y) <int64 one = {1}, int64 zero = {0}> {
            s = Shape(x)  t = Gather(s, one)  r = Range(zero, t, one)  y = Expand(r, s)
        }""",
        {},
        {"r": "S", "y": "N,S"},
    ),
    "regions of one size": (
        """(float[N,8,H,W] x, float[R,4] rois, int32[R] at) => (float[R,8,3,5] y) <int32[2] size = {3, 5}> {
            c = com.microsoft.CropAndResize(x, rois, at, size)  y = Relu(c)
        }""",
        {},
        {"c": "R,8,3,5"},
    ),
    "an attribute left at its default": (
        "(float[N,16,1] x) => (float[N,F,B,2] y) <int64 step = {4}> { y = STFT(x, step, w) }",
        {"w": (8,)},
        {"y": "N,3,5,2"},
    ),
    "one of two branches": (
        """(float[N,8] x, bool c) => (float[N,D] y) {
            y = If (c) <then_branch = a () => (float[N,D] p) { p = Concat<axis=1>(x, x) },
                        else_branch = b () => (float[N,D] q) { q = Relu(x) }>
        }""",
        {},
        {"p": "N,16", "q": "N,8", "y": None},
    ),
    "equal branches": (
        """(float[N,8] x, bool c) => (float[N,8] y) {
            y = If (c) <then_branch = a () => (float[N,8] p) { p = Neg(x) },
                        else_branch = b () => (float[N,8] q) { q = Relu(x) }>
        }""",
        {},
        {"y": "N,8"},
    ),
    "decided branch": (
        """(float[N,1,8] x) => (float[A,B] y) <int64 one = {1}, int64[1] axis = {1}> {
            s = Shape(x)  d = Gather(s, one)  c = Equal(d, one)
            y = If (c) <then_branch = a () => (float[N,8] p) { p = Squeeze(x, axis) },
                        else_branch = b () => (float[N,1,8] q) { q = Identity(x) }>
        }""",
        {},
        {"y": "N,8"},
    ),
    "loop that stacks": (
        """(float[N,8] x) => (float[N,8] last, float[K,N,8] y) <int64 five = {5}, bool on = {1}> {
            last, y = Loop (five, on, x) <body = b
                (int64 i, bool go, float[N,8] h) => (bool again, float[N,8] g, float[N,8] o)
                { again = Identity(go)  g = Tanh(h)  o = Neg(g) }>
        }""",
        {},
        {"last": "N,8", "y": "5,N,8", "g": "N,8"},
    ),
    "loop that decides when to stop": (
        """(float[N,8] x) => (int64 n, float[K,N,8] y) <int64 many = {9223372036854775807}, bool on = {1},
            int64 zero = {0}, int64 one = {1}, int64 seven = {7}> {
            n, y = Loop (many, on, zero) <body = b (int64 i, bool go, int64 k) => (bool again, int64 l, float[N,8] o)
                { l = Add(k, one)  again = Less(l, seven)  o = Neg(x) }>
        }""",
        {},
        {"y": "7,N,8", "l": ""},
    ),
    "loop that grows": (
        """(float[N,8] x) => (float[M,8] y) <int64 five = {5}, bool on = {1}> {
            y = Loop (five, on, x) <body = b (int64 i, bool go, float[M,8] h) => (bool go2, float[M,8] g)
                { go2 = Identity(go)  g = Concat<axis=0>(h, x) }>
        }""",
        {},
        {"y": None, "g": None},
    ),
    "scan": (
        """(float[S,N,8] x, float[N,8] h) => (float[N,8] last, float[S,N,16] y) {
            last, y = Scan (h, x) <num_scan_inputs = 1, body = b
                (float[N,8] a, float[N,8] e) => (float[N,8] g, float[N,16] o)
                { g = Add(a, e)  o = Concat<axis=1>(g, e) }>
        }""",
        {},
        {"last": "N,8", "y": "S,N,16", "o": "N,16"},
    ),
    "nodes out of order": (
        "(float[N,8] x) => (float[N,4] y) { y = MatMul(h, w)  h = Relu(x) }",
        {"w": (8, 4)},
        {"y": "N,4"},
    ),
    "operator defined by a function": (
        "(float[N,8] x, float z) => (bool[N,8] y) { y = GreaterOrEqual(x, z) }",
        {},
        {"y": "N,8"},
    ),
    "operator that nobody knows": (
        """(float[N,8] x) => (float[N,4] y) {
            h = Relu(x)  u = unknown.domain.Mystery(h)  v = Relu(u)  y = MatMul(h, w)
        }""",
        {"w": (8, 4)},
        {"h": "N,8", "u": None, "v": None, "y": "N,4"},
    ),
    "declared shape where inference has none": (
        """(float[N,8] x) => (float[N,8] y) <float[N,6] u> {
            u = unknown.domain.Mystery(x)  v = Relu(u)  y = Relu(x)
        }""",
        {},
        {"u": "N,6", "v": "N,6"},
    ),
    "declared shape that is wrong": (
        "(float[N,8] x) => (float[N,8] y) <float[N,6] h> { h = Relu(x)  y = Relu(h) }",
        {},
        {"h": "N,8", "y": "N,8"},
    ),
    "target known in part": (
        """(float[N,6,4] x, int64[1] open) => (float[A,B,C] y) <int64[2] rest = {2, 12}> {
            target = Concat<axis=0>(open, rest)  y = Reshape(x, target)
        }""",
        {},
        {"y": "N,2,12"},
    ),
    "ends known in part": (
        """(float[N,6,4] x, int64[1] open) => (float[N,B,C] y) <int64[1] two = {2}, int64[2] starts = {0, 1},
            int64[2] axes = {1, 2}> { ends = Concat<axis=0>(two, open)  y = Slice(x, starts, ends, axes) }""",
        {},
        {"y": None},
    ),
}


def expected_shape(text: str | None, binding: Mapping[str, int]) -> tuple[int, ...] | None:
    if text is None:
        return None
    products = [axis.split("*") for axis in text.split(",") if axis]
    return tuple(math.prod(binding[word] if word in binding else int(word) for word in words) for words in products)


@pytest.mark.parametrize("name", GRAPHS)
def test_shapes(name: str) -> None:
    body, weights, expected = GRAPHS[name]
    model = parse(body, weights, opset=13 if "function" in name else 18)
    shapes = infer_shapes(model)
    assert {key: shape_of(model, shapes, key) for key in expected} == {
        key: expected_shape(text, shapes.binding) for key, text in expected.items()
    }


@needs_runtime
@pytest.mark.parametrize("name", [name for name in GRAPHS if "nobody" not in name and "declared" not in name])
def test_shapes_are_true(name: str) -> None:
    import onnxruntime

    body, weights, _ = GRAPHS[name]
    model = parse(body, weights, opset=13 if "function" in name else 18)
    shapes = infer_shapes(model)
    inputs = {value.name: value for value in model.graph.inputs if value.name not in model.graph.initializers}
    feed = {
        name: np.ones(shapes.of[value], dtype=value.dtype.numpy() if value.dtype else None)
        for name, value in inputs.items()
    }
    if "open" in feed:
        feed["open"][:] = shapes.binding["N"]
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    produced = [value.name for node in model.graph for value in node.outputs]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in produced)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = dict(zip(produced, session.run(None, feed), strict=True))
    values = by_name(model)
    for key, array in arrays.items():
        assert shapes.of.get(values[key or ""], array.shape) == array.shape, key
        if values[key or ""] in shapes.values:
            np.testing.assert_array_equal(shapes.values[values[key or ""]], array)


def test_axes_of_one_name_are_one_number_and_others_distinct_primes() -> None:
    model = parse("(float[N,S,64] x, float[N,T,64] z, float[?,64] u) => (float[N,S,64] y) { y = Relu(x) }")
    shapes = infer_shapes(model)
    numbers = list(shapes.binding.values())
    assert set(shapes.binding) == {"N", "S", "T", "u[0]"}
    assert len(set(numbers)) == 4
    assert all(number > 1 and all(number % factor for factor in range(2, number)) for number in numbers)
    assert all(64 % number for number in numbers)
    values = by_name(model)
    assert shapes.of[values["x"]][0] == shapes.of[values["z"]][0] == shapes.binding["N"]


def test_sum_of_symbols() -> None:
    proto = ir.to_proto(parse("(float[N,P] x, float[N,Q] z) => (float[N,R] y) { y = Concat<axis=1>(x, z) }"))
    proto.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "P + 1"
    model = ir.from_proto(proto)
    shapes = infer_shapes(model)
    assert set(shapes.binding) == {"N", "P"}
    assert shape_of(model, shapes, "y") == (shapes.binding["N"], 2 * shapes.binding["P"] + 1)


# Graphs that take some input sizes only: body, shapes of weights, and what the sizes found must satisfy.
PARTICULAR: dict[str, tuple[str, dict[str, tuple[int, ...]], Callable[[Mapping[str, int]], bool]]] = {
    "window wider than the input": (
        """(float[N,T] x) => (float[N,8,M] y) <int64[1] one = {1}> {
            h = Unsqueeze(x, one)  y = Conv<strides=[10]>(h, w)
        }""",
        {"w": (8, 1, 400)},
        lambda sizes: sizes["T"] >= 400,
    ),
    "five halvings that meet again": (
        """(float[N,3,H,W] x) => (float[N,3,H,W] y) <float[4] twice = {1, 1, 2, 2}> {
            a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)  b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)  u = Resize<mode="nearest">(c, , twice)  v = Add(u, b)
            t = Resize<mode="nearest">(v, , twice)  s = Add(t, a)  r = Resize<mode="nearest">(s, , twice)  y = Add(r, x)
        }""",
        {},
        lambda sizes: sizes["H"] % 8 == 0 and sizes["W"] % 8 == 0 and sizes["H"] != sizes["W"],
    ),
    "table of eight positions": (
        """(int64[N,S] x) => (float[S,4] y) <int64 one = {1}, int64 zero = {0}> {
            s = Shape(x)  t = Gather(s, one)  r = Range(zero, t, one)  y = Gather(w, r)
        }""",
        {"w": (8, 4)},
        lambda sizes: 1 < sizes["S"] <= 8,
    ),
    "two names for one batch": (
        "(float[N,8] x, float[M,8] z) => (float[K,8] y) { y = Add(x, z) }",
        {},
        lambda sizes: sizes["N"] == sizes["M"] > 1,
    ),
    "state of batch one": (
        """(float[N,T,8] x, float[1,1,6] h) => (float[T,1,N,6] y) {
            t = Transpose<perm=[1,0,2]>(x)  y = GRU<hidden_size=6>(t, w, r, , , h)
        }""",
        {"w": (1, 18, 8), "r": (1, 18, 6)},
        lambda sizes: sizes["N"] == 1,
    ),
}


@pytest.mark.parametrize("name", PARTICULAR)
def test_ladder(name: str) -> None:
    body, weights, suits = PARTICULAR[name]
    model = parse(body, weights)
    shapes = infer_shapes(model)
    assert suits(shapes.binding)
    assert all(value in shapes.of for node in model.graph for value in node.outputs if value.name)


def test_numbers_the_data_decides() -> None:
    model = parse("(bool[N,4] x) => (int64[2,K] y) { y = NonZero(x)  t = Transpose(y) }")
    shapes = infer_shapes(model)
    count = shapes.binding["y[1]"]
    assert count != shapes.binding["N"]
    assert shape_of(model, shapes, "t") == (count, 2)


def test_number_the_data_decides_gives_way() -> None:
    model = parse(
        """(bool[N] x) => (int64[1,1] y) <int64[3] parts = {1, 1, 1}> {
            i = NonZero(x)  y, b, c = Split<axis=1>(i, parts)
        }"""
    )
    shapes = infer_shapes(model)
    assert set(shapes.binding) == {"N"}
    assert shape_of(model, shapes, "y") == (1, 1)


def test_given_inputs() -> None:
    model = parse("(float[N,S,8] x, float[N,T,8] z) => (float[N,S,8] y) { y = Relu(x)  v = Relu(z) }")
    shapes = infer_shapes(model, inputs={"x": (4, 6, 8)})
    assert shape_of(model, shapes, "y") == (4, 6, 8)
    assert shape_of(model, shapes, "v") == (4, shapes.binding["T"], 8)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"q": (4, 6, 8)}, "no input is named 'q'"),
        ({"x": (4, 6)}, "does not fit"),
        ({"x": (4, 6, 9)}, "does not fit"),
        ({"x": (4, 6, 8), "z": (5, 6, 8)}, "axis 'N' is both 4 and 5"),
    ],
)
def test_inputs_that_cannot_be(inputs: dict[str, tuple[int, ...]], message: str) -> None:
    model = parse("(float[N,S,8] x, float[N,T,8] z) => (float[N,S,8] y) { y = Relu(x) }")
    with pytest.raises(UsageError, match=message):
        infer_shapes(model, inputs=inputs)


def test_cycle() -> None:
    model = parse("(float[N] x) => (float[N] y) { a = Add(x, b)  b = Relu(a)  y = Relu(b) }")
    with pytest.raises(ModelError, match="cycle"):
        infer_shapes(model)


def test_contents() -> None:
    model = parse(
        """(float[N,16] x) => (float[N,16] y) <float[2] pair = {4, 9}> {
            k = Constant<value_ints=[2, 8]>()  root = Sqrt(pair)  s = Shape<start=-1>(x)  q = Div(s, k)  y = Relu(x)
            big = ConstantOfShape(many)
        }""",
    )
    model.graph.register_initializer(
        ir.Value(name="ignored", const_value=ir.tensor(np.zeros(5000, np.float32), name="ignored"))
    )
    shapes = infer_shapes(model)
    values = {value.name: array.tolist() for value, array in shapes.values.items()}
    assert values == {"pair": [4, 9], "k": [2, 8], "root": [2, 3], "s": [16], "q": [8, 2]}


def test_weights_are_not_read() -> None:
    def read() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    model = parse("(float[N,128] x) => (float[N,64] y) { y = MatMul(x, w) }", {"w": (128, 64)})
    weight = model.graph.initializers["w"]
    weight.const_value = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape((128, 64)), name="w")
    assert shape_of(model, infer_shapes(model), "y") == (infer_shapes(model).binding["N"], 64)


@needs_runtime
def test_operator_of_the_runtime() -> None:
    model = parse("(float[N,8] x, float[8] b) => (float[N,8] y) { y = com.microsoft.BiasGelu(x, b) }")
    shapes = infer_shapes(model)
    assert shape_of(model, shapes, "y") == (shapes.binding["N"], 8)


def test_a_size_of_regions_that_is_an_input_is_some_number() -> None:
    model = parse(
        """(float[N,8,H,W] x, float[R,4] rois, int32[R] at, int32[2] size) => (float[R,8,A,B] y) {
            c = com.microsoft.CropAndResize(x, rois, at, size)  y = Relu(c)
        }"""
    )
    shapes = infer_shapes(model)
    shape = shape_of(model, shapes, "c")
    assert shape is not None
    assert shape[:2] == (shapes.binding["R"], 8)
    assert len(shape) == 4
    assert all(size > 1 for size in shape[2:])


def test_what_is_ranked_keeps_its_other_axes() -> None:
    model = parse("(float[N,8] x, int64[1] k) => (float[N,K] y) { y, i = TopK(x, k)  j = Cast<to=1>(i) }")
    shapes = infer_shapes(model)
    values, indices = shape_of(model, shapes, "y"), shape_of(model, shapes, "j")
    assert values is not None
    assert indices is not None
    assert values[0] == indices[0] == shapes.binding["N"]


def test_results_whose_types_a_schema_tells_take_none_of_an_operand() -> None:
    """Of a TopK that cannot be, onnx says nothing: its indices are no floats for that, and may be looked up by."""
    model = parse(
        "(float[N,8] x, int64[1] k, float[9] t) => (float[N,K] y) { y, i = TopK<axis=1>(x, k, k)  g = Gather(t, i) }"
    )
    shapes = infer_shapes(model)
    (indices,) = (value for node in model.graph if node.op_type == "TopK" for value in node.outputs[1:])
    assert shapes.dtypes.get(indices) in (None, ir.DataType.INT64)


def test_without_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = parse("(float[N,8] x, float[8] b) => (float[N,8] z) { y = com.microsoft.BiasGelu(x, b)  z = Relu(x) }")
    shapes = infer_shapes(model)
    assert shape_of(model, shapes, "y") is None
    assert shape_of(model, shapes, "z") == (shapes.binding["N"], 8)


# What holds for every size of N: body and the contents that are known.
STATIC = {
    "a static axis": (
        """(float[N,16] x) => (float y) <int64 one = {1}> {
            s = Shape(x)  d = Gather(s, one)  f = Cast<to=1>(d)  y = Sqrt(f)
        }""",
        {"one": 1, "d": 16, "f": 16.0, "y": 4.0},
    ),
    "a symbolic axis": (
        """(float[N,16] x) => (float y) <int64 zero = {0}> {
            s = Shape(x)  d = Gather(s, zero)  f = Cast<to=1>(d)  y = Sqrt(f)
        }""",
        {"zero": 0},
    ),
    "a comparison of a symbolic axis": (
        "(float[N,16] x) => (bool y) <int64 zero = {0}> { s = Shape(x)  d = Gather(s, zero)  y = Less(d, zero) }",
        {"zero": 0},
    ),
    "the least of a symbolic axis and a number": (
        "(float[N,16] x) => (int64 y) <int64 zero = {0}> { s = Shape(x)  d = Gather(s, zero)  y = Min(d, zero) }",
        {"zero": 0},
    ),
    "an axis behind a symbolic target": (
        """(float[N,16] x) => (int64[1] y) <int64[1] first = {0}, int64[1] second = {1}, int64[1] four = {4},
            int64[1] rest = {-1}, int64[1] end = {9}> {
            s = Shape(x)  n = Slice(s, first, second)  target = Concat<axis=0>(n, four, rest)  r = Reshape(x, target)
            t = Shape(r)  y = Slice(t, rest, end)
        }""",
        {"first": [0], "second": [1], "four": [4], "rest": [-1], "end": [9], "y": [4]},
    ),
    "an axis behind an open target": (
        """(float[N,16] x, int64[1] open) => (int64[1] y)
            <int64[2] rest = {4, 4}, int64[1] first = {2}, int64[1] end = {9}> {
            target = Concat<axis=0>(open, rest)  r = Reshape(x, target)  t = Shape(r)  y = Slice(t, first, end)
        }""",
        {"rest": [4, 4], "first": [2], "end": [9], "y": [4]},
    ),
    "a declared shape": (
        """(float[N,16] x) => (int64[2] y) <float[3,16] u> { u = unknown.domain.Mystery(x)  y = Shape(u) }""",
        {},
    ),
    "an expanded axis": (
        """(float[N,1,16] x) => (int64[1] y) <int64[1] first = {0}, int64[1] second = {1}, int64[2] rest = {5, 16},
            int64[1] end = {9}> {
            s = Shape(x)  n = Slice(s, first, second)  target = Concat<axis=0>(n, rest)  r = Expand(x, target)
            t = Shape(r)  y = Slice(t, second, end)
        }""",
        {"first": [0], "second": [1], "rest": [5, 16], "end": [9], "y": [5, 16]},
    ),
}


@pytest.mark.parametrize("name", STATIC)
def test_static_contents(name: str) -> None:
    body, expected = STATIC[name]
    static = infer_static(parse(body))
    assert {value.name: array.tolist() for value, array in static.values.items()} == expected
    assert static.binding == {}


def test_static_shapes() -> None:
    model = parse(
        "(float[N,16] x, float[3,16] z) => (float[N,16] y) { y = Relu(x)  v = Relu(z)  k = MatMul(x, w) }",
        {"w": (16, 4)},
    )
    static = infer_static(model)
    assert {value.name for value in static.of} == {"w", "z", "v"}


def test_initializer_that_callers_may_override() -> None:
    body = "(float[N,16] x, int64[1] k = {3}) => (int64[1] y) { y = Neg(k) }"
    old = parse(body, ir_version=3, opset=9)
    new = parse(body)
    assert [value.name for value in infer_static(old).values] == ["k", "y"]
    assert list(infer_static(new).values) == []
    assert [value.name for value in infer_shapes(new).values] == ["k", "y"]


def test_small_tensors_that_hold_no_numbers_are_reshaped_too() -> None:
    """A table of NaN and minus infinity, moved about: only whole numbers may be sizes."""
    weights = {"w": np.array([np.nan, -np.inf, 1.0, 2.0], np.float32)}
    model = parse("(float[N] x) => (float[2,2] y) <int64[2] to = {2, 2}> { y = Reshape(w, to) }")
    for name, array in weights.items():
        value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
        model.graph.register_initializer(value)
        model.graph[0].replace_input_with(0, value)
    assert shape_of(model, infer_shapes(model), "y") == (2, 2)
    assert shape_of(model, infer_static(model), "y") == (2, 2)
