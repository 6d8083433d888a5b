"""JAX to ``onnx_ir.Model`` and back, by jax2onnx: flax nnx and linen, equinox, plain functions.

jax and jax2onnx are imported on use only. `trace` hands the parameters over as arguments, so that each stays an array
of its own in the graph, under its path in the parameter tree.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    tolerance,
)  # fmt: skip
from spa.frontends.exporting.sizes import Choice, Holder, find_choices, search
from spa.frontends.files import onnx_file

Source = Any
"""An nnx module, an equinox module, (linen module, variables), (function, parameters) or a function of the inputs."""

Inputs = Any
"""An array or a tuple of arrays."""

OPSET = 18
_LOGGERS = ("jax", "jax2onnx")


def export(source: Source, inputs: Inputs, *, opset: int = OPSET, dynamic: bool = True) -> ir.Model:
    """A function of arrays as an ONNX model, checked against JAX on the example inputs.

    Args:
        dynamic: whether axis 0, where all inputs agree on it, is symbolic.

    Raises:
        MissingExtra: jax or jax2onnx is not installed.
        ModelError: jax2onnx cannot convert it, or the result computes something else.
    """
    tree = _open(source)
    arrays = _arrays(inputs)
    model = _convert(lambda *given: tree.call(tree.leaves, *given), (), arrays, opset=opset, dynamic=dynamic)
    name_weights(model, {name: np.asarray(leaf) for name, leaf in zip(tree.names, tree.leaves, strict=True)})
    feeds = {str(value.name): array for value, array in zip(model.graph.inputs, arrays, strict=True)}
    check(model, feeds, run(source, inputs), what=_called(source))
    return model


def trace(source: Source, inputs: Inputs, *, opset: int = OPSET, dynamic: bool = True) -> Traced:
    """The graph in which every float array of the parameters is an initializer under its path."""
    tree = _open(source)
    arrays = _arrays(inputs)
    floats = [at for at, leaf in enumerate(tree.leaves) if np.asarray(leaf).dtype.kind == "f" and np.ndim(leaf)]
    if not floats:
        raise UsageError(
            f"{_called(source)}: no parameters to prune; give (function, parameters), and the function takes them first"
        )

    def call(*given: Any) -> Any:
        leaves = list(tree.leaves)
        for at, value in zip(floats, given, strict=False):
            leaves[at] = value
        return tree.call(leaves, *given[len(floats) :])

    weights = {tree.names[at]: np.asarray(tree.leaves[at]) for at in floats}
    model = _convert(call, tuple(weights.values()), arrays, opset=opset, dynamic=dynamic)
    for value, name in zip(list(model.graph.inputs), weights, strict=False):
        value.name = name
    close_inputs(model, weights)
    feeds = {str(value.name): array for value, array in zip(model.graph.inputs, arrays, strict=True)}
    expected = run(source, inputs)
    check(model, feeds, expected, what=_called(source))
    return Traced(model, frozenset(weights), feeds, expected)


def run(source: Source, inputs: Inputs) -> list[np.ndarray]:
    """The arrays that a function gives, in the order of the leaves of its result."""
    tree = _open(source)
    jax = _jax()
    results = tree.call(tree.leaves, *map(jax.numpy.asarray, _arrays(inputs)))
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(results)]


def prune(source: Source, inputs: Inputs, *, ratio: float, **options: Any) -> Source:
    """The same with smaller parameters: a module of the same class, or (function, parameters) with a smaller tree.

    Sizes that modules keep in attributes (features, heads) follow. A linen module builds its layers in code, so only
    the sizes that it takes as fields can follow; what cannot is left alone, and the logger ``spa`` says which.

    Raises:
        MissingExtra, ModelError, UsageError: no JAX; the function cannot be converted; it has no parameters.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
    """
    from spa.adapters import restore
    from spa.frontends import jax as this

    return restore.prune(this, source, inputs, ratio=ratio, **options).source


# ------------------------------------------------------------------------------------------------------ rebuild
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
    jax = _jax()
    tree = _open(source)
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
        raise RebuildError(f"{_called(source)}: {reasons[0] if reasons else error}") from error
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


# -------------------------------------------------------------------------------------------- kinds of sources
@dataclass(frozen=True, slots=True)
class _Tree:
    """Parameters and what is computed with them.

    Attributes:
        names, leaves: the arrays and their paths.
        call: (leaves, *inputs) -> result.
        rebuild: (leaves, new attributes by object) -> a source of the same kind.
        objects: the objects with attributes in a source, by path.
    """

    names: Sequence[str]
    leaves: Sequence[Any]
    call: Callable[..., Any]
    rebuild: Callable[[Sequence[Any], Mapping[str, Mapping[str, Any]]], Any]
    objects: Callable[[Any], Iterator[tuple[str, Any]]]


def _open(source: Source) -> _Tree:
    _jax()
    roots = {kind.__module__.partition(".")[0] for kind in type(source).__mro__}
    if "equinox" in roots:
        return _equinox(source)
    if "flax" in roots:
        return _nnx(source)
    if isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "apply") and hasattr(source[0], "clone"):
        return _linen(*source)
    if isinstance(source, tuple) and len(source) == 2 and callable(source[0]):
        return _function(*source)
    if callable(source):
        return _Tree((), (), lambda _, *inputs: source(*inputs), lambda *_: source, lambda _: iter(()))
    raise UsageError(
        "expected a flax nnx or equinox module, (linen module, variables), (function, parameters) or a function, found "
        f"{type(source).__name__}"
    )


def _flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    paths, structure = _jax().tree_util.tree_flatten_with_path(tree)
    names = [".".join(_word(key) for key in path) for path, _ in paths]
    return names, [leaf for _, leaf in paths], structure


def _word(key: Any) -> str:
    word = str(next((getattr(key, each) for each in ("key", "idx", "name") if hasattr(key, each)), key))
    return re.sub(r"[^\w]", "", word)


def _function(function: Callable[..., Any], parameters: Any) -> _Tree:
    jax = _jax()
    names, leaves, structure = _flatten(parameters)

    def whole(given: Sequence[Any]) -> Any:
        return jax.tree_util.tree_unflatten(structure, given)

    return _Tree(
        names,
        leaves,
        lambda given, *inputs: function(whole(given), *inputs),
        lambda given, _: (function, whole(given)),
        lambda _: iter(()),
    )


def _linen(module: Any, variables: Any) -> _Tree:
    jax = _jax()
    names, leaves, structure = _flatten(variables)

    def whole(given: Sequence[Any]) -> Any:
        return jax.tree_util.tree_unflatten(structure, given)

    def again(given: Sequence[Any], changes: Mapping[str, Mapping[str, Any]]) -> Any:
        return module.clone(**changes.get("", {})), whole(given)

    return _Tree(
        names,
        leaves,
        lambda given, *inputs: module.apply(whole(given), *inputs),
        again,
        lambda given: iter([("", given[0])]),
    )


def _nnx(module: Any) -> _Tree:
    from flax import nnx

    jax = _jax()
    graph, state = nnx.split(module)
    names, leaves, structure = _flatten(state)
    names = [name.removesuffix(".value") for name in names]

    def whole(given: Sequence[Any]) -> Any:
        return nnx.merge(graph, jax.tree_util.tree_unflatten(structure, given))

    def again(given: Sequence[Any], changes: Mapping[str, Mapping[str, Any]]) -> Any:
        made = whole(given)
        owned = dict(objects(made))
        for path, attributes in changes.items():
            for name, value in attributes.items():
                setattr(owned[path], name, value)
        return made

    def objects(source: Any) -> Iterator[tuple[str, Any]]:
        return ((".".join(map(str, path)), part) for path, part in nnx.iter_modules(source))

    return _Tree(names, leaves, lambda given, *inputs: whole(given)(*inputs), again, objects)


def _equinox(module: Any) -> _Tree:
    import equinox

    jax = _jax()
    dynamic, static = equinox.partition(module, equinox.is_array)
    names, leaves, structure = _flatten(dynamic)

    def whole(given: Sequence[Any]) -> Any:
        return equinox.combine(jax.tree_util.tree_unflatten(structure, given), static)

    def again(given: Sequence[Any], changes: Mapping[str, Mapping[str, Any]]) -> Any:
        made = whole(given)
        owned = dict(objects(made))
        for path, attributes in changes.items():
            for name, value in attributes.items():
                object.__setattr__(owned[path], name, value)  # the tree was made above: nobody else holds it
        return made

    def objects(source: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(source, equinox.Module):
            if dataclasses.is_dataclass(source):
                yield path, source
            parts = ((f.name, getattr(source, f.name, None)) for f in dataclasses.fields(source))
        elif isinstance(source, (list, tuple)):
            parts = ((str(at), each) for at, each in enumerate(source))
        elif isinstance(source, dict):
            parts = ((str(key), each) for key, each in source.items())
        else:
            return
        for name, part in parts:
            yield from objects(part, f"{path}.{name}" if path else name)

    return _Tree(names, leaves, lambda given, *inputs: whole(given)(*inputs), again, objects)


# -------------------------------------------------------------------------------------------------------- tools
def _jax() -> Any:
    try:
        import jax
        import jax2onnx  # noqa: F401
    except ImportError:
        raise missing("jax with jax2onnx", "jax") from None
    return jax


def _arrays(inputs: Inputs) -> list[np.ndarray]:
    return [np.asarray(array) for array in (inputs if isinstance(inputs, (list, tuple)) else (inputs,))]


def _convert(
    function: Callable[..., Any],
    weights: Sequence[np.ndarray],
    arrays: Sequence[np.ndarray],
    *,
    opset: int,
    dynamic: bool,
) -> ir.Model:
    """The graph of a function of some weights and the inputs, whose batch is symbolic where JAX can trace it so."""
    jax = _jax()
    import jax2onnx

    fixed = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in weights]
    static = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    attempts = [static]
    if dynamic and len({array.shape[:1] for array in arrays}) == 1 and all(array.ndim > 1 for array in arrays):
        # jax2onnx makes the name a symbolic size; jax itself would not take it in a ShapeDtypeStruct that is traced.
        attempts.insert(0, [jax.ShapeDtypeStruct(("batch", *array.shape[1:]), array.dtype) for array in arrays])
    reason = ""
    for given in attempts:
        try:
            with quiet(*_LOGGERS):
                return onnx_file.load(jax2onnx.to_onnx(function, [*fixed, *given], opset=opset))
        except Exception as error:  # noqa: BLE001 - tracing runs the user's code, converting raises many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    raise ModelError(f"jax2onnx cannot convert it: {reason}")


def _called(source: Source) -> str:
    thing = source[0] if isinstance(source, tuple) else source
    return str(getattr(thing, "__name__", type(thing).__name__))
