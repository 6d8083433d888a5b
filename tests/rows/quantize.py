"""Rows of quantising operators."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np

from tests.soundness import Row, Tensor, constant, random, row, weight

NO_KERNEL = "onnxruntime has a schema and no kernel"
U8, I8 = np.uint8, np.int8
DATA, IMAGE = random(3, 4, dtype=U8), random(2, 4, 5, 5, dtype=U8)


def scale(*shape: int) -> Tensor:
    return constant(np.full(shape, 0.02), np.float32)


def zero(number: int, *shape: int, dtype: type = U8) -> Tensor:
    return constant(np.full(shape, number), dtype)


ROWS: list[Row] = [
    row("QuantizeLinear", [(2, 3), scale(), zero(3)], "a b, (), () -> a b"),
    row("QuantizeLinear", [(2, 3, 4), scale(3), constant([1, 2, 3], U8)], "a b c, b, b -> a b c", opset=13),
    row("QuantizeLinear", [(2, 3, 4), scale(4)], "a b c, c -> a b c", axis=-1),
    row("QuantizeLinear", [(2, 3), scale(1), zero(0, 1)], "a b, 1, 1 -> a b", opset=10),
    row("DequantizeLinear", [random(2, 3, dtype=I8), scale()], "a b, () -> a b", opset=10),
    row("DequantizeLinear", [weight(2, 3, dtype=I8), scale(2), zero(1, 2, dtype=I8)], "a b, a, a -> a b", axis=0),
    row(
        "DequantizeLinear",
        [random(2, 8, dtype=I8), weight(2, 4)],
        "a (b k), a b -> a (b k) | k=2 | attribute block_size=k",
        opset=21,
        block_size=2,
    ),
    row(
        "DequantizeLinear",
        [weight(6, 3, dtype=I8), weight(2, 3), zero(2, 2, 3, dtype=I8)],
        "(a k) b, a b, a b -> (a k) b | k=3 | attribute block_size=k",
        opset=21,
        axis=0,
        block_size=3,
    ),
    row(
        "DequantizeLinear",
        [weight(5, 3, dtype=I8), weight(2, 3)],
        "a b, ax b -> a b | frozen a ax: quantised in blocks that do not divide it",
        opset=21,
        axis=0,
        block_size=3,
    ),
    row("DequantizeLinear", [weight(3, dtype=np.int32), scale(3)], "a, a -> a", axis=0),
    row(
        "DynamicQuantizeLinear",
        [(3, 4)],
        "a b -> a b, (), () | operand 0 sums over axis 0 | operand 0 sums over axis 1",
    ),
    row("MatMulInteger", [DATA, weight(4, 5, dtype=I8)], "m k, k n -> m n | k is ffn | n is ffn"),
    row(
        "MatMulInteger",
        [DATA, weight(4, 5, dtype=I8), zero(3), zero(4, 5, dtype=I8)],
        "m k, k n, (), n -> m n | k is ffn | n is ffn | operand 0 is zero at operand 2 | operand 1 is zero at operand 3",
    ),
    row(
        "MatMulInteger",
        [random(2, 3, 4, dtype=U8), weight(4, 5, dtype=U8), zero(3), zero(7)],
        "a m k, k n, (), () -> a m n | k is ffn | n is ffn | operand 0 is zero at operand 2 | operand 1 is zero at operand 3",
    ),
    row(
        "QLinearMatMul",
        [DATA, scale(), zero(3), weight(4, 5, dtype=I8), scale(5), zero(2, 5, dtype=I8), scale(), zero(7)],
        "m k, (), (), k n, n, n, (), () -> m n | k is ffn | n is ffn | operand 0 is zero at operand 2 | operand 3 is zero at operand 5",
    ),
    row(
        "QLinearMatMul",
        [DATA, scale(1), zero(3, 1), random(4, 5, dtype=U8), scale(), zero(9), scale(), zero(7)],
        "m k, 1, 1, k n, (), (), (), () -> m n | k is head_dim | n is head_dim | operand 0 is zero at operand 2 | operand 3 is zero at operand 5",
        opset=21,
    ),
    row(
        "ConvInteger",
        [IMAGE, weight(6, 4, 3, 3, dtype=U8), zero(3), zero(9)],
        "n i *s, o i *k, (), () -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | operand 0 is zero at operand 2 | operand 1 is zero at operand 3",
    ),
    row(
        "ConvInteger",
        [IMAGE, weight(6, 2, 3, 3, dtype=U8), zero(3)],
        "n (g i) *s, (g o) i *k, () -> n (g o) *t | g=2 | frozen s k t: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | operand 0 is zero at operand 2",
        group=2,
        pads=[1, 1, 1, 1],
    ),
    row(
        "QLinearConv",
        [IMAGE, scale(), zero(3), weight(6, 4, 3, 3, dtype=I8), scale(6), zero(0, 6, dtype=I8), scale(), zero(7)],
        "n i *s, (), (), o i *k, o, o, (), () -> n o *t | frozen s k t: positions of a sliding window | i is channels | o is channels | operand 0 is zero at operand 2 | operand 3 is zero at operand 5",
    ),
    row(
        "QLinearConv",
        [
            IMAGE,
            scale(),
            zero(3),
            weight(6, 2, 3, 3, dtype=U8),
            scale(),
            zero(5),
            scale(),
            zero(7),
            weight(6, dtype=np.int32),
        ],
        "n (g i) *s, (), (), (g o) i *k, (), (), (), (), (g o) -> n (g o) *t | g=2 | frozen s k t: positions of a sliding window | g is conv_groups | i is channels | o is channels | attribute group=g | operand 0 is zero at operand 2 | operand 3 is zero at operand 5",
        group=2,
    ),
    row("com.microsoft::QuantizeLinear", [(2, 3, 4), scale(3), zero(3, 3)], "a b c, b, b -> a b c"),
    row("com.microsoft::DequantizeLinear", [random(2, 3, dtype=U8), scale(), zero(3)], "a b, (), () -> a b"),
    row(
        "com.microsoft::QLinearConv",
        [
            random(2, 5, 5, 4, dtype=U8),
            scale(),
            zero(3),
            weight(6, 4, 3, 3, dtype=I8),
            scale(6),
            zero(0, 6, dtype=I8),
            scale(),
            zero(7),
        ],
        "n *s i, (), (), o i *k, o, o, (), () -> n *t o | frozen s k t: positions of a sliding window | i is channels | o is channels | operand 0 is zero at operand 2 | operand 3 is zero at operand 5",
        channels_last=1,
    ),
    row("com.microsoft::QLinearSigmoid", [DATA, scale(), zero(3), scale(), zero(3)], "*a, _, _, _, _ -> *a"),
    row(
        "com.microsoft::QLinearLeakyRelu", [DATA, scale(), zero(3), scale(), zero(3)], "*a, _, _, _, _ -> *a", alpha=0.1
    ),
    row(
        "com.microsoft::QLinearAdd",
        [random(2, 3, 4, dtype=U8), scale(), zero(3), random(3, 1, dtype=U8), scale(), zero(4), scale(), zero(5)],
        "a b c, _, _, b 1, _, _, _, _ -> a b c",
    ),
    row(
        "com.microsoft::QLinearMul",
        [DATA, scale(), zero(3), random(4, dtype=U8), scale(), zero(4), scale(), zero(5)],
        "a b, _, _, b, _, _, _, _ -> a b",
    ),
    row(
        "com.microsoft::MulInteger",
        [DATA, zero(3), DATA, zero(4)],
        "a b, _, a b, _ -> a b",
        shapes=[(3, 4)],
        why=NO_KERNEL,
    ),
    row(
        "com.microsoft::QLinearWhere",
        [random(3, 4, dtype=bool), DATA, scale(), zero(3), random(3, 1, dtype=U8), scale(), zero(4), scale(), zero(5)],
        "a b, a b, _, _, a 1, _, _, _, _ -> a b",
    ),
    row(
        "com.microsoft::QLinearConcat",
        [scale(), zero(3), random(2, 3, dtype=U8), scale(), zero(3), random(2, 4, dtype=U8), scale(), zero(3)],
        "_, _, a x0, _, _, a x1, _, _ -> a (x0 + x1)",
        axis=1,
    ),
    Row(
        "com.microsoft::QLinearSoftmax",
        [random(2, 3, 4, dtype=U8), scale(), zero(3), scale(), zero(0)],
        "a b c, _, _, _, _ -> a b c | statistic c: enters a softmax",
        {"axis": -1, "opset": 13},
    ),
    Row(
        "com.microsoft::QLinearSoftmax",
        [random(2, 3, 4, dtype=U8), scale(), zero(3), scale(), zero(0)],
        "a b c, _, _, _, _ -> a b c | statistic b c: enters a softmax",
        {"axis": 1, "opset": 11},
    ),
    row(
        "com.microsoft::QLinearReduceMean",
        [DATA, scale(), zero(3), scale(), zero(3)],
        "a b, _, _, _, _ -> a | statistic b: enters a mean",
        why=NO_KERNEL,
        shapes=[(3,)],
        axes=[1],
        keepdims=0,
    ),
    row("com.microsoft::ReduceSumInteger", [DATA], "a b -> a 1", shapes=[(3, 1)], why=NO_KERNEL, axes=[1]),
    row(
        "com.microsoft::QLinearAveragePool",
        [IMAGE, scale(), zero(3), scale(), zero(3)],
        "n c *s, _, _, _, _ -> n c *t | frozen s t: positions of a sliding window",
        kernel_shape=[2, 2],
    ),
    row(
        "com.microsoft::QLinearAveragePool",
        [IMAGE, scale(), zero(3), scale(), zero(3)],
        "n *s c, _, _, _, _ -> n *t c | frozen s t: positions of a sliding window",
        kernel_shape=[2, 2],
        channels_last=1,
    ),
    row(
        "com.microsoft::QLinearGlobalAveragePool",
        [IMAGE, scale(), zero(3), scale(), zero(3)],
        "n c *s, _, _, _, _ -> n c 1 1 | statistic s: enters a mean",
    ),
    row(
        "com.microsoft::QLinearGlobalAveragePool",
        [IMAGE, scale(), zero(3), scale(), zero(3)],
        "n *s c, _, _, _, _ -> n 1 1 c | statistic s: enters a mean",
        channels_last=1,
    ),
    row(
        "com.microsoft::QGemm",
        [
            DATA,
            scale(),
            zero(3),
            weight(5, 4, dtype=I8),
            scale(5),
            zero(4, 5, dtype=I8),
            weight(5, dtype=np.int32),
            scale(),
            zero(7),
        ],
        "m k, _, _, n k, n, n, n, _, _ -> m n | k is ffn | n is ffn | operand 0 is zero at operand 2 | operand 3 is zero at operand 5",
        transB=1,
    ),
    row(
        "com.microsoft::QGemm",
        [DATA, scale(), zero(3), weight(4, 5, dtype=U8), scale(), zero(7)],
        "m k, _, _, k n, (), () -> m n | k is ffn | n is ffn | operand 0 is zero at operand 2 | operand 3 is zero at operand 5",
    ),
    row(
        "com.microsoft::MatMulIntegerToFloat",
        [DATA, weight(4, 5, dtype=I8), scale(), scale(5), zero(3), zero(2, 5, dtype=I8), weight(5)],
        "m k, k n, _, n, _, n, n -> m n | k is ffn | n is ffn | operand 0 is zero at operand 4 | operand 1 is zero at operand 5",
    ),
    row(
        "com.microsoft::MatMulInteger16",
        [random(3, 4, dtype=np.int16), weight(4, 5, dtype=np.int16)],
        "m k, k n -> m n | k is ffn | n is ffn",
    ),
    row(
        "com.microsoft::DynamicQuantizeMatMul",
        [(2, 3, 4), weight(4, 5, dtype=I8), scale(5), zero(0, 5, dtype=I8), weight(5)],
        "a m k, k n, n, n, n -> a m n | k is ffn | n is ffn | operand 0 sums over axis 0 | operand 0 sums over axis 1 "
        "| operand 0 sums over axis 2 | operand 1 is zero at operand 3",
    ),
    row(
        "com.microsoft::DynamicQuantizeLSTM",
        [
            (5, 2, 3),
            weight(1, 3, 16, dtype=I8),
            weight(1, 4, 16, dtype=I8),
            weight(1, 32),
            None,
            None,
            None,
            None,
            scale(1),
            zero(0, 1, dtype=I8),
            scale(1),
            zero(0, 1, dtype=I8),
        ],
        "t n i, d i (g h), d h (g h), d (b h), _, _, _, _, d, d, d, d -> t d n h, d n h, d n h | g=4 | b=8 | statistic n h: sets the range of the quantised numbers | frozen g b: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 1 | operand 0 sums over axis 0 | operand 0 sums over axis 1 | operand 0 sums over axis 2 | operand 1 is zero at operand 9 | operand 2 is zero at operand 11",
        hidden_size=4,
    ),
    row(
        "com.microsoft::DynamicQuantizeLSTM",
        [
            (5, 2, 3),
            weight(1, 3, 16, dtype=I8),
            weight(1, 4, 16, dtype=I8),
            None,
            None,
            (1, 2, 4),
            (1, 2, 4),
            weight(1, 12),
            scale(1, 16),
            zero(0, 1, 16, dtype=I8),
            scale(1, 16),
            zero(0, 1, 16, dtype=I8),
        ],
        "t n i, d i (g h), d h (g h), _, _, d n h, d n h, d (p h), d (g h), d (g h), d (g h), d (g h) -> t d n h | g=4 | p=3 | statistic n h: sets the range of the quantised numbers | frozen g p: gates | frozen d: directions | frozen t: steps of a recurrence | h is hidden | attribute hidden_size=h | macs t n d g h i | macs t n d g h h | operand 2 sums over axis 1 | operand 0 sums over axis 0 | operand 0 sums over axis 1 | operand 0 sums over axis 2 | operand 1 is zero at operand 9 | operand 2 is zero at operand 11",
        hidden_size=4,
    ),
]
