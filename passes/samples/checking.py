"""Samples that a caller gives, in any form, held against what a model declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.feeds import Given
from spa.passes.samples.calibrate import Calibration, Recorded
from spa.passes.samples.feeds import Together, same_sizes, together, whole_feeds
from spa.passes.samples.masks import ones


def sample_axes(inputs: Iterable[ir.Value]) -> dict[str, int]:
    """Along which axis of each input samples lie, by name.

    The first, unless that is fixed and a later one has the name of the first of another input: the states of recurrent
    networks are (layers, samples, units). Without names it is the only open one behind a first axis of several.
    """
    shapes = {str(value.name): tuple(value.shape or ()) for value in inputs}
    leading = {shape[0].value for shape in shapes.values() if shape and not isinstance(shape[0], int)}
    axes = {}
    for name, shape in shapes.items():
        free = [at for at, size in enumerate(shape) if not isinstance(size, int)]
        named = [at for at in free if getattr(shape[at], "value", None) in leading - {None}]
        if None in leading and len(free) == 1 and shape[0] != 1:
            named = named or free
        axes[name] = named[0] if named and isinstance(shape[0], int) else 0
    return axes


def check_samples(given: Given, model: ir.Model) -> Calibration:
    """Calibration samples that fit a model.

    Args:
        given: arrays by input name; or one array, for a model of one input; or an iterable of samples or of batches
            (a torch DataLoader, an onnxruntime CalibrationDataReader), each a mapping by input name, an array, or
            arrays in the order of the inputs, of which those beyond them (labels) are left out. A sample has no axis
            of samples; a batch and the array of an input have it where the model has it (`sample_axes`). For a model
            without such an axis (nodes of a graph, a step of a stream and its states) an iterable of whole feeds, each
            a mapping with every input, which are run one by one; their sizes may differ.

    Raises:
        DataError: names, shapes or types do not fit, there are no samples, or they say nothing (NaN, all zero).
    """
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    axes = sample_axes(inputs)
    if not isinstance(given, (Mapping, np.ndarray)) and isinstance(given, Iterable):
        given = list(islice(given, None))  # not asking for a length, which readers refuse
    feeds = whole_feeds(given, inputs)
    alone = isinstance(given, Mapping) and feeds is not None and len(feeds) == 1  # arrays of many samples, or a feed
    at_once = together(model, inputs, axes)
    if feeds is not None and (at_once is Together.NEVER or not (alone or same_sizes(feeds, inputs, axes))):
        return _recorded(feeds, inputs)
    ranks = {str(value.name): None if value.shape is None else len(value.shape) for value in inputs}
    arrays, notes = _by_name(given, ranks, axes, inputs)
    scalars = {str(v.name): _scalar(arrays[str(v.name)], v) for v in inputs if v.shape is not None and not len(v.shape)}
    inputs = [value for value in inputs if value.name not in scalars]
    if not inputs:
        raise DataError(f"input {next(iter(scalars))!r} is a scalar, so the model takes no samples")
    sizes: set[int] = set()
    checked = {}
    for value in inputs:
        checked[str(value.name)], size, said = _fit(arrays[str(value.name)], value, axes[str(value.name)])
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
    if not fixed and at_once is Together.ONE:
        notes.append("samples are run one by one: the model quantises tensors by the range of all that they hold")
        fixed = {1}
    moved = {name: axis for name, axis in axes.items() if axis}
    return Calibration(checked, fixed.pop() if fixed else None, tuple(notes), scalars, moved)


def _recorded(feeds: Sequence[Mapping[str, np.ndarray]], inputs: Sequence[ir.Value]) -> Calibration:
    """Feeds that are run one by one, in the types of the inputs."""
    notes: list[str] = []
    checked = [{str(value.name): _cast(feed[str(value.name)], value, notes) for value in inputs} for feed in feeds]
    floating = [str(value.name) for value in inputs if value.dtype is not None and value.dtype.is_floating_point()]
    if floating and not any(np.any(feed[name]) for feed in checked for name in floating):
        raise DataError(f"calibration data: input {floating[0]!r} is zero in all feeds")
    if len(feeds) == 1:
        notes.append("one feed only: nothing can be held out, so repair is not checked on unseen data")
    notes.append(f"the model has no axis of samples: {len(feeds)} recorded feeds are run one by one")
    return Recorded({}, 1, tuple(dict.fromkeys(notes)), feeds=checked)


def _by_name(
    given: Given, ranks: Mapping[str, int | None], axes: Mapping[str, int], inputs: Sequence[ir.Value]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays by input name, and notes; `ranks` are those of the inputs, None where unknown, `axes` of their samples."""
    names = list(ranks)
    if not names:
        raise DataError("the model has no inputs, so there is nothing to calibrate it with")
    if isinstance(given, np.ndarray):
        given = {names[0]: given} if len(names) == 1 else {"": given}
    elif not isinstance(given, Mapping):
        if not isinstance(given, Iterable):
            raise DataError(f"calibration data: expected arrays by input name, or samples one by one, found {given!r}")
        given = _gathered(list(given), ranks, axes)
    arrays = {str(name): _array(array, str(name)) for name, array in given.items()}
    if len(arrays) == 1 and len(names) == 1 and not set(arrays) & set(names) and next(iter(arrays)) in ("", "arr_0"):
        arrays = {names[0]: next(iter(arrays.values()))}
    masks = ones(arrays, inputs, axes)
    notes = [f"{name} is one everywhere, since no samples of it were given" for name in masks]
    arrays |= masks
    if missing := [name for name in names if name not in arrays]:
        raise DataError(
            f"calibration data: no samples for input {missing[0]!r}; found {', '.join(map(repr, arrays)) or 'nothing'}"
        )
    if extra := [name for name in arrays if name not in names]:
        raise DataError(
            f"calibration data: the model has no input {extra[0]!r}; its inputs are {', '.join(map(repr, names))}"
        )
    return arrays, notes


def _array(given: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise DataError(f"calibration data: samples of input {name!r} are not of one shape: {error}") from error
    except (TypeError, RuntimeError) as error:  # tensors on another device, or with a gradient
        raise DataError(f"calibration data: samples of input {name!r} are no arrays: {error}") from error


def _gathered(samples: list[Any], ranks: Mapping[str, int | None], axes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Samples, or batches of them, one behind the other."""
    if not samples:
        raise DataError("calibration data: there are no samples")
    named = [_named(sample, ranks) for sample in samples]
    arrays = {}
    for name in named[0]:
        parts = [_array(sample[name], str(name)) for sample in named if name in sample]
        batches = all(part.ndim == ranks.get(name) for part in parts) and parts[0].ndim > 0
        axis = axes.get(name, 0)
        shapes = {part.shape[:axis] + part.shape[axis + 1 :] if batches else part.shape for part in parts}
        if len(parts) < len(named) or len(shapes) > 1:
            raise DataError(
                f"calibration data: all samples of {name!r} must have one shape, "
                f"found {sorted(shapes)} in {len(parts)} of {len(named)}"
            )
        arrays[str(name)] = (np.concatenate if batches else np.stack)(parts, axis=min(axis, parts[0].ndim))
    return arrays


def _named(sample: Any, ranks: Mapping[str, int | None]) -> Mapping[str, Any]:
    """The arrays of a sample by input name: what follows those of the inputs is left out."""
    if isinstance(sample, Mapping):
        return sample
    name, rank = next(iter(ranks.items()))
    if isinstance(sample, (list, tuple)) and len(sample) >= len(ranks):
        first = getattr(sample[0], "ndim", 0)
        if first > 0 and (rank is None or first >= rank - 1):  # else these are the rows of one array
            return dict(zip(ranks, sample, strict=False))
    if len(ranks) > 1:
        raise DataError(f"calibration data: a sample must be a mapping with the keys {', '.join(map(repr, ranks))}")
    return {name: sample}


def _scalar(array: np.ndarray, value: ir.Value) -> np.ndarray:
    """What an input without axes gets, which must be the same in all samples."""
    known = np.unique(array)
    if len(known) != 1:
        raise DataError(
            f"calibration data: input {value.name!r} is a scalar and the same for all samples, "
            f"found {len(known)} values{f': {known[0]}, {known[1]} ...' if len(known) else ''}"
        )
    return np.asarray(_cast(known.reshape(()), value, []))


def _fit(array: np.ndarray, value: ir.Value, axis: int) -> tuple[np.ndarray, int | None, list[str]]:
    """The array with the samples first and in the input's type, how many it takes at a time, and notes."""
    name = value.name
    notes: list[str] = []
    if value.shape is not None:
        declared = [dim if isinstance(dim, int) else None for dim in value.shape]
        declared.insert(0, declared.pop(axis))
        array = np.moveaxis(array, min(axis, array.ndim - 1), 0) if array.ndim else array
        fits = array.ndim == len(declared) and all(map(_meets, declared[1:], array.shape[1:]))
        if not fits:
            text = ", ".join("?" if dim is None else str(dim) for dim in declared[1:])
            whole = len(declared) + 1 == array.ndim and all(map(_meets, declared, array.shape[1:]))
            hint = f"{f'axis {axis}' if axis else 'the first axis'} of an array counts the samples"
            sizes = [size for size in declared[1:] if size is not None]
            if len(sizes) + 1 == len(declared) and sorted(array.shape[1:]) == sorted(sizes):
                hint = "the axes are in another order: transpose the samples (channels first, or last)"
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


def _meets(declared: int | None, actual: int) -> bool:
    return declared is None or declared == actual


def _cast(array: np.ndarray, value: ir.Value, notes: list[str]) -> np.ndarray:
    """The array in the input's type, where no value changes by more than rounding."""
    name, dtype = value.name, value.dtype
    if dtype is None:
        return array
    wanted = dtype.numpy()
    if array.dtype.kind not in "fiub" and not dtype.is_floating_point():
        raise DataError(f"calibration data: input {name!r} is {dtype.name}, found {array.dtype}")
    if dtype.is_floating_point():
        if array.dtype.kind in "OUSMmc":
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
