"""Rows of the fused operators of onnxruntime's own domain.

One file: a table of rows, read row by row.
"""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np

from tests.soundness import Given, Row, Tensor, constant, given, random, row, weight

GPU = "onnxruntime has it for GPUs only"
IMAGE = (2, 4, 5, 5)
IDS = given([[1, 2], [0, 3]], np.int32)
REGIONS = [[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [-0.5, 0.1, 0.6, 1.5]]  # the last one reaches beyond the image
EXPERTS = [weight(5, 6, 4), weight(5, 6), weight(5, 4, 6), weight(5, 4)]


def ours(name: str, operands: list[Given], rule: str, **options: object) -> Row:
    return row(f"com.microsoft::{name}", operands, rule, **options)  # type: ignore[arg-type]


def packed(*shape: int) -> Tensor:
    return weight(*shape, dtype=np.uint8)


def scale(*shape: int) -> Tensor:
    return constant(np.full(shape, 0.02), np.float32)


ROWS: list[Row] = [
    *(ours(name, [(2, 3)], "*a -> *a") for name in ("Gelu", "QuickGelu")),
    ours("FastGelu", [(2, 3, 4)], "a b c -> a b c"),
    ours("FastGelu", [(2, 3, 4), weight(4)], "a b c, c -> a b c"),
    ours("BiasGelu", [(2, 3, 4), weight(4)], "a b c, c -> a b c"),
    ours("BiasAdd", [(2, 3, 4), weight(4), (2, 3, 4)], "a b c, c, a b c -> a b c", shapes=[(2, 3, 4)], why=GPU),
    ours("GatedAdd", [(2, 4), (2, 4), (2, 1)], "a b, a b, a 1 -> a b", shapes=[(2, 4)], why=GPU),
    ours("ScaledSiLU", [(2, 3), constant(2, np.float32)], "*a, _ -> *a", shapes=[(2, 3)], why=GPU),
    ours(
        "BiasSplitGelu",
        [(2, 3, 8), weight(8)],
        "n s (p d), (p d) -> n s d | p=2 | frozen p: a gate and what it gates | d is ffn",
        why=GPU,
        shapes=[(2, 3, 4)],
    ),
    ours(
        "BiasDropout",
        [(2, 3, 4), weight(4), (2, 3, 4)],
        "a b c, c, a b c -> a b c",
        shapes=[(2, 3, 4)],
        why="onnxruntime has it for training only",
    ),
    ours(
        "BiasSoftmax",
        [(2, 3, 4, 5), (2, 1, 1, 5)],
        "a b c d, a 1 1 d -> a b c d | statistic d: enters a softmax",
        why=GPU,
        shapes=[(2, 3, 4, 5)],
        axis=3,
        is_inner_broadcast=1,
    ),
    ours("ExpandDims", [(2, 3), constant(1, np.int32)], "a b, _ -> a 1 b"),
    ours(
        "GridSample",
        [(2, 3, 6, 6), random(2, 4, 5, 2)],
        "n c *s, n *t f -> n c *t | frozen s f: positions of an image that is resampled",
    ),
    *(
        ours(
            "CropAndResize",
            [IMAGE, given(REGIONS, np.float32), given([0, 1, 0], np.int32), constant([3, 2], np.int32)],
            "n c *s, r f, r, _ -> r c *t | frozen n s f t: positions that regions of interest are cut from | linear 0",
            mode=mode,
        )
        for mode in ("bilinear", "nearest")
    ),
    ours(
        "CropAndResize",
        [IMAGE, given(REGIONS, np.float32), given([0, 1, 0], np.int32), constant([3, 2], np.int32)],
        "n c *s, r f, r, _ -> r c *t | frozen n s f t: positions that regions of interest are cut from",
        extrapolation_value=0.5,
    ),
    # norms
    ours(
        "SkipLayerNormalization",
        [(2, 3, 4), (2, 3, 4), weight(4), weight(4), weight(4)],
        "a b w, a b w, w, w, w -> a b w | statistic w: enters a mean and a variance | w is width",
    ),
    ours(
        "SkipLayerNormalization",
        [(2, 3, 4), (3, 4), weight(4), weight(4)],
        "a b w, b w, w, w -> a b w, a b 1, a b 1, a b w | statistic w: enters a mean and a variance | w is width",
    ),
    ours(
        "SkipLayerNormalization",
        [(2, 3, 4), (1, 3, 4), weight(4)],
        "a b w, 1 b w, w -> a b w | statistic w: enters a mean and a variance | w is width",
    ),
    ours(
        "SkipSimplifiedLayerNormalization",
        [(2, 3, 4), (2, 3, 4), weight(4)],
        "a b w, a b w, w -> a b w | statistic w: enters a root mean square | w is width",
    ),
    ours(
        "SimplifiedLayerNormalization",
        [(2, 3, 4), weight(4)],
        "*a w, w -> *a w, *a 1 | statistic w: enters a root mean square | w is width",
        why="onnxruntime has it in onnx's own domain",
        shapes=[(2, 3, 4), (2, 3, 1)],
    ),
    ours(
        "EmbedLayerNormalization",
        [IDS, IDS, weight(5, 4), weight(6, 4), weight(4, 4), weight(4), weight(4), IDS],
        "b s, b s, v w, p w, g w, w, w, b s -> b s w, b | statistic w: enters a mean and a variance | frozen v p g s: looked up by index | w is width",
    ),
    ours(
        "EmbedLayerNormalization",
        [IDS, None, weight(5, 4), weight(6, 4), None, weight(4), weight(4)],
        "b s, _, v w, p w, _, w, w -> b s w, b, b s w | statistic w: enters a mean and a variance | frozen v p s: looked up by index | w is width",
    ),
    ours(
        "EmbedLayerNormalization",
        [IDS, None, weight(5, 4), weight(6, 4), None, weight(4), weight(4), None, given([[1, 0]], np.int32)],
        "b s, _, v w, p w, _, w, w, _, 1 s -> b s w, b | statistic w: enters a mean and a variance | frozen v p s: looked up by index | w is width",
    ),
    ours(
        "GroupNorm",
        [(2, 3, 3, 8), weight(8), weight(8)],
        "n *s (g c), (g c), (g c) -> n *s (g c) | g=2 | statistic s c: enters a mean and a variance | attribute groups=g",
        why=GPU,
        shapes=[(2, 3, 3, 8)],
        groups=2,
        activation=0,
    ),
    ours(
        "SkipGroupNorm",
        [(2, 8, 3, 3), weight(8), weight(8), (2, 8)],
        "n (g c) *s, (g c), (g c), n (g c) -> n (g c) *s, n (g c) *s | g=2 | statistic s c: enters a mean and a variance | attribute groups=g",
        why=GPU,
        shapes=[(2, 8, 3, 3)] * 2,
        groups=2,
        activation=0,
        channels_last=0,
    ),
    # convolutions
    ours(
        "FusedConv",
        [IMAGE, weight(6, 4, 3, 3), weight(6), (2, 6, 3, 3)],
        "n i *s, o i *k, o, n o *t -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 3 3, inside",
        activation="Relu",
    ),
    ours(
        "FusedConv",
        [IMAGE, weight(6, 2, 3, 3)],
        "n (g i) *s, (g o) i *k -> n (g o) *t | g=2 | frozen s k t: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | product 0 x 1 + 2, kernel 3 3, inside",
        activation="Relu",
        group=2,
    ),
    ours(
        "NhwcConv",
        [(2, 5, 6, 4), weight(6, 3, 2, 4), weight(6)],
        "n *s i, o *k i, o -> n *t o | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 3 2, strides 1 2, pads 1 0 1 2, channels last",
        engine="reference",
        kernel_shape=[3, 2],
        strides=[1, 2],
        pads=[1, 0, 1, 2],
    ),
    ours(
        "NhwcConv",
        [(2, 5, 5, 4), weight(6, 3, 3, 2)],
        "n *s (g i), (g o) *k i -> n *t (g o) | g=2 | frozen s k t: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | product 0 x 1 + 2, kernel 3 3, channels last",
        engine="reference",
        kernel_shape=[3, 3],
        group=2,
    ),
    ours(
        "NhwcConv",
        [(2, 5, 5, 4), weight(4, 3, 3, 1), weight(4)],
        "n *s (g i), (g o) *k i, (g o) -> n *t (g o) | g=4 | frozen s k t: positions of a sliding window | g is channels | attribute group=g | product 0 x 1 + 2, kernel 3 3, channels last",
        engine="reference",
        kernel_shape=[3, 3],
        group=4,
    ),
    ours(
        "NhwcFusedConv",
        [(2, 5, 5, 4), weight(6, 4, 1, 1), weight(6)],
        "n *s i, o i *k, o -> n *s o | frozen k: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 1 1, channels last",
        engine="reference",
    ),
    ours(
        "NhwcFusedConv",
        [(2, 5, 5, 4), weight(6, 4, 3, 3), weight(6), (2, 3, 3, 6)],
        "n *s i, o i *k, o, n *t o -> n *t o | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 3 3, channels last, inside",
        engine="reference",
        activation="Relu",
    ),
    ours(
        "ConvTransposeWithDynamicPads",
        [IMAGE, weight(4, 6, 3, 3), constant([0, 0, 0, 0]), weight(6)],
        "n i *s, i o *k, _, o -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | macs n i s o k",
    ),
    ours(
        "NhwcMaxPool",
        [random(2, 5, 5, 4, dtype=np.uint8)],
        "n *s c -> n *t c | frozen s t: positions of a sliding window",
        kernel_shape=[2, 2],
    ),
    ours(
        "CausalConvWithState",
        [(2, 4, 5), weight(4, 1, 3)],
        "n c *t, c 1 *k -> n c *t, n c *p | frozen t k p: positions of a sliding window | c is channels | product 0 x 1 + 2, kernel 3, pads 2 0",
    ),
    ours(
        "CausalConvWithState",
        [(2, 4, 5), weight(4, 1, 3), weight(4), (2, 4, 2)],
        "n c *t, c 1 *k, c, n c *p -> n c *t, n c *p | frozen t k p: positions of a sliding window | c is channels",
    ),
    ours(
        "CausalConvWithState",
        [(2, 5, 4), weight(4, 1, 3)],
        "refused: a causal convolution with several states, or in another layout",
        engine="",
        shapes=[(2, 5, 4)],
        channels_last=1,
    ),
    # matrices
    ours(
        "FusedMatMul",
        [(2, 4, 3), weight(2, 5, 4)],
        "a k m, a n k -> a m n | k is ffn | n is ffn | a is experts | product 0 x 1 by 0.5",
        transA=1,
        transB=1,
        alpha=0.5,
    ),
    ours(
        "FusedMatMul",
        [(3, 2, 4), (2, 4, 5)],
        "m a k, a k n -> a m n | k is head_dim | n is head_dim | a is heads | product 0 x 1",
        transBatchA=1,
    ),
    ours(
        "FusedMatMul",
        [(4, 3), (5, 4)],
        "k m, n k -> m n | k is head_dim | n is head_dim | product 0 x 1",
        transA=1,
        transB=1,
    ),
    ours(
        "FusedMatMulActivation",
        [(3, 4), weight(4, 5)],
        "m k, k n -> m n | k is ffn | n is ffn | product 0 x 1, inside",
        engine="reference",
        activation="Relu",
    ),
    ours("TransposeMatMul", [(3, 4), weight(5, 4)], "m k, n k -> m n | k is ffn | n is ffn | product 0 x 1", transB=1),
    ours(
        "FusedGemm",
        [(3, 4), weight(5, 4), weight(5)],
        "m k, n k, n -> m n | k is ffn | n is ffn | product 0 x 1 + 2, inside",
        transB=1,
        activation="Relu",
    ),
    ours(
        "FusedGemm",
        [(3, 4), weight(4, 5)],
        "m k, k n -> m n | k is ffn | n is ffn | product 0 x 1 + 2, inside",
        activation="Relu",
    ),
    ours(
        "GemmFloat8",
        [(3, 4), weight(5, 4)],
        "m k, n k -> m n | k is ffn | n is ffn",
        why=GPU,
        shapes=[(3, 5)],
        transB=1,
    ),
    ours(
        "GemmFastGelu",
        [(2, 3, 4), weight(4, 5), weight(5)],
        "a m k, k n, n -> a m n | k is ffn | n is ffn | product 0 x 1 + 2, inside",
        engine="reference",
    ),
    ours(
        "MatMulNBits",
        [(2, 3, 64), packed(6, 4, 8), weight(6, 4)],
        "*a (q e), n q p, n q -> *a n | n=6 | e=16 | frozen e p: packed bits | q is ffn | n is ffn | attribute K=(q e) | attribute N=n | macs a q e n | operand 0 sums over axis 2",
        K=64,
        N=6,
        bits=4,
        block_size=16,
    ),
    ours(
        "MatMulNBits",
        [(3, 64), packed(6, 4, 8), weight(24), packed(12)],
        "*a (q e), n q p, (n q), (n z) -> *a n | n=6 | e=16 | frozen e p q z: packed bits | q is ffn | n is ffn | attribute K=(q e) | attribute N=n | macs a q e n | operand 0 sums over axis 1",
        K=64,
        N=6,
        bits=4,
        block_size=16,
    ),
    ours(
        "MatMulNBits",
        [(3, 60), packed(6, 4, 8), weight(6, 4), packed(6, 2)],
        "*a k, n q p, n q, n z -> *a n | n=6 | frozen k p q z: packed bits | q is ffn | n is ffn | attribute N=n | macs a k n | operand 0 sums over axis 1",
        K=60,
        N=6,
        bits=4,
        block_size=16,
    ),
    ours(
        "MatMulNBits",
        [(3, 64), packed(6, 4, 16), weight(6, 4), packed(6, 4)],
        "*a (q e), n q p, n q, n q -> *a n | n=6 | e=16 | frozen e p: packed bits | q is ffn | n is ffn | attribute K=(q e) | attribute N=n | macs a q e n | operand 0 sums over axis 1",
        K=64,
        N=6,
        bits=8,
        block_size=16,
    ),
    ours(
        "MatMulNBits",
        [(3, 64), packed(6, 4, 8), weight(6, 4), None, given(np.arange(64) // 16, np.int32)],
        "refused: a weight of few bits whose columns are in an order of their own",
        K=64,
        N=6,
        bits=4,
        block_size=16,
    ),
    ours(
        "MatMulNBits",
        [(3, 64), packed(6, 4, 8), weight(6, 4)],
        "refused: a weight laid out for one processor",
        K=64,
        N=6,
        bits=4,
        block_size=16,
        weight_prepacked=1,
    ),
    ours(
        "GatherBlockQuantized",
        [packed(7, 32), given([[1, 0, 3]]), weight(7, 4)],
        "v (q p), *b, v q -> *b (q e) | q=4 | e=16 | frozen v: looked up by index | frozen e p: packed bits",
        block_size=16,
    ),
    ours(
        "GatherBlockQuantized",
        [packed(7, 32), given([[1, 0, 3]]), weight(7, 4), packed(7, 2)],
        "v (q p), *b, v q, v z -> *b (q e) | q=4 | e=16 | frozen v: looked up by index | frozen e p q z: packed bits",
        block_size=16,
    ),
    ours(
        "QMoE",
        [(6, 32), (6, 5), packed(5, 32, 16), scale(5, 32), None, packed(5, 32, 8), scale(5, 32)],
        "t w, t e, e (i p) c, e a, _, e w d, e f -> t w | p=2 | statistic e: enters a softmax | frozen a c d f i p w: packed bits | e is experts | macs t e w i p | macs t e w i | e is at least 2",
        k=2,
        activation_type="swiglu",
        swiglu_fusion=1,
    ),
    ours(
        "QMoE",
        [(2, 3, 32), (6, 5), packed(5, 16, 16), scale(5, 16), weight(5, 16), packed(5, 32, 8), scale(5, 32)],
        "b s w, (b s) e, e i c, e a, e i, e w d, e f -> b s w | statistic e: enters a softmax | frozen a c d f i w: packed bits | e is experts | macs b s e w i | macs b s e w i | e is at least 2",
        k=2,
        activation_type="silu",
    ),
    ours(
        "MoE",
        [(2, 3, 4), (6, 5), *EXPERTS],
        "b s w, (b s) e, e i w, e i, e w i, e w -> b s w | statistic e: enters a softmax | e is experts | i is ffn | operand 0 sums over axis 2 | operand 4 sums over axis 2 | product 0 x 2 + 3, inside | e is at least 2",
        k=2,
        activation_type="gelu",
    ),
    ours(
        "MoE",
        [(6, 4), (6, 5), weight(5, 12, 4), weight(5, 12), weight(5, 4, 6), weight(5, 4)],
        "t w, t e, e (i p) w, e (i p), e w i, e w -> t w | p=2 | statistic e: enters a softmax | frozen p: a gate and what it gates | e is experts | i is ffn | operand 0 sums over axis 1 | operand 4 sums over axis 2 | product 0 x 2 + 3, inside | e is at least 2",
        k=2,
        activation_type="swiglu",
        swiglu_fusion=1,
    ),
    # attention
    ours(
        "Attention",
        [(2, 3, 5), weight(5, 24), weight(24)],
        "b s i, i (z h d), (z h d) -> b s (h d) | h=2 | z=3 | statistic s: enters a softmax | frozen d: its size sets the scale of the scores (give the operator an explicit scale to free it) | frozen z: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b s i z h d | macs b h s s d | macs b h s s d | operand 1 sums over d along axis 1 | operand 2 sums over d along axis 0",
        num_heads=2,
    ),
    ours(
        "Attention",
        [(2, 3, 5), weight(5, 24), weight(24)],
        "b s i, i (z h d), (z h d) -> b s (h d) | h=2 | z=3 | statistic s: enters a softmax | frozen z: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b s i z h d | macs b h s s d | macs b h s s d | operand 1 sums over d along axis 1 | operand 2 sums over d along axis 0",
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "Attention",
        [(2, 3, 5), weight(5, 28), weight(28), given([[1, 1, 0], [1, 1, 1]], np.int32)],
        "b s i, i ((h k) + (h k) + (h v)), ((h k) + (h k) + (h v)), b s -> b s (h v) | h=2 | k=4 | statistic s: enters a softmax | h is heads | k is head_dim | v is head_dim | attribute num_heads=h | attribute qkv_hidden_sizes=[(h k), (h k), (h v)] | macs b s i h k | macs b s i h k | macs b s i h v | macs b h s s k | macs b h s s v | operand 1 sums over k along axis 1 | operand 2 sums over k along axis 0",
        num_heads=2,
        scale=0.5,
        qkv_hidden_sizes=[8, 8, 12],
    ),
    ours(
        "Attention",
        [(2, 3, 5), weight(5, 24), weight(24), given([[1] * 5] * 2, np.int32), (2, 2, 2, 2, 4)],
        "b s i, i (z h d), (z h d), b (p + s), w b h p d -> b s (h d), w b h (p + s) d | h=2 | z=3 | frozen s p: positions of a causal mask or window | frozen z: queries, keys and values | frozen w: keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b s i z h d | macs b h s s d | macs b h s s d | macs b h s p d | macs b h s p d | operand 1 sums over d along axis 1 | operand 2 sums over d along axis 0",
        num_heads=2,
        scale=0.5,
        unidirectional=1,
    ),
    ours(
        "Attention",
        [(2, 3, 5), weight(5, 24), weight(24), given([3, 2], np.int32), None, (1, 2, 3, 3)],
        "b s i, i (z h d), (z h d), b, _, 1 h s s -> b s (h d) | h=2 | z=3 | statistic s: enters a softmax | frozen z: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b s i z h d | macs b h s s d | macs b h s s d | operand 1 sums over d along axis 1 | operand 2 sums over d along axis 0",
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "QAttention",
        [
            random(2, 3, 5, dtype=np.uint8),
            weight(5, 24, dtype=np.int8),
            weight(24),
            scale(),
            scale(),
            None,
            constant(3, np.uint8),
            constant(4, np.int8),
        ],
        "b s i, i (z h d), (z h d), _, _, _, _, _ -> b s (h d) | h=2 | z=3 | statistic s: enters a softmax | frozen d: its size sets the scale of the scores (give the operator an explicit scale to free it) | frozen z: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b s i z h d | macs b h s s d | macs b h s s d | operand 1 sums over d along axis 1 | operand 2 sums over d along axis 0 | operand 0 is zero at operand 6 | operand 1 is zero at operand 7",
        num_heads=2,
    ),
    ours(
        "QAttention",
        [
            random(2, 3, 5, dtype=np.uint8),
            weight(5, 24, dtype=np.int8),
            weight(24),
            scale(),
            scale(24),
            given([3, 2], np.int32),
            constant(3, np.uint8),
            constant([0] * 24, np.int8),
        ],
        "b s i, i (z h d), (z h d), _, (z h d), b, _, (z h d) -> b s (h d) | h=2 | z=3 | statistic s: enters a softmax | frozen z: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b s i z h d | macs b h s s d | macs b h s s d | operand 1 sums over d along axis 1 | operand 2 sums over d along axis 0 | operand 0 is zero at operand 6 | operand 1 is zero at operand 7",
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 8), (2, 5, 8), (2, 5, 12)],
        "b s (h k), b t (h k), b t (h v) -> b s (h v) | h=2 | statistic t: enters a softmax | frozen k: its size sets the scale of the scores (give the operator an explicit scale to free it) | h is heads | k is head_dim | v is head_dim | attribute num_heads=h | macs b h s t k | macs b h s t v | operand 0 sums over k along axis 2 | linear 2 | meets 0 1",
        num_heads=2,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 8), (2, 5, 8), (2, 5, 12), weight(28)],
        "b s (h k), b t (h k), b t (h v), ((h k) + (h k) + (h v)) -> b s (h v) | h=2 | k=4 | statistic t: enters a softmax | h is heads | k is head_dim | v is head_dim | attribute num_heads=h | macs b h s t k | macs b h s t v | operand 0 sums over k along axis 2 | operand 3 sums over k along axis 0 | linear 2 | meets 0 1",
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 8), (2, 5, 8), (2, 5, 8), None, given([[1] * 5] * 2, np.int32)],
        "b s (h k), b t (h k), b t (h v), _, b t -> b s (h v) | h=2 | statistic t: enters a softmax | h is heads | k is head_dim | v is head_dim | attribute num_heads=h | macs b h s t k | macs b h s t v | operand 0 sums over k along axis 2 | linear 2 | meets 0 1",
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 8), (2, 5, 8), (2, 5, 8), weight(24), None, (1, 2, 3, 9), (2, 2, 4, 4), (2, 2, 4, 4)],
        "b s (h d), b t (h d), b t (h d), (w h d), _, 1 h s (p + t), b h p d, b h p d -> b s (h d), b h (p + t) d, b h (p + t) d | h=2 | w=3 | statistic t p: enters a softmax | frozen w: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b h s t d | macs b h s t d | macs b h s p d | macs b h s p d | operand 0 sums over d along axis 2 | operand 3 sums over d along axis 0 | linear 2 | meets 0 1",
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 8), (2, 2, 5, 4), (2, 2, 5, 4)],
        "b s (h d), b h t d, b h t d -> b s (h d) | h=2 | statistic t: enters a softmax | h is heads | d is head_dim | attribute num_heads=h | macs b h s t d | macs b h s t d | operand 0 sums over d along axis 2 | linear 2 | meets 0 1",
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 8), (2, 3, 8), (2, 3, 8)],
        "b s (h k), b t (h k), b t (h v) -> b s (h v) | h=2 | frozen t s: positions of a causal mask or window | h is heads | k is head_dim | v is head_dim | attribute num_heads=h | macs b h s t k | macs b h s t v | operand 0 sums over k along axis 2 | linear 2 | meets 0 1",
        num_heads=2,
        scale=0.5,
        unidirectional=1,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 2, 3, 4)],
        "b t h z d -> b t (h d) | h=2 | z=3 | statistic t: enters a softmax | frozen z: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b h t t d | macs b h t t d | operand 0 sums over d along axis 4 | linear 2 | meets 0 1",
        engine="",
        shapes=[(2, 3, 8)],
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "MultiHeadAttention",
        [(2, 3, 8), (2, 5, 2, 2, 4)],
        "b s (h d), b t h z d -> b s (h d) | h=2 | z=2 | statistic t: enters a softmax | frozen z: queries, keys and values | h is heads | d is head_dim | attribute num_heads=h | macs b h s t d | macs b h s t d | operand 0 sums over d along axis 2 | linear 2 | meets 0 1",
        engine="",
        shapes=[(2, 3, 8)],
        num_heads=2,
        scale=0.5,
    ),
    ours(
        "GroupQueryAttention",
        [(2, 3, 32), (2, 3, 16), (2, 3, 16), None, None, given([2, 2], np.int32), given(3, np.int32)],
        "b s (h r d), b t (h d), b t (h d), _, _, b, _ -> b s (h r d), b h u d, b h w d | h=2 | d=8 | r=2 | frozen s t: positions of a causal mask or window | frozen d: a head size that a fused attention holds on to | frozen u w: positions of a state that is kept for the next call | h is kv_heads | r is heads | d is head_dim | attribute num_heads=(h r) | attribute kv_num_heads=h | macs b h r s t d | macs b h r s t d",
        num_heads=4,
        kv_num_heads=2,
    ),
    ours(
        "GroupQueryAttention",
        [(2, 3, 64), None, None, None, None, given([2, 2], np.int32), given(3, np.int32)],
        "b s ((h r d) + (h d) + (h d)), _, _, _, _, b, _ -> b s (h r d), b h u d, b h w d | h=2 | d=8 | r=2 | frozen s: positions of a causal mask or window | frozen d: a head size that a fused attention holds on to | frozen u w: positions of a state that is kept for the next call | h is kv_heads | r is heads | d is head_dim | attribute num_heads=(h r) | attribute kv_num_heads=h | macs b h r s s d | macs b h r s s d",
        num_heads=4,
        kv_num_heads=2,
        scale=0.5,
    ),
    ours(
        "GroupQueryAttention",
        [
            (1, 3, 64),
            (1, 3, 64),
            (1, 3, 64),
            (1, 4, 2, 16),
            (1, 4, 2, 16),
            given([4], np.int32),
            given([5], np.int32),
            weight(7, 8),
            weight(7, 8),
        ],
        "b s (h d), b t (h d), b t (h d), b h p d, b h p d, 1, _, m e, m e -> b s (h d), b h u d, b h w d | h=4 | d=16 | frozen s t: positions of a causal mask or window | frozen d: a head size that a fused attention holds on to | frozen p u w m e: positions of a state that is kept for the next call | h is heads | d is head_dim | attribute num_heads=h | attribute kv_num_heads=h | macs b h s t d | macs b h s t d",
        num_heads=4,
        kv_num_heads=4,
        do_rotary=1,
    ),
    ours(
        "LinearAttention",
        [(2, 3, 24), (2, 3, 12), (2, 3, 14)],
        "b t (h r k), b t (h k), b t (h v) -> b t (h r v), b h k v | h=2 | r=2 | frozen t: steps of a recurrence | h is kv_heads | r is heads | k is head_dim | v is head_dim | attribute q_num_heads=(h r) | attribute kv_num_heads=h | macs b t h k v | macs b t h r k v | operand 0 sums over k along axis 2 | operand 1 sums over k along axis 2",
        q_num_heads=4,
        kv_num_heads=2,
        scale=0.5,
        update_rule="linear",
    ),
    ours(
        "RotaryEmbedding",
        [(2, 3, 32), given([[0, 1, 2], [1, 2, 3]]), weight(7, 4), weight(7, 4)],
        "b s (h p r), b s, m r, m r -> b s (h p r) | p=2 | r=4 | h=4 | frozen p: turned by one angle | frozen m: looked up by index | h is heads | r is head_dim",
    ),
    ours(
        "RotaryEmbedding",
        [(2, 4, 3, 8), given([0]), weight(7, 4), weight(7, 4)],
        "b h s (r p), _, m r, m r -> b h s (r p) | p=2 | r=4 | frozen p: turned by one angle | frozen m: looked up by index | frozen s: positions counted from an offset | h is heads | r is head_dim",
        interleaved=1,
    ),
    ours(
        "RotaryEmbedding",
        [(2, 3, 32), given([[0, 1, 2], [1, 2, 3]]), weight(7, 2), weight(7, 2)],
        "b s (h ((p r) + e)), b s, m r, m r -> b s (h ((p r) + e)) | p=2 | r=2 | h=4 | frozen p: turned by one angle | frozen m: looked up by index | h is heads | r is head_dim | e is head_dim | attribute num_heads=h | attribute rotary_embedding_dim=(p r)",
        num_heads=4,
        rotary_embedding_dim=4,
    ),
]
