"""Choose the parameters that are trained: all, or those of some kinds (PERP, Zimmer et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from spa.errors import UsageError
from spa.gradients.call import implementation, kind_of
from spa.gradients.module import GraphModule


def chosen(module: GraphModule, names: Sequence[str]) -> list[Any]:
    """The parameters to train; no gradient is computed for the others.

    Args:
        names: kinds from `SUBSETS`; none: all parameters.

    Raises:
        UsageError: there are no such parameters.
    """
    kept = []
    for value, parameter in module.stored_parameters():
        wanted = not names or kind(value) in names
        parameter.requires_grad_(wanted)
        if wanted:
            kept.append(parameter)
    if not kept:
        raise UsageError(f"nothing to train: the model has no {' or '.join(names) or 'parameters'}")
    return kept


def is_scale(value: ir.Value) -> bool:
    """Whether a stored vector is what a normalisation scales by."""
    return kind(value) == "norms" and any(position == 1 for _, position in value.uses())


def kind(value: ir.Value) -> str:
    """Which of `SUBSETS` a stored tensor is; empty: a matrix or a kernel."""
    shape = [size for size in (value.shape or ()) if size != 1]
    if value.const_value is not None:
        shape = [size for size in value.const_value.shape.numpy() if size != 1]
    if len(shape) > 1:
        return ""
    for node, _ in value.uses():
        function = implementation(node)
        subset = kind_of(function) if function is not None else ""
        if subset:
            return subset
    return "biases"
