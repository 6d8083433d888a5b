"""Prune Keras 3 models on the TensorFlow backend: `prune(model, ratio=0.3)` gives a smaller model of the same layers.

Exporting alone, `export`, gives the ONNX graph. keras, tensorflow and tf2onnx are imported on use only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spa.adapters import restore
from spa.frontends.exporting import keras as frontend
from spa.frontends.exporting.keras import OPSET, Inputs, example_inputs, export, load, rebuild, run, save, trace

if TYPE_CHECKING:
    import keras

__all__ = ["OPSET", "Inputs", "example_inputs", "export", "load", "prune", "rebuild", "run", "save", "trace"]


def prune(model: keras.Model, inputs: Inputs = None, *, ratio: float, **options: Any) -> keras.Model:
    """A smaller model of the same layers, built from their configs with other numbers.

    Functional and sequential models only: Keras cannot rebuild others. Groups that no config expresses are left alone,
    and the logger ``spa`` says which.

    Args:
        model: never changed.
        inputs: an array, or one for each input of the model; by default random ones.
        ratio: the share to remove, between 0 and 1.
        options: as for `spa.prune`; `spa.adapters.restore.prune` also returns the plan and the report.

    Raises:
        MissingExtra: keras, tensorflow, tf2onnx or onnxruntime is not installed.
        ModelError: the model cannot be converted.
        UsageError, DataError: an option or the samples are wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the smaller model does not compute what the pruned graph does.
    """
    return restore.prune(frontend, model, inputs, ratio=ratio, **options).source
