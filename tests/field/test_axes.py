"""Axes put into another order, written at constant positions, or kept in lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spa.errors import NothingToPrune
from spa.pipeline import prune
from tests.field.cases import case, cut, groups, removed, run
from tests.models import build


# ------------------------------------------------------------------------------------------- axes in another order
def test_permuted_channels_are_one_group() -> None:
    """As many may go as without the Gather: all but a tenth, or all but one."""
    permuted, plain = case("permuted"), case("permuted")
    del plain.graph.node[2]
    plain.graph.node[2].input[0] = "r"
    result = cut(permuted, 0.87)
    assert groups(result) == ["K:0 channels 24"]
    assert removed(cut(plain, 0.87)) == removed(result) == {"K:0": 21}
    for model in (permuted, plain):
        assert removed(cut(model, 0.9, min_keep=0)) == {"K:0": 22}
        assert removed(cut(model, 0.95, min_keep=0)) == {"K:0": 23}


REORDERED = {
    "flipped": "c = Slice(r, start, end, axis, step)",
    "runs": "c = Gather<axis=1>(r, runs)",
    "in pieces of one": "c = Gather<axis=1>(r, ones)",
}


@pytest.mark.parametrize("name", REORDERED)
def test_reordered_features_are_one_group(name: str) -> None:
    """torch.flip, and tables of positions; min_keep and the last unit hold for the axis, not for its pieces."""
    text = (
        f"(float[N,5] x) => (float[N,4] y) {{ a = MatMul(x, w0)  r = Relu(a)  {REORDERED[name]}  y = MatMul(c, w1) }}"
    )
    ends = {"start": [-1], "end": [-(2**63)], "axis": [1], "step": [-1]}
    tables = {"runs": [8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3], "ones": [(5 * k + 3) % 12 for k in range(12)]}
    numbers = {key: np.array(content, np.int64) for key, content in (ends | tables).items()}
    model = build(text, {"w0": [5, 12], "w1": [12, 4], **numbers})
    result = cut(model, 0.9, min_keep=0)
    assert groups(result) == ["w0:1 ffn 12"]
    assert removed(result) == {"w0:1": 11}
    assert removed(cut(model, 0.25)) == {"w0:1": 3}


def test_an_axis_reordered_beside_another() -> None:
    """A permuted axis and one that is joined to it stay two groups; with a part cut off, the rest are its pieces."""
    text = """(float[N,5] x) => (float[N,4] y) {
        a = MatMul(x, w0)  b = MatMul(x, w1)  c = Gather<axis=1>(a, table)  d = Concat<axis=1>(c, b)  r = Relu(d)
        y = MatMul(r, w2) }"""
    model = build(text, {"w0": [5, 6], "w1": [5, 8], "w2": [14, 4], "table": np.array([3, 1, 5, 0, 4, 2])})
    assert groups(cut(model, 0.5)) == ["w0:1 ffn 6", "w1:1 ffn 8"]


# ---------------------------------------------------------------------------------------------- constant positions
def table(*lists: list[int]) -> np.ndarray:
    """The positions that are the product of lists, (lengths..., axes)."""
    return np.stack(np.meshgrid(*lists, indexing="ij"), -1).astype(np.int64)


IMAGES = """(float[2,3,4,4] x) => (float[2,5,4,4] y) {
    a = Conv(x, k0)  r = Relu(a)  BODY  c = Relu(z)  y = Conv(c, k1) }"""
FIRST = "p = Slice(r, s0, s5, s1)  q = Conv(p, k2)  "
KERNELS: dict[str, Any] = {
    "k0": [12, 3, 1, 1], "k1": [5, 12, 1, 1], "k2": [5, 5, 1, 1],
    **{f"s{number}": np.array([number]) for number in (0, 1, 3, 5)},
}  # fmt: skip
ASSIGNED: dict[str, tuple[str, np.ndarray, list[str]]] = {
    "the first channels": (
        FIRST + "z = ScatterND(r, i, q)", table([0, 1], list(range(5))),
        ["k0:0 channels 5", "k0:0#2 channels 7", "k2:0 channels 5"],
    ),
    "channels in the middle, counted from the end": (
        FIRST + "z = ScatterND(r, i, q)", table([0, 1], list(range(-7, -2))),
        ["k0:0 channels 5", "k0:0#2 channels 5", "k0:0#3 channels 2", "k2:0 channels 5"],
    ),
    "every second channel": (
        FIRST + "z = ScatterND(r, i, q)", table([0, 1], [1, 3, 5, 7, 9]),
        ["k0:0 channels 3", "k0:0#2 channels 2", "k0:0#3 channels 3", "k0:0#4 channels 4", "k2:0 channels 5"],
    ),
    "a corner of channels and rows": (
        FIRST + "h = Slice(q, s0, s3, s3)  w = Transpose<perm=[0,1,3,2]>(r)  "
        "e = Transpose<perm=[0,1,3,2]>(h)  v = ScatterND(w, i, e)  z = Transpose<perm=[0,1,3,2]>(v)",
        table([0, 1], list(range(5)), [0, 1, 2]), ["k0:0 channels 5", "k0:0#2 channels 7"],
    ),
    "by element": (
        FIRST + "z = ScatterElements<axis=1>(r, i, q)",
        np.broadcast_to(np.arange(7, 12)[:, None, None], (2, 5, 4, 4)).copy(),
        ["k0:0 channels 5", "k0:0#2 channels 2", "k0:0#3 channels 5", "k2:0 channels 5"],
    ),
    "picked by a table": (
        "g = GatherND(r, i)  o = Slice(r, s0, s5, s1)  n = Conv(o, k2)  z = Concat<axis=1>(g, n)",
        table([0, 1], list(range(5, 12))), ["k0:0 channels 5", "k0:0#2 channels 7", "k2:0 channels 5"],
    ),
}  # fmt: skip


def test_a_slice_that_is_assigned() -> None:
    assert cut(case("slice_assignment"), 0.6).report.difference == 0.0


@pytest.mark.parametrize("name", ASSIGNED)
def test_assignments_at_constant_positions(name: str) -> None:
    body, positions, expected = ASSIGNED[name]
    model = build(IMAGES.replace("BODY", body), {**KERNELS, "i": positions}, opset=17, ir_version=8)
    result = cut(model, 0.3)
    if name != "a corner of channels and rows":
        assert groups(result) == expected
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    np.testing.assert_array_equal(run(result.dense, feed), run(model, feed))


def test_positions_that_are_no_product_or_add_up_stay() -> None:
    """A diagonal, and a sum over what was there: the scatter stays, and holds the axes it writes."""
    diagonal = np.array([[[0, k], [1, k + 1]] for k in range(5)])
    for body, positions in (
        ("q = Conv(x, k3)  u = Transpose<perm=[1,0,2,3]>(q)  z = ScatterND(r, i, u)", diagonal),
        ('q = Conv(x, k3)  z = ScatterND<reduction="add">(r, i, q)', table([0, 1], list(range(5)))),
    ):
        model = build(IMAGES.replace("BODY", body), {**KERNELS, "k3": [5, 3, 1, 1], "i": positions}, opset=18)
        with pytest.raises(NothingToPrune, match="written by index"):
            prune(model, ratio=0.3, weights=True)


# ------------------------------------------------------------------------------------------------ lists of tensors
LISTS = {
    "split in chunks": (
        "s = SplitToSequence<axis=1>(a, six)  p = SequenceAt(s, zero)  q = SequenceAt(s, one)  m = Mul(p, q)"
    ),
    "split in lengths": (
        "s = SplitToSequence<axis=-1>(a, lengths)  p = SequenceAt(s, zero)  q = SequenceAt(s, last)  r = Relu(p)  "
        "o = Concat<axis=1>(r, q)  m = Sigmoid(o)"
    ),
    "joined": "r = Relu(a)  b = MatMul(x, w2)  s = SequenceConstruct(r, b)  m = ConcatFromSequence<axis=1>(s)",
    "stacked": (
        "b = MatMul(x, w2)  s = SequenceConstruct(a, b)  t = ConcatFromSequence<axis=1, new_axis=1>(s)  "
        "m = ReduceSum<keepdims=0>(t, axes)"
    ),
    "filled": (
        "b = MatMul(x, w2)  e = SequenceEmpty()  s = SequenceInsert(e, a)  t = SequenceInsert(s, b, zero)  "
        "u = SequenceInsert(t, b)  v = SequenceErase(u, zero)  n = SequenceLength(v)  p = SequenceAt(v, last)  "
        "q = SequenceAt(v, zero)  f = Cast<to=1>(n)  o = Add(p, q)  m = Div(o, f)"
    ),
    "unstacked": (
        "g = Reshape(a, heads)  s = SplitToSequence<axis=1, keepdims=0>(g)  p = SequenceAt(s, zero)  "
        "q = SequenceAt(s, one)  m = Mul(p, q)"
    ),
}
WIDTHS = {"split in chunks": 6, "split in lengths": 12, "joined": 24, "stacked": 12, "filled": 12, "unstacked": 6}


def test_a_sequence_of_constant_parts() -> None:
    assert groups(cut(case("sequence"), 0.6)) == ["W:1 ffn 16"]


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_tensors(name: str, opset: int) -> None:
    """The lists go: the dense model computes the same without them, and what they held is cut."""
    if opset < 13 and name == "stacked":
        pytest.skip("ReduceSum takes its axes as an attribute there")
    text = f"(float[N,5] x) => (float[N,4] y) {{ a = MatMul(x, w0)  {LISTS[name]}  y = MatMul(m, w1) }}"
    numbers = {"zero": 0, "one": 1, "last": -1, "six": 6, "lengths": [4, 3, 5], "axes": [1], "heads": [-1, 2, 6]}
    constants = {key: np.array(number) for key, number in numbers.items()}
    weights = {"w0": [5, 12], "w2": [5, 12], "w1": [WIDTHS[name] - 3 * (name == "split in lengths"), 4]}
    model = build(text, {**weights, **constants}, opset=opset, ir_version=8)
    result = cut(model, 0.3)
    assert not any("Sequence" in node.op_type for node in result.dense.graph)
    feed = {"x": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)}
    np.testing.assert_allclose(run(result.dense, feed), run(model, feed), rtol=1e-6)


def test_a_list_that_something_else_reads_stays() -> None:
    text = """(float[N,5] x, int64 k) => (float[N,4] y) {
        a = MatMul(x, w0)  s = SplitToSequence<axis=1>(a, six)  p = SequenceAt(s, k)  q = SequenceAt(s, one)
        m = Mul(p, q)  y = MatMul(m, w1) }"""
    model = build(text, {"w0": [5, 12], "w1": [6, 4], "six": np.array(6), "one": np.array(1)})
    with pytest.raises(NothingToPrune, match="holds a list of tensors"):
        prune(model, ratio=0.3, weights=True)
