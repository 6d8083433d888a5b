"""Rows of operators that compute each position from the same position."""

# A rule is one line of text, however long.

from __future__ import annotations

import numpy as np

from tests.soundness import Row, constant, given, random, row, weight

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor HardSigmoid HardSwish Identity IsInf IsNaN
    LeakyRelu Log Mish Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh
    ThresholdedRelu Gelu
"""
ARITHMETIC = "Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min PRelu Pow"
LOGIC = "And Or Xor"
BITS = "BitwiseAnd BitwiseOr BitwiseXor"

ROWS: list[Row] = [
    *(row(name, [(2, 3)], "*a -> *a") for name in UNARY.split()),
    row("Neg", [(2, 3)], "*a -> *a | linear 0"),
    row("Relu", [()], "*a -> *a"),
    row("Relu", [(0, 3)], "*a -> *a"),
    row("Cast", [(2, 3)], "*a -> *a", to=7),
    row("Cast", [(2, 3)], "*a -> *a | linear 0", to=11),
    row("Not", [random(2, 3, dtype=bool)], "*a -> *a"),
    row("BitwiseNot", [random(2, 3, dtype=np.int32)], "*a -> *a"),
    row("BitCast", [(2, 3)], "*a -> *a", opset=26, engine="reference", to=6),
    row("Swish", [(2, 3)], "*a -> *a", opset=24, alpha=1.5),
    # operands broadcast
    *(row(name, [(2, 3), (2, 3)], "a b, a b -> a b") for name in ARITHMETIC.split()),
    *(row(name, [(2, 3), (2, 3)], "a b, a b -> a b | linear 0 + 1") for name in ("Add", "Sub", "Sum")),
    row("Mul", [(2, 3), (2, 3)], "a b, a b -> a b | linear 0 * 1"),
    row("Div", [(2, 3), (2, 3)], "a b, a b -> a b | linear 0"),
    row("Div", [(2, 3), (2, 1)], "a b, a 1 -> a b | linear 0"),
    *(row(name, [random(2, 3, dtype=bool)] * 2, "a b, a b -> a b") for name in LOGIC.split()),
    *(row(name, [random(2, 3, dtype=np.int32)] * 2, "a b, a b -> a b") for name in BITS.split()),
    row("Mod", [(2, 3), (2, 3)], "a b, a b -> a b", fmod=1),
    row("BitShift", [random(2, 3, dtype=np.uint8), given([[1, 2, 3]], np.uint8)], "a b, 1 b -> a b", direction="LEFT"),
    row("SwiGLU", [(2, 3), (2, 3)], "a b, a b -> a b", opset=28, engine="reference"),
    row("Add", [(2, 3, 4), weight(4)], "a b c, c -> a b c | linear 0 + 1"),
    row("Add", [(2, 3, 4), weight(3, 1)], "a b c, b 1 -> a b c | linear 0 + 1"),
    row("Add", [(2, 3, 4), ()], "a b c, () -> a b c | linear 0 + 1"),
    row("Add", [(), ()], "(), () -> () | linear 0 + 1"),
    row("Mul", [(2, 1, 4), (3, 1)], "a 1 c, b 1 -> a b c | linear 0 * 1"),
    row("Mul", [(1, 3), (1, 1)], "1 b, 1 1 -> 1 b | linear 0 * 1"),
    row("Mul", [(0, 3), (1, 3)], "a b, 1 b -> a b | linear 0 * 1"),
    row("Sum", [(2, 1), (3,), (1, 3)], "a 1, b, 1 b -> a b | linear 0 + 1 + 2"),
    row("Max", [(2, 3)], "a b -> a b"),
    row("PRelu", [(2, 3, 4, 4), weight(3, 1, 1)], "a b c d, b 1 1 -> a b c d"),
    row("Where", [random(2, 1, dtype=bool), (1, 3), ()], "a 1, 1 b, () -> a b"),
    row("Where", [random(3, dtype=bool), (2, 3), (2, 3)], "b, a b, a b -> a b"),
    # what is beside the first operand does not matter
    row("CastLike", [(2, 3), random(4, dtype=np.int32)], "*a, *b -> *a | unseen 1"),
    row("CastLike", [(2, 3), random(4, dtype=np.float64)], "*a, *b -> *a | linear 0 | unseen 1"),
    row("Clip", [(2, 3), constant(-1, np.float32), constant(1, np.float32)], "*a, _, _ -> *a"),
    row("Clip", [(2, 3)], "*a -> *a", opset=9, min=-1.0, max=1.0),
    row("Clip", [(2, 3), None, constant(1, np.float32)], "*a, _, _ -> *a"),
    row("Dropout", [(2, 3)], "*a -> *a | linear 0"),
    row("Dropout", [(2, 3)], "*a -> *a | linear 0", opset=9, ratio=0.5),
    row("Dropout", [(2, 3), constant(0.5, np.float32), constant(False, bool)], "*a, _, _ -> *a, *a | linear 0"),
    row(
        "Dropout",
        [(2, 3), constant(0.5, np.float32), constant(True, bool)],
        "*a, _, _ -> *a | frozen a: drawn at random, anew for every shape",
    ),
]
