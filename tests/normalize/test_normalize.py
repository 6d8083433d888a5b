"""Normalising: the same function in the plainest form, checked by running both.

One file: each step of normalising has a section, and all share one oracle.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa.errors import ModelError
from spa.passes.normalize.normalize import normalize

needs_runtime = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime")

Weights = Mapping[str, tuple[int, ...] | np.ndarray]


def parse(body: str, weights: Weights, *, opset: int = 18, ir_version: int = 8) -> ir.Model:
    """The model of ``(inputs) => (outputs) { nodes }`` and functions; weights are arrays, or random ones of a shape."""
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "local": 1], producer_name: "somebody">'
    proto = onnx.parser.parse_model(f"{header} graph {body}")
    generator = np.random.default_rng(0)
    for name, weight in weights.items():
        drawn = weight if isinstance(weight, np.ndarray) else generator.standard_normal(weight).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn, name))
    return ir.from_proto(proto)


def serialized(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def operators(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph))


def initializers(model: ir.Model) -> set[str]:
    return {name for graph in model.graphs() for name in graph.initializers}


INVALID = "axes counted from the end"  # which nothing runs

# A graph, its weights (shapes or arrays), the operators that stay and, where it matters, the names of the initializers.
GRAPHS: dict[str, tuple[str, Weights, str, set[str] | None]] = {
    "merged zero biases": (
        "(float[N,8] x) => (float[N,8] y) { a = Gemm(x, w, b)  c = Relu(a)  d = Gemm(c, v, b)  y = Add(d, b) }",
        {"w": (8, 8), "v": (8, 8), "b": (8,)},
        "Add Gemm Gemm Relu",
        {"w", "v", "b", "b.2", "b.3"},
    ),
    "one constant twice in a node": (
        "(float[N,8] x) => (float[N,8] y) { a = Add(b, b)  y = Mul(x, b) }",
        {"b": (8,)},
        "Mul",
        {"b"},
    ),
    "a constant of the type of what is computed": (
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
            z = CastLike(zero, x)  b = Expand(z, four)  a = Conv(x, w, b)  l = CastLike(low, a)  y = Clip(a, l) }""",
        {"w": (4, 3, 3, 3), "zero": np.array(0.0), "four": np.array([4]), "low": np.array(0.5)},
        "Clip Conv",
        {"w", "b", "l"},
    ),
    "tied embedding": (
        "(int64[N,S] x) => (float[N,S,300] y) { e = Gather(w, x)  t = Transpose<perm=[1,0]>(w)  y = MatMul(e, t) }",
        {"w": (300, 64)},
        "Gather MatMul Transpose",
        {"w"},
    ),
    "tied matrix": (
        "(float[N,8] x) => (float[N,8] y) { a = MatMul(x, w)  y = MatMul(a, w) }",
        {"w": (8, 8)},
        "MatMul MatMul",
        {"w"},
    ),
    "transposed weight": (
        "(float[N,100] x) => (float[N,200] y) { t = Transpose<perm=[1,0]>(w)  y = MatMul(x, t) }",
        {"w": (200, 100)},
        "MatMul",
        {"t"},
    ),
    "scale from a static axis": (
        """(float[N,4,S,16] q) => (float[N,4,S,16] y) <int64[1] last = {-1}, int64[1] end = {9223372036854775807}> {
            s = Shape(q)  d = Slice(s, last, end)  f = Cast<to=1>(d)  r = Sqrt(f)  y = Div(q, r)
        }""",
        {},
        "Div",
        {"r"},
    ),
    "scale from a symbolic axis": (
        """(float[N,4,S,16] q) => (float[N,4,S,16] y) <int64[1] two = {2}, int64[1] three = {3}> {
            s = Shape(q)  d = Slice(s, two, three)  f = Cast<to=1>(d)  r = Sqrt(f)  y = Div(q, r)
        }""",
        {},
        "Cast Div Shape Slice Sqrt",
        {"two", "three"},
    ),
    "heads from a symbolic batch": (
        """(float[N,S,64] x) => (float[N,S,4,16] y) <int64 zero = {0}, int64 one = {1}, int64[1] front = {0},
            int64[1] heads = {4}, int64[1] rest = {-1}> {
            s = Shape(x)  n = Gather(s, zero)  t = Gather(s, one)  n1 = Unsqueeze(n, front)  t1 = Unsqueeze(t, front)
            target = Concat<axis=0>(n1, t1, heads, rest)  r = Reshape(x, target)
            q = Shape<start=3>(r)  f = Cast<to=1>(q)  g = Sqrt(f)  y = Mul(r, g)
        }""",
        {},
        "Concat Gather Gather Mul Reshape Shape Unsqueeze Unsqueeze",
        {"zero", "one", "front", "front.2", "heads", "rest", "g"},
    ),
    "branch decided by a symbolic axis": (
        """(float[N,8] x) => (float[A,8] y) <int64 zero = {0}, int64 three = {3}> {
            s = Shape(x)  n = Gather(s, zero)  c = Equal(n, three)
            y = If (c) <then_branch = a () => (float[A,8] p) { p = Relu(x) },
                        else_branch = b () => (float[B,8] q) { q = Neg(x) }>
        }""",
        {},
        "Equal Gather If Neg Relu Shape",
        None,
    ),
    "branch decided by a static axis": (
        """(float[N,8] x) => (float[A,8] y) <int64 one = {1}, int64 eight = {8}> {
            s = Shape(x)  n = Gather(s, one)  c = Equal(n, eight)
            z = If (c) <then_branch = a () => (float[A,8] p) { h = MatMul(x, w)  p = Relu(h) },
                        else_branch = b () => (float[B,8] q) { h = Neg(w)  g = MatMul(x, h)  q = Identity(g) }>
            y = Add(z, x)
        }""",
        {"w": (8, 8)},
        "Add MatMul Relu",
        {"w"},
    ),
    "decided branch beside another with the same names": (
        """(float[N,8] x, bool open) => (float[N,8] y) <bool on = {1}> {
            z = If (on) <then_branch = a () => (float[N,8] p)
                            { k = Constant<value_floats=[2.0]>()  h = Mul(x, k)  p = Relu(h) },
                         else_branch = b () => (float[N,8] q) { q = Neg(x) }>
            v = If (open) <then_branch = c () => (float[N,8] r)
                              { k = Constant<value_floats=[3.0]>()  h = Mul(x, k)  r = Tanh(h) },
                           else_branch = d () => (float[N,8] t) { h = Exp(x)  t = Neg(h) }>
            y = Add(z, v)
        }""",
        {},
        "Add Exp If Mul Mul Neg Relu Tanh",
        None,
    ),
    "branch that is an outer value": (
        """(float[N,8] x, bool c) => (float[N,8] y) {
            h = Relu(x)
            y = If (c) <then_branch = a () => (float[N,8] p) { p = Identity(h) },
                        else_branch = b () => (float[N,8] q) { q = Identity(x) }>
        }""",
        {},
        "Identity Identity If Relu",
        None,
    ),
    "recurrent weights assembled at run time": (
        """(float[S,N,80] x) => (float[S,1,N,40] y) <int64[1] a = {0}, int64[1] b = {40}, int64[1] c = {80},
            int64[1] d = {120}> {
            w0 = Slice(wi, a, b)  w1 = Slice(wi, b, c)  w2 = Slice(wi, c, d)  w3 = Concat<axis=0>(w1, w0, w2)
            w = Unsqueeze(w3, a)
            r0 = Slice(wh, a, b)  r1 = Slice(wh, b, c)  r2 = Slice(wh, c, d)  r3 = Concat<axis=0>(r1, r0, r2)
            r = Unsqueeze(r3, a)
            k = Concat<axis=0>(bi, bh)  k1 = Unsqueeze(k, a)
            y = GRU<hidden_size=40>(x, w, r, k1)
        }""",
        {"wi": (120, 80), "wh": (120, 40), "bi": (120,), "bh": (120,)},
        "GRU",
        {"w", "r", "k1"},
    ),
    "batch norm from raw statistics": (
        """(float[N,8,4,4] x) => (float[N,8,4,4] y) <float small = {0.001}, int64[3] columns = {-1, 1, 1}> {
            a = Abs(variance)  e = Add(a, small)  r = Sqrt(e)  s = Div(gamma, r)  m = Mul(mean, s)  t = Sub(beta, m)
            s1 = Reshape(s, columns)  t1 = Reshape(t, columns)  u = Mul(x, s1)  y = Add(u, t1)
        }""",
        {"variance": (8,), "gamma": (8,), "mean": (8,), "beta": (8,)},
        "Add Mul",
        {"s1", "t1"},
    ),
    "constants of every kind": (
        """(float[N,8] x) => (float[N,8] y) {
            a = Constant<value_float=2.0>()  b = Constant<value_floats=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]>()
            c = Constant<value_ints=[-1, 8]>()  d = Mul(x, a)  e = Add(d, b)  y = Reshape(e, c)
        }""",
        {},
        "Add Mul Reshape",
        {"a", "b", "c"},
    ),
    "constant output": (
        "(float[N,8] x) => (float[N,8] y, int64[2] z) { y = Relu(x)  z = Constant<value_ints=[1, 2]>() }",
        {},
        "Constant Relu",
        set(),
    ),
    "weight that is an output": (
        "(float[N,8] x) => (float[N,8] y, float[8] b) { h = Add(x, b)  y = Mul(h, b) }",
        {"b": (8,)},
        "Add Mul",
        {"b", "b.2", "b.3"},
    ),
    "weight in a branch": (
        """(float[N,8] x, bool c) => (float[N,8] y) {
            h = Add(x, b)
            y = If (c) <then_branch = t () => (float[N,8] p) { p = Mul(h, b) },
                        else_branch = e () => (float[N,8] q) { q = Sub(h, b) }>
        }""",
        {"b": (8,)},
        "Add If Mul Sub",
        {"b", "b.2", "b.3"},
    ),
    "weight that a branch gives": (
        """(float[8] x, bool c) => (float[8] y) {
            h = Add(x, b)
            z = If (c) <then_branch = t () => (float[8] p) { p = Identity(b) },
                        else_branch = e () => (float[8] q) { q = Neg(h) }>
            y = Add(z, b)
        }""",
        {"b": (8,)},
        "Add Add Identity If Neg",
        {"b", "b.2", "b.3"},
    ),
    "constants of a loop": (
        """(float[N,8] x) => (float[N,8] y) <int64 three = {3}, bool on = {1}> {
            y = Loop (three, on, x) <body = l (int64 i, bool go, float[N,8] h) => (bool again, float[N,8] g)
                { again = Identity(go)  t = Transpose<perm=[1,0]>(w)  m = MatMul(h, t)
                  k = Constant<value_floats=[0.5]>()  s = Mul(m, k)  g = Add(s, b) }>
        }""",
        {"w": (8, 8), "b": (8,)},
        "Add Identity Loop MatMul Mul",
        {"three", "on", "t", "b", "k"},
    ),
    "weights carried by a loop": (
        """(float[N,8] x) => (float[N,8] y, float[3,N,8] all) <int64 three = {3}, bool on = {1}> {
            y, same, all = Loop (three, on, x, w) <body = l (int64 i, bool go, float[N,8] h, float[8,8] v) =>
                (bool again, float[N,8] g, float[8,8] u, float[N,8] k)
                { again = Identity(go)  m = MatMul(h, v)  g = Add(m, b)  u = Identity(v)  k = Tanh(m) }>
        }""",
        {"w": (8, 8), "b": (8,)},
        "Add Identity Loop MatMul Tanh",
        {"three", "on", "w", "b"},
    ),
    "weights carried by a scan": (
        """(float[3,N,8] x, float[N,8] h0) => (float[N,8] y, float[3,N,8] all) {
            same, y, all = Scan (w, h0, x) <num_scan_inputs=1, body = l (float[8,8] v, float[N,8] h, float[N,8] t) =>
                (float[8,8] u, float[N,8] g, float[N,8] k)
                { m = MatMul(h, v)  g = Add(m, t)  u = Identity(v)  k = Tanh(m) }>
        }""",
        {"w": (8, 8)},
        "Add MatMul Scan Tanh",
        {"w"},
    ),
    "carried weights that are an output": (
        """(float[N,8] x) => (float[N,8] y, float[8,8] same) <int64 three = {3}, bool on = {1}> {
            y, same = Loop (three, on, x, w) <body = l (int64 i, bool go, float[N,8] h, float[8,8] v) =>
                (bool again, float[N,8] g, float[8,8] u)
                { again = Identity(go)  g = MatMul(h, v)  u = Identity(v) }>
        }""",
        {"w": (8, 8)},
        "Identity Identity Loop MatMul",
        {"three", "on", "w"},
    ),
    "standardised weight": (
        """(float[N,80] x) => (float[N,64] y) <int64[1] rows = {1}> {
            m = ReduceMean(w, rows)  d = Sub(w, m)  q = Mul(d, d)  v = ReduceMean(q, rows)  s = Sqrt(v)
            u = Div(d, s)  y = Gemm<transB=1>(x, u) }""",
        {"w": (64, 80)},
        "Gemm",
        {"u"},
    ),
    "standardised weight that is read raw as well": (
        """(float[N,80] x) => (float[N,64] y) <int64[1] rows = {1}> {
            m = ReduceMean(w, rows)  d = Sub(w, m)  q = Mul(d, d)  v = ReduceMean(q, rows)  s = Sqrt(v)
            u = Div(d, s)  a = Gemm<transB=1>(x, u)  b = Gemm<transB=1>(x, w)  y = Add(a, b) }""",
        {"w": (64, 80)},
        "Add Div Gemm Gemm Mul ReduceMean Sqrt Sub",
        None,
    ),
    "function": (
        """(float[N,8] x) => (float[N,8] y) { a = local.twice(x)  b = local.twice(a)  y = Relu(b) }
        <domain: "local", opset_import: ["": 18]> twice (u) => (v) { h = Add(u, u)  v = Tanh(h) }
        <domain: "local", opset_import: ["": 18]> unused (u) => (v) { v = Exp(u) }""",
        {},
        "Add Add Relu Tanh Tanh",
        set(),
    ),
    "identities": (
        """(float[N,8] x) => (float[N,8] y, float[N,8] z) {
            a = Identity(x)  b = Relu(a)  c = Identity(b)  y = Identity(c)  z = Identity(x)
        }""",
        {},
        "Identity Relu",
        set(),
    ),
    "dead ends": (
        "(float[N,8] x) => (float[N,8] y) { y = Relu(x)  a = Exp(x)  b = MatMul(a, w)  m, i = TopK(x, k) }",
        {"w": (8, 8), "k": np.array([2], dtype=np.int64), "never": (3,)},
        "Relu",
        set(),
    ),
    "dead branch that reads a weight": (
        """(float[N,100] x, bool c) => (float[N,100] y) {
            t = Transpose<perm=[1,0]>(w)  y = MatMul(x, t)
            z = If (c) <then_branch = a () => (float[N,100] p) { p = MatMul(x, w) },
                        else_branch = b () => (float[N,100] q) { q = Identity(x) }>
        }""",
        {"w": (100, 100)},
        "MatMul",
        {"t"},
    ),
    "results that grow": (
        """(float[N,100,100] x) => (float[N,100,100] y) <int64[2] square = {100, 100},
            int64[2] many = {100, 200}, int64[1] first = {0}, int64[1] end = {100}> {
            a = Expand(one, square)  b = ConstantOfShape(square)  d = Mul(column, row)  e = Tile(row, many)
            f = Slice(e, first, end)  h = Slice(f, first, end, ends)
            g = Add(a, b)  i = Add(g, d)  j = Add(i, h)  y = Add(x, j)
        }""",
        {"one": (1,), "column": (100, 1), "row": (1, 100), "ends": np.array([1], dtype=np.int64)},
        "Add Add Add Add ConstantOfShape Expand Mul Slice Slice Tile",
        None,
    ),
    "small results that grow": (
        "(float[N,64] x) => (float[N,64] y) <int64[1] size = {64}> { a = ConstantOfShape(size)  y = Add(x, a) }",
        {},
        "Add",
        {"a"},
    ),
    "random numbers": (
        """(float[N,8] x) => (float[N,8] y) <float none = {0}> {
            a = RandomNormal<shape=[8]>()  b = Mul(a, none)  y = Add(x, b)
        }""",
        {},
        "Add Mul RandomNormal",
        {"none"},
    ),
    "quantised weight": (
        """(float[N,8] x) => (float[N,8] y) <float scale = {0.5}, int8 zero = {0}> {
            w = DequantizeLinear(q, scale, zero)  t = Transpose<perm=[1,0]>(w)  y = MatMul(x, t)
        }""",
        {"q": np.arange(64, dtype=np.int8).reshape(8, 8)},
        "DequantizeLinear MatMul Transpose",
        {"q", "scale", "zero"},
    ),
    "nodes out of order": (
        "(float[N,8] x) => (float[N,8] y) { y = Add(h, k)  h = Relu(x)  k = Sqrt(c)  c = Abs(b) }",
        {"b": (8,)},
        "Add Relu",
        {"k"},
    ),
    INVALID: (
        "(float[N,S,8] x) => (float[N,8,S] y) { a = Transpose<perm=[0,-1,-2]>(x)  y = Relu(a) }",
        {},
        "Relu Transpose",
        set(),
    ),
    "unknown operator": (
        """(float[N,8] x) => (float[N,8] y) { a = local.mystery(b)  y = Relu(x) }""",
        {"b": (8,)},
        "Relu",
        set(),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_stays(name: str) -> None:
    body, weights, expected, names = GRAPHS[name]
    model = parse(body, weights)
    result = normalize(model)
    assert operators(result) == sorted(expected.split())
    assert names is None or initializers(result) == names
    ir.passes.common.CheckerPass()(result)


@pytest.mark.parametrize("name", GRAPHS)
def test_signature_stays(name: str) -> None:
    model = parse(*GRAPHS[name][:2])
    model.metadata_props["author"] = "nobody"
    before = serialized(model)
    result = normalize(model)
    assert serialized(model) == before
    for graph_values in ("inputs", "outputs"):
        assert [str(value) for value in getattr(result.graph, graph_values)] == [
            str(value) for value in getattr(model.graph, graph_values)
        ]
    assert dict(result.opset_imports) == dict(model.opset_imports)
    for attribute in ("ir_version", "producer_name", "metadata_props"):
        assert getattr(result, attribute) == getattr(model, attribute)


@pytest.mark.parametrize("name", GRAPHS)
def test_twice_changes_nothing(name: str) -> None:
    result = normalize(parse(*GRAPHS[name][:2]))
    assert serialized(normalize(result)) == serialized(result)
    assert serialized(normalize(parse(*GRAPHS[name][:2]))) == serialized(result)


def run(model: ir.Model, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[np.ndarray] = session.run(None, dict(feed))
    return results


def draw(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    feed = {}
    for value in model.graph.inputs:
        if value.is_initializer() or value.shape is None or value.dtype is None:
            continue
        shape = [dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape]
        feed[value.name or ""] = generator.integers(0, 2, shape).astype(value.dtype.numpy())
        if value.dtype == ir.DataType.FLOAT:
            feed[value.name or ""] = generator.standard_normal(shape).astype(np.float32)
    return feed


@needs_runtime
@pytest.mark.parametrize("sizes", [{"N": 3, "S": 5}, {"N": 2, "S": 7}], ids=["3 by 5", "2 by 7"])
@pytest.mark.parametrize("name", [name for name in GRAPHS if name not in ("unknown operator", INVALID)])
def test_function_stays(name: str, sizes: dict[str, int]) -> None:
    model = parse(*GRAPHS[name][:2])
    result = normalize(model)
    for flag in (False, True):
        feed = draw(model, sizes)
        feed.update({key: np.array(flag) for key, value in feed.items() if value.dtype == bool})
        for expected, actual in zip(run(model, feed), run(result, feed), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_functions_that_nothing_calls_stay() -> None:
    result = normalize(parse(*GRAPHS["function"][:2]))
    assert [name for _, name, _ in result.functions] == ["unused"]


@pytest.mark.parametrize(
    ("ir_version", "expected"),
    [(3, ["x", "b", "t", "b.2"]), (8, ["x", "b"])],
    ids=["listed because they must be", "listed although they need not"],
)
def test_initializers_listed_as_inputs(ir_version: int, expected: list[str]) -> None:
    model = parse(
        """(float[N,8] x, float[8,8] w, float[8] b) => (float[N,8] y) {
            t = Transpose<perm=[1,0]>(w)  a = MatMul(x, t)  c = Add(a, b)  y = Mul(c, b)
        }""",
        {"w": (8, 8), "b": (8,)},
        opset=9,
        ir_version=ir_version,
    )
    result = normalize(model)
    assert [value.name for value in result.graph.inputs] == expected
    assert operators(result) == ["Add", "MatMul", "Mul"]
    ir.passes.common.CheckerPass()(result)
    assert serialized(normalize(result)) == serialized(result)


def test_weights_are_not_read() -> None:
    def read() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    model = parse("(float[N,128] x) => (float[N,128] y) { a = MatMul(x, w)  b = Identity(w)  y = MatMul(a, b) }", {})
    weight = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((128, 128)))
    weight.const_value = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape((128, 128)), name="w")
    for node in model.graph:
        for position, value in enumerate(node.inputs):
            if value is not None and value.name == "w":
                node.replace_input_with(position, weight)
    model.graph.register_initializer(weight)
    result = normalize(model)
    assert result.graph.initializers["w"].const_value is weight.const_value
    assert Counter(operators(result)) == {"MatMul": 2}


def test_copies_are_written_apart(tmp_path: object) -> None:
    result = normalize(parse(*GRAPHS["merged zero biases"][:2]))
    ir.save(result, f"{tmp_path}/model.onnx", external_data="model.data")
    again = ir.load(f"{tmp_path}/model.onnx")
    weights = {name: value.const_value.numpy() for name, value in again.graph.initializers.items() if value.const_value}
    assert set(weights) == {"w", "v", "b", "b.2", "b.3"}
    np.testing.assert_array_equal(weights["b"], weights["b.3"])


def test_cycle() -> None:
    with pytest.raises(ModelError, match="cycle"):
        normalize(parse("(float[N] x) => (float[N] y) { a = Add(x, b)  b = Relu(a)  y = Relu(b) }", {}))


def test_body_out_of_order() -> None:
    body = """(float[N,8] x) => (float[N,8] y) <int64 three = {3}, bool on = {1}> {
        y = Loop (three, on, x) <body = l (int64 i, bool go, float[N,8] h) => (bool again, float[N,8] g)
            { again = Identity(go)  g = Relu(k)  k = Neg(h) }>
    }"""
    with pytest.raises(ModelError, match="order"):
        normalize(parse(body, {}))


def test_functions_that_call_each_other() -> None:
    body = """(float[N] x) => (float[N] y) { y = local.one(x) }
        <domain: "local", opset_import: ["": 18, "local": 1]> one (u) => (v) { v = local.two(u) }
        <domain: "local", opset_import: ["": 18, "local": 1]> two (u) => (v) { v = local.one(u) }"""
    with pytest.raises(ModelError, match="one"):
        normalize(parse(body, {}))


@pytest.mark.parametrize(
    ("nodes", "weights", "count"),
    [
        ("{ p = Pad(x, pads)  y = Relu(p) }", {"pads": np.array([0, 1, 0, 1])}, 3),
        ("{ p = Clip(x, low)  y = Relu(p) }", {"low": np.zeros((), np.float32)}, 3),
        ("{ c = Cast<to = 7>(pads)  p = Pad(x, c)  y = Relu(p) }", {"pads": np.array([0, 1, 0, 1], np.int32)}, 4),
    ],
    ids=["Pad", "Clip", "Pad by computed sizes"],
)
def test_last_inputs_that_are_omitted_stay_there(nodes, weights, count):
    """onnxruntime moves Pad(x, pads) into the convolution behind it, where it is slower, but not Pad(x, pads, "")."""
    given = parse(f"(float[N,8] x) => (float[N,M] y) {nodes}", weights)
    next(node for node in given.graph if node.op_type in ("Pad", "Clip")).resize_inputs(count)
    normal = normalize(given)
    reader = next(node for node in normal.graph if node.op_type in ("Pad", "Clip"))
    assert len(reader.inputs) == count
    assert reader.inputs[-1] is None
    assert serialized(normalize(normal)) == serialized(normal)
