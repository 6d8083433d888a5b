"""Calibration samples: what they have to be for a model, and how they are fed to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.errors import DataError


@dataclass(frozen=True, slots=True)
class Calibration:
    """Samples by input name; the first axis of every array counts samples.

    Attributes:
        batch_size: the number of samples that the model takes at a time; None: any number.
        notes: what a user should know about the samples.
    """

    samples: Mapping[str, np.ndarray]
    batch_size: int | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return min(len(array) for array in self.samples.values())

    def first(self, count: int | None) -> Calibration:
        """At most so many samples, drawn evenly."""
        total = len(self)
        if count is None or count >= total:
            return self
        chosen = np.linspace(0, total - 1, count).round().astype(int)
        return Calibration({name: array[chosen] for name, array in self.samples.items()}, self.batch_size, self.notes)

    def batches(self, size: int) -> list[dict[str, np.ndarray]]:
        """Samples some at a time; a model that takes a fixed number gets whole batches, the last filled up."""
        if self.batch_size is None:
            return [{n: a[at : at + size] for n, a in self.samples.items()} for at in range(0, len(self), size)]
        numbers = np.arange(-(-len(self) // self.batch_size) * self.batch_size) % len(self)
        parts = numbers.reshape(-1, self.batch_size)
        return [{name: array[part] for name, array in self.samples.items()} for part in parts]


Given = Mapping[str, Any] | Iterable[Any] | np.ndarray


def check_samples(given: Given, model: ir.Model) -> Calibration:
    """Calibration samples that fit a model.

    Args:
        given: arrays by input name; or one array, for a model of one input; or an iterable of samples, each a
            mapping by input name or an array without the axis of samples.

    Raises:
        DataError: names, shapes or types do not fit, there are no samples, or they say nothing (NaN, all zero).
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    arrays = _by_name(given, [str(value.name) for value in inputs])
    sizes: set[int] = set()
    notes: list[str] = []
    checked = {}
    for value in inputs:
        checked[str(value.name)], size, said = _fit(arrays[str(value.name)], value)
        notes += said
        if size is not None:
            sizes.add(size)
    zero = [str(v.name) for v in inputs if v.dtype and v.dtype.is_floating_point() and not np.any(checked[str(v.name)])]
    if zero and not any(np.any(array) for array in checked.values()):
        raise DataError(f"calibration data: all samples of input {zero[0]!r} are zero")
    notes += [f"all samples of input {name!r} are zero" for name in zero if checked[name].size]
    counts = {name: len(array) for name, array in checked.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"calibration data: every input needs as many samples, found {counts}")
    total = next(iter(counts.values()))
    if total == 0:
        raise DataError("calibration data: there are no samples")
    if total == 1:
        notes.append("one calibration sample only: nothing can be held out, so repair is not checked on unseen data")
    fixed = sizes - {1} or sizes
    if len(fixed) > 1:
        raise DataError(f"the model's inputs take different numbers of samples at a time: {sorted(fixed)}")
    return Calibration(checked, fixed.pop() if fixed else None, tuple(notes))


def _by_name(given: Given, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not names:
        raise DataError("the model has no inputs, so there is nothing to calibrate it with")
    if isinstance(given, np.ndarray):
        given = {names[0]: given} if len(names) == 1 else {"": given}
    elif not isinstance(given, Mapping):
        if not isinstance(given, Iterable):
            raise DataError(f"calibration data: expected arrays by input name, or samples one by one, found {given!r}")
        given = _stack(list(given), names)
    found = {str(name): _array(array, str(name)) for name, array in given.items()}
    if len(found) == 1 and len(names) == 1 and not set(found) & set(names) and next(iter(found)) in ("", "arr_0"):
        found = {names[0]: next(iter(found.values()))}
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"calibration data: no samples for input {missing[0]!r}; found {', '.join(map(repr, found)) or 'nothing'}"
        )
    if extra := [name for name in found if name not in names]:
        raise DataError(
            f"calibration data: the model has no input {extra[0]!r}; its inputs are {', '.join(map(repr, names))}"
        )
    return found


def _array(given: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise DataError(f"calibration data: samples of input {name!r} are not of one shape: {error}") from error


def _stack(samples: list[Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    if not samples:
        raise DataError("calibration data: there are no samples")
    if not isinstance(samples[0], Mapping):
        if len(names) > 1:
            raise DataError(f"calibration data: a sample must be a mapping with the keys {', '.join(map(repr, names))}")
        samples = [{names[0]: sample} for sample in samples]
    found = {}
    for name in samples[0]:
        parts = [_array(sample[name], str(name)) for sample in samples if name in sample]
        shapes = {part.shape for part in parts}
        if len(parts) < len(samples) or len(shapes) > 1:
            raise DataError(
                f"calibration data: all samples of {name!r} must have one shape, "
                f"found {sorted(shapes)} in {len(parts)} of {len(samples)}"
            )
        found[str(name)] = np.stack(parts)
    return found


def _fit(array: np.ndarray, value: ir.Value) -> tuple[np.ndarray, int | None, list[str]]:
    """The array as the input takes it, how many samples it takes at a time, and notes."""
    name = value.name
    notes: list[str] = []
    if value.shape is not None:
        declared = [dim if isinstance(dim, int) else None for dim in value.shape]
        if not declared:
            raise DataError(f"input {name!r} is a scalar, so it has no axis of samples")
        fits = array.ndim == len(declared) and all(map(_meets, declared[1:], array.shape[1:]))
        if not fits:
            text = ", ".join("?" if dim is None else str(dim) for dim in declared[1:])
            whole = len(declared) + 1 == array.ndim and all(map(_meets, declared, array.shape[1:]))
            hint = "the first axis of an array counts the samples"
            if whole:
                hint = "that is the whole input: a model without an axis of samples has to be exported with one"
            raise DataError(
                f"calibration data: input {name!r} takes samples of shape ({text}), found {array.shape[1:]}; {hint}"
            )
        batch = declared[0]
    else:
        batch = None
    if not array.ndim or not len(array):
        raise DataError(f"calibration data: the array of input {name!r} is empty, shape {array.shape}")
    return _cast(array, value, notes), batch, notes


def _meets(declared: int | None, found: int) -> bool:
    return declared is None or declared == found


def _cast(array: np.ndarray, value: ir.Value, notes: list[str]) -> np.ndarray:
    """The array in the input's type, where no value changes by more than rounding."""
    name, dtype = value.name, value.dtype
    if dtype is None:
        return array
    wanted = dtype.numpy()
    if array.dtype.kind not in "fiub" and not dtype.is_floating_point():
        raise DataError(f"calibration data: input {name!r} is {dtype.name}, found {array.dtype}")
    if dtype.is_floating_point():
        if array.dtype.kind in "OUS":
            raise DataError(f"calibration data: input {name!r} is {dtype.name}, found {array.dtype}")
        wide = array.astype(np.float32) if array.dtype.kind != "f" else array
        if array.dtype == np.uint8:
            notes.append(
                f"input {name!r} takes {dtype.name} and got whole numbers up to 255: are its samples normalised?"
            )
        if not np.isfinite(wide.sum(dtype=np.float64)):
            bad = int(np.flatnonzero(~np.isfinite(wide.reshape(len(wide), -1).sum(1, dtype=np.float64)))[0])
            raise DataError(f"calibration data: sample {bad} of input {name!r} holds NaN or infinite values")
        return array.astype(wanted)
    if array.dtype.kind == "f" and np.any(array != np.round(array)):
        raise DataError(f"calibration data: input {name!r} is {dtype.name}, found fractions")
    cast = array.astype(wanted)
    if np.any(cast != array):
        raise DataError(f"calibration data: numbers for input {name!r} do not fit {dtype.name}")
    return cast
