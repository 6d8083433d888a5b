"""Operators between numbers and their quantised form, and products of quantised tensors."""

from __future__ import annotations

from typing import Any

from spa.notation.operation import Operation, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Rule, Sizes, rule
from spa.operators.linear import matrices, sliding

RANGE = "sets the range of the quantised numbers"


def ranged(operation: Operation, position: int) -> tuple[tuple[int, int], ...]:
    """The axes of an operand that is quantised when the graph runs: its range, which holds zero, is found from all."""
    return tuple((position, axis) for axis in range(len(operation.shape(position))))


@operator("QuantizeLinear", "DequantizeLinear", quantises=True)
@operator("QuantizeLinear", "DequantizeLinear", domain="com.microsoft", quantises=True)
def quantize(operation: Operation) -> Rule:
    """`a b c, b, b -> a b c`; a scale for all is `()`, a scale for every block of an axis `a (b k), a b -> a (b k)`."""
    shape, scale = operation.shape(0), operation.shape(1)
    names = letters(len(shape), avoid="k")
    axis = operation.axis(1)
    data, by_block = list(names), list(names)
    notes: dict[str, Any] = {}
    if len(scale) == len(shape) > 1 and scale != (1,) * len(shape):
        size = int(operation.attribute("block_size", 0)) or -(-shape[axis] // scale[axis])
        if shape[axis] % size:
            by_block[axis] = names[axis] + "x"
            notes = {"frozen": {f"{names[axis]} {by_block[axis]}": "quantised in blocks that do not divide it"}}
        else:
            data[axis] = f"({names[axis]} k)"
            follow = Sizes("block_size", tuple(parse_terms("k")), scalar=True)
            notes = {"sizes": {"k": size}, "follows": (follow,) if operation.attribute("block_size") else ()}
    given = [along(operation, position, by_block, axis) for position in range(1, len(operation.inputs))]
    return rule(f"{', '.join([pattern(data), *given])} -> {pattern(data)}", **notes)


def along(operation: Operation, position: int, terms: list[str], axis: int) -> str:
    """The pattern of scales or zero points: one for all, one for each position of an axis, or broadcast."""
    if not operation.has(position):
        return "_"
    shape = operation.shape(position)
    if len(shape) == 1:
        return "1" if shape == (1,) else terms[axis]
    return pattern(["1" if size == 1 else terms[at] for at, size in enumerate(shape, len(terms) - len(shape))])


def zeros(operation: Operation, *pairs: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The pairs of an operand and its zero point whose zero point is there."""
    return tuple(pair for pair in pairs if operation.has(pair[1]))


@operator("DynamicQuantizeLinear", quantises=True)
def dynamic_quantize(operation: Operation) -> Rule:
    """`a b -> a b, (), ()`: scale and zero point are found from all positions, among which zeros tell nothing."""
    names = pattern(letters(len(operation.shape(0))))
    results = [names, "()", "()"][: len(operation.outputs)]
    return rule(f"{names} -> {', '.join(results)}", reads=ranged(operation, 0))


# -------------------------------------------------------------------------------------------------- products
@operator("MatMulInteger")
def matmul_integer(operation: Operation) -> Rule:
    """`*b m k, *b k n, m, n -> *b m n`."""
    mix = matrices(operation.shape(0), operation.shape(1), operation.weights)
    points = [along(operation, 2, mix.data.split(), -2), along(operation, 3, mix.weight.split(), -1)]
    operands = [mix.data, mix.weight, *points]
    return mix.rule(*operands[: len(operation.inputs)], zeros=zeros(operation, (0, 2), (1, 3)))


@operator("QLinearMatMul")
def qlinear_matmul(operation: Operation) -> Rule:
    """`*b m k, m, m, *b k n, n, n, (), () -> *b m n`."""
    weights = frozenset(at for at, position in enumerate((0, 3)) if position in operation.weights)
    mix = matrices(operation.shape(0), operation.shape(3), weights)
    rows = [along(operation, position, mix.data.split(), -2) for position in (1, 2)]
    columns = [along(operation, position, mix.weight.split(), -1) for position in (4, 5)]
    result = [along(operation, position, mix.result.split(), -2) for position in (6, 7)]
    return mix.rule(mix.data, *rows, mix.weight, *columns, *result, zeros=zeros(operation, (0, 2), (3, 5)))


@operator("ConvInteger")
def conv_integer(operation: Operation) -> Rule:
    """`n (g i) *s, (g o) i *k, (), (g o) -> n (g o) *t`."""
    mix = sliding(operation)
    points = [along(operation, 2, [mix.bias], 0), along(operation, 3, [mix.bias], 0)]
    operands = [mix.data, mix.weight, *points]
    return mix.rule(*operands[: len(operation.inputs)], zeros=zeros(operation, (0, 2), (1, 3)))


@operator("QLinearConv")
@operator("QLinearConv", domain="com.microsoft")
def qlinear_conv(operation: Operation) -> Rule:
    """`n (g i) *s, (), (), (g o) i *k, (g o), (g o), (), (), (g o) -> n (g o) *t`."""
    mix = sliding(operation, at=(0, 3), last="data" if operation.attribute("channels_last", 0) else "")
    scalars = [along(operation, position, [mix.bias], 0) for position in (1, 2, 4, 5, 6, 7)]
    operands = [mix.data, *scalars[:2], mix.weight, *scalars[2:], mix.bias]
    return mix.rule(*operands[: len(operation.inputs)], zeros=zeros(operation, (0, 2), (3, 5)))
