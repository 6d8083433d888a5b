"""Repair of networks that decide something: classes, places, which rows go where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa import pipeline, runtime
from spa.errors import NothingToPrune
from spa.passes.repair.difference import output_difference
from spa.passes.repair.network import prepare
from spa.pipeline import load_normal
from tests.repair.test_streaming import noisy

CLASSES = """
    (float[n,16] x) => (int64[n] top) {
        h = MatMul(x, w)  a = Relu(h)  z = MatMul(a, v)  p = Softmax<axis=1>(z)  top = ArgMax<axis=1, keepdims=0>(p)
    }
"""
CHOICE = """
    (float[n,12] x) => (float[n,5] y, bool[n,5] sign, float[m] big, int64[2] size) {
        h = MatMul(x, w)  a = Relu(h)  y = MatMul(a, v)
        zero = Constant<value = float {0.0}>()  sign = Greater(y, zero)
        all = Constant<value = int64[1] {-1}>()  flat = Reshape(y, all)  which = Reshape(sign, all)
        big = Compress<axis=0>(flat, which)  size = Shape(y)
    }
"""
TWO_STAGES = """
    (float[n,3,12,12] x) => (float[k,5] classes, int64[k] best) {
        a = Conv<pads=[1,1,1,1]>(x, c)  b = Relu(a)  s = Conv(b, d)
        least = Constant<value = float {0.8}>()  hit = Greater(s, least)  found = NonZero(hit)
        places = Transpose(found)
        axes = Constant<value = int64[3] {0,2,3}>()  where = Gather<axis=1>(places, axes)
        t = Transpose<perm=[0,2,3,1]>(b)  rows = GatherND(t, where)
        e = MatMul(rows, w)  f = Relu(e)  classes = MatMul(f, v)  best = ArgMax<axis=1, keepdims=0>(classes)
    }
"""
EXPERTS = """
    (float[n,12] x) => (float[n,12] y) {
        l = MatMul(x, router)  last = Constant<value = float[2] {0.0, -1000.0}>()  m = Add(l, last)
        top = ArgMax<axis=1, keepdims=0>(m)
        i = Constant<value = int64 {0}>()  first = Equal(top, i)  p = NonZero(first)  one = Transpose(p)
        j = Constant<value = int64 {1}>()  second = Equal(top, j)  q = NonZero(second)  two = Transpose(q)
        x1 = GatherND(x, one)  h1 = MatMul(x1, u1)  a1 = Relu(h1)  o1 = MatMul(a1, v1)
        x2 = GatherND(x, two)  h2 = MatMul(x2, u2)  a2 = Relu(h2)  o2 = MatMul(a2, v2)
        s1 = ScatterND(x, one, o1)  s2 = ScatterND(s1, two, o2)
        b = MatMul(s2, w)  c = Relu(b)  y = MatMul(c, v)
    }
"""
WEIGHTS: dict[str, dict[str, tuple[int, ...]]] = {
    CLASSES: {"w": (16, 32), "v": (32, 8)},
    CHOICE: {"w": (12, 24), "v": (24, 5)},
    TWO_STAGES: {"c": (16, 3, 3, 3), "d": (1, 16, 1, 1), "w": (16, 32), "v": (32, 5)},
    EXPERTS: {
        "router": (12, 2),
        "u1": (12, 24),
        "v1": (24, 12),
        "u2": (12, 24),
        "v2": (24, 12),
        "w": (12, 20),
        "v": (20, 12),
    },
}


def model(text: str) -> ir.Model:
    network = noisy(text, WEIGHTS[text])
    for value in network.graph.initializers.values():
        if value.const_value is not None and value.name in WEIGHTS[text]:
            array = value.const_value.numpy()
            scale = np.sqrt(array.shape[0] if array.ndim == 2 else array[0].size)
            value.const_value = ir.Tensor((array / scale / (array.std() or 1.0)).astype(np.float32), name=value.name)
    return network


def samples(text: str, count: int = 90) -> np.ndarray:
    shape = {CLASSES: (16,), CHOICE: (12,), TWO_STAGES: (3, 12, 12), EXPERTS: (12,)}[text]
    return np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)


def compared(graph: onnx.ModelProto, names: Sequence[str], text: str) -> dict[str, np.ndarray]:
    """Some values of a graph on many fresh samples: the seven that a repair keeps for its report may say anything."""
    shape = samples(text, 1).shape[1:]
    known = {value.name for value in graph.graph.output}
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in known
    )
    fresh = np.random.default_rng(9).standard_normal((1500, *shape)).astype(np.float32)
    return dict(runtime.run(runtime.session(graph, optimize=False), {"x": fresh}))


@pytest.mark.parametrize(
    ("text", "names"), [(CLASSES, ["p"]), (CHOICE, ["y", "flat"]), (TWO_STAGES, ["s"]), (EXPERTS, ["y"])]
)
def test_what_is_compared_is_what_is_decided_from(text: str, names: list[str]) -> None:
    network = prepare(load_normal(ir.to_proto(model(text))))
    assert [value.name for value in network.compared] == names


def test_sizes_that_the_data_decide() -> None:
    network = prepare(load_normal(ir.to_proto(model(TWO_STAGES))))
    names = {value.name for value in network.decided}
    assert {"rows", "e", "f", "classes", "best"} <= names
    assert not names & {"a", "b", "s", "hit", "t"}


@pytest.mark.parametrize("method", ["spa", "obspa", "l2+refit"])
@pytest.mark.parametrize("text", WEIGHTS, ids=["classes", "choice", "two stages", "experts"])
def test_networks_that_decide_are_repaired(text: str, method: str) -> None:
    result = pipeline.prune(
        ir.to_proto(model(text)), ratio=0.4, of="params", align=1, data=samples(text), criterion=method
    )
    assert result.report.verified
    assert 0.3 < result.report.removed_share("params") < 0.6
    names = list(result.report.outputs)
    assert names
    dense, repaired = (compared(graph, names, text) for graph in (ir.to_proto(model(text)), result.to_proto()))
    cut = compared(pipeline.apply_plan(ir.to_proto(model(text)), result.plan).to_proto(), names, text)
    for name in names:
        off, unrepaired = (
            output_difference([dense[name]], [outputs[name]])["relative_l2"] for outputs in (repaired, cut)
        )
        assert 0 < off < 1
        assert off < unrepaired
    for value in result.model.graph.initializers.values():
        array = value.const_value.numpy() if value.const_value is not None else np.zeros(1)
        assert np.all(np.isfinite(array.astype(np.float64)))


def test_report_says_what_was_compared_instead() -> None:
    result = pipeline.prune(ir.to_proto(model(CLASSES)), ratio=0.4, data=samples(CLASSES))
    assert "not compared, being decisions: top; p before them" in result.report.notes
    assert list(result.report.outputs) == ["p"]


def test_a_group_behind_what_no_sample_reaches_is_left_alone() -> None:
    result = pipeline.prune(ir.to_proto(model(EXPERTS)), ratio=0.4, data=samples(EXPERTS))
    assert any("no sample reaches" in note for note in result.report.notes)
    removed = {row.name: row.removed for row in result.report.groups}
    assert removed["u2:1"] == 0
    assert removed["u1:1"] > 0


def test_refused_where_samples_reach_nothing_that_may_go() -> None:
    with pytest.raises(NothingToPrune):
        pipeline.prune(ir.to_proto(model(EXPERTS)), ratio=0.1, data=samples(EXPERTS), only=["u2:1"])
