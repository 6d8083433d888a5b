"""Where heads look, told by graphs of plain operators and by fused ones alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from spa.notation.operation import MICROSOFT
from spa.passes.heads.attentions import find_attentions
from spa.passes.heads.habits import Habits, repeated
from spa.passes.heads.probabilities import Probabilities
from spa.pipeline import analyse, load_normal
from tests.models import build, filled, integers

HEADS, SHARED, SIZE, WIDTH, TOKENS = 4, 2, 8, 12, 11
node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info


def weights(shared: int) -> dict[str, np.ndarray]:
    widths = {"q": HEADS * SIZE, "k": shared * SIZE, "v": shared * SIZE}
    arrays = {f"w{part}": 2 * filled(f"w{part}", [WIDTH, width]) for part, width in widths.items()}
    return arrays | {"wo": filled("wo", [HEADS * SIZE, WIDTH])}


def attending(kind: str, shared: int, domain: str = "", **attributes: Any) -> onnx.ModelProto:
    """Projections, one fused operator, and a projection of what it gives."""
    stored = weights(shared)
    nodes = [node("MatMul", ["x", f"w{part}"], [part]) for part in "qkv"]
    operands = ["q", "k", "v", *(["", "", "lengths", "total"] if kind == "GroupQueryAttention" else [])]
    caches = ["keys", "values"] if kind == "GroupQueryAttention" else []  # runtimes before 1.26 demand them
    nodes += [node(kind, operands, ["a", *caches], domain=domain, **attributes), node("MatMul", ["a", "wo"], ["y"])]
    number, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    inputs = [value("x", number, ["b", "s", WIDTH])]
    if kind == "GroupQueryAttention":
        inputs += [value("lengths", whole, ["b"]), value("total", whole, [])]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = onnx.helper.make_graph(nodes, "attending", inputs, [value("y", number, ["b", "s", WIDTH])], tensors)
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def plain(order: str = "heads first") -> onnx.ModelProto:
    """Reshapes, transposes, two products and a softmax; heads and samples may share an axis."""
    joined = order == "one axis"
    last = integers(-1, TOKENS, SIZE)
    lines = []
    for part in "qkv":
        lines.append(f"{part} = MatMul(x, w{part})  {part}s = Reshape({part}, heads)")
        lines.append(f"{part}h = Transpose<perm=[0,2,1,3]>({part}s)")
        lines.append(f"{part}j = Reshape({part}h, last)" if joined else f"{part}j = Identity({part}h)")
    swap = "[0,2,1]" if joined else "[0,1,3,2]"
    back = "m0 = Reshape(m, back)" if joined else "m0 = Identity(m)"
    text = f"""(float[b,{TOKENS},{WIDTH}] x) => (float[b,{TOKENS},{WIDTH}] y) {{ {"  ".join(lines)}
        kt = Transpose<perm={swap}>(kj)  s = MatMul(qj, kt)  t = Mul(s, scale)  p = Softmax<axis=-1>(t)
        m = MatMul(p, vj)  {back}  mt = Transpose<perm=[0,2,1,3]>(m0)  a = Reshape(mt, flat)  y = MatMul(a, wo) }}"""
    stored: dict[str, Any] = {
        **weights(HEADS), "heads": integers(0, -1, HEADS, SIZE), "flat": integers(0, -1, HEADS * SIZE),
        "scale": np.array(SIZE**-0.5, np.float32),
    }  # fmt: skip
    stored |= {"last": last, "back": integers(-1, HEADS, TOKENS, SIZE)} if joined else {}
    return build(text, stored, opset=21)


def expected(x: np.ndarray, shared: int, *, causal: bool) -> np.ndarray:
    """(heads, samples, queries, keys) by hand."""
    stored, count = weights(shared), len(x)
    q = (x @ stored["wq"]).reshape(count, TOKENS, HEADS, SIZE)
    k = np.repeat((x @ stored["wk"]).reshape(count, TOKENS, shared, SIZE), HEADS // shared, axis=2)
    scores = np.einsum("bshd,bthd->hbst", q, k) / SIZE**0.5
    if causal:
        scores = np.where(np.tril(np.ones((TOKENS, TOKENS), bool)), scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


MODELS: dict[str, tuple[Any, int, bool]] = {
    "plain": (plain, HEADS, False),
    "plain, one axis": (lambda: plain("one axis"), HEADS, False),
    "Attention": (lambda: attending("Attention", SHARED, q_num_heads=HEADS, kv_num_heads=SHARED), SHARED, False),
    "Attention, causal": (
        lambda: attending("Attention", HEADS, q_num_heads=HEADS, kv_num_heads=HEADS, is_causal=1), HEADS, True,
    ),
    "MultiHeadAttention": (
        lambda: attending("MultiHeadAttention", HEADS, MICROSOFT, num_heads=HEADS), HEADS, False,
    ),
    "GroupQueryAttention": (
        lambda: attending("GroupQueryAttention", SHARED, MICROSOFT, num_heads=HEADS, kv_num_heads=SHARED),
        SHARED, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_are_those_by_hand(name: str) -> None:
    """With more keys than a value is wide, so that a fused operator is asked several times."""
    made, shared, causal = MODELS[name]
    x = np.random.default_rng(0).standard_normal((3, TOKENS, WIDTH)).astype(np.float32)
    feeds: dict[str, np.ndarray] = {"x": x}
    if name == "GroupQueryAttention":
        feeds |= {"lengths": np.full(3, TOKENS - 1, np.int32), "total": np.array(TOKENS, np.int32)}
    analysis = analyse(load_normal(made()))
    attentions = find_attentions(analysis.coupling)
    assert [attention.count for attention in attentions] == [HEADS]
    probabilities = Probabilities(analysis.model, analysis.coupling, attentions)
    ((_, actual),) = probabilities.of(feeds)
    np.testing.assert_allclose(actual, expected(x, shared, causal=causal), rtol=1e-4, atol=1e-5)
    assert not probabilities.notes


@pytest.mark.parametrize("name", MODELS)
def test_every_head_is_a_unit_of_a_group(name: str) -> None:
    made, shared, _ = MODELS[name]
    analysis = analyse(load_normal(made()))
    (attention,) = find_attentions(analysis.coupling)
    units = {group.kind: attention.units(group) for group in analysis.groups if attention.units(group)}
    if shared == HEADS:
        assert units == {"heads": {head: [head] for head in range(HEADS)}}
    else:
        assert units["kv_heads"] == {0: [0, 1], 1: [2, 3]}
        assert units["heads"] == {0: [0, 2], 1: [1, 3]}


def test_a_softmax_over_classes_is_no_attention() -> None:
    model = build(
        "(float[N,6] x) => (float[N,4] y) { a = MatMul(x, w0)  s = Softmax(a)  y = MatMul(s, w1) }",
        {"w0": [6, 5], "w1": [5, 4]},
    )
    assert find_attentions(analyse(load_normal(model)).coupling) == []


# ----------------------------------------------------------------------------------------------------- habits
def looking(where: list[int]) -> np.ndarray:
    """(1, 1, tokens, tokens): each query at one key."""
    return np.eye(len(where))[where][None, None]


def test_habits_of_heads_that_look_at_one_place() -> None:
    first, previous = looking([0] * 6), looking([0, 0, 1, 2, 3, 4])
    habits = Habits()
    habits.add(np.concatenate([first, previous, np.full_like(first, 1 / 6)]))
    assert habits.mean("first") == pytest.approx([1.0, 1 / 5, 1 / 6])
    assert habits.mean("previous") == pytest.approx([1 / 5, 1.0, 1 / 6])
    assert habits.mean("entropy") == pytest.approx([0.0, 0.0, np.log(6)])
    assert habits.mean("retrieval") is None


def test_a_head_that_looks_up_what_followed_the_same_token() -> None:
    """In a b c a b c the second a looks at the first b."""
    habits = Habits()
    habits.add_repeated(np.concatenate([looking([0, 0, 0, 1, 2, 3]), looking([0, 0, 0, 0, 1, 2])]))
    assert habits.mean("retrieval") == pytest.approx([1.0, 0.0])


def test_sequences_say_everything_twice() -> None:
    ids = repeated(50, 32, 4)
    assert ids.shape == (4, 32)
    assert ids.max() < 50
    assert np.array_equal(ids[:, :16], ids[:, 16:])
    assert len(np.unique(ids[:, :16])) > 16


def test_stored_positions_are_no_heads() -> None:
    """A mask is stored, and tokens of a mixture lie where heads do: along the first axes of products."""
    model = plain()
    graph = model.graph
    graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in {"bar": filled("bar", [TOKENS, TOKENS]), "two": integers(2), "three": integers(3)}.items()
    )
    at = next(at for at, each in enumerate(graph.node) if each.op_type == "Softmax")
    graph.node[at].input[0] = "barred"
    graph.node.insert(at, node("Add", ["t", "bar"], ["barred"]))
    graph.node.extend(
        [
            node("Unsqueeze", ["x", "two"], ["left"]), node("Unsqueeze", ["x", "three"], ["right"]),
            node("MatMul", ["left", "right"], ["z"]),
        ]
    )  # fmt: skip
    graph.output.append(value("z", onnx.TensorProto.FLOAT, ["b", TOKENS, 1, 1]))
    (attention,) = find_attentions(analyse(load_normal(model)).coupling)
    assert [leaf.size for leaf in attention.heads] == [HEADS]
