"""Decoders that keep the keys and values of earlier tokens, as exporters write them: with other names of axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEADS, SIZE, WIDTH, TABLE, POSITIONS = 2, 16, 12, 30, 200
INNER = HEADS * SIZE


def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


class Stored(list[onnx.TensorProto]):
    """Initializers with seeded numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, (self.rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32))

    def constant(self, name: str, array: object) -> str:
        self.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    stored: list[onnx.TensorProto],
    *,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 21), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def embedded(stored: Stored, *, position_ids: bool) -> list[onnx.NodeProto]:
    """Tokens, and their positions if they are given, to hidden."""
    node = helper.make_node
    nodes = [node("Gather", [stored.weight("table", TABLE, WIDTH), "input_ids"], ["words"])]
    if not position_ids:
        return [*nodes, node("Identity", ["words"], ["hidden"])]
    return [
        *nodes,
        node("Gather", [stored.weight("places", POSITIONS, WIDTH), "position_ids"], ["where"]),
        node("Add", ["words", "where"], ["hidden"]),
    ]


def feed_forward(stored: Stored) -> list[onnx.NodeProto]:
    """What attention gives, through a pair of layers, to logits."""
    node = helper.make_node
    return [
        node("MatMul", ["attended", stored.weight("out", INNER, WIDTH)], ["o"]),
        node("Add", ["hidden", "o"], ["residual"]),
        node("MatMul", ["residual", stored.weight("up", WIDTH, 24)], ["u"]),
        node("Relu", ["u"], ["r"]),
        node("MatMul", ["r", stored.weight("down", 24, WIDTH)], ["d"]),
        node("Add", ["residual", "d"], ["z"]),
        node("MatMul", ["z", stored.weight("head", WIDTH, TABLE)], ["logits"]),
    ]


def plain(
    *, sequence: str, past: str, mask: str, total: str, batch: str = "batch_size", position_ids: bool = True
) -> onnx.ModelProto:
    """Attention of single operators; the mask is added to scores, so that its length has to be that of all keys.

    Args:
        sequence, past, mask, total: what the axes of new tokens, of earlier ones, of the mask and of all are called.
    """
    node = helper.make_node
    stored = Stored()
    split, joined = stored.constant("split", [0, 0, HEADS, SIZE]), stored.constant("joined", [0, 0, INNER])
    nodes = embedded(stored, position_ids=position_ids)
    for name in "qkv":
        nodes += [
            node("MatMul", ["hidden", stored.weight(f"w{name}", WIDTH, INNER)], [f"{name}0"]),
            node("Reshape", [f"{name}0", split], [f"{name}1"]),
            node("Transpose", [f"{name}1"], [f"{name}2"], perm=[0, 2, 1, 3]),
        ]
    keys, values = "past_key_values.0.key", "past_key_values.0.value"
    nodes += [
        node("Concat", [keys, "k2"], ["present.0.key"], axis=2),
        node("Concat", [values, "v2"], ["present.0.value"], axis=2),
        node("Transpose", ["present.0.key"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q2", "kt"], ["scores"]),
        node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        node("Sub", [stored.constant("one", np.float32(1)), "seen"], ["unseen"]),
        node("Mul", ["unseen", stored.constant("low", np.float32(-1e9))], ["hide"]),
        node("Unsqueeze", ["hide", stored.constant("at", [1, 2])], ["hiding"]),
        node("Add", ["scores", "hiding"], ["masked"]),
        node("Softmax", ["masked"], ["p"], axis=-1),
        node("MatMul", ["p", "present.0.value"], ["a0"]),
        node("Transpose", ["a0"], ["a1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["a1", joined], ["attended"]),
        *feed_forward(stored),
    ]
    cache = [value(name, [batch, HEADS, past, SIZE]) for name in (keys, values)]
    ids = [value("position_ids", [batch, sequence], TensorProto.INT64)] if position_ids else []
    inputs = [
        value("input_ids", [batch, sequence], TensorProto.INT64),
        value("attention_mask", [batch, mask], TensorProto.INT64),
        *ids,
        *cache,
    ]
    present = [value(name, [batch, HEADS, total, SIZE]) for name in ("present.0.key", "present.0.value")]
    return model(nodes, inputs, [value("logits", [batch, sequence, TABLE]), *present], stored)


def grouped(*, given: bool, names: tuple[str, str] = ("seqlens_k", "total_sequence_length")) -> onnx.ModelProto:
    """GroupQueryAttention with rotary positions: lengths are counted from the mask, or given as inputs of their own."""
    node = helper.make_node
    stored = Stored()
    kv = INNER // 2
    nodes = embedded(stored, position_ids=False)
    nodes += [
        node("MatMul", ["hidden", stored.weight(f"w{name}", WIDTH, size)], [name])
        for name, size in (("q", INNER), ("k", kv), ("v", kv))
    ]
    lengths, total = names if given else ("lengths", "all")
    if not given:
        nodes += [
            node("ReduceSum", ["attention_mask", stored.constant("along", [1])], ["counted"], keepdims=0),
            node("Sub", ["counted", stored.constant("one", np.int64(1))], ["last"]),
            node("Cast", ["last"], [lengths], to=TensorProto.INT32),
            node("Shape", ["attention_mask"], ["shape"]),
            node("Gather", ["shape", stored.constant("second", np.int64(1))], ["length"]),
            node("Cast", ["length"], [total], to=TensorProto.INT32),
        ]
    tables = [stored.weight(name, POSITIONS, SIZE // 2) for name in ("cos", "sin")]
    keys, values = "past_key_values.0.key", "past_key_values.0.value"
    nodes += [
        node(
            "GroupQueryAttention", ["q", "k", "v", keys, values, lengths, total, *tables],
            ["attended", "present.0.key", "present.0.value"],
            domain="com.microsoft", num_heads=HEADS, kv_num_heads=1, do_rotary=1,
        ),
        *feed_forward(stored),
    ]  # fmt: skip
    batch, sequence, past = "batch_size", "sequence_length", "past_sequence_length"
    inputs = [value("input_ids", [batch, sequence], TensorProto.INT64)]
    if given:
        inputs += [value(lengths, [batch], TensorProto.INT32), value(total, [], TensorProto.INT32)]
    else:
        inputs += [value("attention_mask", [batch, "total_sequence_length"], TensorProto.INT64)]
    inputs += [value(name, [batch, 1, past, SIZE]) for name in (keys, values)]
    present = [value(name, [batch, 1, "total", SIZE]) for name in ("present.0.key", "present.0.value")]
    outputs = [value("logits", [batch, sequence, TABLE]), *present]
    return model(nodes, inputs, outputs, stored, domains=("com.microsoft",))
