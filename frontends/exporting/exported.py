"""Parts that all exporters share: graphs in which a framework's arrays keep their names, and the check of an export.

Every framework's module in this folder has the same functions:

    export(source, inputs, ...) -> ir.Model     the plainest graph its exporter makes, checked against the framework
    trace(source, inputs, ...) -> Traced        every array an initializer of its own name, nothing folded into it
    run(source, inputs) -> arrays               what the framework computes
    rebuild(source, arrays, ...) -> source      the same with arrays of other sizes

`spa.frontends.torch` and its likes add ``prune(source, inputs, ratio=...)``, which takes the way through the pipeline.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from spa import runtime
from spa.errors import DataError, MissingExtra, ModelError, SpaError

TOLERANCE = 1e-4  # of the largest value of an output, for float32
LOW_PRECISION = {"float16": 2e-2, "bfloat16": 1e-1}

Parts = Mapping[tuple[int, int, int], tuple[int, int]]
"""What the axes of one array are made of: (axis, first part, last part + 1) -> (size before, size after).

An axis `(h d)` has the parts h and d; (axis, 0, 2) is all of it, (axis, 0, 1) is h. An axis of one part has
(axis, 0, 1).
"""


class RebuildError(SpaError):
    """A framework's model cannot take arrays of these sizes.

    Attributes:
        where: the path of the submodule at fault; empty where it is not known.
        alike: the paths of all submodules with the same code.
    """

    def __init__(self, message: str, *, where: str = "", alike: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.where, self.alike = where, tuple(alike)


@dataclass(frozen=True, slots=True)
class Traced:
    """A framework's model as a graph whose weights are the framework's own arrays.

    Attributes:
        model: the graph; nothing is folded into or out of the arrays.
        arrays: initializers that are arrays of the framework, under its names.
        feeds: the example inputs, by input name.
        expected: what the framework computes from them, in the order of the graph's outputs.
    """

    model: ir.Model
    arrays: frozenset[str]
    feeds: Mapping[str, np.ndarray]
    expected: Sequence[np.ndarray]


def missing(framework: str, extra: str) -> MissingExtra:
    """The error for a framework that is not installed."""
    return MissingExtra(f"{framework} is not installed: pip install 'spa-onnx[{extra}]'")


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Exporters talk a lot about themselves; what matters is whether the result is right, which is checked."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


# ---------------------------------------------------------------------------------------------------- the check
def check(model: ir.Model, feeds: Mapping[str, np.ndarray], expected: Sequence[np.ndarray], *, what: str) -> float:
    """Run an export on the example inputs and compare it with its framework; the largest difference.

    Raises:
        ModelError: it does not run, or computes something else.
    """
    outputs = run_model(model, feeds, what=what)
    if len(outputs) != len(expected):
        raise ModelError(f"{what}: the export has {len(outputs)} outputs, the framework gives {len(expected)}")
    worst = difference(outputs, expected)
    limit = tolerance(expected)
    if not worst <= limit:
        raise ModelError(
            f"{what}: the exported graph differs from the framework by {worst:.1e} of the largest value, more than "
            f"{limit:.0e}; random numbers or a training mode in the model would explain it"
        )
    return worst


def run_model(model: ir.Model, feeds: Mapping[str, np.ndarray], *, what: str) -> list[np.ndarray]:
    """The model's outputs in order, as onnxruntime computes them without rewriting the graph."""
    session = runtime.session(model, optimize=False)
    named = {argument.name for argument in session.get_inputs()}
    try:
        results = runtime.run(session, {name: array for name, array in feeds.items() if name in named})
    except DataError as error:
        raise ModelError(f"{what}: {error}") from error
    return [np.asarray(value) for value in results.values()]


def difference(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference of an output relative to its largest value; infinite where shapes differ."""
    worst = 0.0
    for left, right in zip(outputs, expected, strict=True):
        if left.shape != right.shape:
            return float("inf")
        if not left.size:
            continue
        ours, theirs = left.astype(np.float64), right.astype(np.float64)
        if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
            return float("inf")
        known = np.isfinite(theirs)
        gap = np.abs(np.where(known, ours - theirs, 0.0)).max()
        worst = max(worst, float(gap / (np.abs(np.where(known, theirs, 0.0)).max() or 1.0)))
    return worst


def tolerance(expected: Sequence[np.ndarray]) -> float:
    """How far rounding may take outputs of these types."""
    return max((LOW_PRECISION.get(array.dtype.name, TOLERANCE) for array in expected), default=TOLERANCE)


# ------------------------------------------------------------------------------------------------ arrays and names
def close_inputs(model: ir.Model, arrays: Mapping[str, np.ndarray | ir.TensorProtocol]) -> None:
    """Turn the inputs of these names into initializers, in place: arrays that were arguments become weights."""
    for value in list(model.graph.inputs):
        if value.name is not None and value.name in arrays:
            array = arrays[value.name]
            tensor = ir.Tensor(array, name=value.name) if isinstance(array, np.ndarray) else array
            model.graph.inputs.remove(value)
            value.const_value, value.type = tensor, ir.TensorType(tensor.dtype)
            value.shape = ir.Shape(tensor.shape.numpy())
            model.graph.register_initializer(value)


def say_squeezed_axes(model: ir.Model) -> ir.Model:
    """Give a Squeeze without axes those that it removes, where shapes are static: it means no others."""
    model = ShapeInferencePass()(model).model
    for at, node in enumerate(list(model.graph)):
        source = node.inputs[0] if node.inputs else None
        named = len(node.inputs) > 1 or "axes" in node.attributes
        if node.op_type != "Squeeze" or named or source is None or source.shape is None or not source.shape.is_static():
            continue
        axes = np.array([axis for axis, size in enumerate(source.shape) if size == 1], np.int64)
        value = ir.Value(name=f"squeezed_axes_{at}", const_value=ir.Tensor(axes, name=f"squeezed_axes_{at}"))
        value.shape, value.type = ir.Shape(axes.shape), ir.TensorType(ir.DataType.INT64)
        model.graph.register_initializer(value)
        node.resize_inputs(2)
        node.replace_input_with(1, value)
    return model


def open_arrays(model: ir.Model, names: frozenset[str]) -> dict[str, ir.TensorProtocol]:
    """Turn the initializers of these names into inputs, in place, so that nothing is folded; returns their tensors."""
    opened: dict[str, ir.TensorProtocol] = {}
    for name in [name for name in model.graph.initializers if name in names]:
        value = model.graph.initializers.pop(name)
        assert value.const_value is not None
        opened[name], value.const_value = value.const_value, None
        model.graph.inputs.append(value)
    return opened


def name_weights(model: ir.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Give weights that an exporter transposed, folded or renamed the names of the arrays they were made of, in place.

    Matched by content: the same numbers, in the order of some permutation of the axes, or (batch norm folded into a
    convolution) multiplied by one number for each index of axis 0.
    """
    taken = set(model.graph.initializers) & set(arrays)
    left = {name: array for name, array in arrays.items() if name not in taken and array.size > 1}
    sums = {name: _digest(array) for name, array in left.items()}
    folded = []
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if name in taken or tensor is None or tensor.size < 2 or not tensor.dtype.is_floating_point():
            continue
        numbers = tensor.numpy()
        digest = _digest(numbers)
        match = next(
            (key for key, checksum in sums.items() if checksum == digest and _permuted(left[key], numbers)), None
        )
        if match is None:
            folded.append(value)
        else:
            _rename(model, value, match, left, sums)
    for value in folded:
        assert value.const_value is not None
        numbers = value.const_value.numpy()
        match = next((key for key, array in left.items() if _scaled(array, numbers)), None)
        if match is not None:
            _rename(model, value, match, left, sums)


def _rename(
    model: ir.Model, value: ir.Value, name: str, left: dict[str, np.ndarray], sums: dict[str, tuple[Any, ...]]
) -> None:
    taken = {other.name for node in model.graph for other in node.outputs} | {v.name for v in model.graph.inputs}
    if name not in taken and name not in model.graph.initializers:
        model.graph.initializers.pop(str(value.name))
        value.name = name
        model.graph.register_initializer(value)
    del left[name], sums[name]


def _digest(array: np.ndarray) -> tuple[Any, ...]:
    """The same for all permutations of axes: sorted sizes, and a few sorted numbers."""
    flat = array.reshape(-1)
    return (
        tuple(sorted(size for size in array.shape if size > 1)),
        str(array.dtype),
        float(flat.min()),
        float(flat.max()),
    )


def _permuted(array: np.ndarray, numbers: np.ndarray) -> bool:
    left, right = array.squeeze(), numbers.squeeze()
    for order in itertools.permutations(range(left.ndim)):
        if tuple(left.shape[axis] for axis in order) == right.shape and np.array_equal(left.transpose(order), right):
            return True
    return False


def _scaled(array: np.ndarray, numbers: np.ndarray) -> bool:
    if array.shape != numbers.shape or array.ndim < 3 or array.dtype != numbers.dtype:
        return False
    left, right = (x.reshape(len(x), -1).astype(np.float64) for x in (array, numbers))
    at = np.abs(left).argmax(axis=1, keepdims=True)
    top = np.take_along_axis(left, at, 1)
    if not np.all(top):
        return False
    scale = np.take_along_axis(right, at, 1) / top
    return bool(np.allclose(left * scale, right, rtol=1e-4, atol=1e-6 * float(np.abs(right).max() or 1.0)))
