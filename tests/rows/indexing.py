"""Rows of operators that read or write positions named by other tensors."""

# A rule is one line of text, however long.
# ruff: noqa: E501

from __future__ import annotations

import numpy as np

from tests.soundness import Row, constant, given, row

CUBE = (2, 3, 4)

ROWS: list[Row] = [
    row(
        "GatherElements",
        [CUBE, given(np.ones((2, 5, 4)))],
        "a b c, a bx c -> a bx c | frozen b: looked up by index | operand 1 looks up b",
        axis=1,
    ),
    row(
        "GatherElements",
        [CUBE, given(np.ones((1, 5, 4)))],
        "a b c, ax bx c -> ax bx c | frozen b: looked up by index | frozen a ax: only the first positions take part"
        " | operand 1 looks up b",
        axis=-2,
    ),
    row("GatherND", [CUBE, given([[0, 2], [1, 1], [1, 0]])], "a b c, q0 m -> q0 c | frozen a b m: looked up by index"),
    row(
        "GatherND",
        [CUBE, given([[0], [1]])],
        "a b c, q0 m -> q0 b c | frozen a m: looked up by index | operand 1 looks up a",
        opset=11,
    ),
    row(
        "GatherND",
        [CUBE, given([[[0], [2]], [[1], [1]]])],
        "a b c, a q0 m -> a q0 c | frozen b m: looked up by index | operand 1 looks up b",
        batch_dims=1,
    ),
    row("GatherND", [CUBE, given([[0, 2, 1], [1, 1, 3]])], "a b c, q0 m -> q0 | frozen a b c m: looked up by index"),
    row(
        "ScatterND",
        [(4, 3, 5), given([[0], [2]]), (2, 3, 5)],
        "a b c, q0 m, q0 b c -> a b c | frozen a q0 m: written by index",
    ),
    row(
        "ScatterND",
        [(4, 3, 5), given([[0, 1], [2, 2], [3, 0]]), (3, 5)],
        "a b c, q0 m, q0 c -> a b c | frozen a b q0 m: written by index",
        reduction="add",
    ),
    row(
        "ScatterElements",
        [CUBE, given(np.ones((2, 1, 4))), (2, 1, 4)],
        "a b c, a bx c, a bx c -> a b c | frozen b bx: written by index | operand 1 looks up b",
        axis=1,
    ),
    row(
        "ScatterElements",
        [CUBE, given(np.ones((1, 1, 4))), (1, 1, 4)],
        "a b c, ax bx c, ax bx c -> a b c | frozen b bx: written by index | frozen a ax: only the first positions take part"
        " | operand 1 looks up b",
        axis=1,
    ),
    row(
        "Scatter",
        [CUBE, given(np.ones((2, 1, 4))), (2, 1, 4)],
        "a b c, a bx c, a bx c -> a b c | frozen b bx: written by index | operand 1 looks up b",
        opset=9,
        axis=1,
    ),
    row(
        "TensorScatter",
        [(2, 4, 6, 3), (2, 4, 2, 3), given([1, 2])],
        "a b c d, a b u d, a -> a b c d | frozen c u: written by index",
        opset=24,
    ),
    row(
        "TensorScatter",
        [(2, 6, 3), (2, 2, 3)],
        "a b c, a u c -> a b c | frozen b u: written by index",
        opset=24,
        axis=1,
    ),
    row(
        "OneHot",
        [given([[1, 2, 0]]), constant(4), constant([0, 1], np.float32)],
        "a b, _, _ -> a b o | frozen o: classes counted off | operand 1=[o] | operand 0 looks up o",
    ),
    row(
        "OneHot",
        [given([[1, 2], [0, 1]]), constant(4), constant([0, 1], np.float32)],
        "a b, _, _ -> o a b | frozen o: classes counted off | operand 1=[o] | operand 0 looks up o",
        axis=0,
    ),
    row(
        "Compress",
        [CUBE, given([1, 0, 1], bool)],
        "a b c, m -> a x c | frozen b m x: chosen by value when the graph runs",
        axis=1,
    ),
    row(
        "Compress",
        [(2, 3), given([1, 0, 1], bool)],
        "a b, m -> x | frozen a b m x: chosen by value when the graph runs",
        opset=9,
    ),
    row("NonZero", [(2, 3)], "*a -> r p | frozen a r p: chosen by value when the graph runs"),
    row("ReverseSequence", [(3, 2, 4), given([2, 3])], "a b c, b -> a b c | frozen a: steps that are turned round"),
    row(
        "ReverseSequence",
        [(2, 3, 4), given([2, 3])],
        "a b c, a -> a b c | frozen b: steps that are turned round",
        batch_axis=0,
        time_axis=1,
    ),
    row("Trilu", [CUBE], "*a r c -> *a r c | frozen r c: cut along a diagonal"),
    row("Trilu", [CUBE, constant(1)], "*a r c, _ -> *a r c | frozen r c: cut along a diagonal", upper=0),
    row("Det", [(2, 3, 3)], "*a r c -> *a | frozen r c: a matrix that is taken as a whole"),
    row("com.microsoft::Trilu", [CUBE], "*a r c -> *a r c | frozen r c: cut along a diagonal"),
    row("com.microsoft::Inverse", [(2, 3, 3)], "*a r c -> *a r c | frozen r c: a matrix that is taken as a whole"),
]
