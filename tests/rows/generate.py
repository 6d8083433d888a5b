"""Rows of operators that make tensors, or read sizes."""

# A rule is one line of text, however long.

from __future__ import annotations

import numpy as np

from tests.soundness import Row, bound, constant, given, row, weight

ROWS: list[Row] = [
    row("Shape", [(2, 3, 4)], "a b c -> r | frozen r: a list of sizes | result 0=[a, b, c] | unseen 0"),
    row(
        "Shape",
        [(2, 3, 4)],
        "a b c -> r | frozen r: a list of sizes | result 0=[b] | unseen 0",
        opset=15,
        start=1,
        end=-1,
    ),
    row("Shape", [()], "() -> r | frozen r: a list of sizes | unseen 0"),
    row("Size", [(2, 3)], "*a -> () | frozen a: its positions are counted | unseen 0"),
    row("ConstantOfShape", [constant([2, 3])], "_ -> a b | operand 0=[a, b]"),
    row("ConstantOfShape", [bound([2, 3])], "_ -> a b | operand 0=[a, b]"),
    row("ConstantOfShape", [constant(np.zeros(0))], "_ -> ()"),
    row("Range", [constant(2), constant(7), constant(1)], "_, _, _ -> n | frozen n: counted off when the graph runs"),
    row("EyeLike", [(2, 3)], "a b -> a b | frozen a b: positions on a diagonal"),
    row("RandomNormal", [], "() -> a b | frozen a b: drawn at random, anew for every shape", shape=[2, 3]),
    row("RandomUniform", [], "() -> a b | frozen a b: drawn at random, anew for every shape", shape=[2, 3]),
    row("RandomNormalLike", [(2, 3)], "*a -> *a | frozen a: drawn at random, anew for every shape"),
    row("RandomUniformLike", [(2, 3)], "*a -> *a | frozen a: drawn at random, anew for every shape"),
    row("Bernoulli", [given([[0.2, 0.5]], np.float32)], "*a -> *a | frozen a: drawn at random, anew for every shape"),
    row("Multinomial", [(2, 3)], "n c -> n s | frozen n c s: drawn at random, anew for every shape", sample_size=4),
    row("HannWindow", [constant(8)], "_ -> n | frozen n: positions in time or frequency"),
    row("HammingWindow", [constant(8)], "_ -> n | frozen n: positions in time or frequency"),
    row("BlackmanWindow", [constant(8)], "_ -> n | frozen n: positions in time or frequency"),
    row(
        "MelWeightMatrix",
        [constant(8), constant(16), constant(8000), constant(0, np.float32), constant(4000, np.float32)],
        "_, _, _, _, _ -> f m | frozen f m: positions in time or frequency",
    ),
    row(
        "STFT",
        [(2, 16, 1), constant(4), weight(8)],
        "n *s, _, w -> n f b c | frozen s w f b c: positions in time or frequency",
    ),
    row(
        "STFT",
        [(2, 16, 1), constant(4), None, constant(8)],
        "n *s, _, _, _ -> n f b c | frozen s f b c: positions in time or frequency",
    ),
    row(
        "DFT",
        [(2, 5, 3, 1), None, constant(1)],
        "a b c d, _, _ -> a bx c dx | frozen b bx d dx: positions in time or frequency",
    ),
    row(
        "DFT",
        [(2, 5, 3, 2)],
        "a b c d -> a b cx dx | frozen c cx d dx: positions in time or frequency",
        opset=17,
        axis=2,
        inverse=1,
    ),
    row(
        "DFT",
        [(2, 5, 3, 1)],
        "a b c d -> a bx c dx | frozen b bx d dx: positions in time or frequency",
        opset=17,
        onesided=1,
    ),
    row(
        "DFT",
        [(2, 5, 1), None, given(1)],
        "a b c, _, _ -> ax bx cx | frozen a ax b bx c cx: positions in time or frequency",
    ),
]
