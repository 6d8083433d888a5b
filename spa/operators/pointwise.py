"""Operators that compute each position of the result from the same position of their operands."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnx_ir as ir

from spa.notation.operation import Draws, Moves, Operation, Partly, Refusal, Shape, letters, operator
from spa.notation.rule import Rule, rule

UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitCast BitwiseNot Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish Not Reciprocal Relu Round Selu Shrink Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
"""
BINARY = """
    And BitShift BitwiseAnd BitwiseOr BitwiseXor Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Or PRelu Pow SwiGLU Xor
"""
RANDOM = "drawn at random, anew for every shape"


@operator(*UNARY.split())
def unary(_: Operation) -> Rule:
    """One operand, one result, the same axes."""
    return rule("*a -> *a")


@operator("Identity", moves=Moves.FIRST, copies=True)
def identity(_: Operation) -> Rule:
    """`*a -> *a`: the same elements."""
    return rule("*a -> *a")


@operator("Neg", partly=Partly.ANY)
def negated(_: Operation) -> Rule:
    """`*a -> *a`, linear."""
    return rule("*a -> *a", linear=((0,),))


@operator("Cast", casts=True, partly=Partly.FIRST)
def cast(operation: Operation) -> Rule:
    """`*a -> *a`, linear where the result is of floating-point numbers."""
    floats = ir.DataType(int(operation.attribute("to", 0))).is_floating_point()
    return rule("*a -> *a", linear=((0,),) if floats else ())


@operator(*BINARY.split())
@operator("Equal", partly=Partly.ANY, compares=True)
@operator("Where", partly=Partly.CHOSEN)
def broadcast(operation: Operation) -> Rule:
    """Operands broadcast against each other, as numpy does."""
    return rule(broadcast_line(tuple(shapes_of(operation))))


@operator("Add", adds=True, partly=Partly.ANY)
@operator("Sum", adds=True)
@operator("Sub", partly=Partly.ANY)
def sums(operation: Operation) -> Rule:
    """Operands broadcast; linear in all of them together."""
    terms = tuple((position,) for position in range(len(operation.inputs)))
    return rule(broadcast_line(tuple(shapes_of(operation))), linear=terms)


@operator("Mul", partly=Partly.ANY)
def multiplied(operation: Operation) -> Rule:
    """Operands broadcast; linear in each alone."""
    return rule(broadcast_line(tuple(shapes_of(operation))), linear=((0, 1),))


@operator("Div", partly=Partly.ANY)
def divided(operation: Operation) -> Rule:
    """Operands broadcast; linear in the first."""
    return rule(broadcast_line(tuple(shapes_of(operation))), linear=((0,),))


def shapes_of(operation: Operation) -> list[Shape]:
    """The shapes of all operands."""
    return [operation.shape(position) for position in range(len(operation.inputs))]


@operator("Clip")
def first_operand(operation: Operation) -> Rule:
    """`*a, (), () -> *a`; bounds in three operands are scalars."""
    return rule("*a" + ", _" * (len(operation.inputs) - 1) + " -> *a")


@operator("CastLike", casts=True)
def cast_like(operation: Operation) -> Rule:
    """`*a, *b -> *a`: the second operand gives its type, whatever its axes."""
    return rule("*a, *b -> *a", linear=((0,),) if 1 in operation.floats else (), unseen=(1,))


@operator("Dropout", draws=Draws(whole=True, trains=2))
def dropout(operation: Operation) -> Rule:
    """`*a, _, _ -> *a, *a`; in training the mask is drawn anew for every shape."""
    results = ", ".join(["*a"] * len(operation.outputs))
    trains = operation.constants.get(2, operation.has(2))
    others = ", _" * (len(operation.inputs) - 1)
    if np.any(trains):
        return rule(f"*a{others} -> {results}", frozen={"a": RANDOM})
    return rule(f"*a{others} -> {results}", linear=((0,),))


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
