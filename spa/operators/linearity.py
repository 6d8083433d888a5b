"""Nodes that are linear along an index set: a change of basis in front of them is the same change behind them.

A rule says that an index set passes a node; whether mixtures of its indices pass as well is one more fact about the
operator. Where they do, from the weights that make a group to the weights that read it, the group has no axes of its
own: any basis is as good, and one may be chosen in which little is lost by leaving some of it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import onnx_ir as ir

from spa.notation.operation import MICROSOFT

MOVES = frozenset(
    {
        *("AveragePool", "Concat", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool", "Identity", "Neg"),
        *("ReduceMean", "ReduceSum", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose"),
        *("Unsqueeze", "Upsample"),
    }
)
"""Each element of a result is an element of an operand, or a weighted sum over axes other than the index set's."""

UNSEEN = {"CastLike": 1, "Shape": 0, "Size": 0}
"""Operands of which no element is looked at, only their type or their sizes."""

LEAVES_OUT = frozenset({"Pad", "Slice", "Split"})
"""Elements of the operand may be in no result, and are not summed over either."""

SUMS = frozenset({"Add", "Sub", "Sum"})
"""Linear in all operands together: the index set has to stand in every one."""

PRODUCTS = frozenset({"Attention", "Conv", "ConvTranspose", "Div", "Einsum", "Gemm", "MatMul", "Mul"})
"""Linear in each operand alone (an attention in its values; in queries and keys through their product)."""

ATTENTIONS, VALUES = frozenset({"Attention", "MultiHeadAttention"}), 2
"""A softmax lies between queries and keys and the result: linear in the values alone."""

MICROSOFT_PRODUCTS = frozenset({"FusedMatMul", "MultiHeadAttention"})

ADDEND = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
"""Operands that are added to the product."""


class Passing(Enum):
    """How a change of basis passes a node: the same in front and behind; two cancel out; no element is looked at."""

    SAME = "same"
    MEETS = "meets"
    UNSEEN = "unseen"


def is_unseen(node: ir.Node, operand: int) -> bool:
    """Whether no element of an operand is looked at."""
    return node.domain in ("", "ai.onnx") and UNSEEN.get(node.op_type) == operand


def leaves_out(node: ir.Node) -> bool:
    """Whether what stands in an operand and in no result is left out, where other nodes would have summed over it."""
    return node.domain in ("", "ai.onnx") and node.op_type in LEAVES_OUT


def passing(node: ir.Node, operands: Sequence[int], *, results: bool) -> Passing | None:
    """What becomes of a change of basis along an index set; None: the node is not linear along it.

    Args:
        operands: the operands in which the index set stands, repeated where it stands twice.
        results: whether it stands in results.
    """
    if len(set(operands)) < len(operands):
        return None
    given = [at for at, value in enumerate(node.inputs) if value is not None]
    if node.domain in ("", "ai.onnx"):
        if list(operands) == [UNSEEN.get(node.op_type)] and not results:
            return Passing.UNSEEN
        if node.op_type in MOVES:
            filled = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
            return Passing.SAME if results and operands and not filled else None
        if node.op_type in SUMS:
            return Passing.SAME if results and list(operands) == given else None
        if node.op_type in ("Cast", "CastLike"):
            return Passing.SAME if results and _gives_floats(node) else None
        known = node.op_type in PRODUCTS
    else:
        known = node.domain == MICROSOFT and node.op_type in MICROSOFT_PRODUCTS
    if not known or (node.op_type == "Div" and list(operands) != [0]):
        return None
    addend = ADDEND.get(node.op_type)
    factors = [at for at in operands if at != addend]
    if not results:
        return Passing.MEETS if len(factors) == 2 and addend not in operands else None
    if node.op_type in ATTENTIONS and factors != [VALUES]:
        return None
    whole = addend not in given or addend in operands
    return Passing.SAME if len(factors) == 1 and whole else None


def _gives_floats(node: ir.Node) -> bool:
    """Whether a conversion gives floating-point numbers."""
    if node.op_type == "Cast":
        return ir.DataType(node.attributes.get_int("to", 0)).is_floating_point()
    like = node.inputs[1]
    return like is not None and like.dtype is not None and like.dtype.is_floating_point()
