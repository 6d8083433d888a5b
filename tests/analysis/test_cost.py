"""Parameters, bytes and FLOPs against counts by hand, dense and with units gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

from spa.analysis.cost import MEASURES, Cost, IsMultiple, Padded, Term, measure
from spa.analysis.plan import Plan
from spa.frontends.files import onnx_file
from spa.pipeline import analyse, cut, load_normal
from tests import models
from tests.grouped import Grouped, attention, batch_normed, chain, grouped, mlp, residual

CONV = "(float[2,3,9,9] x) => (float[2,4,7,7] y) { y=Conv(x,c,d) }"
DEPTHWISE = "(float[2,6,9,9] x) => (float[2,6,7,7] y) { y=Conv<group=6>(x,c) }"
GROUPED = "(float[2,6,9,9] x) => (float[2,4,7,7] y) { y=Conv<group=2>(x,c) }"
STRIDED = "(float[2,3,9,9] x) => (float[2,4,4,4] y) { y=Conv<strides=[2,2]>(x,c) }"
TRANSPOSED = "(float[2,3,4,4] x) => (float[2,4,8,8] y) { y=ConvTranspose<strides=[2,2]>(x,c) }"
GEMM = "(float[5,7] x) => (float[5,3] y) { y=Gemm<transB=1>(x,w,b) }"
BATCHED = "(float[4,5,7] x, float[4,7,3] z) => (float[4,5,3] y) { y=MatMul(x,z) }"
EINSUM = '(float[4,5,7] x) => (float[4,3,5] y) { y=Einsum<equation="bik,kj->bji">(x,w) }'
LSTM = "(float[5,2,3] x) => (float[5,1,2,4] y) { y=LSTM<hidden_size=4>(x,w,r,b) }"
POOL = "(float[1,3,8,8] x) => (float[1,3,4,4] y) { y=AveragePool<kernel_shape=[2,2],strides=[2,2]>(x) }"
SOFTMAX = "(float[2,9] x) => (float[2,9] y) { y=Softmax(x) }"


@pytest.mark.parametrize(
    ("text", "weights", "params", "macs"),
    [
        (CONV, {"c": (4, 3, 3, 3), "d": (4,)}, 4 * 27 + 4, 2 * 4 * 49 * 27),
        (DEPTHWISE, {"c": (6, 1, 3, 3)}, 54, 2 * 6 * 49 * 9),
        (GROUPED, {"c": (4, 3, 3, 3)}, 108, 2 * 4 * 49 * 27),
        (STRIDED, {"c": (4, 3, 3, 3)}, 108, 2 * 4 * 16 * 27),
        (TRANSPOSED, {"c": (3, 4, 2, 2)}, 48, 2 * 3 * 16 * 4 * 4),
        (GEMM, {"w": (3, 7), "b": (3,)}, 24, 5 * 7 * 3),
        (BATCHED, {}, 0, 4 * 5 * 7 * 3),
        (EINSUM, {"w": (7, 3)}, 21, 4 * 5 * 7 * 3),
        (LSTM, {"w": (1, 16, 3), "r": (1, 16, 4), "b": (1, 32)}, 48 + 64 + 32, 5 * 2 * 16 * (3 + 4)),
        (POOL, {}, 0, 0),
        (SOFTMAX, {}, 0, 0),
    ],
)
def test_one_node(text: str, weights: Mapping[str, tuple[int, ...]], params: int, macs: int) -> None:
    cost = grouped(text, weights).cost
    assert cost.of("params") == params
    assert cost.of("bytes") == 4 * params
    assert cost.of("flops") == 2 * macs


def test_a_symbolic_axis_counts_as_given() -> None:
    normal = load_normal(models.residual_cnn())
    flops = [analyse(normal, inputs={"x": [n, 3, 8, 8]}).cost.of("flops") for n in (1, 3)]
    assert flops[1] == 3 * flops[0]


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint8])
def test_bytes_follow_the_type(dtype: type[np.generic]) -> None:
    weights = {"w": np.ones((4, 6), dtype), "s": np.ones((), np.float32)}
    text = "(float[2,4] x) => (float[4,6] y) { y=DequantizeLinear(w,s) }"
    if dtype is np.float16:
        text = "(float16[4,6] x, float[1] s0) => (float16[4,6] y, float[1] z) { y=Mul(x,w) z=Mul(s0,s) }"
    model = grouped(text, weights)
    assert model.cost.of("params") == 25
    assert model.cost.of("bytes") == 24 * np.dtype(dtype).itemsize + 4


def test_bytes_of_packed_types() -> None:
    proto = models.build("(float[2,4] x) => (float[4,6] y) { y=DequantizeLinear(w,s) }", {}, opset=21)
    proto.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.INT4, [4, 6], [1] * 24))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((), np.float32), "s"))
    assert analyse(onnx_file.load(proto)).cost.of("bytes") == 12 + 4


def test_indices_and_shapes_are_bytes_but_no_params() -> None:
    model = grouped(
        "(float[2,6] x) => (float[2,3,4] y) { a=MatMul(x,w) y=Reshape(a,s) }",
        {"w": (6, 12), "s": np.array([2, 3, 4])},
    )
    assert model.cost.of("params") == 72
    assert model.cost.of("bytes") == 72 * 4 + 3 * 8


def without(model: Grouped, removed: Mapping[str, list[int]]) -> dict[str, float]:
    masks = Plan.of(model.groups, removed).masks(model.groups)
    return {name: model.cost.of(name, masks) for name in MEASURES}


def test_units_gone() -> None:
    left = without(mlp(units=6), {"w1:1": [0, 1]})
    assert left == {"params": 8 * 4 + 4 + 4 * 4, "flops": 2 * 2 * (8 * 4 + 4 * 4), "bytes": 4 * (32 + 4 + 16)}


def test_products_of_two_groups_gone() -> None:
    left = without(chain(4, 6, 5, 3), {"w0:1": [0], "w1:1": [1, 2]})
    assert left["params"] == 4 * 5 + 5 * 3 + 3 * 3


def test_heads_gone() -> None:
    model = attention(heads=3, head_dim=4)
    left = without(model, {"wq:1": [1]})
    assert left["params"] == 4 * 8 * 8
    # four projections, and scores and sums over 5 positions for each of the two heads that stay
    assert left["flops"] == 2 * (4 * 5 * 8 * 8 + 2 * 2 * 5 * 5 * 4)


def normalised(model: Grouped) -> Grouped:
    """The same without Constant nodes, whose content counts as stored."""
    analysis = analyse(load_normal(model.model))
    return Grouped(analysis.model, analysis.coupling, list(analysis.groups), analysis.cost, [])


MODELS: dict[str, Callable[[], Grouped]] = {
    "mlp": mlp,
    "residual": residual,
    "attention": attention,
    "batch_normed": batch_normed,
}


@pytest.mark.parametrize("name", MODELS)
def test_cost_of_the_rest_is_the_cost_of_the_smaller_model(name: str) -> None:
    """What the formula says of masks is what a fresh analysis of the sliced model says."""
    model = normalised(MODELS[name]())
    removed = {group.name: [0] for group in model.groups}
    expected = without(model, removed)
    analysis = analyse(load_normal(model.model))
    cut(analysis, Plan.of(analysis.groups, removed))
    smaller = analyse(analysis.model).cost
    assert {name: smaller.of(name) for name in MEASURES} == expected
    assert measure(analysis.coupling).of("params") == model.cost.of("params")


def test_terms_count_sizes_in_blocks() -> None:
    group = chain(3, 10, 3).groups[0]
    (leaf,) = group.leaves
    padded, even = Padded(4), IsMultiple(4)
    cost = Cost({"time": [Term(2.0, (leaf,), (padded,)), Term(5.0, (leaf,), (IsMultiple(4, wanted=False),))]})
    for gone in range(group.size):
        kept = group.size - gone
        masks = Plan.of([group], {group.name: range(gone)}).masks([group])
        assert cost.of("time", masks) == 2 * 4 * -(-kept // 4) + 5 * (kept % 4 > 0)
        assert even(kept) == (kept % 4 == 0)
    assert Cost({"time": [Term(2.0, (leaf,), (padded,))]}).of_index("time")[leaf] == pytest.approx(2.0, rel=0.5)
