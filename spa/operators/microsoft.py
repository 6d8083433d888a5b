"""Fused operators of onnxruntime's own domain: activations, norms, convolutions, products of matrices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spa.notation.operation import MICROSOFT, Draws, Joins, Operation, Refusal, Shape, letters, operator, pattern
from spa.notation.patterns import parse_terms
from spa.notation.products import Product
from spa.notation.rule import Rule, Sizes, rule
from spa.operators.indexing import LOOKED_UP
from spa.operators.linear import (
    WINDOW,
    ChannelsLast,
    addend,
    gemm_mix,
    gemm_product,
    matrices,
    sliding,
    sliding_products,
)
from spa.operators.movement import reshape
from spa.operators.norm import MOMENTS, ROOT_MEAN_SQUARE, scale_pattern
from spa.operators.pointwise import RANDOM, broadcast, unary
from spa.operators.pool import REGION, grid_sample
from spa.operators.reduce import ALONG
from spa.operators.sizes import convolved, cropped, multiplied

GATE = "a gate and what it gates"

operator("Gelu", "QuickGelu", domain=MICROSOFT)(unary)
operator("ExpandDims", domain=MICROSOFT)(reshape)
operator("GridSample", domain=MICROSOFT)(grid_sample)


# ----------------------------------------------------------------------------------------------- activations
@operator("BiasAdd", "BiasGelu", "FastGelu", "GatedAdd", domain=MICROSOFT)
def biased(operation: Operation) -> Rule:
    """`*a, a -> *a`: operands broadcast."""
    return broadcast(operation)


@operator("ScaledSiLU", domain=MICROSOFT)
def scaled(operation: Operation) -> Rule:
    """`*a, () -> *a`."""
    return rule("*a" + ", _" * (len(operation.inputs) - 1) + " -> *a")


@operator("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(_: Operation) -> Rule:
    """`n s (p d), (p d) -> n s d`: one half gates the other."""
    return rule("n s (p d), (p d) -> n s d", sizes={"p": 2}, frozen={"p": GATE}, kinds={"d": "ffn"})


@operator("BiasDropout", domain=MICROSOFT, draws=Draws(whole=True, trains=4))
def bias_dropout(operation: Operation) -> Rule:
    """`*a c, c, *a c, _, _ -> *a c, *a c`."""
    whole = letters(len(operation.shape(0)))
    added = [pattern(whole[len(whole) - len(operation.shape(k)) :]) if operation.has(k) else "_" for k in (1, 2)]
    operands = [pattern(whole), *added, "_", "_"][: len(operation.inputs)]
    trains = operation.constants.get(4, operation.has(4))
    results = [pattern(whole)] * len(operation.outputs)
    return rule(
        f"{', '.join(operands)} -> {', '.join(results)}", frozen={" ".join(whole): RANDOM} if np.any(trains) else {}
    )


@operator("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(operation: Operation) -> Rule:
    """`a b, 1 b -> a b`: all axes from `axis` on share a sum."""
    shape, bias = operation.shape(0), operation.shape(1)
    names = letters(len(shape))
    inside = " ".join(names[operation.axis(1) :])
    if len(shape) != len(bias):
        raise Refusal("a bias of another rank than the scores")
    added = ["1" if size == 1 != whole else name for size, whole, name in zip(bias, shape, names, strict=True)]
    return rule(f"{pattern(names)}, {pattern(added)} -> {pattern(names)}", statistic={inside: ALONG["Softmax"]})


# ------------------------------------------------------------------------------------------------------ norms
@operator(
    "SkipLayerNormalization",
    domain=MICROSOFT,
    affine=(2, 3),
    joins=Joins((0, 1), bias=4, total=3, alone=(("LayerNormalization", 17), ("LayerNormalization", 0))),
)
@operator(
    "SkipSimplifiedLayerNormalization",
    domain=MICROSOFT,
    affine=(2, None),
    joins=Joins((0, 1), bias=3, total=3, alone=(("RMSNormalization", 23), ("SimplifiedLayerNormalization", 0))),
)
def skip_layer_norm(operation: Operation) -> Rule:
    """`a b w, b w, w, w, w -> a b w, a b 1, a b 1, a b w`: of the sum of two operands and a bias."""
    shape = operation.shape(0)
    names = [*letters(len(shape) - 1), "w"]
    whole, moments = pattern(names), pattern([*names[:-1], "1"])
    skip = scale_pattern(operation.shape(1), shape, names)
    given = [whole, skip, *("w" if operation.has(k) else "_" for k in range(2, len(operation.inputs)))]
    results = [whole, moments, moments, whole][: len(operation.outputs)]
    reason = ROOT_MEAN_SQUARE if "Simplified" in operation.name else MOMENTS
    return rule(f"{', '.join(given)} -> {', '.join(results)}", statistic={"w": reason}, kinds={"w": "width"})


@operator("SimplifiedLayerNormalization", domain=MICROSOFT, affine=(1, None))
def simplified_layer_norm(operation: Operation) -> Rule:
    """`*a w, w -> *a w, *a 1`."""
    results = ["*a w", "*a 1"][: len(operation.outputs)]
    return rule(f"*a w, w -> {', '.join(results)}", statistic={"w": ROOT_MEAN_SQUARE}, kinds={"w": "width"})


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(operation: Operation) -> Rule:
    """`b s, b s, v w, p w, g w, w, w, b s, b s -> b s w, b, b s w`: three tables, looked up, summed, normalised."""
    ids = "1 s" if operation.has(8) and operation.shape(8)[0] == 1 else "b s"
    operands = ["b s", "b s", "v w", "p w", "g w", "w", "w", "b s", ids]
    given = [
        text if operation.has(position) else "_" for position, text in enumerate(operands[: len(operation.inputs)])
    ]
    tables = " ".join(name for name in "vpg" if f"{name} w" in given)
    results = ["b s w", "b", "b s w"][: len(operation.outputs)]
    frozen = {f"{tables} s": LOOKED_UP}
    line = f"{', '.join(given)} -> {', '.join(results)}"
    return rule(line, statistic={"w": MOMENTS}, frozen=frozen, kinds={"w": "width"})


@operator("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def group_norm(operation: Operation) -> Rule:
    """`n *s (g c), (g c), (g c) -> n *s (g c)`, or channels first; with a skip `n (g c)` and a bias."""
    whole = "n *s (g c)" if operation.attribute("channels_last", 1) else "n (g c) *s"
    skip = []
    if operation.name == "SkipGroupNorm":
        shape = operation.shape(3)
        skip = ["n (g c)" if len(shape) == 2 else "n 1 1 (g c)" if shape[1:3] == (1, 1) else whole]
    operands = [whole, "(g c)", "(g c)", *skip, "(g c)"][: len(operation.inputs)]
    follow = Sizes("groups", tuple(parse_terms("g")), scalar=True)
    return rule(
        f"{', '.join(operands)} -> {', '.join([whole] * len(operation.outputs))}",
        sizes={"g": int(operation.attribute("groups"))},
        statistic={"s c": MOMENTS},
        follows=(follow,),
    )


# ---------------------------------------------------------------------------------------------- convolutions
CHANNELS_LAST: Mapping[str, ChannelsLast] = {"FusedConv": "", "NhwcFusedConv": "data", "NhwcConv": "weight too"}


@operator("FusedConv", domain=MICROSOFT)
@operator("NhwcFusedConv", domain=MICROSOFT, completes=convolved(slice(2, None)))
@operator("NhwcConv", domain=MICROSOFT, completes=convolved(slice(1, -1)))
def fused_convolution(operation: Operation) -> Rule:
    """`n (g i) *s, (g o) i *k, (g o), n (g o) *t -> n (g o) *t`: plus an addend; channels may be last.

    NhwcConv keeps the channels of its weight last as well: `(g o) *k i`.
    """
    last = CHANNELS_LAST[operation.name]
    mix = sliding(operation, last=last)
    operands = [mix.data, mix.weight, mix.bias if operation.has(2) else "_", mix.result]
    more = operation.has(3) or bool(operation.attribute("activation"))
    products = sliding_products(operation, inside=more, last=last)
    return mix.rule(*operands[: len(operation.inputs)], products=products)


@operator("ConvTransposeWithDynamicPads", domain=MICROSOFT)
def transposed_convolution(operation: Operation) -> Rule:
    """`n (g i) *s, (g i) o *k, _, (g o) -> n (g o) *t`."""
    mix = sliding(operation, transposed=True)
    return mix.rule(*[mix.data, mix.weight, "_", mix.bias][: len(operation.inputs)])


@operator("NhwcMaxPool", domain=MICROSOFT)
def pool_channels_last(_: Operation) -> Rule:
    """`n *s c -> n *t c`."""
    return rule("n *s c -> n *t c", frozen={"s t": WINDOW})


@operator("CropAndResize", domain=MICROSOFT, completes=cropped, counts=True)
def crop_and_resize(operation: Operation) -> Rule:
    """`n c *s, r f, r, _ -> r c *t`: the regions r lie anywhere in the batch; outside of it stands one number."""
    filled = float(operation.attribute("extrapolation_value", 0.0)) != 0.0
    return rule("n c *s, r f, r, _ -> r c *t", frozen={"n s f t": REGION}, linear=() if filled else ((0,),))


# --------------------------------------------------------------------------------------------------- matrices
@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
@operator("FusedMatMulActivation", domain=MICROSOFT, completes=multiplied)
def fused_matmul(operation: Operation) -> Rule:
    """`*b m k, *b k n -> *b m n`, the last two axes transposed, and the batch moved inside, as attributes say."""
    left, rows = _transposed(operation, 0, "m k", "A")
    right, columns = _transposed(operation, 1, "k n", "B")
    mix = matrices(left, right, operation.weights, rows=rows, columns=columns)
    operands = [_batch_inside(mix.data, operation, "A"), _batch_inside(mix.weight, operation, "B")]
    product = Product(0, 1, scale=float(operation.attribute("alpha", 1.0)), inside="activation" in operation.attributes)
    return mix.rule(*operands, products=(product,))


def _transposed(operation: Operation, position: int, names: str, side: str) -> tuple[Shape, str]:
    """The shape with the batch in front, and the names of the last two axes as they lie."""
    shape = operation.shape(position)
    if operation.attribute(f"transBatch{side}", 0):
        shape = (*shape[1:-1], shape[0], shape[-1])
    if operation.attribute(f"trans{side}", 0) and len(shape) > 1:
        return shape, " ".join(names.split()[::-1])
    return shape, names


def _batch_inside(text: str, operation: Operation, side: str) -> str:
    """The pattern of an operand whose second last axis lies in front of its batch."""
    terms = text.split()
    return " ".join([terms[-2], *terms[:-2], terms[-1]]) if operation.attribute(f"transBatch{side}", 0) else text


@operator("FusedGemm", "GemmFloat8", domain=MICROSOFT)
def fused_gemm(operation: Operation) -> Rule:
    """`m k, k n, n -> m n`, operands transposed as the attributes say; scales follow."""
    mix = gemm_mix(operation, operation.weights)
    bias = addend(operation, 2, ["m", "n"]) or ["_"]
    products = () if operation.name == "GemmFloat8" else (gemm_product(operation, inside=True),)
    return mix.rule(*[mix.data, mix.weight, *bias, "_", "_", "_"][: len(operation.inputs)], products=products)


@operator("GemmFastGelu", domain=MICROSOFT, completes=multiplied)
def gemm_gelu(operation: Operation) -> Rule:
    """`*b m k, k n, n -> *b m n`."""
    mix = matrices(operation.shape(0), operation.shape(1), operation.weights)
    products = (Product(0, 1, 2, inside=True),)
    return mix.rule(mix.data, mix.weight, *[mix.bias] * operation.has(2), products=products)


@operator("MatMulNBits", domain=MICROSOFT)
def matmul_n_bits(operation: Operation) -> Rule:
    """`*a (q e), n q p, n q, n q, _, n -> *a n`: the e weights of each block q are packed into p bytes."""
    if operation.attribute("weight_prepacked", 0):
        raise Refusal("a weight laid out for one processor")
    if operation.has(4):
        raise Refusal("a weight of few bits whose columns are in an order of their own")
    inner, block = int(operation.attribute("K")), int(operation.attribute("block_size"))
    columns, blocks, _ = operation.shape(1)
    ragged = bool(inner % block)
    each = "n q" if len(operation.shape(2)) == 2 else "(n q)"
    points, packed = "_", False
    if operation.has(3):
        stored = operation.shape(3)
        packed = stored not in ((columns, blocks), (columns * blocks,))
        points = each if not packed else "n z" if len(stored) == 2 else "(n z)"
    stays = ["k" if ragged else "e", "p", *["q"] * (ragged or packed), *["z"] * packed]
    data = "*a k" if ragged else "*a (q e)"
    follows = [] if ragged else [Sizes("K", tuple(parse_terms("(q e)")), scalar=True)]
    operands = [data, "n q p", each, points, "_", "n"][: len(operation.inputs)]
    return rule(
        f"{', '.join(operands)} -> *a n",
        sizes={"n": columns} | ({} if ragged else {"e": block}),
        frozen={" ".join(stays): "packed bits"},
        follows=(*follows, Sizes("N", tuple(parse_terms("n")), scalar=True)),
        kinds={"q n": "ffn"},
        macs=(("a", *("k" if ragged else "qe"), "n"),),
        reads=((0, len(operation.shape(0)) - 1),),
    )
