"""Operators that work along axes: sums and other reductions, rankings, running sums, softmax."""

from __future__ import annotations

from spa.notation.operation import Operation, Refusal, letters, operator, pattern
from spa.notation.rule import Rule, rule
from spa.operators.norm import MEAN
from spa.operators.sizes import ranked

# Zeros change nothing in the other reductions: their axes are contracted.
ZEROS_COUNT = {
    "ReduceLogSumExp": "enters a sum of exponentials",
    "ReduceMax": "enters a maximum",
    "ReduceMean": MEAN,
    "ReduceMin": "enters a minimum",
    "ReduceProd": "enters a product",
}
RANKED = "ranked by value"
"""Of positions that compete for being among the largest."""

ALONG = {
    "CumProd": "enters a running product",
    "CumSum": "enters a running sum",
    "Hardmax": "competes for a maximum",
    "LogSoftmax": "enters a softmax",
    "Softmax": "enters a softmax",
}

VANISHES = ALONG["Softmax"]
"""Of positions of which nothing is left where they read minus infinity."""

BARRED = frozenset({RANKED, ALONG["Softmax"], ALONG["LogSoftmax"], ZEROS_COUNT["ReduceMax"]})
"""Statistics in which a position that reads minus infinity is as good as gone."""


@operator("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSum", "ReduceSumSquare", *ZEROS_COUNT)
def reduction(operation: Operation) -> Rule:
    """`a b c -> a 1 c`: b is contracted, or enters a statistic."""
    names = letters(len(operation.shape(0)))
    axes = _reduced_axes(operation)
    others = ", _" * (len(operation.inputs) - 1)
    statistic = {}
    if axes and operation.name in ZEROS_COUNT:
        statistic = {" ".join(names[axis] for axis in sorted(axes)): ZEROS_COUNT[operation.name]}
    linear = ((0,),) if operation.name in ("ReduceMean", "ReduceSum") else ()
    return rule(f"{pattern(names)}{others} -> {reduced(operation, names, axes)}", statistic=statistic, linear=linear)


def _reduced_axes(operation: Operation) -> set[int]:
    rank = len(operation.shape(0))
    axes = operation.numbers(1, "axes")
    if axes is None and operation.has(1):
        raise Refusal("the axes to reduce are computed at run time")
    if not axes:
        return set() if operation.attribute("noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in axes}


def reduced(operation: Operation, names: list[str], axes: set[int]) -> str:
    """The result's pattern: reduced axes have length one, or are gone."""
    if operation.attribute("keepdims", 1):
        return pattern(["1" if axis in axes else name for axis, name in enumerate(names)])
    return pattern([name for axis, name in enumerate(names) if axis not in axes])


@operator("ArgMax", "ArgMin")
def position_of_extreme(operation: Operation) -> Rule:
    """`a b -> a 1`: the result is a position in b."""
    names = letters(len(operation.shape(0)))
    axis = operation.axis(0)
    line = f"{pattern(names)} -> {reduced(operation, names, {axis} if names else set())}"
    return rule(line, frozen={names[axis]: "its positions are the result"} if names else {})


@operator("TopK", completes=ranked, counts=True)
def top(operation: Operation) -> Rule:
    """`a b, _ -> a k, a k`: k of b's positions, picked by value."""
    names = letters(len(operation.shape(0)), avoid="k")
    axis = operation.axis(-1)
    result = pattern([*names[:axis], "k", *names[axis + 1 :]])
    others = ", _" * (len(operation.inputs) - 1)
    count = operation.numbers(1, "k")
    return rule(
        f"{pattern(names)}{others} -> {result}, {result}",
        statistic={names[axis]: RANKED},
        frozen={"k": RANKED},
        picks=((1, names[axis]),),
        least={names[axis]: count[0]} if count else {},
    )


@operator("CumProd", "CumSum")
def running(operation: Operation) -> Rule:
    """`a b, _ -> a b`: each position of b takes in those before it."""
    names = letters(len(operation.shape(0)))
    axis = operation.numbers(1)
    if axis is None:
        raise Refusal("the axis to sum along is computed at run time")
    return rule(f"{pattern(names)}, _ -> {pattern(names)}", statistic={names[axis[0]]: ALONG[operation.name]})


@operator("Hardmax", "LogSoftmax", "Softmax")
def softmax(operation: Operation) -> Rule:
    """`a b -> a b`: positions of b share a sum; before opset 13, those of all later axes too."""
    names = letters(len(operation.shape(0)))
    flattens = operation.version < 13
    axis = operation.axis(1 if flattens else -1)
    inside = names[axis:] if flattens else names[axis : axis + 1]
    statistic = {" ".join(inside): ALONG[operation.name]} if inside else {}
    return rule(f"{pattern(names)} -> {pattern(names)}", statistic=statistic)


@operator("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(operation: Operation) -> Rule:
    """`n c *s, n *s, c -> ()`: a mean over all labels; without reduction `n c *s, n *s, c -> n *s`."""
    operands = ["n c *s", "n *s", "c"][: len(operation.inputs)]
    reduced = operation.attribute("reduction", b"mean") not in (b"none", "none")
    results = ["()" if reduced else "n *s", "n c *s"][: len(operation.outputs)]
    return rule(
        f"{', '.join(operands)} -> {', '.join(results)}",
        statistic={"n s": "enters a loss"} if reduced else {},
        frozen={"c": "classes that labels count"},
    )
