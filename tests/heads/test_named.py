"""Attention told by operators that hold their values among other things: in a projection, packed, behind a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import spa
from spa.errors import SpaError
from spa.notation.operation import MICROSOFT, entry_of
from spa.passes.heads.attentions import find_attentions
from spa.passes.heads.named import Form, Sizes
from spa.passes.heads.probabilities import Probabilities
from spa.pipeline import analyse, load_normal
from tests.models import filled

HEADS, SIZE, WIDTH, TOKENS, PAST, SAMPLES = 3, 4, 10, 9, 5, 2
INNER = HEADS * SIZE
Arrays = dict[str, np.ndarray]


def model(operator: str, operands: str, fed: Arrays, stored: Arrays, **attributes: Any) -> onnx.ModelProto:
    """One fused operator, and a projection of what it gives."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    names = ["" if name == "_" else name for name in operands.split()]
    width = int(attributes.get("qkv_hidden_sizes", [INNER])[-1])
    results = ["a", "state"] if "past" in names else ["a"]
    if operator == "GroupQueryAttention" or "past.v" in names:
        results = ["a", "present.k", "present.v"]
    nodes = [node(operator, names, results, domain=MICROSOFT, name="attention", **attributes)]
    nodes.append(node("MatMul", ["a", "wo"], ["y"]))
    kind = onnx.helper.np_dtype_to_tensor_dtype
    inputs = [value(name, kind(array.dtype), array.shape) for name, array in fed.items() if name in names]
    arrays = {**{name: array for name, array in stored.items() if name in names}, "wo": filled("wo", [width, 6])}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    outputs = [value("y", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "attending", inputs, outputs, tensors)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def shares(q: np.ndarray, k: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """(heads, samples, queries, keys) of queries and keys (samples, tokens, heads, size), by hand."""
    scores = np.einsum("bshd,bthd->hbst", q, k).astype(np.float64) / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def split(array: np.ndarray, heads: int = HEADS) -> np.ndarray:
    return array.reshape(*array.shape[:2], heads, -1)


def told(made: onnx.ModelProto, fed: Arrays) -> np.ndarray:
    analysis = analyse(load_normal(made))
    attentions = find_attentions(analysis.coupling)
    assert [attention.count for attention in attentions] == [HEADS]
    probabilities = Probabilities(analysis.model, analysis.coupling, attentions)
    names = {value.name for value in made.graph.input}
    arrays = [array for _, array in probabilities.of({name: array for name, array in fed.items() if name in names})]
    assert not probabilities.notes
    return arrays[0]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = random(SAMPLES, TOKENS, WIDTH)
LATER = np.tril(np.ones((TOKENS, TOKENS), bool))
W, B = 1.5 * filled("w", [WIDTH, 3 * INNER]), filled("b", [3 * INNER])
PASTS = random(2, SAMPLES, HEADS, PAST, SIZE, seed=3)


def projected(w: np.ndarray = W, b: np.ndarray | None = B) -> tuple[np.ndarray, np.ndarray]:
    made = X @ w if b is None else X @ w + b
    return split(made[..., :INNER]), split(made[..., INNER : 2 * INNER])


def behind(keys: np.ndarray) -> np.ndarray:
    """Keys of this call behind those of earlier ones."""
    return np.concatenate([PASTS[0].transpose(0, 2, 1, 3), keys], axis=1)


# ------------------------------------------------------------------------------------- a projection inside
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("causal", [0, 1])
def test_a_projection_inside(bias: bool, causal: int) -> None:
    b = B if bias else np.zeros_like(B)
    made = model("Attention", "x w b", {"x": X}, {"w": W, "b": b}, num_heads=HEADS, unidirectional=causal)
    expected = shares(*projected(b=b), LATER if causal else None)
    np.testing.assert_allclose(told(made, {"x": X}), expected, rtol=1e-4, atol=1e-6)


def test_a_projection_with_a_mask_of_keys() -> None:
    mask = np.ones((SAMPLES, TOKENS), np.int32)
    mask[1, 6:] = 0
    made = model("Attention", "x w b mask", {"x": X, "mask": mask}, {"w": W, "b": B}, num_heads=HEADS)
    expected = shares(*projected(), mask[None, :, None, :] > 0)
    np.testing.assert_allclose(told(made, {"x": X, "mask": mask}), expected, rtol=1e-4, atol=1e-6)


def test_a_projection_whose_values_have_another_size() -> None:
    w, b = 1.5 * filled("w", [WIDTH, 2 * INNER + 6]), filled("b", [2 * INNER + 6])
    sizes = [INNER, INNER, 6]
    made = model("Attention", "x w b", {"x": X}, {"w": w, "b": b}, num_heads=HEADS, qkv_hidden_sizes=sizes)
    np.testing.assert_allclose(told(made, {"x": X}), shares(*projected(w, b)), rtol=1e-4, atol=1e-6)


def test_a_projection_with_keys_of_earlier_calls() -> None:
    fed = {"x": X, "past": PASTS}
    made = model("Attention", "x w b _ past", fed, {"w": W, "b": B}, num_heads=HEADS, unidirectional=1)
    q, k = projected()
    allowed = np.concatenate([np.ones((TOKENS, PAST), bool), LATER], axis=1)
    np.testing.assert_allclose(told(made, fed), shares(q, behind(k), allowed), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("columns", [1, 3 * INNER])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_projection_of_integers(columns: int, kind: Any) -> None:
    """Of which some stand for nought, and others, as large as integers get, too."""
    numbers = np.random.default_rng(1)
    x = numbers.integers(0, 256, (SAMPLES, TOKENS, WIDTH)).astype(np.uint8)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    w = numbers.integers(low, high + 1, (WIDTH, 3 * INNER)).astype(kind)
    zero = np.array(255, np.uint8), np.full(columns, high if columns == 1 else low + 9, kind)
    scale = np.array(0.01, np.float32), (0.004 + 0.001 * np.arange(columns) / columns).astype(np.float32)
    stored = {"w": w, "b": B, "sx": scale[0], "sw": scale[1], "zx": zero[0], "zw": zero[1]}
    made = model("QAttention", "x w b sx sw _ zx zw", {"x": x}, stored, num_heads=HEADS)
    whole = (x.astype(int) - zero[0]) * scale[0] @ ((w.astype(int) - zero[1]) * scale[1]) + B
    expected = shares(split(whole[..., :INNER]), split(whole[..., INNER : 2 * INNER]))
    np.testing.assert_allclose(told(made, {"x": x}), expected, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------- values among others
QKV = {part: random(SAMPLES, TOKENS, INNER, seed=seed) for seed, part in enumerate("qkv", 4)}
LENGTHS = {"lengths": np.full(SAMPLES, TOKENS - 1, np.int32), "total": np.array(TOKENS, np.int32)}


@pytest.mark.parametrize("past", [False, True])
def test_a_bias_of_queries_keys_and_values_and_earlier_calls(past: bool) -> None:
    fed = {**QKV, "past.k": PASTS[0], "past.v": PASTS[1]}
    operands = f"q k v b {'_ _ past.k past.v' if past else ''}"
    made = model("MultiHeadAttention", operands, fed, {"b": B}, num_heads=HEADS)
    q, k = split(QKV["q"] + B[:INNER]), split(QKV["k"] + B[INNER : 2 * INNER])
    expected = shares(q, behind(k) if past else k)
    np.testing.assert_allclose(told(made, fed), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shared", [1, HEADS])
def test_grouped_queries_packed_with_keys_and_values(shared: int) -> None:
    size = 16  # a multiple of eight, as the kernel wants
    fed = {"qkv": random(SAMPLES, TOKENS, (HEADS + 2 * shared) * size, seed=7), **LENGTHS}
    operands = "qkv _ _ _ _ lengths total"
    made = model("GroupQueryAttention", operands, fed, {}, num_heads=HEADS, kv_num_heads=shared)
    made.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(filled("wo", [HEADS * size, 6]), "wo"))
    q, k = split(fed["qkv"][..., : HEADS * size]), fed["qkv"][..., HEADS * size : (HEADS + shared) * size]
    expected = shares(q, np.repeat(split(k, shared), HEADS // shared, axis=2), LATER)
    np.testing.assert_allclose(told(made, fed), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3])
def test_packed_operands_of_other_processors(parts: int) -> None:
    """No kernel here takes them: every other part stays, and the last names the keys."""
    packed = random(SAMPLES, TOKENS, HEADS, parts, SIZE)
    operands = [packed] if parts == 3 else [random(SAMPLES, 4, INNER), packed]
    node = onnx.helper.make_node("MultiHeadAttention", [], ["a"], domain=MICROSOFT)
    values = entry_of(node).values
    assert values is not None
    form = Form.of(values, operands, Sizes(HEADS, None, SIZE))
    named = form.naming(SIZE)[-1]
    assert named is not None
    np.testing.assert_array_equal(named[:, :, :, :-1], packed[:, :, :, :-1])
    expected = np.eye(TOKENS)[:, SIZE : 2 * SIZE]
    np.testing.assert_array_equal(
        named[:, :, :, -1], np.broadcast_to(expected[None, :, None], named[:, :, :, -1].shape)
    )
    assert form.tokens == TOKENS


@pytest.mark.parametrize("shapes", [[(2, 3, 8), (2, 3, 8), (2, 8)], [(2, 3, 25)], [None]], ids=str)
def test_values_of_another_form_are_refused(shapes: list[tuple[int, ...] | None]) -> None:
    operands = [None if shape is None else random(*shape) for shape in shapes]
    node = onnx.helper.make_node("GroupQueryAttention", [], ["a"], domain=MICROSOFT)
    values = entry_of(node).values
    assert values is not None
    with pytest.raises(ValueError, match="values of another form"):
        Form.of(values, operands, Sizes(2, None, 4))


# --------------------------------------------------------------------------------------------------- commands
def language_model(quantised: bool) -> onnx.ModelProto:
    """A table of tokens, one attention with its projection inside, added to what it read, and scores of tokens."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    plain: Arrays = {
        "wo": filled("wo", [INNER, WIDTH]),
        "table": 2 * filled("table", [40, WIDTH]),
        "head": filled("h", [WIDTH, 40]),
    }
    stored: Arrays = {"w": W, "b": B}
    operands = ["x", "w", "b"]
    nodes = [node("Gather", ["table", "input_ids"], ["x"])]
    if quantised:
        numbers = np.random.default_rng(2).integers(-90, 90, W.shape).astype(np.int8)
        stored = {"w": numbers, "sw": np.array(0.02, np.float32), "zw": np.array(3, np.int8), "b": B}
        nodes.append(node("DynamicQuantizeLinear", ["x"], ["xq", "sx", "zx"]))
        operands = ["xq", "w", "b", "sx", "sw", "", "zx", "zw"]
    kind = "QAttention" if quantised else "Attention"
    nodes.append(node(kind, operands, ["a"], domain=MICROSOFT, name="attention", num_heads=HEADS, unidirectional=1))
    nodes += [
        node("MatMul", ["a", "wo"], ["o"]),
        node("Add", ["x", "o"], ["z"]),
        node("MatMul", ["z", "head"], ["logits"]),
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (stored | plain).items()]
    ids = [value("input_ids", onnx.TensorProto.INT64, ["n", "t"])]
    scores = [value("logits", onnx.TensorProto.FLOAT, ["n", "t", 40])]
    graph = onnx.helper.make_graph(nodes, "model", ids, scores, tensors)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("count", range(1, HEADS + 1))
def test_heads_with_their_projection_are_listed_and_protected(quantised: bool, count: int) -> None:
    """Those with the highest scores stay, however many they are."""
    made = language_model(quantised)
    rows = spa.heads(made).rows
    assert [row.head for row in rows] == list(range(HEADS))
    scores = [row.retrieval or 0.0 for row in rows]
    assert len(set(scores)) == HEADS
    assert min(scores) > 0
    (name,) = {row.group for row in rows}
    assert name is not None
    ranked = sorted(range(HEADS), key=lambda head: -scores[head])
    kept, lower = set(ranked[:count]), [*(scores[head] for head in ranked[count:]), 0.0][0]
    least = (scores[ranked[count - 1]] + lower) / 2
    options: dict[str, Any] = {"of": "channels", "align": 1, "only": [name], "weights": True}
    options["protect"] = f"retrieval:{least}"
    if count == HEADS:
        with pytest.raises(SpaError, match="protect=retrieval"):
            spa.prune(made, ratio=1 / HEADS, **options)
        return
    result = spa.prune(made, ratio=1 - count / HEADS, **options)
    assert set(result.plan.removed[name]) == set(range(HEADS)) - kept
    assert result.report.verified
