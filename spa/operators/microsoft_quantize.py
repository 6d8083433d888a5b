"""Quantised operators of onnxruntime's own domain; scales and zero points of whole tensors are read as they are."""

from __future__ import annotations

from spa.notation.operation import MICROSOFT, Operation, Refusal, letters, operator, pattern
from spa.notation.partial import Dims, Partial
from spa.notation.patterns import parse_terms
from spa.notation.rule import Rule, Sizes, rule
from spa.operators.indexing import LOOKED_UP
from spa.operators.linear import WINDOW, Mix, addend, gemm_mix, matrices
from spa.operators.pointwise import broadcast_line
from spa.operators.quantize import RANGE, along, ranged, zeros
from spa.operators.recurrent import GATES, STEPS
from spa.operators.reduce import ALONG, ZEROS_COUNT, reduced


def _line(operation: Operation, operands: dict[int, str], result: str) -> str:
    """The operands at their positions, everything else read as it is."""
    texts = [operands.get(position, "_") for position in range(len(operation.inputs))]
    return f"{', '.join(texts)} -> {result}"


# -------------------------------------------------------------------------------------------------- pointwise
@operator("QLinearLeakyRelu", "QLinearSigmoid", domain=MICROSOFT)
def unary(operation: Operation) -> Rule:
    """`*a, _, _, _, _ -> *a`."""
    return rule(_line(operation, {0: "*a"}, "*a"))


DATA = {"QLinearAdd": (0, 3), "QLinearMul": (0, 3), "MulInteger": (0, 2), "QLinearWhere": (0, 1, 4)}


@operator(*DATA, domain=MICROSOFT)
def binary(operation: Operation) -> Rule:
    """`*a, _, _, *a, _, _, _, _ -> *a`, broadcast."""
    data = DATA[operation.name]
    operands, result = broadcast_line(tuple(operation.shape(position) for position in data)).split(" -> ")
    return rule(_line(operation, dict(zip(data, operands.split(", "), strict=True)), result))


@operator("QLinearConcat", domain=MICROSOFT)
def concat(operation: Operation) -> Rule:
    """`_, _, n a, _, _, n b, _, _ -> n (a + b)`."""
    data = range(2, len(operation.inputs), 3)
    names = letters(len(operation.shape(2)), avoid="x")
    axis = operation.axis(position=2)
    pieces = [f"x{number}" for number in range(len(data))]
    operands = {at: pattern([*names[:axis], piece, *names[axis + 1 :]]) for at, piece in zip(data, pieces, strict=True)}
    joined = f"({' + '.join(pieces)})" if len(pieces) > 1 else pieces[0]
    return rule(_line(operation, operands, pattern([*names[:axis], joined, *names[axis + 1 :]])))


# ------------------------------------------------------------------------------------------------ along an axis
@operator("QLinearSoftmax", domain=MICROSOFT)
def softmax(operation: Operation) -> Rule:
    """`a b, _, _, _, _ -> a b`: b shares a sum; before opset 13 all later axes do too."""
    names = letters(len(operation.shape(0)))
    flattens = int(operation.attribute("opset", 13)) < 13
    axis = operation.axis(1 if flattens else -1)
    inside = " ".join(names[axis:] if flattens else names[axis : axis + 1])
    return rule(_line(operation, {0: pattern(names)}, pattern(names)), statistic={inside: ALONG["Softmax"]})


@operator("QLinearReduceMean", domain=MICROSOFT)
def reduce_mean(operation: Operation) -> Rule:
    """`a b, _, _, _, _ -> a 1`."""
    names = letters(len(operation.shape(0)))
    axes = {axis % len(names) for axis in operation.attribute("axes") or range(len(names))}
    inside = " ".join(names[axis] for axis in sorted(axes))
    result = reduced(operation, names, axes)
    return rule(_line(operation, {0: pattern(names)}, result), statistic={inside: ZEROS_COUNT["ReduceMean"]})


@operator("ReduceSumInteger", domain=MICROSOFT)
def reduce_sum(operation: Operation) -> Rule:
    """`a b -> a 1`."""
    names = letters(len(operation.shape(0)))
    axes = {axis % len(names) for axis in operation.attribute("axes")}
    return rule(f"{pattern(names)} -> {reduced(operation, names, axes)}")


@operator("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def average_pool(operation: Operation) -> Rule:
    """`n c *s, _, _, _, _ -> n c *t`, or channels last; the whole image is a mean."""
    last = bool(operation.attribute("channels_last", 0))
    layout = "n *s c" if last else "n c *s"
    if operation.name == "QLinearAveragePool":
        return rule(_line(operation, {0: layout}, layout.replace("*s", "*t")), frozen={"s t": WINDOW})
    ones = " ".join("1" * (len(operation.shape(0)) - 2))
    return rule(_line(operation, {0: layout}, layout.replace("*s", ones)), statistic={"s": ZEROS_COUNT["ReduceMean"]})


# ---------------------------------------------------------------------------------------------------- products
@operator("QGemm", domain=MICROSOFT)
def gemm(operation: Operation) -> Rule:
    """`m k, _, _, k n, n, n, n, _, _ -> m n`, operands transposed as the attributes say."""
    mix = gemm_mix(operation, _weights(operation, 0, 3))
    bias = dict.fromkeys((6,), *addend(operation, 6, ["m", "n"])) if operation.has(6) else {}
    scales = {at: along(operation, at, ["n"], 0) for at in (4, 5)}
    return _mixed(operation, mix, {0: mix.data, 3: mix.weight, **scales, **bias}, zeros(operation, (0, 2), (3, 5)))


def _weights(operation: Operation, left: int, right: int) -> frozenset[int]:
    return frozenset(at for at, position in enumerate((left, right)) if position in operation.weights)


def _mixed(operation: Operation, mix: Mix, operands: dict[int, str], points: tuple[tuple[int, int], ...]) -> Rule:
    return mix.rule(*(operands.get(position, "_") for position in range(len(operation.inputs))), zeros=points)


@operator("MatMulInteger16", "MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_to_float(operation: Operation) -> Rule:
    """`*b m k, *b k n, _, n, _, n, n -> *b m n`."""
    mix = matrices(operation.shape(0), operation.shape(1), operation.weights)
    scales = {at: along(operation, at, mix.weight.split(), -1) for at in (3, 5)}
    return _mixed(operation, mix, {0: mix.data, 1: mix.weight, **scales, 6: mix.bias}, zeros(operation, (0, 4), (1, 5)))


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(operation: Operation) -> Rule:
    """`*b m k, *b k n, n, n, n -> *b m n`: the data's range is found when the graph runs."""
    mix = matrices(operation.shape(0), operation.shape(1), operation.weights)
    scales = {at: along(operation, at, mix.weight.split(), -1) for at in (2, 3)}
    operands = {0: mix.data, 1: mix.weight, **scales, 4: mix.bias}
    return rule(
        _line(operation, {at: text for at, text in operands.items() if operation.has(at)}, mix.result),
        reads=ranged(operation, 0),
        kinds=mix.notes["kinds"],
        zeros=zeros(operation, (1, 3)),
    )


@operator("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstm(operation: Operation) -> Rule:
    """`t n i, d i (g h), d h (g h), d (b h), n, d n h, d n h, d (p h), d, d, d, d -> t d n h, d n h, d n h`."""
    scales = {at: "d" if len(operation.shape(at)) == 1 else "d (g h)" for at in range(8, 12)}
    operands = {0: "t n i", 1: "d i (g h)", 2: "d h (g h)", 3: "d (b h)", 4: "n", 5: "d n h", 6: "d n h", 7: "d (p h)"}
    given = {at: text for at, text in (operands | scales).items() if operation.has(at)}
    sizes = {"g": GATES["LSTM"], "b": 2 * GATES["LSTM"], "p": 3}
    used = [name for name in sizes if any(f"({name} h)" in text for text in given.values())]
    return rule(
        _line(operation, given, ", ".join(["t d n h", "d n h", "d n h"][: len(operation.outputs)])),
        sizes={name: sizes[name] for name in used},
        statistic={"n h": RANGE},
        frozen={" ".join(used): "gates", "d": "directions", "t": STEPS},
        follows=(Sizes("hidden_size", tuple(parse_terms("h")), scalar=True),),
        kinds={"h": "hidden"},
        macs=tuple(("t", "n", "d", "g", "h", read) for read in ("i", "h")),
        reads=((2, 1), *ranged(operation, 0)),
        zeros=zeros(operation, (1, 9), (2, 11)),
    )


def unpacked_rows(node: Partial) -> Dims | None:
    """The dims of the indices, and as many numbers as a row of the table has."""
    table, index = node.of(0), node.of(1)
    if table is None or index is None or node.attribute("gather_axis", 0) or len(table) != 2:
        return None
    width = table[1] * 8 // node.attribute("bits", 4) if isinstance(table[1], int) else None
    return (*index, width)


@operator("GatherBlockQuantized", domain=MICROSOFT, completes=unpacked_rows)
def gather_packed(operation: Operation) -> Rule:
    """`v (q p), *b, v q, v q -> *b (q e)`: rows of a table, looked up; the e numbers of a block q lie in p bytes."""
    if operation.attribute("gather_axis", 0) or len(operation.shape(0)) != 2:
        raise Refusal("a packed table that is looked up along another axis than its first")
    blocks, block = operation.shape(2)[1], int(operation.attribute("block_size", 128))
    stays = ["e", "p"]
    points = []
    if operation.has(3):
        whole = operation.shape(3)[1] == blocks
        points = ["v q" if whole else "v z"]
        stays += [] if whole else ["q", "z"]
    if operation.result()[-1] != blocks * block or operation.shape(0)[1] % blocks:
        raise Refusal("rows that end within a packed block")
    operands = ["v (q p)", "*b", "v q", *points]
    frozen = {"v": LOOKED_UP, " ".join(stays): "packed bits"}
    return rule(f"{', '.join(operands)} -> *b (q e)", sizes={"q": blocks, "e": block}, frozen=frozen)
