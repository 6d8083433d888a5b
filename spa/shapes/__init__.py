"""Static shapes of every value of a graph, and the contents of its small tensors.

The graph is walked node by node (``walk``), subgraphs included, with its symbolic input axes bound to distinct primes
(``binding``), or left symbolic to learn what holds for every input. What one node does to shapes is in ``node``, what
it does to contents in ``content``. Weights are never read, only their shapes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

import spa.operators  # noqa: F401  (fills the registry)
from spa.shapes.binding import bindings
from spa.shapes.node import NodeInference
from spa.shapes.order import in_order
from spa.shapes.walk import Walk

__all__ = ["Shapes", "in_order", "infer_shapes", "infer_static"]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What is known of a graph's values under one binding of its symbolic input axes.

    of: static shape of a value; absent where unknown, and for what is no tensor
    values: contents of the known tensors of at most 4096 elements, constants included
    binding: symbolic axis -> bound number. An unnamed axis goes by ``tensor[axis]``, as does an axis whose size the
        data decides (what NonZero finds, say): it gets a number that stands for any
    counted: the axes whose size the data decides, where nodes make them
    dtypes: of tensors; absent where unknown
    ties: symbolic axis -> those that it is as long as together, as far as that was tried
    dims: of values whose rank is known: numbers, and names or None for what is open
    fault: the first node that cannot take its operands, in words; empty where there is none
    """

    of: Mapping[ir.Value, tuple[int, ...]]
    values: Mapping[ir.Value, np.ndarray]
    binding: Mapping[str, int]
    counted: Collection[tuple[ir.Value, int]] = ()
    dtypes: Mapping[ir.Value, ir.DataType] = field(default_factory=dict)
    ties: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dims: Mapping[ir.Value, tuple[int | str | None, ...]] = field(default_factory=dict)
    fault: str = ""


def infer_shapes(model: ir.Model, *, inputs: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Shapes of all values, with the symbolic input axes bound to numbers.

    Several bindings are tried until one suits every node (an input can be too short for the graph's windows, or too
    long for its tables); if none does, the one that suits most nodes is taken.

    inputs: input name -> shape to use for it

    Raises UsageError where ``inputs`` names no input of the graph or contradicts its static axes, and ModelError where
    nodes wait for each other.
    """
    inference = NodeInference(model)
    best: Walk | None = None
    for binding in bindings(model.graph, inputs or {}):
        patience = math.inf if best is None else best.contradictions
        walk = Walk(model, inference, binding, patience=patience)
        if walk.misfits:
            walk = Walk(model, inference, binding, patience=patience, uncounted=walk.misfits)
        if walk.finished:
            best = walk
        if best is not None and best.contradictions == 0:
            break
    assert best is not None  # the first walk has endless patience
    return _result(best)


def infer_static(model: ir.Model) -> Shapes:
    """The shapes and contents that are the same for every input and every size of a symbolic axis.

    Declared shapes of intermediate values are not relied on, so the contents may replace the nodes that compute them.

    Raises ModelError where nodes wait for each other.
    """
    return _result(Walk(model, NodeInference(model), None))


def _result(walk: Walk) -> Shapes:
    of = {value: type_.static for value, type_ in walk.types.items()}
    return Shapes(
        {value: dims for value, dims in of.items() if dims is not None},
        {value: content.array for value, content in walk.contents.items() if content.complete},
        walk.numbers,
        walk.counted,
        {value: ir.DataType(type_.element) for value, type_ in walk.types.items() if type_.element},
        walk.ties,
        {value: type_.dims for value, type_ in walk.types.items() if type_.dims is not None},
        walk.fault,
    )
