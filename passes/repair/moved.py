"""Measure how far a pruned model's outputs are from the dense one's, on inputs that both run on."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from spa.analysis.couple import couple
from spa.passes.layers.finding import find_layers
from spa.passes.repair.difference import may_be_logits, output_difference
from spa.passes.repair.kinds import column_axes
from spa.shapes import Shapes

Outputs = Mapping[str, Any]


class Traits(NamedTuple):
    """What a graph says of an output: whether it may be logits, and the axes of its columns; None: any."""

    logits: bool = False
    columns: Container[int] | None = None


def traits_of(model: ir.Model, shapes: Shapes) -> dict[str, Traits]:
    """Of each output of a normalised model, by name."""
    coupling = couple(model, shapes)
    layers, columns = find_layers(model, coupling), column_axes(coupling)
    return {str(value.name): Traits(may_be_logits(value, layers), columns(value)) for value in model.graph.outputs}


def moved(
    dense: Sequence[Outputs], pruned: Sequence[Outputs], *, traits: Mapping[str, Traits] | None = None
) -> dict[str, dict[str, float]]:
    """For each output of numbers how far it moved, as `difference.output_difference` says.

    Outputs of whole numbers were decided, and are left out; so are those whose sizes differ, which the data decide.
    Rows that are of other lengths from run to run (scores of pairs, one number a sample) are taken number by number.

    Args:
        dense, pruned: results by name, of the same runs.
        traits: of outputs, by name, as far as they are known.
    """
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for expected, results in zip(dense, pruned, strict=True):
        for name, array in expected.items():
            pairs.setdefault(name, []).append((array, results[name]))
    distances = {}
    for name, both in pairs.items():
        if not all(_comparable(left, right) for left, right in both):
            continue
        whole = len({left.shape[-1:] for left, _ in both}) == 1 and both[0][0].ndim > 1
        left, right = ([array if whole else array.reshape(-1, 1) for array in each] for each in zip(*both, strict=True))
        logits, columns = (traits or {}).get(name, Traits())
        distances[name] = output_difference(left, right, logits=whole and logits, columns=columns)
    return distances


def _comparable(left: Any, right: Any) -> bool:
    arrays = isinstance(left, np.ndarray) and isinstance(right, np.ndarray)
    return arrays and left.dtype.kind == "f" and left.shape == right.shape and bool(left.size)
