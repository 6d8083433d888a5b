"""Whole feeds of a model that has no axis of samples: graphs of some nodes, steps of a stream and the states they met.

check_samples([{"x": nodes, "adjacency": matrix}, ...], model)       one dictionary a run, sizes as they come
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.analysis.couple import couple
from spa.analysis.coupling import Coupling
from spa.errors import UsageError
from spa.notation.dims import ONE, Factor, leaves
from spa.notation.operation import Moves, entry_of
from spa.notation.patterns import names_in
from spa.shapes import infer_shapes

Feed = Mapping[str, np.ndarray]


def whole_feeds(given: Any, inputs: Sequence[ir.Value]) -> list[dict[str, np.ndarray]] | None:
    """Feeds of all inputs in the shapes that the model declares: one a dictionary, or one a row of every array.

    None: what was given is something else.
    """
    if any(value.shape is None for value in inputs):
        return None
    try:
        return _whole(given, inputs)
    except (ValueError, TypeError, RuntimeError):  # what is no array is refused where samples are told apart
        return None


def _whole(given: Any, inputs: Sequence[ir.Value]) -> list[dict[str, np.ndarray]] | None:
    names = [str(value.name) for value in inputs]
    if isinstance(given, Mapping):
        arrays = {name: np.asarray(array) for name, array in given.items()}
        if arrays.keys() != set(names):
            return None
        if all(_meets(arrays[str(value.name)], value) for value in inputs):
            return [arrays]
        counts = {len(array) if array.ndim else -1 for array in arrays.values()}
        if len(counts) > 1 or counts & {-1, 0}:
            return None
        given = [{name: array[at] for name, array in arrays.items()} for at in range(counts.pop())]
    if not isinstance(given, list) or not given:
        return None
    feeds = []
    for feed in given:
        if not isinstance(feed, Mapping) or feed.keys() != set(names):
            return None
        feeds.append({name: np.asarray(feed[name]) for name in names})
    fits = all(_meets(feed[str(value.name)], value) for feed in feeds for value in inputs)
    return feeds if fits else None


def _meets(array: np.ndarray, value: ir.Value) -> bool:
    declared = [size if isinstance(size, int) else None for size in value.shape or ()]
    return array.ndim == len(declared) and all(
        size in (None, actual) for size, actual in zip(declared, array.shape, strict=True)
    )


def same_sizes(feeds: Sequence[Feed], inputs: Sequence[ir.Value], axes: Mapping[str, int]) -> bool:
    """Whether feeds can be put together as samples, or batches of them, along one axis of every input.

    Args:
        axes: where samples lie in each input, see `calibrate.sample_axes`.
    """
    inputs = [value for value in inputs if len(value.shape or ())]
    beside: dict[str, set[tuple[int, ...]]] = {}
    for feed in feeds:
        counts = set()
        for value in inputs:
            name = str(value.name)
            shape = list(feed[name].shape)
            counts.add(shape.pop(axes[name]))
            beside.setdefault(name, set()).add(tuple(shape))
        if len(counts) > 1:
            return False
    return all(len(shapes) == 1 for shapes in beside.values())


class Together(Enum):
    """How many samples one run may take, so that none changes what comes of another."""

    ANY = "any number"
    ONE = "one: a tensor is quantised by the range of all that it holds, as dynamic quantisation does"
    NEVER = "there are no samples: what lies along the axis belongs together, as a graph's nodes do"


def together(model: ir.Model, inputs: Sequence[ir.Value], axes: Mapping[str, int]) -> Together:
    """How samples may be put together along an axis of each input.

    What is summed over it, or laid beside itself as a graph's matrix does its nodes, is no axis of samples. A statistic
    of a tensor that keeps the axis is one of the samples that are there. What is looked up along the axis at places
    that inputs name (the ends of edges) may be another sample; at places that are counted (0, 1, 2 ... for each
    sample) it is not.
    """
    try:
        coupling = couple(model, infer_shapes(model))
    except UsageError:  # one name for axes that differ
        return Together.ANY
    sample_dims = [coupling.axes[v][axes[str(v.name)]] for v in inputs if v in coupling.axes and len(v.shape or ())]
    samples = {leaf for dim in sample_dims for leaf in leaves(dim)} - {ONE}
    over_samples = [
        sum_
        for application in coupling.applications
        for sum_ in application.sums()
        if any(leaf in samples for name in sum_.names for leaf in leaves(application.factors[name]))
    ]
    every = ([leaf for dim in dims for leaf in leaves(dim)] for dims in coupling.axes.values())
    if not all(sum_.again for sum_ in over_samples) or _looked_up(coupling, inputs, samples):
        return Together.NEVER
    if any(listed.count(leaf) > 1 for listed in every for leaf in samples):
        return Together.NEVER
    return Together.ONE if over_samples else Together.ANY


def _looked_up(coupling: Coupling, inputs: Sequence[ir.Value], samples: Set[Factor]) -> bool:
    """Whether a node moves elements along the axis of samples to where the values of inputs say."""
    told: set[ir.Value | None] = set(inputs)
    for application in coupling.applications:
        node, rule = application.node, application.rule
        seen = {value for at, value in enumerate(node.inputs) if at not in rule.unseen}
        if not told & seen:
            continue
        told.update(node.outputs)
        if entry_of(node).moves is not Moves.FIRST or not told & set(node.inputs[1:]):
            continue
        names = {name.name for axes in rule.operands[:1] for name in names_in(axes)} & rule.contracted
        dims = [dim for name in names for dim in application.named(name)]
        if any(leaf in samples for dim in dims for leaf in leaves(dim)):
            return True
    return False
