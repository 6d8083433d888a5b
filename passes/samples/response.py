"""Fewer samples of the kinds to which a network hardly responds: one for one kind hardly tells those of another apart.

A reader of lines of text gives one result for all photographs, and its outputs differ between lines of text as much as
between those that it was trained for. Kinds to which it responds about as much get as many samples each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spa.errors import DataError
from spa.passes.samples.inputs import Input, Run
from spa.passes.samples.likely import Model
from spa.passes.samples.ranges import Range
from spa.passes.samples.values import MADE_UP, kinds_of, values

TRIED = 12
"""Samples of each kind."""

FAINT, FEW = 0.25, 0.25
"""A response below that share of the largest is faint, as a variance; and of such kinds there are that many samples for
each one of another."""

SILENT = 1e-3
"""A response below that share of another, as a variance, is none."""


def shares(model: Model, input_: Input, kinds: Sequence[str], ranges: Sequence[Range]) -> list[float]:
    """(kinds,) the share of the samples of an input that should be of each kind that `kinds_of` knows.

    Kinds are compared in the most likely range: numbers that are larger move all outputs more.
    """
    names = kinds_of(input_, kinds)
    alike = [1.0 / len(names)] * len(names)
    if len(names) < 2:
        return alike
    chosen = [[float(other == kind) for other in range(len(names))] for kind in range(len(names))]
    try:
        by_kind = [_responses(model, input_, kinds, ranges, only) for only in chosen]
    except DataError:
        return alike
    both = set.intersection(*map(set, by_kind))
    parts = [np.array([variances[name] for variances in by_kind]) for name in sorted(both)]
    told = [part / part.sum() for part in parts if part.sum() > 0]
    if not told:
        return alike
    responses = np.mean(told, axis=0)
    wanted = np.where(responses >= FAINT * responses.max(), 1.0, FEW)
    return [float(share) for share in wanted / wanted.sum()]


def silent(model: Model, input_: Input, kinds: Sequence[str], beside: Sequence[str], ranges: Sequence[Range]) -> bool:
    """Whether all outputs are as good as the same for all samples of some kinds, beside what they are for others: then
    nothing can be told of a repair by them. A detector of text finds none in gratings."""
    try:
        faint, usual = (_responses(model, input_, some, ranges) for some in (kinds, beside))
    except DataError:
        return False
    both = [name for name in usual if usual[name] > 0 and name in faint]
    return bool(both) and all(faint[name] < SILENT * usual[name] for name in both)


def _responses(
    model: Model, input_: Input, kinds: Sequence[str], ranges: Sequence[Range], chosen: Sequence[float] = ()
) -> dict[str, float]:
    """Of each output how much it differs between samples of some kinds of an input, in its most likely range."""
    size = max([1, *(other.shape[0] for other in model.inputs if not other.open)])
    rng = np.random.default_rng(0)
    feeds = {other.name: values(other, TRIED * size, [], MADE_UP, rng) for other in model.inputs if other is not input_}
    made = values(input_, TRIED * size, ranges[:1], kinds, np.random.default_rng(0), chosen)
    return _variances(model.run, {**feeds, input_.name: made}, size)


def _variances(run: Run, feeds: Mapping[str, np.ndarray], size: int) -> dict[str, float]:
    """Of each output of finite numbers, how much it differs between runs of so many samples."""
    results: dict[str, list[np.ndarray]] = {}
    for start in range(0, TRIED * size, size):
        for name, array in run({name: array[start : start + size] for name, array in feeds.items()}).items():
            if array.dtype.kind == "f" and array.size:
                results.setdefault(name, []).append(array.astype(np.float64))
    alike = {name: arrays for name, arrays in results.items() if len({array.shape for array in arrays}) == 1}
    variances = {name: float(np.var(arrays, axis=0).mean()) for name, arrays in alike.items()}
    return {name: variance for name, variance in variances.items() if np.isfinite(variance)}
