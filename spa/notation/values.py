"""Say of the operator of an attention where its values are, among operands that hold more than these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Values:
    """Where an attention has the values, of which each query gets a weighted mean as the first result.

    Attributes:
        operand: the position of the operand that they are: (batch, keys, heads x size) or (batch, heads, keys, size).
        packed: where it is left out, they are the last part of the last of these operands that is given: (batch, keys,
            queries + keys + values) or (batch, keys, heads, parts, size).
        weight: of a projection inside: they are the last columns of the product of operand 0 and this one.
        bias: the operand whose last part is added to them.
        past: the operand that holds those of earlier calls: (batch, heads, keys, size), behind keys where these are
            there too: (2, batch, heads, keys, size).
        scales, zeros: of integers, the positions of the scales of operand 0 and of the weight, and of the numbers that
            mean zero.
    """

    operand: int | None = None
    packed: tuple[int, ...] = ()
    weight: int | None = None
    bias: int | None = None
    past: int | None = None
    scales: tuple[int, int] | None = None
    zeros: tuple[int, int] | None = None
