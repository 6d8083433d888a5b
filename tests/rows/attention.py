"""Rows of attention and rotary embeddings as single operators."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.soundness import Row, given, random, row

QUERY, KEY, VALUE = (2, 4, 3, 6), (2, 4, 5, 6), (2, 4, 5, 7)
FLAT = [(2, 3, 24), (2, 5, 12), (2, 5, 14)]
STEPS = [(2, 3, 24), (2, 3, 12), (2, 3, 14)]
PAST = [(2, 2, 4, 6), (2, 2, 4, 7)]
HEADS: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2}

ROWS: list[Row] = [
    row(
        "Attention",
        [QUERY, KEY, VALUE],
        "b h s k, b h t k, b h t v -> b h s v | statistic t: enters a softmax | h is heads | k is head_dim | v is head_dim | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
    ),
    row(
        "Attention",
        [QUERY, KEY, VALUE],
        "b h s k, b h t k, b h t v -> b h s v | statistic t: enters a softmax | frozen k: its size sets the scale of the scores (give the operator an explicit scale to free it) | h is heads | k is head_dim | v is head_dim | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=23,
    ),
    row(
        "Attention",
        [QUERY, KEY, VALUE, (3, 5)],
        "b h s k, b h t k, b h t v, s t -> b h s v | statistic t: enters a softmax | h is heads | k is head_dim | v is head_dim | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
        softcap=2.0,
    ),
    row(
        "Attention",
        [QUERY, KEY, VALUE, random(2, 1, 3, 5, dtype=bool)],
        "b h s k, b h t k, b h t v, b 1 s t -> b h s v | statistic t: enters a softmax | h is heads | k is head_dim | v is head_dim | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
    ),
    row(
        "Attention",
        [QUERY, KEY, VALUE, (4, 3, 5)],
        "b h s k, b h t k, b h t v, h s t -> b h s v | frozen s t: positions of a causal mask or window | h is heads | k is head_dim | v is head_dim | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
        is_causal=1,
    ),
    row(
        "Attention",
        [QUERY, (2, 2, 5, 6), (2, 2, 5, 7)],
        "b (h r) s k, b h t k, b h t v -> b (h r) s v | r=2 | statistic t: enters a softmax | h is kv_heads | r is heads | k is head_dim | v is head_dim | macs b h r s t k | macs b h r s t v | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
    ),
    row(
        "Attention",
        FLAT,
        "b s (h r k), b t (h k), b t (h v) -> b s (h r v) | h=2 | r=2 | statistic t: enters a softmax | h is kv_heads | r is heads | k is head_dim | v is head_dim | attribute q_num_heads=(h r) | attribute kv_num_heads=h | macs b h r s t k | macs b h r s t v | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
        **HEADS,
    ),
    row(
        "Attention",
        [(2, 3, 24), (2, 5, 24), (2, 5, 28)],
        "b s (h k), b t (h k), b t (h v) -> b s (h v) | h=4 | statistic t: enters a softmax | frozen k: its size sets the scale of the scores (give the operator an explicit scale to free it) | h is heads | k is head_dim | v is head_dim | attribute q_num_heads=h | attribute kv_num_heads=h | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=23,
        q_num_heads=4,
        kv_num_heads=4,
    ),
    row(
        "Attention",
        [*FLAT, (3, 9), *PAST],
        "b s (h r k), b t (h k), b t (h v), s (p + t), b h p k, b h p v -> b s (h r v), b h (p + t) k, b h (p + t) v | h=2 | r=2 | statistic p t: enters a softmax | h is kv_heads | r is heads | k is head_dim | v is head_dim | attribute q_num_heads=(h r) | attribute kv_num_heads=h | macs b h r s p k | macs b h r s p v | macs b h r s t k | macs b h r s t v | operand 0 sums over k along axis 2 | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
        **HEADS,
    ),
    row(
        "Attention",
        [*FLAT, None, *PAST],
        "b s (h r k), b t (h k), b t (h v), _, b h p k, b h p v -> b s (h r v), b h (p + t) k, b h (p + t) v, b (h r) s (p + t) | h=2 | r=2 | statistic p t: enters a softmax | h is kv_heads | r is heads | k is head_dim | v is head_dim | attribute q_num_heads=(h r) | attribute kv_num_heads=h | macs b h r s p k | macs b h r s p v | macs b h r s t k | macs b h r s t v | operand 0 sums over k along axis 2 | linear 2 | meets 0 1",
        opset=23,
        scale=0.5,
        qk_matmul_output_mode=1,
        **HEADS,
    ),
    row(
        "Attention",
        [QUERY, KEY, VALUE, None, None, None, given([5, 4])],
        "b h s k, b h t k, b h t v, _, _, _, b -> b h s v | frozen s t: positions of a causal mask or window | h is heads | k is head_dim | v is head_dim | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=24,
        scale=0.5,
    ),
    row(
        "Attention",
        [QUERY, KEY, VALUE, (3, 4)],
        "b h s k, b h t k, b h t v, s m -> b h s v | statistic t: enters a softmax | frozen t m: a mask shorter than the keys | h is heads | k is head_dim | v is head_dim | macs b h s t k | macs b h s t v | linear 2 | meets 0 1",
        opset=24,
        engine="reference",
        scale=0.5,
    ),
    row(
        "Attention",
        [QUERY, (2, 3, 5, 6), (2, 3, 5, 7)],
        "refused: 4 query heads do not share 3 heads of keys and values",
        opset=23,
        engine="",
        shapes=[(2, 4, 3, 7)],
    ),
    row(
        "LinearAttention",
        STEPS,
        "b t (h r k), b t (h k), b t (h v) -> b t (h r v), b h k v | h=2 | r=2 | frozen t: steps of a recurrence | h is kv_heads | r is heads | k is head_dim | v is head_dim | attribute q_num_heads=(h r) | attribute kv_num_heads=h | macs b t h k v | macs b t h r k v | operand 0 sums over k along axis 2 | operand 1 sums over k along axis 2",
        opset=27,
        engine="reference",
        scale=0.5,
        update_rule="linear",
        **HEADS,
    ),
    row(
        "LinearAttention",
        [*STEPS, (2, 2, 6, 7), (2, 3, 12), (2, 3, 2)],
        "b t (h r k), b t (h k), b t (h v), b h k v, b t (h k), b t h -> b t (h r v), b h k v | h=2 | r=2 | frozen t: steps of a recurrence | h is kv_heads | r is heads | k is head_dim | v is head_dim | attribute q_num_heads=(h r) | attribute kv_num_heads=h | macs b t h k v | macs b t h r k v | operand 0 sums over k along axis 2 | operand 1 sums over k along axis 2",
        opset=27,
        engine="reference",
        scale=0.5,
        **HEADS,
    ),
    row(
        "LinearAttention",
        [*STEPS, None, (2, 3, 2), (2, 3, 1)],
        "b t (h r k), b t (h k), b t (h v), _, b t h, b t 1 -> b t (h r v), b h k v | h=2 | r=2 | frozen t: steps of a recurrence | frozen k: its size sets the scale of the scores (give the operator an explicit scale to free it) | h is kv_heads | r is heads | k is head_dim | v is head_dim | attribute q_num_heads=(h r) | attribute kv_num_heads=h | macs b t h k v | macs b t h r k v | operand 0 sums over k along axis 2 | operand 1 sums over k along axis 2",
        opset=27,
        engine="reference",
        **HEADS,
    ),
    row(
        "RotaryEmbedding",
        [(2, 4, 3, 8), (10, 4), (10, 4), given([[0, 1, 2], [3, 4, 5]])],
        "b h s (p r), m r, m r, b s -> b h s (p r) | p=2 | r=4 | frozen p: turned by one angle | frozen m: looked up by index | h is heads | r is head_dim",
        opset=23,
    ),
    row(
        "RotaryEmbedding",
        [(2, 3, 32), (2, 3, 4), (2, 3, 4)],
        "b s (h r p), b s r, b s r -> b s (h r p) | p=2 | r=4 | h=4 | frozen p: turned by one angle | h is heads | r is head_dim | attribute num_heads=h",
        opset=23,
        num_heads=4,
        interleaved=1,
    ),
    row(
        "RotaryEmbedding",
        [(2, 3, 32), (10, 2), (10, 2), given([[0, 1, 2], [3, 4, 5]])],
        "b s (h ((p r) + e)), m r, m r, b s -> b s (h ((p r) + e)) | p=2 | r=2 | h=4 | frozen p: turned by one angle | frozen m: looked up by index | h is heads | r is head_dim | e is head_dim | attribute num_heads=h | attribute rotary_embedding_dim=(p r)",
        opset=23,
        num_heads=4,
        rotary_embedding_dim=4,
    ),
    row(
        "RotaryEmbedding",
        [(2, 4, 3, 8), (2, 3, 2), (2, 3, 2)],
        "b h s ((r p) + e), b s r, b s r -> b h s ((r p) + e) | p=2 | r=2 | frozen p: turned by one angle | h is heads | r is head_dim | e is head_dim | attribute rotary_embedding_dim=(r p)",
        opset=23,
        rotary_embedding_dim=4,
        interleaved=1,
    ),
]
