"""Units and groups: names, kinds, roles, positions, nesting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from spa.analysis.group import Group, find_groups, keep_mask, leaf_positions
from spa.notation.dims import Factor, product, total
from spa.pipeline import Analysis, analyse, load_normal
from tests import models
from tests.models import build


def analysed(model: onnx.ModelProto) -> Analysis:
    return analyse(load_normal(model))


def row(group: Group) -> str:
    """A group in a line: name, units, kind, the groups around it, and whether it is off."""
    inside = f" in {', '.join(sorted(group.outer))}" if group.outer else ""
    return f"{group.name} {group.size} {group.kind}{inside}{' off' if group.off else ''}"


EXPECTED: list[tuple[Callable[[], onnx.ModelProto], list[str]]] = [
    (models.residual_cnn, ["c0:0 8 channels", "c1:0 6 channels", "c2:branch 1 depth off"]),
    (
        models.grouped_cnn,
        [
            "c0:0 4 conv_groups",
            "c0:0#2 2 channels in c0:0",
            "c1:0 3 channels in c0:0",
            "c3:0 2 conv_groups",
            "c3:0#2 3 channels in c3:0",
            "c4:1 4 channels in c3:0",
        ],
    ),
    (models.dense_block, ["c0:0 4 channels", "c1:0 3 channels", "c2:0 5 channels"]),
    (models.channel_shuffle, ["c0:0 2 channels in c0:0#2", "c0:0#2 4 channels in c0:0", "c1:0 4 channels"]),
    (models.resized, ["c0:0 6 channels"]),
    (models.padded, ["c0:0 4 channels", "c1:0 3 channels"]),
    (models.sliced, ["c0:0 3 channels", "c0:0#2 4 channels", "c0:0#3 1 channels"]),
    (models.quantized, ["q0:0 6 channels"]),
    (models.gated_mlp, ["w0:1 8 ffn"]),
    (models.attention, ["wq:1 4 heads", "wq:1#2 3 head_dim in wq:1", "wv:1 3 head_dim in wq:1"]),
    (models.packed_attention, ["w:1 4 heads", "w:1#2 3 head_dim in w:1", "w:1#3 3 head_dim in w:1"]),
    (
        models.shared_keys,
        [
            "wq:1 2 heads",
            "wq:1#2 3 heads in wq:1",
            "wq:1#3 4 head_dim in wq:1, wq:1#2",
            "wv:1 4 head_dim in wq:1, wq:1#2",
        ],
    ),
    (models.rotary_halves, ["wq:1 2 heads", "wq:1#2 3 head_dim in wq:1", "wv:1 6 head_dim in wq:1"]),
    (models.folded_heads, ["wq:1 4 heads", "wq:1#2 3 head_dim in wq:1", "wv:1 3 head_dim in wq:1"]),
    (models.recurrent, ["w:1 4 hidden"]),
    (models.tied_embedding, ["table:1 6 ffn", "w0:1 10 ffn", "w1:branch 1 depth off"]),
    (models.shared_biases, ["w0:1 6 ffn", "w1:1 6 ffn"]),
    (models.layer_normed, ["w0:1 8 width off", "w1:1 12 ffn", "w2:branch 1 depth off"]),
    (models.branches, ["w0:1 6 ffn", "w1:1 8 ffn"]),
    (models.rounds, ["w0:1 6 ffn", "inner:1 4 ffn"]),
    (models.collected_rounds, ["w0:1 6 ffn"]),
    (models.scanned, ["w0:1 6 ffn"]),
    (models.unknown_operator, ["c0:0 8 channels"]),
]


@pytest.mark.parametrize(("model", "rows"), EXPECTED, ids=[model.__name__ for model, _ in EXPECTED])
def test_groups(model: Callable[[], onnx.ModelProto], rows: list[str]) -> None:
    assert [row(group) for group in analysed(model()).groups] == rows


def slices(group: Group) -> dict[str, str]:
    """Where a group lies: (tensor and axis) -> role and the unit of each position, `.` for none."""
    by_slice = {}
    for piece in group.slices:
        role = "consumer" if piece.consumer else "producer"
        assert piece.producer is not piece.consumer
        units = "".join("." if unit < 0 else format(unit, "x") for unit in piece.unit_of)
        key = f"{piece.value.name}:{piece.axis}"
        by_slice[key if key not in by_slice else f"{key}'"] = f"{role} {units}"
    return by_slice


def test_roles_along_a_residual_connection() -> None:
    stem, inner, _ = analysed(models.residual_cnn()).groups
    assert slices(stem) == {
        "c0:0": "producer 01234567",
        "d0:0": "producer 01234567",
        "c1:1": "consumer 01234567",
        "c2:0": "producer 01234567",
        "d2:0": "producer 01234567",
        "w:1": "consumer 01234567",
    }
    assert slices(inner) == {
        "c1:0": "producer 012345",
        "g:0": "producer 012345",
        "h:0": "producer 012345",
        "m:0": "producer 012345",
        "v:0": "producer 012345",
        "c2:1": "consumer 012345",
    }


def test_positions_of_heads_and_of_what_lies_inside() -> None:
    heads, inside, _ = analysed(models.packed_attention()).groups
    units = {piece.axis: piece.unit_of for piece in heads.slices if piece.value.name == "w"}
    assert units[1].tolist() == np.tile(np.repeat(np.arange(4), 3), 3).tolist()
    arrays = [piece.unit_of for piece in inside.slices if piece.value.name == "w"]
    expected = np.tile(np.arange(3), 8).tolist() + [-1] * 12
    assert [array.tolist() for array in arrays] == [expected]


def test_positions_that_a_shuffle_deals_out() -> None:
    twos, fours, _ = analysed(models.channel_shuffle()).groups
    assert slices(twos)["c0:0"] == "producer 00001111"
    assert slices(fours)["c0:0"] == "producer 01230123"
    assert slices(twos)["c2:1"] == "consumer ....0101"
    assert slices(fours)["c2:1"] == "consumer ....2233"
    assert slices(fours)["c1:1"] == "consumer 0011"


def test_positions_of_packed_gates() -> None:
    (hidden,) = analysed(models.gated_mlp()).groups
    assert slices(hidden) == {"w0:1": "producer 0123456701234567", "w1:0": "consumer 01234567"}


def test_recurrent_weights_make_and_read_the_hidden_state() -> None:
    (hidden,) = analysed(models.recurrent()).groups
    roles = slices(hidden)
    assert roles["w:1"] == "producer 0123012301230123"
    assert roles["r:1"] == "producer 0123012301230123"
    assert roles["r:2"] == "consumer 0123"
    assert roles["wo:0"] == "consumer 01230123"


def test_tables_of_positions_have_no_role_but_take_part() -> None:
    _, picked, unused = analysed(models.sliced()).groups
    assert slices(picked)["i:0"] == "producer 2301"
    assert slices(picked)["c0:0"] == "producer ...01.23"
    assert slices(unused) == {"c0:0": "producer .....0.."}


def test_uses_name_the_operators_that_read_a_constant() -> None:
    _, inner, _ = analysed(models.residual_cnn()).groups
    uses = {p.value.name: tuple((node.op_type, at) for node, at in p.uses) for p in inner.slices}
    assert uses["g"] == (("BatchNormalization", 1),)
    assert uses["c2"] == (("Conv", 1),)


def test_offsets_count_through_all_leaves() -> None:
    for model in models.RUNNABLE:
        for group in analysed(model()).groups:
            starts = [group.offsets[leaf] for leaf in group.leaves]
            sizes = [leaf.size for leaf in group.leaves]
            assert starts == np.cumsum([0, *sizes[:-1]]).tolist()
            assert group.size == sum(sizes)
            for piece in group.slices:
                assert piece.unit_of.min() >= -1
                assert piece.unit_of.max() < group.size


def test_of_matrices_and_kernels_the_first_names_a_group() -> None:
    text = """(float[N,T,4] z, float[N,3,T] x) => (float[N,2,T] y) { m = MatMul(z, w)  t = Transpose<perm=[0,2,1]>(m)
        a = Conv(x, c)  s = Add(t, a)  r = Relu(s)  y = Conv(r, d) }"""
    groups = analysed(build(text, {"w": [4, 8], "c": [8, 3, 1], "d": [2, 8, 1]})).groups
    assert [group.name for group in groups] == ["w:1"]


def test_a_unit_stays_unless_a_rule_needs_more() -> None:
    assert {group.least for group in analysed(models.grouped_cnn()).groups} == {1}


def test_names_are_unique_and_the_same_in_every_run() -> None:
    for model in models.RUNNABLE:
        analysis = analysed(model())
        names = [group.name for group in analysis.groups]
        assert len(set(names)) == len(names)
        assert names == [group.name for group in analysed(model()).groups]
        assert names == [group.name for group in find_groups(analysis.coupling)]


def test_names_of_other_groups_do_not_move_with_a_cut() -> None:
    """What a plan calls a group must not depend on what an earlier plan removed."""
    model = models.grouped_cnn()
    before = {group.name: group.size for group in analysed(model).groups}
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    assert before == {group.name: group.size for group in analysed(smaller).groups}


def test_single_units_that_fill_an_axis_stay() -> None:
    """One head of a group of one: without it the axis would be empty."""
    analysis = analysed(
        build(
            "(float[N,4] x) => (float[N,2] y) { a = MatMul(x, w0)  r = Relu(a)  b = MatMul(r, w1)  y = Relu(b) }",
            {"w0": [4, 1], "w1": [1, 2]},
        )
    )
    assert analysis.groups == []


def test_an_axis_of_which_nothing_is_stored_is_no_group() -> None:
    """Five copies of a number, summed: they may go, and no tensor would be smaller; what comes after them is found."""
    text = """(float[N,4] x) => (float[N,2] y) {
        m = ReduceSum<keepdims=1>(x, k)  e = Expand(m, t)  s = ReduceSum<keepdims=1>(e, k)
        a = MatMul(x, w)  b = Add(a, s)  r = Relu(b)  y = MatMul(r, v) }"""
    weights: dict[str, models.Weight] = {
        "t": models.integers(1, 5), "k": models.integers(1), "w": [4, 6], "v": [6, 2],
    }  # fmt: skip
    assert [row(group) for group in analysed(build(text, weights)).groups] == ["w:1 6 ffn"]


def test_only_axes_all_of_whose_positions_may_go_are_thin() -> None:
    """Zeros beside the channels stay, so that no axis of the padded network can become empty."""
    first, second = analysed(models.padded()).groups
    assert first.thin == second.thin == ()
    assert not first.loose, "one piece is no pieces"
    assert {leaf.size for leaf in second.loose} == {1, 2}
    assert all(group.thin for group in analysed(models.picked_shuffle()).groups)
    axes = [unit_of.tolist() for group in analysed(models.sliced()).groups for _, unit_of in group.thin]
    assert axes == [[2, 3, 0, 1], [2, 3, 0, 1], [0, 1, -1, 2, 3], [-1, -1, 0, -1, -1]]


# ------------------------------------------------------------------------------------------------- positions
def test_keep_mask_of_products_and_sums() -> None:
    heads, inside, rest = Factor(2), Factor(3), Factor(2)
    dim = total(product(heads, inside), rest)
    masks = {heads: np.array([True, False]), inside: np.array([False, True, True])}
    mask = keep_mask(dim, masks)
    assert mask is not None
    assert mask.tolist() == [False, True, True, False, False, False, True, True]
    assert keep_mask(dim, {}) is None
    assert keep_mask(rest, masks) is None


def test_leaf_positions_give_each_occurrence() -> None:
    head, inside = Factor(2), Factor(2)
    dim = total(product(head, inside), product(head, Factor(1)))
    occurrences = [(leaf is head, index.tolist()) for leaf, index in leaf_positions(dim, {head: 0, inside: 0})]
    assert occurrences == [(True, [0, 0, 1, 1, -1, -1]), (False, [0, 1, 0, 1, -1, -1]), (True, [-1, -1, -1, -1, 0, 1])]
