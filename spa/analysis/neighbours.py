"""Find the neighbours that belong to a node: a stored tensor permuted before it, a bias or a scale behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from spa.notation.operation import entry_of

GATE = "spa.gate"
"""Mark in the metadata of a multiplication by one that a repair puts behind a residual branch, and of the one."""


def permuted(value: ir.Value) -> tuple[ir.Value, Sequence[int]] | None:
    """The stored tensor that a node does nothing but permute the axes of, for no other node; and the permutation."""
    node = value.producer()
    if node is None or not (permutes := entry_of(node).permutes) or len(value.uses()) != 1:
        return None
    source = node.inputs[0]
    if source is None or source.const_value is None or not source.is_initializer():
        return None
    axes = node.attributes.get_ints(permutes) or range(len(source.const_value.shape))[::-1]
    return source, tuple(axes)


def added_behind(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The node and operand that add a stored tensor to a value that nothing else reads."""
    behind = _adding(value)
    if behind is None:
        return None
    node, position = behind
    other = node.inputs[position]
    stored = other is not None and other.const_value is not None and other.is_initializer()
    return (node, position) if stored else None


def joined_behind(value: ir.Value) -> ir.Value | None:
    """What is added to a value that nothing else reads: the other branch of a residual connection."""
    behind = _adding(value)
    other = None if behind is None else behind[0].inputs[behind[1]]
    return None if other is None or other.is_initializer() or other is value else other


def _adding(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The node that adds something to a value that nothing else reads, and the operand that it adds."""
    reader = _only_reader(value)
    if reader is None or not entry_of(reader[0]).adds or len(reader[0].inputs) != 2:
        return None
    return reader[0], 1 - reader[1]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """A node that normalises each channel by stored numbers.

    Attributes:
        epsilon: what is added to the variance.
    """

    node: ir.Node
    scale: ir.Value
    shift: ir.Value
    mean: ir.Value
    variance: ir.Value
    epsilon: float


def normalisation_of(node: ir.Node) -> Normalisation | None:
    """How a node normalises its channels; None: it does not, or not by stored numbers."""
    running = entry_of(node).running
    if running is None or _is_on(node, running.trains):
        return None
    values = [node.inputs[at] for at in (running.scale, running.shift, running.mean, running.variance)]
    stored = [value for value in values if value is not None and value.const_value is not None]
    if len(stored) < len(values) or not all(value.is_initializer() for value in stored):
        return None
    scale, shift, mean, variance = stored
    return Normalisation(node, scale, shift, mean, variance, node.attributes.get_float(running.epsilon, 1e-5))


def _is_on(node: ir.Node, attribute: str) -> bool:
    value = node.attributes.get(attribute)
    return value is not None and bool(value.as_int())


def scaled_behind(value: ir.Value) -> Normalisation | None:
    """How the only node that reads a value scales and shifts each channel of it by stored numbers."""
    reader = _only_reader(value)
    return None if reader is None or reader[1] else normalisation_of(reader[0])


def _only_reader(value: ir.Value) -> tuple[ir.Node, int] | None:
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, position = uses[0].node, uses[0].idx
    return _only_reader(node.outputs[0]) if GATE in node.meta else (node, position)
