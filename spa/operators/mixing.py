"""Nodes that compute `data x weight + bias` for a stored weight: which operand is which, and what a row of data is.

A rule says which index sets a node sums over; to refit a weight one must also know that the node is linear in it, where
its bias goes, and, for sliding windows, which elements of the data meet which tap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from spa.notation.rule import Name, Pattern, Rule, names_of, parse_line


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over the last axes of the data.

    Attributes:
        kernel, strides, dilations: taps, steps and gaps of each spatial axis.
        pads: zeros before, then behind, each axis (negative: elements cut off); None: as many as `same` needs.
        same: "upper" or "lower" where the result is as long as the data over the strides.
        spread: the data's elements lie so far apart, zeros between, and the taps run backwards (a transposed
            convolution); empty: they lie side by side.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    same: str = ""
    spread: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Mixing:
    """One stored weight that a node multiplies its data with.

    Attributes:
        data, weight: the operands' positions; `data` is None where a recurrence reads its own result.
        bias: position of an operand that is added and may be given; None: the node takes no bias.
        data_axes, weight_axes, bias_axes: names of the factors of each axis; after sliding, where there is a window:
            the data's spatial axes are then named like those of the result, the taps like those of the weight.
        result_axes: the same of the result; None where the product is not what the node gives.
        contracted: the names summed over.
        stands_for: for a name that is not the rule's own, the rule's name with the same factor.
        scale, bias_scale: factors on the product and on the bias.
        bias_part, bias_parts: the last axis of the bias has so many parts, of which this product has one.
        steps: the data is the node's own first result, one step before along this axis ...
        back: ... or one step behind, in those of its directions that run backwards.
    """

    data: int | None
    weight: int
    bias: int | None
    data_axes: Pattern
    weight_axes: Pattern
    bias_axes: Pattern
    contracted: frozenset[str]
    stands_for: tuple[tuple[str, str], ...] = ()
    result_axes: Pattern = None
    scale: float = 1.0
    bias_scale: float = 1.0
    bias_part: int = 0
    bias_parts: int = 1
    window: Window | None = None
    steps: int | None = None
    back: tuple[bool, ...] = ()


Describe = Callable[[ir.Node, Rule, frozenset[int]], Sequence[Mixing]]
_registry: dict[tuple[str, str], Describe] = {}


def mixes(*names: str, domain: str = "") -> Callable[[Describe], Describe]:
    """Register what operators multiply with what."""

    def decorate(function: Describe) -> Describe:
        for name in names:
            _registry[domain, name] = function
        return function

    return decorate


def mixings(node: ir.Node, rule: Rule, weights: frozenset[int]) -> Sequence[Mixing]:
    """The products of data with stored weights in a node; `weights` are the operands computed from constants alone."""
    function = _registry.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    return function(node, rule, weights) if function is not None else ()


def _mixing(rule: Rule, data: int, weight: int, **notes: Any) -> Mixing:
    """The product of two operands as the rule has them; a bias lies along what the weight adds to the result."""
    data_axes, weight_axes = rule.operands[data], rule.operands[weight]
    made = {name.name for term in weight_axes or () for name in names_of(term)}
    result = [term if made & {name.name for name in names_of(term)} else 1 for term in rule.results[0] or ()]
    while result and result[0] == 1:
        result.pop(0)
    shared = made & {name.name for term in data_axes or () for name in names_of(term)}
    contracted = frozenset(shared & rule.contracted)
    bias, along = notes.pop("bias", None), tuple(result) or (1,)
    return Mixing(data, weight, bias, data_axes, weight_axes, along, contracted, result_axes=rule.results[0], **notes)


@mixes("MatMul", "Einsum")
def _product(node: ir.Node, rule: Rule, weights: frozenset[int]) -> Sequence[Mixing]:
    if len(node.inputs) != 2 or len(weights) != 1:
        return ()
    (weight,) = weights
    return [_mixing(rule, 1 - weight, weight)]


@mixes("Gemm")
def _gemm(node: ir.Node, rule: Rule, weights: frozenset[int]) -> Sequence[Mixing]:
    if len(weights & {0, 1}) != 1:
        return ()
    (weight,) = weights & {0, 1}
    scales = {"scale": node.attributes.get_float("alpha", 1.0), "bias_scale": node.attributes.get_float("beta", 1.0)}
    return [_mixing(rule, 1 - weight, weight, bias=2, **scales)]


@mixes("Conv", "ConvTranspose")
def _convolution(node: ir.Node, _: Rule, weights: frozenset[int]) -> Sequence[Mixing]:
    """Data "n (g i) *t *k" once the window slides; taps behind everything else."""
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    transposed = node.op_type == "ConvTranspose"
    sized = node.attributes.get_ints("output_shape", ()) or node.attributes.get_string("auto_pad", "").startswith(
        "SAME"
    )
    if weights & {0, 1} != {1} or shape is None or (transposed and sized):
        return ()
    group = node.attributes.get_int("group", 1)
    kernel = tuple(int(size) for size in shape.numpy()[2:])
    places = " ".join(f"t{axis}" for axis in range(len(kernel)))
    taps = " ".join(f"k{axis}" for axis in range(len(kernel)))
    kernels = f"(g i) o {taps}" if transposed else f"(g o) i {taps}"
    line = f"n (g i) {places} {taps}, {kernels} -> (g o), n (g o) {places}"
    if group == 1:
        line = line.replace("(g i)", "i").replace("(g o)", "o")
    (data_axes, weight_axes), (bias_axes, result_axes) = parse_line(line)
    names = tuple((f"k{axis}", f"k.{axis}") for axis in range(len(kernel)))
    contracted = frozenset({"i", *(name for name, _ in names)})
    window = _window(node, kernel, transposed)
    return [Mixing(0, 1, 2, data_axes, weight_axes, bias_axes, contracted, names, result_axes, window=window)]


def _window(node: ir.Node, kernel: tuple[int, ...], transposed: bool) -> Window:
    rank = len(kernel)
    ones = [1] * rank
    strides = tuple(node.attributes.get_ints("strides", ones))
    dilations = tuple(node.attributes.get_ints("dilations", ones))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    pads: tuple[int, ...] | None = tuple(node.attributes.get_ints("pads", [0] * 2 * rank))
    if auto == "VALID":
        pads = (0,) * 2 * rank
    same = {"SAME_UPPER": "upper", "SAME_LOWER": "lower"}.get(auto, "")
    if not transposed:
        return Window(kernel, strides, dilations, None if same else pads, same)
    # y[t] = sum over s of x[s] w[t + pad - s * stride]: a plain window over the spread data, taps backwards
    extra = node.attributes.get_ints("output_padding", [0] * rank)
    reach = [dilation * (taps - 1) for dilation, taps in zip(dilations, kernel, strict=True)]
    assert pads is not None
    before = tuple(far - pad for far, pad in zip(reach, pads[:rank], strict=True))
    behind = tuple(far - pad + more for far, pad, more in zip(reach, pads[rank:], extra, strict=True))
    return Window(kernel, tuple(ones), dilations, before + behind, "", strides)


@mixes("LSTM", "GRU", "RNN")
def _recurrent(node: ir.Node, rule: Rule, weights: frozenset[int]) -> Sequence[Mixing]:
    """What is added up before the gates: data by W, and the state of the step before by R; each has its half of B."""
    data, made = rule.operands[0], rule.operands[1]
    if not {1, 2} <= weights or 0 in weights or data is None or made is None:
        return ()
    bias = made[:2]
    fed = Mixing(0, 1, 3, data, made, bias, frozenset({"i"}), bias_parts=2)
    first = "linear_before_reset"  # without it, the new gate of a GRU reads the state times the reset gate
    if node.op_type == "GRU" and not node.attributes.get_int(first, 0):
        return [fed]
    (state,), _ = parse_line("n t d k -> n" if node.attributes.get_int("layout", 0) else "t d n k -> n")
    kept = (*made[:2], Name("k"))
    steps = 1 if node.attributes.get_int("layout", 0) else 0
    back = {"reverse": (True,), "bidirectional": (False, True)}.get(
        node.attributes.get_string("direction", "forward"), (False,)
    )
    again = Mixing(
        None,
        2,
        3,
        state,
        kept,
        bias,
        frozenset({"k"}),
        (("k", "h"),),
        bias_part=1,
        bias_parts=2,
        steps=steps,
        back=back,
    )
    return [fed, again]


def permuted(value: ir.Value) -> tuple[ir.Value, Sequence[int]] | None:
    """The stored tensor that a node does nothing but permute the axes of, for no other node; and the permutation."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.domain not in ("", "ai.onnx") or len(value.uses()) != 1:
        return None
    source = node.inputs[0]
    if source is None or source.const_value is None or not source.is_initializer():
        return None
    axes = node.attributes.get_ints("perm") or range(len(source.const_value.shape))[::-1]
    return source, tuple(axes)


def added_behind(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The node and operand that add a stored tensor to a value that nothing else reads."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, position = uses[0]
    if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
        return None
    other = node.inputs[1 - position]
    stored = other is not None and other.const_value is not None and other.is_initializer()
    return (node, 1 - position) if stored else None


def scaled_behind(value: ir.Value) -> tuple[ir.Node, Sequence[ir.Value]] | None:
    """The node that scales and shifts each channel of a value by stored numbers; and scale, shift, mean, variance."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, position = uses[0]
    stored = _normalising(node)
    return None if position or stored is None else (node, stored)


def running_statistics(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The stored mean and variance by which a node normalises its channels; None: it does not."""
    stored = _normalising(node)
    return None if stored is None else (stored[2], stored[3])


def _normalising(node: ir.Node) -> Sequence[ir.Value] | None:
    """Scale, shift, mean and variance of a batch normalisation, all stored."""
    training = node.attributes.get("training_mode")
    if node.op_type != "BatchNormalization" or (training is not None and training.as_int()):
        return None
    stored = [v for v in node.inputs[1:5] if v is not None and v.const_value is not None and v.is_initializer()]
    return stored if len(stored) == 4 else None


def joined_behind(value: ir.Value) -> ir.Value | None:
    """What is added to a value that nothing else reads: the other branch of a residual connection."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, position = uses[0]
    other = node.inputs[1 - position] if node.op_type == "Add" and node.domain in ("", "ai.onnx") else None
    return None if other is None or other.is_initializer() or other is value else other
