"""Rows of operators that work along axes."""

# A rule is one line of text, however long.

from __future__ import annotations

import numpy as np

from tests.soundness import Row, bound, constant, given, row, weight

EXACT = "ReduceL1 ReduceL2 ReduceLogSum ReduceSumSquare"
COUNTED = {
    "ReduceLogSumExp": "enters a sum of exponentials",
    "ReduceMax": "enters a maximum",
    "ReduceMin": "enters a minimum",
    "ReduceProd": "enters a product",
}

ROWS: list[Row] = [
    row("ReduceSum", [(2, 3, 4), constant([1])], "a b c, _ -> a 1 c | linear 0"),
    row("ReduceSum", [(2, 3, 4)], "a b c -> a 1 c | linear 0", opset=9, axes=[1]),
    row("ReduceMean", [(2, 3, 4), constant([1])], "a b c, _ -> a 1 c | statistic b: enters a mean | linear 0"),
    row("ReduceMean", [(2, 3, 4)], "a b c -> a 1 c | statistic b: enters a mean | linear 0", opset=11, axes=[1]),
    *(row(name, [(2, 3, 4), constant([1])], "a b c, _ -> a 1 c") for name in EXACT.split()),
    *(row(name, [(2, 3, 4)], "a b c -> a 1 c", opset=9, axes=[1]) for name in EXACT.split()),
    *(
        row(name, [(2, 3, 4), constant([1])], f"a b c, _ -> a 1 c | statistic b: {why}")
        for name, why in COUNTED.items()
    ),
    *(
        row(name, [(2, 3, 4)], f"a b c -> a 1 c | statistic b: {why}", opset=11, axes=[1])
        for name, why in COUNTED.items()
    ),
    row("ReduceSum", [(2, 3, 4), constant([-1, 0])], "a b c, _ -> b | linear 0", keepdims=0),
    row("ReduceSum", [(2, 3, 4)], "a b c -> () | linear 0", keepdims=0),
    row("ReduceSum", [(2, 3, 4)], "a b c -> a b c | linear 0", noop_with_empty_axes=1),
    row(
        "ReduceSum",
        [(2, 3, 4), constant(np.zeros(0))],
        "a b c, _ -> a b c | linear 0",
        opset=13,
        noop_with_empty_axes=1,
    ),
    row("ReduceSum", [(2, 3, 4), given([1])], "refused: the axes to reduce are computed at run time"),
    row("ReduceSum", [(2, 3, 4), bound([1])], "refused: the axes to reduce are computed at run time"),
    row("ReduceSum", [()], "() -> () | linear 0"),
    row(
        "ReduceMean",
        [(2, 3, 4, 4)],
        "a b c d -> a b | statistic c d: enters a mean | linear 0",
        opset=13,
        axes=[2, 3],
        keepdims=0,
    ),
    row("ReduceMax", [(2, 3)], "a b -> () | statistic a b: enters a maximum", opset=18, keepdims=0),
    row("ArgMax", [(2, 3, 4)], "a b c -> a 1 c | frozen b: its positions are the result", axis=1),
    row("ArgMax", [(2, 3, 4)], "a b c -> a b | frozen c: its positions are the result", opset=9, axis=-1, keepdims=0),
    row("ArgMin", [(2, 3, 4)], "a b c -> 1 b c | frozen a: its positions are the result"),
    row(
        "TopK",
        [(2, 5, 4), constant([3])],
        "a b c, _ -> a k c, a k c | statistic b: ranked by value | frozen k: ranked by value "
        "| result 1 picks b | b is at least 3",
        axis=1,
    ),
    row(
        "TopK",
        [(2, 5)],
        "a b -> a k, a k | statistic b: ranked by value | frozen k: ranked by value "
        "| result 1 picks b | b is at least 3",
        opset=9,
        k=3,
    ),
    row(
        "TopK",
        [(2, 5), given([3])],
        "a b, _ -> a k, a k | statistic b: ranked by value | frozen k: ranked by value | result 1 picks b",
        opset=11,
        sorted=0,
    ),
    row("CumSum", [(2, 3, 4), constant(1)], "a b c, _ -> a b c | statistic b: enters a running sum"),
    row(
        "CumSum",
        [(2, 3, 4), constant([-1])],
        "a b c, _ -> a b c | statistic c: enters a running sum",
        reverse=1,
        exclusive=1,
    ),
    row("CumSum", [(2, 3), given(1)], "refused: the axis to sum along is computed at run time"),
    row(
        "CumProd",
        [(2, 3, 4), constant(1)],
        "a b c, _ -> a b c | statistic b: enters a running product",
        opset=26,
        engine="reference",
    ),
    row("Softmax", [(2, 3, 4)], "a b c -> a b c | statistic c: enters a softmax"),
    row("Softmax", [(2, 3, 4)], "a b c -> a b c | statistic b: enters a softmax", axis=1),
    row("Softmax", [(2, 3, 4)], "a b c -> a b c | statistic b c: enters a softmax", opset=11),
    row("Softmax", [(2, 3, 4)], "a b c -> a b c | statistic c: enters a softmax", opset=9, axis=2),
    row("LogSoftmax", [(2, 3, 4)], "a b c -> a b c | statistic b: enters a softmax", axis=-2),
    row("LogSoftmax", [(2, 3, 4)], "a b c -> a b c | statistic b c: enters a softmax", opset=12),
    row("Hardmax", [(2, 3, 4)], "a b c -> a b c | statistic c: competes for a maximum"),
    row("Hardmax", [(2, 3, 4)], "a b c -> a b c | statistic b c: competes for a maximum", opset=11, axis=1),
    row(
        "NegativeLogLikelihoodLoss",
        [(2, 5, 3), given(np.ones((2, 3)))],
        "n c *s, n *s -> n *s | frozen c: classes that labels count",
        reduction="none",
        engine="reference",
    ),
    row(
        "NegativeLogLikelihoodLoss",
        [(2, 5), given([1, 2]), weight(5)],
        "n c *s, n *s, c -> () | statistic n s: enters a loss | frozen c: classes that labels count",
        engine="reference",
    ),
    row(
        "SoftmaxCrossEntropyLoss",
        [(2, 5, 3), given(np.ones((2, 3)))],
        "n c *s, n *s -> (), n c *s | statistic n s: enters a loss | frozen c: classes that labels count",
        reduction="sum",
        engine="reference",
    ),
]
