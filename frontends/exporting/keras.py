"""Keras 3 models on the TensorFlow backend to ``onnx_ir.Model`` and back, by tf2onnx.

keras, tensorflow and tf2onnx are imported on use only. `trace` hands the variables over as arguments
(``Model.stateless_call``), so that each stays an array of its own in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from spa.errors import ModelError
from spa.frontends.exporting.exported import Traced, check, close_inputs, name_weights, quiet, say_squeezed_axes
from spa.frontends.exporting.keras_rebuild import rebuild
from spa.frontends.exporting.keras_running import (
    LOGGERS,
    Inputs,
    example_inputs,
    load_keras,
    name_of,
    require_tensorflow,
    run,
    whole,
)
from spa.frontends.files import onnx_file

if TYPE_CHECKING:
    import os

    import keras

__all__ = ["OPSET", "Inputs", "example_inputs", "export", "load", "rebuild", "run", "save", "trace"]

OPSET = 18


def load(path: str | os.PathLike[str]) -> keras.Model:
    """A model that ``Model.save`` wrote.

    Raises:
        MissingExtra: keras, tensorflow or tf2onnx is not installed.
        ModelError: Keras cannot read the file.
    """
    try:
        return load_keras().saving.load_model(path)
    except Exception as error:
        raise ModelError(f"{str(path)!r}: Keras cannot read it: {' '.join(str(error).split())[:200]}") from error


def save(model: keras.Model, path: str | os.PathLike[str], *, like: Any = None) -> None:  # noqa: ARG001 - as others
    """Write a model as ``.keras``."""
    model.save(path)


def export(model: keras.Model, inputs: Inputs = None, *, opset: int = OPSET) -> ir.Model:
    """A model as an ONNX model, checked against Keras on the example inputs.

    Args:
        model: never changed.
        inputs: an array, or one for each input of the model; by default random ones, a batch of two.
        opset: of the standard operators.

    Raises:
        MissingExtra: a library of the extra ``tensorflow`` is not installed.
        UsageError: Keras runs on another backend than TensorFlow.
        ModelError: tf2onnx cannot convert the model, or the result computes something else.
    """
    load_keras()
    import tf2onnx

    require_tensorflow()
    try:
        with quiet(*LOGGERS), _inlining():
            proto, _ = tf2onnx.convert.from_keras(model, opset=opset, custom_op_handlers=_handlers())
    except Exception as error:
        raise ModelError(f"tf2onnx cannot convert {model.name!r}: {' '.join(str(error).split())[:300]}") from error
    made = onnx_file.load(proto)
    arrays = example_inputs(model, inputs)
    name_weights(made, {name_of(variable): np.asarray(variable) for variable in model.variables})
    feeds = {str(value.name): array for value, array in zip(_fed(made), arrays, strict=True)}
    check(made, feeds, run(model, arrays), what=f"the Keras model {model.name!r}")
    return made


def trace(model: keras.Model, inputs: Inputs = None, *, opset: int = OPSET) -> Traced:
    """The graph in which every variable is an initializer under its path; arguments and errors as in `export`."""
    load_keras()
    import tensorflow
    import tf2onnx

    require_tensorflow()
    arrays = example_inputs(model, inputs)
    trainable, rest = model.trainable_variables, model.non_trainable_variables
    variables = [*trainable, *rest]
    count = len(variables)

    def call(*given: Any) -> Any:
        results, _ = model.stateless_call(
            list(given[: len(trainable)]), list(given[len(trainable) : count]), whole(given[count:]), training=False
        )
        return results

    specs = [tensorflow.TensorSpec(v.shape, v.dtype, name=f"variable_{at}") for at, v in enumerate(variables)]
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    specs += [
        tensorflow.TensorSpec(shape, array.dtype, name=f"input_{at}")
        for at, (shape, array) in enumerate(zip(shapes, arrays, strict=True))
    ]
    try:
        with quiet(*LOGGERS), _inlining():
            function = tensorflow.function(call, input_signature=specs, jit_compile=False)
            # Constants that layers made outside come in as inputs besides those of the signature.
            captures = function.get_concrete_function().graph.captures
            captured = {inside.name.partition(":")[0]: outside for outside, inside in captures}
            proto, _ = tf2onnx.convert.from_function(
                function, input_signature=specs, opset=opset, custom_op_handlers=_handlers()
            )
    except Exception as error:
        raise ModelError(f"tf2onnx cannot convert {model.name!r}: {' '.join(str(error).split())[:300]}") from error
    made = onnx_file.load(proto)
    names = {}
    constants = {}
    for value in made.graph.inputs:
        outside = captured.get(str(value.name).partition(":")[0])
        if outside is not None:
            constants[str(value.name)] = np.asarray(outside)
        kind, _, at = str(value.name).partition(":")[0].rpartition("_")
        if kind == "variable" and at.isdigit():
            value.name = name_of(variables[int(at)])
            names[value.name] = np.asarray(variables[int(at)])
    close_inputs(made, constants)
    made = say_squeezed_axes(made)
    close_inputs(made, names)
    feeds = {f"input_{at}": array for at, array in enumerate(arrays)}
    feeds = {str(value.name): feeds[str(value.name).partition(":")[0]] for value in made.graph.inputs}
    expected = run(model, arrays)
    check(made, feeds, expected, what=f"the Keras model {model.name!r}")
    return Traced(made, frozenset(name for name, array in names.items() if array.dtype.kind == "f"), feeds, expected)


@contextmanager
def _inlining() -> Iterator[None]:
    """Functions inside the one that is traced, such as jit-compiled convolutions, as their operators."""
    import tensorflow

    before = tensorflow.config.functions_run_eagerly()
    tensorflow.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tensorflow.config.run_functions_eagerly(before)


def _fed(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _handlers() -> dict[str, Any]:
    return {"Erfc": (_erfc, [])}


def _erfc(context: Any, node: Any, name: str, _: Any) -> None:
    """erfc(x) = 1 - erf(x), which ONNX has."""
    (x,), (result,) = node.input, node.output
    shapes, dtypes = [context.get_shape(result)], [context.get_dtype(result)]
    one = context.make_const(f"{name}_one", np.array(1, np.float32)).output[0]
    context.remove_node(name)
    erf = context.make_node("Erf", [x], shapes=shapes, dtypes=dtypes).output[0]
    context.make_node("Sub", [one, erf], name=name, outputs=[result], shapes=shapes, dtypes=dtypes)
