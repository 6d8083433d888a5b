"""Run a Keras model: find the library, make example inputs, compute its outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from spa.errors import UsageError
from spa.frontends.exporting.exported import missing, quiet

if TYPE_CHECKING:
    import keras

Inputs = Any
"""An array, or a sequence of one array for each input of the model; None: random ones."""

LOGGERS = ("tensorflow", "tf2onnx")
_BATCH, _OPEN = 2, 8


def run(model: keras.Model, inputs: Inputs = None) -> list[np.ndarray]:
    """What a model computes for inference, in the order of its outputs."""
    import tensorflow

    results = model(whole([tensorflow.constant(a) for a in example_inputs(model, inputs)]), training=False)
    return [np.asarray(result) for result in tensorflow.nest.flatten(results)]


def example_inputs(model: keras.Model, inputs: Inputs = None) -> list[np.ndarray]:
    """Arrays for a model's inputs: those given, or random ones; open axes get a size of 8, the batch 2."""
    if inputs is not None:
        return [np.asarray(array) for array in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    generator = np.random.default_rng(0)
    arrays = []
    for tensor in model.inputs:
        shape = [_BATCH, *(size or _OPEN for size in tensor.shape[1:])]
        if "float" in str(tensor.dtype):
            arrays.append(generator.standard_normal(shape).astype(str(tensor.dtype)))
        else:
            arrays.append(generator.integers(0, 2, shape).astype(str(tensor.dtype)))
    return arrays


def name_of(variable: Any) -> str:
    """A variable's path, written as other frameworks write theirs."""
    return str(variable.path).replace("/", ".")


def load_keras() -> Any:
    """keras, imported; raises MissingExtra where it, tensorflow or tf2onnx is not installed."""
    try:
        with _quiet_start():
            import keras
            import tensorflow  # noqa: F401 - the backend that tf2onnx converts from
            import tf2onnx  # noqa: F401
    except ImportError:
        raise missing("Keras with TensorFlow and tf2onnx", "tensorflow") from None
    return keras


@contextmanager
def _quiet_start() -> Iterator[None]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet(*LOGGERS):
        yield


def require_tensorflow() -> None:
    """Raise UsageError where Keras runs on another backend."""
    backend = load_keras().backend.backend()
    if backend != "tensorflow":
        raise UsageError(f"Keras runs on {backend!r} here: set KERAS_BACKEND=tensorflow and load the model anew")


def whole(arrays: Sequence[Any]) -> Any:
    """One array alone, or a list of several, as Keras models take them."""
    return arrays[0] if len(arrays) == 1 else list(arrays)
