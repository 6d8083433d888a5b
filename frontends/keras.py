"""Keras 3 models on the TensorFlow backend to ``onnx_ir.Model`` and back, by tf2onnx.

keras, tensorflow and tf2onnx are imported on use only. `trace` hands the variables over as arguments
(``Model.stateless_call``), so that each stays an array of its own in the graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from spa.errors import ModelError, UsageError
from spa.frontends.exporting.exported import (
    Parts,
    RebuildError,
    Traced,
    check,
    close_inputs,
    difference,
    missing,
    name_weights,
    quiet,
    say_squeezed_axes,
    tolerance,
)  # fmt: skip
from spa.frontends.exporting.sizes import Choice, Holder, find_choices, search
from spa.frontends.files import onnx_file

if TYPE_CHECKING:
    import os

    import keras

Inputs = Any
"""An array, or a sequence of one array for each input of the model; None: random ones."""

OPSET = 18
_BATCH, _OPEN = 2, 8
_WRONG_SHAPE = 1e6  # worse than any difference of numbers
_LOGGERS = ("tensorflow", "tf2onnx")


def load(path: str | os.PathLike[str]) -> keras.Model:
    """A model that ``Model.save`` wrote.

    Raises:
        MissingExtra: keras, tensorflow or tf2onnx is not installed.
        ModelError: Keras cannot read the file.
    """
    try:
        return _keras().saving.load_model(path)
    except Exception as error:
        raise ModelError(f"{str(path)!r}: Keras cannot read it: {' '.join(str(error).split())[:200]}") from error


def save(model: keras.Model, path: str | os.PathLike[str], *, like: Any = None) -> None:  # noqa: ARG001 - as others
    """Write a model as ``.keras``."""
    model.save(path)


def export(model: keras.Model, inputs: Inputs = None, *, opset: int = OPSET) -> ir.Model:
    """A model as an ONNX model, checked against Keras.

    Raises:
        MissingExtra: a library of the extra ``tensorflow`` is not installed.
        ModelError: tf2onnx cannot convert the model, or the result computes something else.
    """
    _keras()
    import tf2onnx

    _only_tensorflow()
    try:
        with quiet(*_LOGGERS), _inlining():
            proto, _ = tf2onnx.convert.from_keras(model, opset=opset, custom_op_handlers=_handlers())
    except Exception as error:
        raise ModelError(f"tf2onnx cannot convert {model.name!r}: {' '.join(str(error).split())[:300]}") from error
    made = onnx_file.load(proto)
    arrays = example_inputs(model, inputs)
    name_weights(made, {_name(variable): np.asarray(variable) for variable in model.variables})
    feeds = {str(value.name): array for value, array in zip(_fed(made), arrays, strict=True)}
    check(made, feeds, run(model, arrays), what=f"the Keras model {model.name!r}")
    return made


def trace(model: keras.Model, inputs: Inputs = None, *, opset: int = OPSET) -> Traced:
    """The graph in which every variable is an initializer under its path."""
    _keras()
    import tensorflow
    import tf2onnx

    _only_tensorflow()
    arrays = example_inputs(model, inputs)
    trainable, rest = model.trainable_variables, model.non_trainable_variables
    variables = [*trainable, *rest]
    count = len(variables)

    def call(*given: Any) -> Any:
        results, _ = model.stateless_call(
            list(given[: len(trainable)]), list(given[len(trainable) : count]), _whole(given[count:]), training=False
        )
        return results

    specs = [tensorflow.TensorSpec(v.shape, v.dtype, name=f"variable_{at}") for at, v in enumerate(variables)]
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    specs += [
        tensorflow.TensorSpec(shape, array.dtype, name=f"input_{at}")
        for at, (shape, array) in enumerate(zip(shapes, arrays, strict=True))
    ]
    try:
        with quiet(*_LOGGERS), _inlining():
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
            value.name = _name(variables[int(at)])
            names[value.name] = np.asarray(variables[int(at)])
    close_inputs(made, constants)
    made = say_squeezed_axes(made)
    close_inputs(made, names)
    feeds = {f"input_{at}": array for at, array in enumerate(arrays)}
    feeds = {str(value.name): feeds[str(value.name).partition(":")[0]] for value in made.graph.inputs}
    expected = run(model, arrays)
    check(made, feeds, expected, what=f"the Keras model {model.name!r}")
    return Traced(made, frozenset(name for name, array in names.items() if array.dtype.kind == "f"), feeds, expected)


def run(model: keras.Model, inputs: Inputs = None) -> list[np.ndarray]:
    """What a model computes for inference, in the order of its outputs."""
    import tensorflow

    results = model(_whole([tensorflow.constant(a) for a in example_inputs(model, inputs)]), training=False)
    return [np.asarray(result) for result in tensorflow.nest.flatten(results)]


def prune(model: keras.Model, inputs: Inputs = None, *, ratio: float, **options: Any) -> keras.Model:
    """A smaller model of the same layers, built from their configs with other numbers.

    Functional and sequential models only: Keras cannot rebuild others. Groups that no config expresses are left alone,
    and the logger ``spa`` says which.

    Raises:
        MissingExtra, ModelError: no Keras; the model cannot be converted.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
    """
    from spa.adapters import restore
    from spa.frontends import keras as this

    return restore.prune(this, model, inputs, ratio=ratio, **options).source


def example_inputs(model: keras.Model, inputs: Inputs = None) -> list[np.ndarray]:
    """Arrays for a model's inputs: those given, or random ones; open axes get a size of 8, the batch 2."""
    if inputs is not None:
        return [np.asarray(array) for array in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    generator = np.random.default_rng(0)
    found = []
    for tensor in model.inputs:
        shape = [_BATCH, *(size or _OPEN for size in tensor.shape[1:])]
        if "float" in str(tensor.dtype):
            found.append(generator.standard_normal(shape).astype(str(tensor.dtype)))
        else:
            found.append(generator.integers(0, 2, shape).astype(str(tensor.dtype)))
    return found


# ------------------------------------------------------------------------------------------------------ rebuild
def rebuild(
    model: keras.Model,
    arrays: Mapping[str, np.ndarray],
    parts: Mapping[str, Parts],
    inputs: Any,
    expected: Sequence[np.ndarray],
) -> keras.Model:
    """A model of the same layers with other numbers in their configs, holding these arrays.

    Raises:
        RebuildError: no numbers of a layer's config give these sizes, or the model computes something else.
    """
    keras = _keras()
    layers = {_path(layer): layer for layer in _layers(model) if getattr(layer, "variables", ())}
    holders = [
        Holder(path, type(layer).__name__, _numbers(layer.get_config()), frozenset(layer.get_config()))
        for path, layer in layers.items()
    ]
    choices = find_choices(holders, parts)
    names = {id(layer): path for path, layer in layers.items()}
    wanted = {_name(v): tuple(arrays.get(_name(v), v).shape) for v in model.variables}
    built: list[Any] = []
    reasons: list[RebuildError] = []

    def attempt(readings: Mapping[int, int]) -> float:
        def clone(layer: Any) -> Any:
            config = layer.get_config()
            for number, reading in readings.items():
                value = choices[number].readings[reading].get(names.get(id(layer), ""))
                if value is not None:
                    _set(config, choices[number], value)
            return type(layer).from_config(_open_shape(layer, config))

        try:
            smaller = keras.models.clone_model(model, clone_function=clone)
            odd = [
                n for v, (n, shape) in zip(smaller.variables, wanted.items(), strict=True) if tuple(v.shape) != shape
            ]
            if odd:
                where = odd[0].rpartition(".")[0]
                alike = list(dict.fromkeys(name.rpartition(".")[0] for name in odd))
                text = f"no config of {where!r} gives {odd[0]!r} the shape {wanted[odd[0]]}"
                reasons.append(RebuildError(text, where=where, alike=alike))
                return _WRONG_SHAPE * len(odd)
            for variable, old in zip(smaller.variables, model.variables, strict=True):
                variable.assign(arrays.get(_name(old), np.asarray(old)))
            gap = difference(run(smaller, inputs), expected)
        except Exception as error:  # noqa: BLE001 - layers check their sizes in their own ways
            reasons.append(RebuildError(f"Keras cannot build it: {' '.join(str(error).split())[:200]}"))
            return float("inf")
        built[:] = [smaller]
        return gap

    try:
        search(choices, attempt, limit=tolerance(expected))
    except RebuildError as error:
        raise (reasons[-1] if reasons else error) from error
    return built[0]


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer


def _path(layer: Any) -> str:
    """What the names of all variables of a layer begin with."""
    parts = [_name(variable).split(".")[:-1] for variable in layer.variables]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)


def _name(variable: Any) -> str:
    """A variable's path, written as other frameworks write theirs."""
    return str(variable.path).replace("/", ".")


def _numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    def counts(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return bool(value) and all(type(each) is int for each in value)
        return type(value) is int

    return {name: value for name, value in config.items() if counts(value)}


def _set(config: dict[str, Any], choice: Choice, value: int) -> None:
    if choice.element is None:
        config[choice.attribute] = value
    else:
        old = config[choice.attribute]
        config[choice.attribute] = [value if at == choice.element else each for at, each in enumerate(old)]


def _open_shape(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
    """A Reshape to (1, 1, channels) says the only size there is: it may as well be left open."""
    shape = config.get("target_shape")
    if not getattr(layer, "variables", ()) and shape and sum(size != 1 for size in shape) == 1:
        config["target_shape"] = [size if size == 1 else -1 for size in shape]
    return config


# -------------------------------------------------------------------------------------------------------- tools
def _keras() -> Any:
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
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet(*_LOGGERS):
        yield


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


def _only_tensorflow() -> None:
    backend = _keras().backend.backend()
    if backend != "tensorflow":
        raise UsageError(f"Keras runs on {backend!r} here: set KERAS_BACKEND=tensorflow and load the model anew")


def _whole(arrays: Sequence[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else list(arrays)


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
