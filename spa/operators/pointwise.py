"""Operators that compute each position of the result from the same position of their operands."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from spa.notation.operation import Operation, Refusal, Shape, letters, operator
from spa.notation.rule import Rule, rule

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitCast BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
"""
BINARY = """
    And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Mul Or PRelu Pow Sub SwiGLU Where Xor
"""
RANDOM = "drawn at random, anew for every shape"


@operator(*UNARY.split())
def unary(_: Operation) -> Rule:
    """One operand, one result, the same axes."""
    return rule("*a -> *a")


@operator(*BINARY.split())
@operator("Add", "Sum", adds=True)
def broadcast(operation: Operation) -> Rule:
    """Operands broadcast against each other, as numpy does."""
    shapes = [operation.shape(position) for position in range(len(operation.inputs))]
    return rule(broadcast_line(tuple(shapes)))


@operator("Clip")
def first_operand(operation: Operation) -> Rule:
    """`*a, (), () -> *a`; bounds in three operands are scalars."""
    return rule("*a" + ", _" * (len(operation.inputs) - 1) + " -> *a")


@operator("CastLike")
def cast_like(_: Operation) -> Rule:
    """`*a, *b -> *a`: the second operand gives its type, whatever its axes."""
    return rule("*a, *b -> *a")


@operator("Dropout")
def dropout(operation: Operation) -> Rule:
    """`*a, _, _ -> *a, *a`; in training the mask is drawn anew for every shape."""
    results = ", ".join(["*a"] * len(operation.outputs))
    trains = operation.constants.get(2, operation.has(2))
    return rule(f"*a{', _' * (len(operation.inputs) - 1)} -> {results}", frozen={"a": RANDOM} if np.any(trains) else {})


@lru_cache(maxsize=4096)
def broadcast_line(shapes: tuple[Shape, ...], *, tail: int = 0) -> str:
    """The patterns of operands that broadcast against each other, and of the result.

    With `tail`, that many last axes of every operand are left out (the caller names them).
    """
    leading = [shape[: len(shape) - tail] for shape in shapes]
    rank = max(map(len, leading))
    names = letters(rank, avoid="kmn" if tail else "")
    sizes = [1] * rank
    for shape in leading:
        for at, size in enumerate(shape, rank - len(shape)):
            if size != 1 and sizes[at] not in (1, size):
                raise Refusal(f"operands of shapes {', '.join(map(str, shapes))} do not broadcast")
            sizes[at] = size if sizes[at] == 1 else sizes[at]
    patterns = []
    for shape in (*leading, tuple(sizes)):
        terms = ("1" if size == 1 else name for size, name in zip(shape, names[rank - len(shape) :], strict=True))
        patterns.append(" ".join(terms) or "()")
    return ", ".join(patterns[:-1]) + " -> " + patterns[-1]
