"""Prune JAX models, flax, equinox or plain functions: `prune(source, inputs, ratio=0.3)` gives the same, smaller.

Exporting alone, `export`, gives the ONNX graph. jax and jax2onnx are imported on use only.
"""

from __future__ import annotations

from typing import Any

from spa.adapters import restore
from spa.frontends.exporting import jax as frontend
from spa.frontends.exporting.jax import OPSET, Inputs, Source, export, rebuild, run, trace

__all__ = ["OPSET", "Inputs", "Source", "export", "prune", "rebuild", "run", "trace"]


def prune(source: Source, inputs: Inputs, *, ratio: float, **options: Any) -> Source:
    """The same with smaller parameters: a module of the same class, or (function, parameters) with a smaller tree.

    Sizes that modules keep in attributes (features, heads) follow. A linen module builds its layers in code, so only
    the sizes that it takes as fields can follow; what cannot is left alone, and the logger ``spa`` says which.

    Args:
        source: a module, or (function, parameters); never changed.
        inputs: an example array, or a tuple of them.
        ratio: the share to remove, between 0 and 1.
        options: as for `spa.prune`; `spa.adapters.restore.prune` also returns the plan and the report.

    Raises:
        MissingExtra: jax, jax2onnx or onnxruntime is not installed.
        ModelError: the function cannot be converted.
        UsageError, DataError: it has no parameters, or an option or the samples are wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the smaller model does not compute what the pruned graph does.
    """
    return restore.prune(frontend, source, inputs, ratio=ratio, **options).source
