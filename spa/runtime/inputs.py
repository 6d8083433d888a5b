"""Valid random inputs of a model, by the types and shapes that it declares."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from spa.errors import NoInputError, UsageError

if TYPE_CHECKING:
    import onnxruntime

_MAX_ELEMENTS = 2**31  # of one made-up input


@dataclass(frozen=True, slots=True)
class _Input:
    name: str
    dtype: ir.DataType
    shape: tuple[int | str | None, ...]  # a name or None: known only when the model runs
    ranked: bool = True  # whether a shape without axes means a scalar; onnxruntime shows an unknown rank like one


def random_feeds(
    source: onnxruntime.InferenceSession | ir.Model | ir.Graph,
    *,
    shapes: Mapping[str, Sequence[int]],
    seed: int,
    high: Mapping[str, int] | None = None,
    skip: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Valid random inputs by name.

    Floats are standard normal, booleans and everything named a mask one, integers uniform from 0 up to but excluding
    ``high`` (by default 2, which indexes any table, or 128 for types of one byte).

    Args:
        source: what the inputs are for.
        shapes: the shapes of inputs; those with only static axes need none.
        seed: the same seed gives the same inputs.
        high: by input, the first integer that is too large, such as the number of rows of an embedding.
        skip: inputs that are left out.

    Raises:
        UsageError: if a shape is missing or does not fit, a name is unknown, or an input is not a dense tensor of
            numbers.
    """
    inputs = _inputs(source, skip)
    high = high or {}
    if unknown := sorted((shapes.keys() | high.keys()) - {entry.name for entry in inputs}):
        names = ", ".join(repr(entry.name) for entry in inputs)
        raise UsageError(f"there is no input {unknown[0]!r}; the inputs are {names}")
    generator = np.random.default_rng(seed)
    return {
        entry.name: _random(entry, _bound_shape(entry, shapes.get(entry.name)), high.get(entry.name), generator)
        for entry in inputs
    }


def _inputs(source: onnxruntime.InferenceSession | ir.Model | ir.Graph, skip: Collection[str] = ()) -> list[_Input]:
    if isinstance(source, (ir.Model, ir.Graph)):
        graph = source if isinstance(source, ir.Graph) else source.graph
        values = [value for value in graph.inputs if not value.is_initializer() and value.name not in skip]
        for value in values:
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                raise NoInputError(f"input {value.name!r} is a {value.type}, so no input can be made up for it")
        return [
            _Input(
                str(value.name),
                value.dtype or ir.DataType.UNDEFINED,
                (None,)
                if value.shape is None
                else tuple(size if isinstance(size, int) else size.value for size in value.shape),
                ranked=value.shape is not None,
            )
            for value in values
        ]
    inputs = []
    for argument in source.get_inputs():
        if argument.name in skip:
            continue
        match = re.fullmatch(r"tensor\((\w+)\)", argument.type)
        if match is None:
            raise NoInputError(f"input {argument.name!r} is a {argument.type}, so no input can be made up for it")
        shape = tuple(argument.shape)
        inputs.append(_Input(argument.name, ir.DataType[match[1].upper()], shape, ranked=bool(shape)))
    return inputs


def _bound_shape(entry: _Input, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is None:
        static = tuple(size for size in entry.shape if isinstance(size, int))
        if len(static) < len(entry.shape):
            axes = ",".join(str(size) if size else "?" for size in entry.shape)
            raise UsageError(f"input {entry.name!r} has the shape {axes}: give a number for each axis")
        given = static
    declared_shape = entry.shape if entry.ranked else (None,) * len(given)
    fits = len(given) == len(declared_shape) and all(
        size >= 0 and (size == declared or not isinstance(declared, int))
        for size, declared in zip(given, declared_shape, strict=True)
    )
    if not fits:
        axes = ",".join(str(size) if size else "?" for size in entry.shape)
        raise UsageError(f"input {entry.name!r} has the shape {axes}, which {','.join(map(str, given))} does not fit")
    if math.prod(given) > _MAX_ELEMENTS:
        raise UsageError(f"input {entry.name!r} would have {math.prod(given):.2g} elements; the limit is 2^31")
    return tuple(given)


def is_mask(name: str) -> bool:
    """Whether an input is called a mask: ones for what counts."""
    return "mask" in name.lower()


def _random(entry: _Input, shape: tuple[int, ...], high: int | None, generator: np.random.Generator) -> np.ndarray:
    if entry.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        raise NoInputError(f"input {entry.name!r} is of type {entry.dtype.name}, so no input can be made up for it")
    if entry.dtype == ir.DataType.BOOL or is_mask(entry.name):
        values: np.ndarray = np.ones(shape)
    elif entry.dtype.is_integer():
        limit = high if high is not None else (128 if entry.dtype.bitwidth == 8 else 2)
        values = generator.integers(0, limit, shape)
    else:
        values = generator.standard_normal(shape)
    return values.astype(entry.dtype.numpy())
