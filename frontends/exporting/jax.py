"""JAX to ``onnx_ir.Model`` and back, by jax2onnx: flax nnx and linen, equinox, plain functions.

jax and jax2onnx are imported on use only. `trace` hands the parameters over as arguments, so that each stays an array
of its own in the graph, under its path in the parameter tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.errors import ModelError, UsageError
from spa.frontends.exporting.exported import Traced, check, close_inputs, name_weights, quiet
from spa.frontends.exporting.jax_rebuild import rebuild
from spa.frontends.exporting.jax_sources import Inputs, Source, arrays_of, called, load_jax, open_source, run
from spa.frontends.files import onnx_file

__all__ = ["OPSET", "Inputs", "Source", "export", "rebuild", "run", "trace"]

OPSET = 18
_LOGGERS = ("jax", "jax2onnx")


def export(source: Source, inputs: Inputs, *, opset: int = OPSET, dynamic: bool = True) -> ir.Model:
    """A function of arrays as an ONNX model, checked against JAX on the example inputs.

    Args:
        source: a module, (linen module, variables), (function, parameters) or a function of the inputs.
        inputs: an example array, or a tuple of them.
        opset: of the standard operators.
        dynamic: whether axis 0, where all inputs agree on it, is symbolic.

    Raises:
        MissingExtra: jax or jax2onnx is not installed.
        UsageError: the source is none of these.
        ModelError: jax2onnx cannot convert it, or the result computes something else.
    """
    tree = open_source(source)
    arrays = arrays_of(inputs)
    model = _convert(lambda *given: tree.call(tree.leaves, *given), (), arrays, opset=opset, dynamic=dynamic)
    name_weights(model, {name: np.asarray(leaf) for name, leaf in zip(tree.names, tree.leaves, strict=True)})
    feeds = {str(value.name): array for value, array in zip(model.graph.inputs, arrays, strict=True)}
    check(model, feeds, run(source, inputs), what=called(source))
    return model


def trace(source: Source, inputs: Inputs, *, opset: int = OPSET, dynamic: bool = True) -> Traced:
    """The graph in which every float array of the parameters is an initializer under its path; else as `export`."""
    tree = open_source(source)
    arrays = arrays_of(inputs)
    floats = [at for at, leaf in enumerate(tree.leaves) if np.asarray(leaf).dtype.kind == "f" and np.ndim(leaf)]
    if not floats:
        raise UsageError(
            f"{called(source)}: no parameters to prune; give (function, parameters), and the function takes them first"
        )

    def call(*given: Any) -> Any:
        leaves = list(tree.leaves)
        for at, value in zip(floats, given, strict=False):
            leaves[at] = value
        return tree.call(leaves, *given[len(floats) :])

    weights = {tree.names[at]: np.asarray(tree.leaves[at]) for at in floats}
    model = _convert(call, tuple(weights.values()), arrays, opset=opset, dynamic=dynamic)
    for value, name in zip(list(model.graph.inputs), weights, strict=False):
        value.name = name
    close_inputs(model, weights)
    feeds = {str(value.name): array for value, array in zip(model.graph.inputs, arrays, strict=True)}
    expected = run(source, inputs)
    check(model, feeds, expected, what=called(source))
    return Traced(model, frozenset(weights), feeds, expected)


def _convert(
    function: Callable[..., Any],
    weights: Sequence[np.ndarray],
    arrays: Sequence[np.ndarray],
    *,
    opset: int,
    dynamic: bool,
) -> ir.Model:
    """The graph of a function of some weights and the inputs, whose batch is symbolic where JAX can trace it so."""
    jax = load_jax()
    import jax2onnx

    fixed = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in weights]
    static = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    attempts = [static]
    if dynamic and len({array.shape[:1] for array in arrays}) == 1 and all(array.ndim > 1 for array in arrays):
        # jax2onnx makes the name a symbolic size; jax itself would not take it in a ShapeDtypeStruct that is traced.
        attempts.insert(0, [jax.ShapeDtypeStruct(("batch", *array.shape[1:]), array.dtype) for array in arrays])
    reason = ""
    for given in attempts:
        try:
            with quiet(*_LOGGERS):
                return onnx_file.load(jax2onnx.to_onnx(function, [*fixed, *given], opset=opset))
        except Exception as error:  # noqa: BLE001 - tracing runs the user's code, converting raises many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    raise ModelError(f"jax2onnx cannot convert it: {reason}")
