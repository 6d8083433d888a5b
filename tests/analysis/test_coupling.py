"""What the axes of a whole graph are made of, as text, and why those that stay do."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest

from spa.analysis.couple import couple
from spa.analysis.group import find_frozen, find_groups
from spa.notation import operation
from spa.notation.dims import ONE, leaves
from spa.notation.rule import Rule, rule
from spa.pipeline import Analysis, analyse, load_normal
from spa.shapes import infer_shapes
from tests import models
from tests.models import Weight, build, integers


def analysed(model: onnx.ModelProto) -> Analysis:
    return analyse(load_normal(model))


def explained(analysis: Analysis, name: str) -> list[str]:
    """The axes of a tensor in words."""
    coupling = analysis.coupling
    value = next(value for value in coupling.axes if value.name == name)
    return [coupling.explain(value, axis) for axis in range(len(coupling.axes[value]))]


def dims(analysis: Analysis, name: str) -> str:
    """The axes of a tensor; `!` marks those of which nothing may go."""
    coupling = analysis.coupling
    value = next(value for value in coupling.axes if value.name == name)
    marks = []
    for axis, dim in enumerate(coupling.axes[value]):
        free = any(leaf is not ONE and leaf not in coupling.frozen for leaf in leaves(dim))
        marks.append(coupling.explain(value, axis).split(":")[0] + ("" if free or dim.size == 1 else "!"))
    return " ".join(marks) or "()"


# (model, tensor, its axes)
EXPECTED = [
    (models.residual_cnn, "c0", "8 3! 3! 3!"),
    (models.residual_cnn, "c1", "6 8 3! 3!"),
    (models.residual_cnn, "v", "6"),
    (models.residual_cnn, "w", "5! 8"),
    (models.residual_cnn, "f", "7! 8"),
    (models.grouped_cnn, "c0", "(4 2) 3! 1 1"),
    (models.grouped_cnn, "c1", "(4 3) 2 3! 3!"),
    (models.grouped_cnn, "c2", "(4 3) 1 3! 3!"),
    (models.grouped_cnn, "c4", "(2 3) 4 2! 2!"),
    (models.grouped_cnn, "c5", "2! (2 4) 1 1"),
    (models.dense_block, "abc", "11! (4 + 3 + 5) 6! 6!"),
    (models.dense_block, "g", "(4 + 3)"),
    (models.channel_shuffle, "c0", "(2 (2 + 2)) 3! 1 1"),
    (models.channel_shuffle, "d", "7! ((2 + 2) 2) 5! 5!"),
    (models.channel_shuffle, "c1", "4 (2 2) 3! 3!"),
    (models.padded, "d", "5! (1 + 4 + 2) 4! 4!"),
    (models.sliced, "c0", "(3 + 2 + 1 + 2) 3! 1 1"),
    (models.sliced, "d", "5! (2 + 2) 4! 4!"),
    (models.quantized, "q0", "6 3! 3! 3!"),
    (models.quantized, "s0", "6"),
    (models.gated_mlp, "w0", "6! (8 + 8)"),
    (models.attention, "wq", "8! (4 3)"),
    (models.attention, "p", "5! 4 13! 13!"),
    (models.packed_attention, "w", "8! ((4 3) + (4 3) + (4 3))"),
    (models.shared_keys, "wq", "8! (2 3 4)"),
    (models.shared_keys, "wk", "8! (2 4)"),
    (models.shared_keys, "k4", "7! 2 3 13! 4"),
    (models.rotary_halves, "wq", "8! (2 (3 + 3))"),
    (models.rotary_halves, "cos", "5! (3 + 3)"),
    (models.folded_heads, "q", "(5 4) 13! 3"),
    (models.computed_targets, "q1", "5! 13! 4 3"),
    (models.recurrent, "r", "2! (4 4) 4"),
    (models.recurrent, "c", "7! 13! (2 4)"),
    (models.tied_embedding, "table", "9! 6"),
    (models.shared_biases, "zeros.2", "6"),
    (models.shared_biases, "zeros.3", "6!"),
    (models.layer_normed, "n", "5! 13! 8"),
    (models.branches, "inner", "6 8"),
    (models.branches, "b", "7! 8"),
    (models.rounds, "inner", "6 4"),
    (models.rounds, "b", "7! 6"),
    (models.collected_rounds, "all", "4! 7! 6"),
    (models.scanned, "all", "7! 3! 6"),
]


@pytest.mark.parametrize(("model", "name", "text"), EXPECTED, ids=[f"{m.__name__}-{n}" for m, n, _ in EXPECTED])
def test_dims(model: Callable[[], onnx.ModelProto], name: str, text: str) -> None:
    assert dims(analysed(model()), name) == text


# (model, tensor, axis, why it stays)
REASONS = [
    (models.residual_cnn, "c0", 1, "3: stays, graph input ('x')"),
    (models.residual_cnn, "c1", 2, "3: stays, positions of a sliding window (Conv 'Conv_1')"),
    (models.residual_cnn, "e", 0, "5: stays, graph output ('y')"),
    (models.tied_embedding, "table", 0, "9: stays, looked up by index (Gather 'Gather_0')"),
    (models.recurrent, "w", 0, "2: stays, directions (LSTM 'LSTM_0')"),
    (models.attention, "sh", 0, "4: stays, read as a whole (Reshape 'Reshape_3')"),
    (models.unknown_operator, "c1", 0, "5: stays, no rule for operator com.example::Mystery (Mystery 'Mystery_3')"),
    (models.unknown_operator, "c3", 1, "6: stays, the shape of operand 0 is unknown (Conv 'Conv_6')"),
]


@pytest.mark.parametrize(("model", "name", "axis", "text"), REASONS, ids=[f"{m.__name__}-{n}" for m, n, *_ in REASONS])
def test_reasons(model: Callable[[], onnx.ModelProto], name: str, axis: int, text: str) -> None:
    assert explained(analysed(model()), name)[axis] == text


def test_width_of_a_norm_is_a_statistic() -> None:
    analysis = analysed(models.layer_normed())
    (value,) = (value for value in analysis.coupling.axes if value.name == "w0")
    (leaf,) = leaves(analysis.coupling.axes[value][1])
    assert str(analysis.coupling.statistic[leaf]).startswith("enters a mean and a variance (LayerNormalization")
    assert analysis.coupling.kinds[leaf] == {"width", "ffn"}


# ---------------------------------------------------------------------------------------------------- fences
def test_unknown_operator_is_fenced_off() -> None:
    """What lies before it is free, and what lies behind it too once its shape is declared."""
    model = models.unknown_operator()
    assert [group.name for group in analysed(model).groups] == ["c0:0"]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, ["N", 5, 4, 4]))
    analysis = analysed(model)
    assert [group.name for group in analysis.groups] == ["c0:0", "c2:0"]
    assert dims(analysis, "c2") == "6 5! 1 1"
    assert explained(analysis, "d")[1].endswith("no rule for operator com.example::Mystery (Mystery 'Mystery_3')")


def test_target_that_the_caller_gives() -> None:
    """A Reshape whose target is an input: nothing is known of what it makes, and no more than that."""
    analysis = analysed(
        build(
            """(float[2,6] x, int64[2] s) => (float[a,b] y) {
            a = MatMul(x, w0)  b = Relu(a)  c = MatMul(b, w1)  y = Reshape(c, s) }""",
            {"w0": [6, 8], "w1": [8, 6]},
        )
    )
    assert dims(analysis, "w0") == "6! 8"
    assert dims(analysis, "w1") == "8 6!"


def test_refused_node_freezes_what_it_touches() -> None:
    """Channels summed up along the way by an axis that is known only when the graph runs."""
    analysis = analysed(
        build(
            """(float[2,6] x, int64[1] axis) => (float[2,3] y) {
            a = MatMul(x, w0)  b = CumSum(a, axis)  c = Relu(b)  d = MatMul(c, w1)  e = Relu(d)  y = MatMul(e, w2) }""",
            {"w0": [6, 8], "w1": [8, 5], "w2": [5, 3]},
        )
    )
    assert explained(analysis, "w0")[1] == "8: stays, the axis to sum along is computed at run time (CumSum 'CumSum_1')"
    assert dims(analysis, "w1") == "8! 5"


def test_what_stands_beside_an_open_number_of_positions_stays() -> None:
    """Learned tokens before a symbolic sequence: sizes computed from the joined axis could not be corrected."""
    text = """(float[N,T,6] x) => (float[N,4] y) {
        s = Shape(x)  i = Constant<value_int=0>()  n0 = Gather(s, i)  n = Unsqueeze(n0, ax)  t = Concat<axis=0>(n, k, w)
        e = Expand(tokens, t)  z = Concat<axis=1>(e, x)  a = MatMul(z, w0)  r = Relu(a)
        u = ReduceMax<keepdims=0>(r, one)  y = MatMul(u, w1) }"""
    weights: dict[str, Weight] = {
        "tokens": [1, 3, 6], "ax": integers(0), "k": integers(3), "w": integers(6), "w0": [6, 8], "one": integers(1),
        "w1": [8, 4],
    }  # fmt: skip
    analysis = analysed(build(text, weights))
    assert explained(analysis, "tokens")[1] == "3: stays, joined with positions whose number is not stored ('z')"
    assert [group.name for group in analysis.groups] == ["w0:1"]
    fixed = analysed(build(text.replace("T,6", "5,6"), weights))
    assert dims(fixed, "tokens") == "1 3! 6!"


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 9), (4, 9), (10, 20)])
def test_listed_initializers_are_weights(ir_version: int, opset: int) -> None:
    model = build(
        """(float[2,6] x, float[6,8] w0, float[8,3] w1) => (float[2,3] y) {
        a = MatMul(x, w0)  r = Relu(a)  y = MatMul(r, w1) }""",
        {"w0": [6, 8], "w1": [8, 3]},
        opset=opset,
        ir_version=ir_version,
    )
    assert dims(analysed(model), "w0") == "6! 8"


def test_symbolic_axes_are_bound_to_different_numbers() -> None:
    analysis = analysed(models.attention())
    assert set(analysis.shapes.binding) == {"N", "T"}
    assert len(set(analysis.shapes.binding.values())) == 2


def test_axes_of_length_one_are_no_units() -> None:
    analysis = analysed(models.grouped_cnn())
    value = next(value for value in analysis.coupling.axes if value.name == "c3")
    assert all(dim.root is ONE for dim in analysis.coupling.axes[value][2:])
    assert ONE not in analysis.coupling.frozen


# ---------------------------------------------------------------------------------------------------- frozen
def test_frozen_lists_axes_with_reasons_largest_first() -> None:
    analysis = analysed(models.unknown_operator())
    entries = [(entry.name, entry.size, entry.params) for entry in find_frozen(analysis.coupling)]
    assert entries == sorted(entries, key=lambda entry: -entry[2])
    assert ("'c1':0", 5, 40) in entries
    assert not any(name.startswith("'c0':0") for name, *_ in entries)


def test_coupling_leaves_the_model_as_it_is() -> None:
    model = load_normal(models.shared_keys())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    find_groups(couple(model, infer_shapes(model)))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_results_behind_one_of_which_a_rule_says_nothing_are_coupled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "_registry", dict(operation._registry))

    @operation.operator("Two", domain="com.example")
    def two(_: operation.Operation) -> Rule:
        return rule("n c -> _, n c")

    text = "(float[3,4] x) => (float[3,2] y) { a = MatMul(x, w)  s, b = com.example.Two(a)  y = MatMul(b, v) }"
    proto = onnx.shape_inference.infer_shapes(build(text, {"w": [4, 6], "v": [6, 2]}))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [3, 6]))
    assert [(group.name, group.size) for group in analysed(proto).groups] == [("w:1", 6)]
