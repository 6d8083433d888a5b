"""A JAX model around smaller arrays: sizes that its modules keep in attributes are found by value and tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spa.frontends.exporting.exported import Parts, RebuildError, difference, tolerance
from spa.frontends.exporting.jax_sources import Source, called, load_jax, open_source, run
from spa.frontends.exporting.sizes import Choice, Holder, find_choices, search


def rebuild(
    source: Source,
    arrays: Mapping[str, np.ndarray],
    parts: Mapping[str, Parts],
    inputs: Any,
    expected: Sequence[np.ndarray],
) -> Source:
    """The same around other arrays, checked.

    Raises:
        RebuildError: the code does not work with these sizes, or computes something else.
    """
    jax = load_jax()
    tree = open_source(source)
    owned = dict(tree.objects(source))
    holders = [
        Holder(path, type(each).__qualname__, _numbers(each), frozenset(vars(each))) for path, each in owned.items()
    ]
    choices = find_choices([holder for holder in holders if holder.numbers], parts)
    leaves = [
        jax.numpy.asarray(arrays[name], leaf.dtype) if name in arrays else leaf
        for name, leaf in zip(tree.names, tree.leaves, strict=True)
    ]
    built: list[Source] = []
    reasons: list[str] = []

    def attempt(readings: Mapping[int, int]) -> float:
        changes: dict[str, dict[str, Any]] = {}
        for number, reading in readings.items():
            for path, value in choices[number].readings[reading].items():
                _note(changes.setdefault(path, {}), owned[path], choices[number], value)
        try:
            smaller = tree.rebuild(leaves, changes)
            gap = difference(run(smaller, inputs), expected)
        except Exception as error:  # noqa: BLE001 - whatever code does with sizes it was not written for
            reasons.append(" ".join(f"{type(error).__name__}: {error}".split())[:200])
            return float("inf")
        built[:] = [smaller]
        return gap

    try:
        search(choices, attempt, limit=tolerance(expected))
    except RebuildError as error:
        raise RebuildError(f"{called(source)}: {reasons[0] if reasons else error}") from error
    return built[0]


def _numbers(thing: Any) -> dict[str, Any]:
    def counts(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return bool(value) and all(type(each) is int for each in value)
        return type(value) is int

    return {name: value for name, value in vars(thing).items() if not name.startswith("_") and counts(value)}


def _note(changes: dict[str, Any], thing: Any, choice: Choice, value: int) -> None:
    if choice.element is None:
        changes[choice.attribute] = value
        return
    old = changes.get(choice.attribute, getattr(thing, choice.attribute))
    changes[choice.attribute] = type(old)(value if at == choice.element else each for at, each in enumerate(old))
