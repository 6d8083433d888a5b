"""The layers of a graph, read off the rules of its nodes, with the bias that is added in the node or behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from spa.analysis.application import Application, Mixing
from spa.analysis.coupling import Coupling
from spa.analysis.neighbours import added_behind, permuted, scaled_behind
from spa.notation.dims import Kind
from spa.notation.patterns import Compound, Name, Pattern, Term
from spa.passes.layers.consumers import Layer, names_along


def find_layers(model: ir.Model, coupling: Coupling, *, closed: bool = False) -> list[Layer]:
    """The mixing layers of the main graph, in graph order.

    Args:
        closed: no bias can be added to a layer that has none: the mean of a normalisation behind it stands for one.
    """
    return [
        layer
        for application in coupling.applications
        if application.node.graph is model.graph
        for mixing in application.products()
        if (layer := _layer(application, mixing, closed=closed))
    ]


def _layer(application: Application, mixing: Mixing, *, closed: bool) -> Layer | None:
    node = application.node
    weight = node.inputs[mixing.weight]
    if weight is not None and (stored := permuted(weight)) is not None:
        weight, order = stored
        mixing = replace(mixing, weight_axes=_permuted(mixing.weight_axes, order))
    data = node.outputs[0] if mixing.data is None else node.inputs[mixing.data]
    if mixing.product.bias_scale == 0.0:  # a bias that counts for nothing
        mixing = _biased(mixing)
    simple = all(_is_product(term) for axes in (mixing.data_axes, mixing.weight_axes) for term in axes or ())
    if weight is None or data is None or weight.const_value is None or not weight.is_initializer() or not simple:
        return None
    factors = dict(application.factors)
    factors.update((alias, factors[name]) for alias, name in mixing.stands_for)
    of_data = names_along(mixing.data_axes)
    of_weight = names_along(mixing.weight_axes)
    blocks = tuple(name for name in of_weight if name in of_data and name not in mixing.contracted)
    taps = {alias for alias, _ in mixing.stands_for} if mixing.window is not None else set()
    contracted = tuple(sorted((name for name in of_weight if name in mixing.contracted), key=taps.__contains__))
    outputs = tuple(name for name in of_weight if name not in (*blocks, *contracted))
    if not contracted or set(of_weight) - factors.keys():
        return None
    shared = len(weight.uses()) > 1
    layer = Layer(node, mixing, data, weight, None, factors, blocks, contracted, outputs, shared)
    bias = _bias(node, mixing, layer.bias_shape())
    if bias not in node.inputs:  # behind the node, whose factor on its own bias does not reach there
        mixing = _biased(mixing) if bias is not None else mixing
    behind = scaled_behind(node.outputs[0]) if bias is None and closed and not mixing.product.inside else None
    if behind is not None:
        bias = _fitting(behind.mean, layer.bias_shape())
        mixing = _biased(mixing, scale=-1.0) if bias is not None else mixing  # the mean is subtracted
    return replace(layer, bias=bias, mixing=mixing)


def _biased(mixing: Mixing, *, scale: float = 1.0) -> Mixing:
    """The product with a bias that is not an operand of its node."""
    return replace(mixing, product=replace(mixing.product, bias=None, bias_scale=scale))


def _permuted(axes: Pattern, order: Sequence[int]) -> Pattern:
    """The axes of a tensor, from those that it has once they are permuted."""
    return None if axes is None else tuple(axes[order.index(at)] for at in range(len(order)))


def _is_product(term: Term) -> bool:
    return not isinstance(term, Compound) or (
        term.kind is Kind.PRODUCT and all(isinstance(part, Name) for part in term.parts)
    )


def _bias(node: ir.Node, mixing: Mixing, shape: tuple[int, ...]) -> ir.Value | None:
    """The stored tensor that is added, as an operand or by the node behind, along the outputs and nothing else."""
    own = node.inputs[mixing.bias] if mixing.bias is not None and mixing.bias < len(node.inputs) else None
    if own is not None and (bias := _fitting(own, shape)) is not None:
        return bias
    ends = not mixing.product.inside and (own is not None or mixing.bias is None)
    behind = added_behind(node.outputs[0]) if ends else None
    return None if behind is None else _fitting(behind[0].inputs[behind[1]], shape)


def _fitting(value: ir.Value | None, shape: tuple[int, ...]) -> ir.Value | None:
    """The value, if it can be the bias: stored, read once, and of that shape; minus infinity masks, and is none."""
    if value is None or value.const_value is None or not value.is_initializer() or len(value.uses()) > 1:
        return None
    own = tuple(value.const_value.shape.numpy())
    while own and own[0] == 1 and len(own) > len(shape):
        own = own[1:]
    if own != shape and value.const_value.size != 1:
        return None
    return value if np.all(np.isfinite(np.asarray(value.const_value.numpy(), np.float64))) else None
