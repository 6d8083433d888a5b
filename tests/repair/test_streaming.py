"""Run piece by piece, a model computes what it computes as a whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from spa import runtime
from spa.analysis.reading import reads
from spa.passes.repair.memory import Memory, held_nbytes
from spa.passes.repair.stages import cut, parted
from spa.passes.repair.store import Shelf, Store, file_of
from spa.passes.repair.streaming import Stream


def noisy(
    text: str, weights: Mapping[str, tuple[int, ...]], *, constants: Mapping[str, np.ndarray] | None = None
) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    for name, array in (arrays | dict(constants or {})).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


CHAIN = (
    "(float[n,4] x) => (float[n,4] y, float[n,4] z) { a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, v)  s = Add(c, x)  "
    "d = Relu(s)  y = MatMul(d, w)  z = Neg(a) }"
)
CHAIN_WEIGHTS = {"u": (4, 4), "v": (4, 4), "w": (4, 4)}
BRANCH = """(float[n,4] x, bool flag, int64[n] ids) => (float[n,4] y) {
    a = MatMul(x, u)
    b = If(flag) <then_branch = t () => (float[n,4] p) { e = Gather(v, ids)  p = Add(a, e) },
                  else_branch = e () => (float[n,4] q) { q = Neg(a) }>
    y = MatMul(b, w)
}"""


def values(model: ir.Model, *names: str) -> list[ir.Value]:
    by_name = {str(value.name): value for node in model.graph for value in node.outputs}
    by_name |= {str(value.name): value for value in model.graph.inputs}
    return [by_name[name] for name in names]


def batches(model: ir.Model, count: int = 3) -> list[dict[str, np.ndarray]]:
    shapes = {"x": (5, 4)} | ({"ids": (5,)} if len(model.graph.inputs) > 1 else {})
    return [runtime.random_feeds(model, shapes=shapes, seed=seed) for seed in range(count)]


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "in files and parts"])
@pytest.mark.parametrize(
    ("text", "weights", "targets"),
    [
        (CHAIN, CHAIN_WEIGHTS, ("x", "b", "d")),
        (CHAIN, CHAIN_WEIGHTS, ()),
        (CHAIN, CHAIN_WEIGHTS, ("y",)),
        (BRANCH, CHAIN_WEIGHTS, ("a", "b")),
    ],
)
def test_pieces_compute_what_the_whole_does(text, weights, targets, limit):
    model = noisy(text, weights)
    feeds = batches(model)
    session = runtime.session(model, optimize=False)
    with Stream(cut(model, values(model, *targets)), feeds, memory=Memory(limit)) as stream:
        seen = []
        for _ in range(len(stream.stages)):
            seen += [str(value.name) for value in stream.advance()]
            stream.forget()
        assert sorted(seen) == sorted(targets)
        for number, feed in enumerate(feeds):
            for name, expected in runtime.run(session, feed).items():
                (value,) = [v for v in model.graph.outputs if v.name == name]
                np.testing.assert_allclose(stream.value(value, number), expected, rtol=1e-5, atol=1e-6)
        assert (stream.store.spilled_nbytes > 0) == (limit == 0)


def test_target_is_there_before_its_readers_run():
    model = noisy(CHAIN, CHAIN_WEIGHTS)
    stages = cut(model, values(model, "x", "b", "d"))
    assert [[node.op_type for node in nodes] for nodes in stages.nodes] == [
        [], ["MatMul", "Relu", "Neg"], ["MatMul", "Add", "Relu"], ["MatMul"],
    ]  # fmt: skip
    assert [[value.name for value in targets] for targets in stages.targets] == [["x"], ["b"], ["d"], []]


def test_second_stream_computes_only_what_its_weights_change():
    model = noisy(CHAIN, CHAIN_WEIGHTS)
    feeds = batches(model)
    weights: dict[str, np.ndarray] = {}
    stages = cut(model, values(model, "b", "d"))
    with Stream(stages, feeds) as dense, Stream(stages, feeds, base=dense, weights=weights) as other:
        for number in range(len(stages)):
            dense.advance()
            other.advance()
            if number == 0:
                assert not other.changed
                weights["v"] = np.eye(4)
            dense.forget()
            other.forget()
        y, z = model.graph.outputs
        assert z not in other.changed
        assert y in other.changed
        changed = noisy(CHAIN, CHAIN_WEIGHTS, constants={"v": np.eye(4, dtype=np.float32)})
        expected = runtime.run(runtime.session(changed, optimize=False), feeds[1])
        np.testing.assert_allclose(other.value(y, 1), expected["y"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other.value(z, 1), expected["z"], rtol=1e-5, atol=1e-6)


def test_values_go_when_nothing_reads_them_any_more():
    model = noisy(CHAIN, CHAIN_WEIGHTS)
    with Stream(cut(model, values(model, "b", "d")), batches(model)) as stream:
        for _ in range(len(stream.stages)):
            stream.advance()
            stream.forget()
        left = {str(value.name) for value, _ in stream.store.held()}
        assert left == {"y", "z"}


def test_store_gives_back_what_it_spilled():
    model = noisy(CHAIN, CHAIN_WEIGHTS)
    (value,) = values(model, "b")
    store = Store(limit_nbytes=100)
    small, large = np.arange(10.0), np.arange(1000.0).reshape(10, 100)
    store.put(value, 0, small)
    store.put(value, 1, large)
    assert store.spilled_nbytes == large.nbytes
    np.testing.assert_array_equal(store.get(value, 0), small)
    np.testing.assert_array_equal(store.get(value, 1), large)
    store.drop(value, 0)
    store.drop(value, 1)
    assert store.nbytes == 0
    store.close()


def test_what_is_made_of_stored_tensors_waits_for_its_reader() -> None:
    model = noisy(
        "(float[n,4] x) => (float[n,4] y) { t = Transpose(u)  e = Neg(t)  a = Relu(x)  b = MatMul(a, e)  y = Relu(b) }",
        {"u": (4, 4)},
    )
    feeds = batches(model)
    weights: dict[str, np.ndarray] = {}
    stages = cut(model, values(model, "a"))
    assert [[node.op_type for node in nodes] for nodes in stages.nodes] == [
        ["Relu"],
        ["Transpose", "Neg", "MatMul", "Relu"],
    ]
    with Stream(stages, feeds) as dense, Stream(stages, feeds, base=dense, weights=weights) as other:
        dense.advance(), other.advance()
        weights["u"] = np.full((4, 4), 0.5)  # after the first stage, as a refit does
        dense.advance(), other.advance()
        (result,) = values(model, "y")
        expected = np.maximum(np.maximum(feeds[0]["x"], 0) @ np.full((4, 4), -0.5), 0)
        assert other.value(result, 0) == pytest.approx(expected, abs=1e-6)


def test_sizes_may_cross_a_cut() -> None:
    model = noisy(
        """(float[n,3,h,w] x, float[n,3,k,l] other) => (float[n,3,k,l] y) {
        s = Shape(other)  a = Relu(x)  y = Resize<mode="linear">(a, , , s) }""",
        {},
    )
    shapes = {"x": (2, 3, 4, 5), "other": (2, 3, 6, 7)}
    feeds = [runtime.random_feeds(model, shapes=shapes, seed=0)]
    with Stream(cut(model, values(model, "a", "s")), feeds) as stream:
        for _ in range(len(stream.stages)):
            stream.advance()
        (result,) = values(model, "y")
        assert stream.value(result, 0).shape == (2, 3, 6, 7)


@pytest.mark.parametrize("changed", ["u", "v", "w"])
def test_the_rest_runs_with_other_weights_from_where_a_stream_stands(changed: str) -> None:
    model = noisy(CHAIN, CHAIN_WEIGHTS)
    stages = cut(model, values(model, "x", "b", "d"))
    samples = batches(model)
    new = {changed: np.eye(4)}
    first = stages.first_to_differ(lambda node: any(value.name in new for value in reads(node)))
    assert changed in {value.name for node in stages.nodes[first] for value in reads(node)}
    whole = runtime.session(with_weights(model, new), optimize=False)
    with Stream(stages, samples) as dense:
        for _ in range(first):
            dense.advance()
            dense.forget()
        with Stream(dense.rest, samples, base=dense, weights=new) as pruned:
            pruned.advance()
            for number, sample in enumerate(samples):
                expected = runtime.run(whole, sample)
                for value in pruned.changed & set(model.graph.outputs):
                    np.testing.assert_allclose(
                        pruned.value(value, number), expected[str(value.name)], rtol=1e-5, atol=1e-6
                    )
            assert model.graph.outputs[0] in pruned.changed


def test_where_no_node_differs_no_stage_is_the_first() -> None:
    stages = cut(noisy(CHAIN, CHAIN_WEIGHTS), [])
    assert stages.first_to_differ(lambda _: False) == len(stages)
    assert stages.behind(len(stages)).nodes == [[]]


def with_weights(model: ir.Model, weights: Mapping[str, np.ndarray]) -> ir.Model:
    model = model.clone()
    for name, array in weights.items():
        model.graph.initializers[name].const_value = ir.Tensor(array.astype(np.float32), name=name)
    return model


def test_parts_have_no_more_weights_than_asked_for() -> None:
    model = noisy(CHAIN, CHAIN_WEIGHTS)
    nodes = list(model.graph)
    assert parted(nodes, model, None) == [nodes]
    assert parted(nodes, model, 3 * 64) == [nodes]
    parts = parted(nodes, model, 2 * 64)
    assert [[node.op_type for node in part] for part in parts] == [
        ["MatMul", "Relu", "MatMul", "Add", "Relu"], ["MatMul", "Neg"],
    ]  # fmt: skip
    assert len(parted(nodes, model, 0)) == 3


def test_halves_count_as_the_floats_that_a_session_makes_of_them() -> None:
    half = ir.Tensor(np.zeros((4, 4), np.float16))
    assert held_nbytes(half) == held_nbytes(ir.Tensor(np.zeros((4, 4), np.float32))) == 64
    assert held_nbytes(ir.Tensor(np.zeros((4, 4), np.int8))) == 16


def test_what_is_made_of_stored_tensors_is_in_each_part_that_reads_it() -> None:
    text = """(float[n,4] x) => (float[n,4] y) {
        t = Transpose(u)  a = MatMul(x, t)  b = MatMul(a, v)  y = MatMul(b, t) }"""
    model = noisy(text, {"u": (4, 4), "v": (4, 4)})
    parts = parted(list(model.graph), model, 64)
    assert [[node.op_type for node in part] for part in parts] == [
        ["Transpose", "MatMul"], ["MatMul"], ["Transpose", "MatMul"],
    ]  # fmt: skip
    feeds = batches(model)
    with Stream(cut(model, (), model.graph.outputs), feeds, memory=Memory(16 * 64)) as stream:
        stream.advance()
        assert {str(value.name) for value, _ in stream.store.held()} == {"x", "y"}
        session = runtime.session(model, optimize=False)
        for number, feed in enumerate(feeds):
            expected = runtime.run(session, feed)["y"]
            np.testing.assert_allclose(stream.value(model.graph.outputs[0], number), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64"])
def test_a_shelf_gives_maps_of_what_does_not_fit(dtype: str, tmp_path) -> None:
    array = (
        np.arange(100.0).reshape(10, 10).astype(ir.DataType[{"float64": "DOUBLE"}.get(dtype, dtype.upper())].numpy())
    )
    shelf = Shelf(array.nbytes, tmp_path)
    assert shelf.keep(array) is array
    other = shelf.keep(array + array)
    assert file_of(other) is not None
    assert other.dtype == array.dtype
    np.testing.assert_array_equal(other, array + array)
    assert shelf.keep(other) is other


def test_a_stream_goes_on_where_another_was() -> None:
    model = noisy(CHAIN, CHAIN_WEIGHTS)
    feeds = batches(model)
    stages = cut(model, values(model, "b", "d"))
    with Stream(stages, feeds) as first, Stream(stages, feeds) as second:
        first.advance()
        first.forget()
        second.restore(first.state())
        for stream in (first, second):
            while stream.done < len(stages):
                stream.advance()
        for value in model.graph.outputs:
            np.testing.assert_array_equal(second.value(value, 1), first.value(value, 1))
