"""Operators that normalise by statistics of their operand."""

from __future__ import annotations

from spa.notation.operation import Operation, Running, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Rule, Sizes, rule
from spa.operators.sizes import same_as_operand

MOMENTS = "enters a mean and a variance"
ROOT_MEAN_SQUARE = "enters a root mean square"
NORM = "enters a norm"
MEAN = "enters a mean"
AVERAGES = frozenset({MOMENTS, ROOT_MEAN_SQUARE, NORM, MEAN})
"""Statistics to which a unit adds its share: without some units they move little, and no unit wins by being large."""


@operator(
    "BatchNormalization",
    running=Running(scale=1, shift=2, mean=3, variance=4, epsilon="epsilon", trains="training_mode"),
)
def batch_norm(operation: Operation) -> Rule:
    """`n c *s, c, c, c, c -> n c *s`; in training with the statistics of the batch, which are results too."""
    results = ", ".join(["n c *s", *["c"] * (len(operation.outputs) - 1)])
    trains = operation.attribute("training_mode", 0) or len(operation.outputs) > 1
    return rule(f"n c *s, c, c, c, c -> {results}", statistic={"n s": MOMENTS} if trains else {})


@operator("InstanceNormalization", affine=(1, 2))
def instance_norm(_: Operation) -> Rule:
    """`n c *s, c, c -> n c *s`."""
    return rule("n c *s, c, c -> n c *s", statistic={"s": MOMENTS})


@operator("GroupNormalization", completes=same_as_operand, affine=(1, 2))
def group_norm(operation: Operation) -> Rule:
    """`n (g c) *s, (g c), (g c) -> n (g c) *s`; before opset 21 scale and bias had one number a group."""
    scale = "(g c)" if operation.version >= 21 else "g"
    return rule(
        f"n (g c) *s, {scale}, {scale} -> n (g c) *s",
        sizes={"g": int(operation.attribute("num_groups"))},
        statistic={"c s": MOMENTS},
        follows=(Sizes("num_groups", (parse_terms("g")[0],), scalar=True),),
    )


@operator("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", affine=(1, 2))
def layer_norm(operation: Operation) -> Rule:
    """`a c, c, c -> a c, a 1, a 1`: all axes from `axis` on are normalised together."""
    shape = operation.shape(0)
    names = letters(len(shape))
    axis = operation.axis(-1)
    scales = [
        scale_pattern(operation.shape(k), shape, names) for k in range(1, len(operation.inputs)) if operation.has(k)
    ]
    moments = pattern([*names[:axis], *["1"] * (len(names) - axis)])
    results = [pattern(names), *[moments] * (len(operation.outputs) - 1)]
    width = " ".join(names[axis:])
    reason = MOMENTS if operation.name == "LayerNormalization" else ROOT_MEAN_SQUARE
    line = f"{', '.join([pattern(names), *scales])} -> {', '.join(results)}"
    return rule(line, statistic={width: reason} if width else {}, kinds={width: "width"} if width else {})


def scale_pattern(scale: tuple[int, ...], shape: tuple[int, ...], names: list[str]) -> str:
    """The pattern of a scale that broadcasts against the last axes of a tensor."""
    first = len(shape) - len(scale)
    return pattern(["1" if size == 1 and shape[at] != 1 else names[at] for at, size in enumerate(scale, first)])


@operator("MeanVarianceNormalization", completes=same_as_operand)
def mean_variance_norm(operation: Operation) -> Rule:
    """`n c h w -> n c h w`: `axes` (all but channels) share a mean and a variance."""
    names = letters(len(operation.shape(0)))
    axes = {axis % len(names) for axis in operation.attribute("axes", (0, 2, 3))}
    return rule(
        f"{pattern(names)} -> {pattern(names)}", statistic={" ".join(names[axis] for axis in sorted(axes)): MOMENTS}
    )


@operator("LpNormalization")
def lp_norm(operation: Operation) -> Rule:
    """`a b -> a b`: b is divided by its norm."""
    names = letters(len(operation.shape(0)))
    return rule(f"{pattern(names)} -> {pattern(names)}", statistic={names[operation.axis(-1)]: NORM})
