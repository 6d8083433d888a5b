"""Operators that read or write positions named by other tensors, or chosen by value."""

from __future__ import annotations

from spa.notation.operation import Moves, Operation, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.rule import Rule, Sizes, rule

LOOKED_UP = "looked up by index"
WRITTEN = "written by index"
CHOSEN = "chosen by value when the graph runs"


@operator("GatherElements", moves=Moves.FIRST)
def gather_elements(operation: Operation) -> Rule:
    """`a b, a x -> a x`: b is looked up."""
    data, index, frozen = _elementwise(operation, LOOKED_UP)
    looks = ((1, data[operation.axis(0)]),)
    return rule(f"{pattern(data)}, {pattern(index)} -> {pattern(index)}", frozen=frozen, looks=looks)


@operator("Scatter", "ScatterElements", continues=((0, 0),), blank=(0, None))
def scatter_elements(operation: Operation) -> Rule:
    """`a b, a x, a x -> a b`: b is written."""
    if 0 in operation.shape(1):
        return _unchanged(operation)
    data, index, frozen = _elementwise(operation, WRITTEN)
    axis = operation.axis(0)
    frozen |= {index[axis]: WRITTEN}
    return rule(
        f"{pattern(data)}, {pattern(index)}, {pattern(index)} -> {pattern(data)}", frozen=frozen,
        looks=((1, data[axis]),),
    )  # fmt: skip


def _unchanged(operation: Operation) -> Rule:
    """`a b, _, _ -> a b`: no position is written; operands without elements stay as long along every axis."""
    names = pattern(letters(len(operation.shape(0))))
    return rule(f"{names}, _, _ -> {names}")


def _elementwise(operation: Operation, reason: str) -> tuple[list[str], list[str], dict[str, str]]:
    """Names for data and indices that agree on all axes but one; the names that stay."""
    shape, index = operation.shape(0), operation.shape(1)
    names = letters(len(shape), avoid="x")
    axis = operation.axis(0)
    picked = [name + "x" if at == axis or index[at] != shape[at] else name for at, name in enumerate(names)]
    short = " ".join(
        f"{name} {other}"
        for at, (name, other) in enumerate(zip(names, picked, strict=True))
        if at != axis and name != other
    )
    return names, picked, {names[axis]: reason} | ({short: "only the first positions take part"} if short else {})


@operator("GatherND", moves=Moves.FIRST)
def gather_nd(operation: Operation) -> Rule:
    """`b a c, b q m -> b q c`: m numbers say where in the axes after the batch."""
    data, index = operation.shape(0), operation.shape(1)
    batch = int(operation.attribute("batch_dims", 0))
    names = letters(len(data), avoid="mq")
    rest = batch + index[-1]
    queries = [f"q{k}" for k in range(len(index) - batch - 1)]
    looked = " ".join(names[batch:rest])
    index_text, result = pattern([*names[:batch], *queries, "m"]), pattern([*names[:batch], *queries, *names[rest:]])
    looks = ((1, names[batch]),) if index[-1] == 1 else ()
    return rule(f"{pattern(names)}, {index_text} -> {result}", frozen={f"{looked} m".strip(): LOOKED_UP}, looks=looks)


@operator("ScatterND", continues=((0, 0),))
def scatter_nd(operation: Operation) -> Rule:
    """`a c, q m, q c -> a c`: m numbers say where each q is written."""
    data, index = operation.shape(0), operation.shape(1)
    names = letters(len(data), avoid="mq")
    queries = [f"q{k}" for k in range(len(index) - 1)]
    written = names[: index[-1]] if 0 not in index else []
    line = (
        f"{pattern(names)}, {pattern([*queries, 'm'])}, {pattern([*queries, *names[index[-1] :]])} -> {pattern(names)}"
    )
    return rule(line, frozen={" ".join([*written, *queries, "m"]): WRITTEN})


@operator("TensorScatter", continues=((0, 0),))
def tensor_scatter(operation: Operation) -> Rule:
    """`n h s d, n h u d, n -> n h s d`: each sample is written from a position of its own on."""
    names = letters(len(operation.shape(0)), avoid="u")
    axis = operation.axis(-2)
    update = [*names[:axis], "u", *names[axis + 1 :]]
    operands = [pattern(names), pattern(update), names[0]][: len(operation.inputs)]
    return rule(f"{', '.join(operands)} -> {pattern(names)}", frozen={f"{names[axis]} u": WRITTEN})


@operator("OneHot", blank=(2, 1))
def one_hot(operation: Operation) -> Rule:
    """`a b, _, _ -> a b o`."""
    names = letters(len(operation.shape(0)), avoid="o")
    axis = int(operation.attribute("axis", -1)) % (len(names) + 1)
    known = 1 in operation.constants
    return rule(
        f"{pattern(names)}, _, _ -> {pattern([*names[:axis], 'o', *names[axis:]])}",
        frozen={"o": "classes counted off"},
        follows=(Sizes(1, tuple(parse_terms("o"))),) if known else (),
        looks=((0, "o"),) if known else (),
    )


@operator("Compress", counts=True)
def compress(operation: Operation) -> Rule:
    """`a b, m -> a x`: the positions of b that a mask keeps."""
    names = letters(len(operation.shape(0)), avoid="mx")
    if "axis" not in operation.attributes:
        return rule(f"{pattern(names)}, m -> x", frozen={" ".join([*names, "m", "x"]): CHOSEN})
    axis = operation.axis()
    result = pattern([*names[:axis], "x", *names[axis + 1 :]])
    return rule(f"{pattern(names)}, m -> {result}", frozen={f"{names[axis]} m x": CHOSEN})


@operator("NonZero", counts=True, finds=True)
def non_zero(_: Operation) -> Rule:
    """`*a -> r p`."""
    return rule("*a -> r p", frozen={"a r p": CHOSEN})


@operator("ReverseSequence")
def reverse_sequence(operation: Operation) -> Rule:
    """`t n c, n -> t n c`: the first steps t of each sample are turned round."""
    names = letters(len(operation.shape(0)))
    time, batch = operation.axis(0, name="time_axis"), operation.axis(1, name="batch_axis")
    return rule(
        f"{pattern(names)}, {names[batch]} -> {pattern(names)}", frozen={names[time]: "steps that are turned round"}
    )


@operator("Trilu")
@operator("Trilu", domain="com.microsoft")
def triangle(operation: Operation) -> Rule:
    """`*a r c, _ -> *a r c`."""
    others = ", _" * (len(operation.inputs) - 1)
    return rule(f"*a r c{others} -> *a r c", frozen={"r c": "cut along a diagonal"})


@operator("Det")
@operator("Inverse", domain="com.microsoft")
def determinant(operation: Operation) -> Rule:
    """`*a r c -> *a`; the inverse keeps r and c."""
    result = "*a r c" if operation.name == "Inverse" else "*a"
    return rule(f"*a r c -> {result}", frozen={"r c": "a matrix that is taken as a whole"})
