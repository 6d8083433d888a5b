"""Operators that mix: products of matrices, convolutions, sums of products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from spa.notation.operation import MICROSOFT, Operation, Refusal, Shape, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.products import Product, Window
from spa.notation.rule import Rule, Sizes, rule
from spa.operators.pointwise import broadcast_line
from spa.operators.sizes import window_is_too_wide

WINDOW = "positions of a sliding window"
ChannelsLast = Literal["", "data", "weight too"]
"""In which operands the channels stand behind all other axes: in none, in the data, or in the weight too."""


@dataclass(frozen=True, slots=True)
class Mix:
    """The patterns of a product of data and weight, of a bias along its result, and the notes they need."""

    data: str
    weight: str
    bias: str
    result: str
    notes: Mapping[str, Any]

    def rule(self, *operands: str, **notes: Any) -> Rule:
        """The rule of an operator with these operands."""
        return rule(f"{', '.join(operands)} -> {self.result}", **self.notes, **notes)


# -------------------------------------------------------------------------------------------------- matrices
@operator("MatMul")
def matmul(operation: Operation) -> Rule:
    """`*b m k, *b k n -> *b m n`, the batch axes broadcast."""
    mix = matrices(operation.shape(0), operation.shape(1), operation.weights)
    return mix.rule(mix.data, mix.weight, products=(Product(0, 1),))


def matrices(left: Shape, right: Shape, weights: frozenset[int], *, rows: str = "m k", columns: str = "k n") -> Mix:
    """The product of two stacks of matrices; `rows` and `columns` name their last two axes as they lie."""
    if len(left) == 1 or len(right) == 1:
        return _vectors(left, right, weights)
    operands, result = broadcast_line((left, right), tail=2).replace("()", "").split("->")
    first, second = operands.split(",")
    batch = " ".join(name for name in first.split() if name in second.split() and name != "1")
    kinds = contraction_kinds(weights, batch=batch, inner="k", outer="m" if 0 in weights else "n")
    return Mix(f"{first} {rows}".strip(), f"{second} {columns}".strip(), "n", f"{result} m n".strip(), {"kinds": kinds})


def _vectors(left: Shape, right: Shape, weights: frozenset[int]) -> Mix:
    batch = letters(max(len(left), len(right)) - 2, avoid="kmn")
    kinds = contraction_kinds(weights, batch="", inner="k", outer="")
    if len(left) == len(right):
        return Mix("k", "k", "()", "()", {"kinds": kinds})
    if len(left) == 1:
        return Mix("k", pattern([*batch, "k", "n"]), "n", pattern([*batch, "n"]), {"kinds": kinds})
    return Mix(pattern([*batch, "m", "k"]), "k", "1", pattern([*batch, "m"]), {"kinds": kinds})


def contraction_kinds(weights: frozenset[int], *, batch: str, inner: str, outer: str) -> dict[str, str]:
    """What the factors of a product of two tensors are called.

    Between two activations, factors that run along are heads and the others lie inside a head; a weight
    makes a hidden width, and a weight with a batch of its own is a set of experts.
    """
    inside, along = ("ffn", "experts") if weights & {0, 1} else ("head_dim", "heads")
    return {inner + " " + outer: inside, batch: along}


@operator("Gemm")
def gemm(operation: Operation) -> Rule:
    """`m k, k n, n -> m n`, operands transposed as the attributes say."""
    mix = gemm_mix(operation, operation.weights)
    return mix.rule(mix.data, mix.weight, *addend(operation, 2, ["m", "n"]), products=(gemm_product(operation),))


def gemm_product(operation: Operation, *, inside: bool = False) -> Product:
    """`alpha * data x weight + beta * bias`."""
    scale, bias_scale = (float(operation.attribute(name, 1.0)) for name in ("alpha", "beta"))
    return Product(0, 1, 2, scale, bias_scale, inside=inside)


def gemm_mix(operation: Operation, weights: frozenset[int]) -> Mix:
    """The product of two matrices, transposed as the attributes say."""
    rows = "k m" if operation.attribute("transA", 0) else "m k"
    columns = "n k" if operation.attribute("transB", 0) else "k n"
    return matrices((0, 0), (0, 0), weights, rows=rows, columns=columns)


def addend(operation: Operation, position: int, names: list[str]) -> list[str]:
    """The pattern of an optional operand that broadcasts against the result, whose axes have these names."""
    if not operation.has(position):
        return []
    shape, whole = operation.shape(position), operation.result()
    first = len(whole) - len(shape)
    terms = ["1" if size == 1 != whole[at] else names[at] for at, size in enumerate(shape, first)]
    return [pattern(terms)]


# ---------------------------------------------------------------------------------------------- convolutions
@operator("Conv", contradicts=window_is_too_wide)
@operator("ConvTranspose")
def convolution(operation: Operation) -> Rule:
    """`n (g i) *s, (g o) i *k, (g o) -> n (g o) *t`; a transposed weight is `(g i) o *k`."""
    transposed = operation.name == "ConvTranspose"
    mix = sliding(operation, transposed=transposed)
    products = sliding_products(operation, transposed=transposed)
    linear = () if products else ((0, 1), *[(2,)] * operation.has(2))
    return mix.rule(mix.data, mix.weight, *[mix.bias] * operation.has(2), products=products, linear=linear)


def sliding_products(
    operation: Operation, *, transposed: bool = False, inside: bool = False, last: ChannelsLast = ""
) -> tuple[Product, ...]:
    """The product under the window; none where a transposed convolution is padded to a size."""
    shape = operation.shape(1)
    auto = text_of(operation, "auto_pad", "NOTSET")
    if transposed and (operation.attribute("output_shape") or auto.startswith("SAME")):
        return ()
    window = _window(operation, taps_of(shape, last), auto, transposed=transposed)
    return (Product(0, 1, 2, window=replace(window, last=bool(last)), inside=inside),)


def taps_of(weight: Shape, last: ChannelsLast = "") -> Shape:
    """The sizes of a kernel's axes, of a weight of that shape."""
    return weight[1:-1] if last == "weight too" else weight[2:]


def _window(operation: Operation, kernel: Shape, auto: str, *, transposed: bool) -> Window:
    rank = len(kernel)
    ones, zeros = (1,) * rank, (0,) * rank

    def numbers(name: str, default: Shape) -> tuple[int, ...]:
        return tuple(int(number) for number in operation.attribute(name) or default)

    strides, dilations = numbers("strides", ones), numbers("dilations", ones)
    pads = zeros + zeros if auto == "VALID" else numbers("pads", zeros + zeros)
    same = {"SAME_UPPER": "upper", "SAME_LOWER": "lower"}.get(auto, "")
    if not transposed:
        return Window(kernel, strides, dilations, None if same else pads, same)
    # y[t] = sum over s of x[s] w[t + pad - s * stride]: a plain window over the spread data, taps backwards
    extra = numbers("output_padding", zeros)
    reach = [dilation * (taps - 1) for dilation, taps in zip(dilations, kernel, strict=True)]
    before = tuple(far - pad for far, pad in zip(reach, pads[:rank], strict=True))
    behind = tuple(far - pad + more for far, pad, more in zip(reach, pads[rank:], extra, strict=True))
    return Window(kernel, ones, dilations, before + behind, "", strides)


def text_of(operation: Operation, name: str, default: str) -> str:
    """An attribute that is a text."""
    value = operation.attribute(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def sliding(
    operation: Operation, *, at: tuple[int, int] = (0, 1), transposed: bool = False, last: ChannelsLast = ""
) -> Mix:
    """A convolution of the operands at two positions, as patterns."""
    data, kernel = operation.shape(at[0]), operation.shape(at[1])
    group = int(operation.attribute("group", 1))
    weight = "(g i) o *k" if transposed else "(g o) *k i" if last == "weight too" else "(g o) i *k"
    pointwise = _is_pointwise(operation, taps_of(kernel, last))
    layout = "n *{} (g {})" if last else "n (g {1}) *{0}"
    texts = (layout.format("s", "i"), weight, "(g o)", layout.format("s" if pointwise else "t", "o"))
    notes: dict[str, Any] = {"frozen": {"k" if pointwise else "s k t": WINDOW}, "kinds": {"i o": "channels"}}
    if transposed and not pointwise:  # each position of the data is spread over the result
        notes["macs"] = (("n", *(["g"] if group > 1 else []), "i", "s", "o", "k"),)
    if group == 1:
        data_text, weight, bias, result = (text.replace("(g i)", "i").replace("(g o)", "o") for text in texts)
        return Mix(data_text, weight, bias, result, notes)
    channels = data[-1 if last else 1]
    if channels == group == prod(kernel) // prod(taps_of(kernel, last)):  # depthwise: nothing but the channels
        notes["kinds"] = {"g": "channels"}
    else:
        notes["kinds"] = {"g": "conv_groups", "i o": "channels"}
    notes |= {"sizes": {"g": group}, "follows": (Sizes("group", (parse_terms("g")[0],), scalar=True),)}
    return Mix(*texts, notes)


def _is_pointwise(operation: Operation, kernel: Shape) -> bool:
    """Whether each position of the result sees just the same position of the data."""
    unit = all(set(operation.attribute(name) or (1,)) == {1} for name in ("strides", "output_shape"))
    still = not any(any(operation.attribute(name) or ()) for name in ("pads", "output_padding"))
    return set(kernel) <= {1} and unit and still


@operator("DeformConv")
def deformable_convolution(operation: Operation) -> Rule:
    """`n (g i) *s, (g o) i *k, n f *t, (g o), n m *t -> n (g o) *t`."""
    mix = sliding(operation)
    notes = dict(mix.notes)
    notes["frozen"] = {"s k t f m" if operation.has(4) else "s k t f": WINDOW}
    if operation.attribute("offset_group", 1) != 1:
        notes["frozen"]["g i" if "(g i)" in mix.data else "i"] = "channels that share the offsets of a group"
    result = mix.result.replace("*s", "*t")
    bias = mix.bias if operation.has(3) else "_"
    operands = [mix.data, mix.weight, "n f *t", bias, "n m *t"][: len(operation.inputs)]
    return rule(f"{', '.join(operands)} -> {result}", **notes)


@operator("CausalConvWithState")
@operator("CausalConvWithState", domain=MICROSOFT)
def causal_convolution(operation: Operation) -> Rule:
    """`n c *t, c 1 *k, c, n c *p -> n c *t, n c *p`: depthwise, over the steps before.

    No product where a state is given: the first rows lie in two operands, so the weight is not refitted.
    """
    if any(operation.attribute(name, 0) for name in ("channels_last", "state_window")) or len(operation.shape(0)) != 3:
        raise Refusal("a causal convolution with several states, or in another layout")
    operands = ["n c *t", "c 1 *k", "c" if operation.has(2) else "_", "n c *p"][: len(operation.inputs)]
    results = ["n c *t", "n c *p"][: len(operation.outputs)]
    names = " ".join(name for name in "tkp" if any(f"*{name}" in text for text in (*operands, *results)))
    (taps,) = operation.shape(1)[2:]
    window = Window((taps,), (1,), (1,), (taps - 1, 0))
    inside = text_of(operation, "activation", "none") != "none"
    products = () if operation.has(3) else (Product(0, 1, 2, window=window, inside=inside),)
    line = f"{', '.join(operands)} -> {', '.join(results)}"
    return rule(line, frozen={names: WINDOW}, kinds={"c": "channels"}, products=products)


# -------------------------------------------------------------------------------------------- sums of products
@operator("Einsum")
def einsum(operation: Operation) -> Rule:
    """The equation itself, its ellipses written out."""
    operands, after = _equation(operation)
    for operand in operands:
        if len(set(operand)) < len(operand):
            raise Refusal("an Einsum that takes a diagonal")
    shapes = [operation.shape(position) for position in range(len(operands))]
    sizes: dict[str, int] = {}
    for operand, shape in zip(operands, shapes, strict=True):
        for name, size in zip(operand, shape, strict=True):
            sizes[name] = size if sizes.get(name, 1) == 1 else sizes[name]
    patterns = [
        pattern(["1" if size == 1 != sizes[name] else name for name, size in zip(operand, shape, strict=True)])
        for operand, shape in zip(operands, shapes, strict=True)
    ]
    products = (Product(0, 1),) if len(operands) == 2 else ()
    linear = () if products else (tuple(range(len(operands))),)
    kinds = _einsum_kinds(operation, operands, after)
    return rule(f"{', '.join(patterns)} -> {pattern(after)}", kinds=kinds, products=products, linear=linear)


def _equation(operation: Operation) -> tuple[list[list[str]], list[str]]:
    """Names for the axes of the operands and of the result."""
    text = text_of(operation, "equation", "").replace(" ", "")
    before, arrow, after = text.partition("->")
    if not arrow:
        once = sorted(name for name in set(before) - {",", "."} if before.count(name) == 1)
        after = "..." * ("..." in before) + "".join(once)
    texts = before.split(",")
    lengths = [len(operation.shape(k)) - len(text.replace("...", "")) for k, text in enumerate(texts) if "..." in text]
    ellipsis = [f"e{name}" for name in letters(max(lengths, default=0))]

    def spread(text: str, length: int) -> list[str]:
        head, dots, tail = text.partition("...")
        return [*head, *(ellipsis[len(ellipsis) - length :] if dots else []), *tail]

    ranks = [len(operation.shape(k)) - len(text.replace("...", "")) for k, text in enumerate(texts)]
    return [spread(text, rank) for text, rank in zip(texts, ranks, strict=True)], spread(after, len(ellipsis))


def _einsum_kinds(operation: Operation, operands: list[list[str]], after: list[str]) -> dict[str, str]:
    if len(operands) != 2:
        return {}
    first, second = operands
    shared = [name for name in first if name in second]
    made = first if operation.weights == {0} else second
    return contraction_kinds(
        operation.weights,
        batch=" ".join(name for name in shared if name in after),
        inner=" ".join(name for name in shared if name not in after),
        outer=" ".join(name for name in made if name not in shared),
    )
