"""A Keras model of the same layers with smaller arrays: numbers in the layers' configs are found by value and tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spa.frontends.exporting.exported import Parts, RebuildError, difference, tolerance
from spa.frontends.exporting.keras_running import load_keras, name_of, run
from spa.frontends.exporting.sizes import Choice, Holder, find_choices, search

if TYPE_CHECKING:
    import keras

_WRONG_SHAPE = 1e6  # worse than any difference of numbers


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
    keras = load_keras()
    layers = {_path(layer): layer for layer in _layers(model) if getattr(layer, "variables", ())}
    holders = [
        Holder(path, type(layer).__name__, _numbers(layer.get_config()), frozenset(layer.get_config()))
        for path, layer in layers.items()
    ]
    choices = find_choices(holders, parts)
    names = {id(layer): path for path, layer in layers.items()}
    wanted = {name_of(v): tuple(arrays.get(name_of(v), v).shape) for v in model.variables}
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
                variable.assign(arrays.get(name_of(old), np.asarray(old)))
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
    parts = [name_of(variable).split(".")[:-1] for variable in layer.variables]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)


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
