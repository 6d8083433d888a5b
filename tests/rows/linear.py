"""Rows of operators that mix."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

from tests.soundness import Row, row, weight

IMAGE = (2, 4, 5, 5)
HEADS = (2, 3, 4, 5)

ROWS: list[Row] = [
    row("MatMul", [(2, 3, 4), weight(4, 5)], "a m k, k n -> a m n | k is ffn | n is ffn | product 0 x 1"),
    row("MatMul", [(3, 4), (4, 5)], "m k, k n -> m n | k is head_dim | n is head_dim | product 0 x 1"),
    row("MatMul", [weight(3, 4), (2, 4, 5)], "m k, a k n -> a m n | k is ffn | m is ffn | product 0 x 1"),
    row(
        "MatMul",
        [HEADS, (2, 3, 5, 6)],
        "a b m k, a b k n -> a b m n | k is head_dim | n is head_dim | a is heads | b is heads | product 0 x 1",
    ),
    row(
        "MatMul",
        [HEADS, (1, 3, 5, 6)],
        "a b m k, 1 b k n -> a b m n | k is head_dim | n is head_dim | b is heads | product 0 x 1",
    ),
    row("MatMul", [(2, 1, 3, 4), weight(5, 4, 6)], "a 1 m k, b k n -> a b m n | k is ffn | n is ffn | product 0 x 1"),
    row("MatMul", [(4,), (4,)], "k, k -> () | k is head_dim | product 0 x 1"),
    row("MatMul", [(4,), weight(4, 5)], "k, k n -> n | k is ffn | product 0 x 1"),
    row("MatMul", [(4,), (2, 4, 5)], "k, a k n -> a n | k is head_dim | product 0 x 1"),
    row("MatMul", [(2, 3, 4), weight(4)], "a m k, k -> a m | k is ffn | product 0 x 1"),
    row("MatMul", [(2, 0), (0, 3)], "m k, k n -> m n | k is head_dim | n is head_dim | product 0 x 1"),
    row("Gemm", [(3, 4), weight(4, 5), weight(5)], "m k, k n, n -> m n | k is ffn | n is ffn | product 0 x 1 + 2"),
    row("Gemm", [(3, 4), weight(5, 4)], "m k, n k -> m n | k is ffn | n is ffn | product 0 x 1 + 2", transB=1),
    row(
        "Gemm",
        [(4, 3), weight(5, 4), weight(1, 5)],
        "k m, n k, 1 n -> m n | k is ffn | n is ffn | product 0 x 1 by 0.5 + 2",
        transA=1,
        transB=1,
        alpha=0.5,
    ),
    row(
        "Gemm",
        [(3, 4), (4, 5), (3, 1)],
        "m k, k n, m 1 -> m n | k is head_dim | n is head_dim | product 0 x 1 + 2 by 2.0",
        beta=2.0,
    ),
    row("Gemm", [(3, 4), weight(4, 5), ()], "m k, k n, () -> m n | k is ffn | n is ffn | product 0 x 1 + 2", opset=9),
    # convolutions
    row(
        "Conv",
        [IMAGE, weight(6, 4, 3, 3), weight(6)],
        "n i *s, o i *k, o -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 3 3",
    ),
    row(
        "Conv",
        [IMAGE, weight(6, 4, 3, 3)],
        "n i *s, o i *k -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 3 3, strides 2 2, pads 1 1 1 1",
        opset=9,
        pads=[1, 1, 1, 1],
        strides=[2, 2],
    ),
    row(
        "Conv",
        [(2, 4, 5), weight(6, 4, 1)],
        "n i *s, o i *k -> n o *s | frozen k: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 1",
    ),
    row(
        "Conv",
        [IMAGE, weight(6, 4, 1, 1)],
        "n i *s, o i *k -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 1 1, strides 2 2",
        strides=[2, 2],
    ),
    row(
        "Conv",
        [(2, 4, 3, 3, 3), weight(6, 4, 2, 2, 2)],
        "n i *s, o i *k -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 2 2 2",
    ),
    row(
        "Conv",
        [IMAGE, weight(6, 2, 3, 3), weight(6)],
        "n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | g=2 | frozen s k t: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | product 0 x 1 + 2, kernel 3 3",
        group=2,
    ),
    row(
        "Conv",
        [IMAGE, weight(4, 1, 3, 3)],
        "n (g i) *s, (g o) i *k -> n (g o) *t | g=4 | frozen s k t: positions of a sliding window | g is channels | attribute group=g | product 0 x 1 + 2, kernel 3 3, same upper",
        group=4,
        auto_pad="SAME_UPPER",
    ),
    row(
        "Conv",
        [IMAGE, weight(8, 1, 3, 3), weight(8)],
        "n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | g=4 | frozen s k t: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | product 0 x 1 + 2, kernel 3 3",
        group=4,
    ),
    row(
        "Conv",
        [IMAGE, weight(8, 1, 1, 1)],
        "n (g i) *s, (g o) i *k -> n (g o) *s | g=4 | frozen k: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | product 0 x 1 + 2, kernel 1 1",
        group=4,
    ),
    row(
        "Conv",
        [IMAGE, (6, 4, 3, 3)],
        "n i *s, o i *k -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 3 3",
    ),
    row(
        "ConvTranspose",
        [IMAGE, weight(4, 6, 3, 3), weight(6)],
        "n i *s, i o *k, o -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | macs n i s o k | product 0 x 1 + 2, kernel 3 3, pads 2 2 3 3, spread 2 2",
        strides=[2, 2],
        output_padding=[1, 1],
    ),
    row(
        "ConvTranspose",
        [IMAGE, weight(4, 3, 2, 2)],
        "n (g i) *s, (g i) o *k -> n (g o) *t | g=2 | frozen s k t: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | macs n g i s o k | product 0 x 1 + 2, kernel 2 2, pads 1 1 1 1, spread 1 1",
        group=2,
    ),
    row(
        "ConvTranspose",
        [IMAGE, weight(4, 1, 2, 2)],
        "n (g i) *s, (g i) o *k -> n (g o) *t | g=4 | frozen s k t: positions of a sliding window | g is channels | attribute group=g | macs n g i s o k | product 0 x 1 + 2, kernel 2 2, pads 1 1 1 1, spread 1 1",
        group=4,
    ),
    row(
        "ConvTranspose",
        [(2, 4, 5), weight(4, 6, 1)],
        "n i *s, i o *k -> n o *s | frozen k: positions of a sliding window | i is channels | o is channels | product 0 x 1 + 2, kernel 1, spread 1",
    ),
    row(
        "DeformConv",
        [IMAGE, weight(6, 4, 2, 2), (2, 8, 4, 4), weight(6)],
        "n i *s, o i *k, n f *t, o -> n o *t | frozen s k t f: positions of a sliding window | i is channels | o is channels",
        opset=19,
    ),
    row(
        "DeformConv",
        [IMAGE, weight(6, 2, 2, 2), (2, 16, 4, 4), None, (2, 8, 4, 4)],
        "n (g i) *s, (g o) i *k, n f *t, _, n m *t -> n (g o) *t | g=2 | frozen s k t f m: positions of a sliding window | frozen g i: channels that share the offsets of a group | g is conv_groups | i is channels | o is channels | attribute group=g",
        opset=22,
        group=2,
        offset_group=2,
    ),
    row(
        "CausalConvWithState",
        [(2, 4, 5), weight(4, 1, 3), weight(4), (2, 4, 2)],
        "n c *t, c 1 *k, c, n c *p -> n c *t, n c *p | frozen t k p: positions of a sliding window | c is channels",
        opset=27,
        engine="reference",
    ),
    row(
        "CausalConvWithState",
        [(2, 4, 5), weight(4, 1, 3), weight(4)],
        "n c *t, c 1 *k, c -> n c *t, n c *p | frozen t k p: positions of a sliding window | c is channels | product 0 x 1 + 2, kernel 3, pads 2 0",
        opset=27,
        engine="reference",
    ),
    row(
        "CausalConvWithState",
        [(2, 4, 5), weight(4, 1, 3)],
        "n c *t, c 1 *k -> n c *t, n c *p | frozen t k p: positions of a sliding window | c is channels | product 0 x 1 + 2, kernel 3, pads 2 0, inside",
        opset=27,
        engine="reference",
        activation="silu",
    ),
    # any equation
    row(
        "Einsum", [(3, 4), weight(4, 5)], "i j, j k -> i k | j is ffn | k is ffn | product 0 x 1", equation="ij,jk->ik"
    ),
    row(
        "Einsum",
        [(2, 3, 4, 5), (2, 6, 4, 5)],
        "b q h d, b k h d -> b h q k | d is head_dim | k is head_dim | b is heads | h is heads | product 0 x 1",
        equation="bqhd,bkhd->bhqk",
    ),
    row(
        "Einsum",
        [(2, 3, 4), weight(4, 5, 6)],
        "a b c, c d e -> a b d e | c is ffn | d is ffn | e is ffn | product 0 x 1",
        equation="abc,cde->abde",
    ),
    row(
        "Einsum",
        [(2, 3, 4), weight(4, 5)],
        "ea eb i, i j -> ea eb j | i is ffn | j is ffn | product 0 x 1",
        equation="...i,ij->...j",
    ),
    row(
        "Einsum",
        [(2, 3, 4), weight(4, 5)],
        "ea eb i, i j -> ea eb j | i is ffn | j is ffn | product 0 x 1",
        equation="...i,ij",
    ),
    row(
        "Einsum",
        [(2, 3, 4), (1, 4, 5)],
        "ea i j, 1 j k -> ea i k | j is head_dim | k is head_dim | ea is heads | product 0 x 1",
        equation="...ij,...jk->...ik",
    ),
    row(
        "Einsum", [weight(5, 4), (3, 4)], "o i, b i -> b o | i is ffn | o is ffn | product 0 x 1", equation="oi,bi->bo"
    ),
    row("Einsum", [(3, 4)], "i j -> j | linear 0", equation="ij->j"),
    row("Einsum", [(3, 4)], "i j -> j i | linear 0", equation="ij->ji"),
    row("Einsum", [(3, 4)], "i j -> () | linear 0", equation="ij->"),
    row("Einsum", [(2, 3), (2, 4), (2, 5)], "b i, b j, b k -> b i j k | linear 0 * 1 * 2", equation="bi,bj,bk->bijk"),
    row(
        "Einsum",
        [(2, 3, 4), (2, 3, 4)],
        "b i j, b i j -> b | i is head_dim | j is head_dim | b is heads | product 0 x 1",
        equation="bij,bij->b",
    ),
    row("Einsum", [(3, 3)], "refused: an Einsum that takes a diagonal", equation="ii->i"),
    row(
        "Einsum",
        [(2, 3), (2, 1)],
        "a b, a 1 -> a b | a is heads | b is heads | product 0 x 1",
        equation="ab,ab->ab",
        engine="reference",
    ),
]
