"""The forms of a JAX model: flax nnx and linen, equinox, plain functions; each is a list of arrays and a call."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spa.errors import UsageError
from spa.frontends.exporting.exported import missing

Source = Any
"""An nnx module, an equinox module, (linen module, variables), (function, parameters) or a function of the inputs."""

Inputs = Any
"""An array or a tuple of arrays."""


@dataclass(frozen=True, slots=True)
class Tree:
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


def open_source(source: Source) -> Tree:
    """The arrays and the call of a JAX model of any form."""
    load_jax()
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
        return Tree((), (), lambda _, *inputs: source(*inputs), lambda *_: source, lambda _: iter(()))
    raise UsageError(
        "expected a flax nnx or equinox module, (linen module, variables), (function, parameters) or a function, found "
        f"{type(source).__name__}"
    )


def _flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    paths, structure = load_jax().tree_util.tree_flatten_with_path(tree)
    names = [".".join(_word(key) for key in path) for path, _ in paths]
    return names, [leaf for _, leaf in paths], structure


def _word(key: Any) -> str:
    word = str(next((getattr(key, each) for each in ("key", "idx", "name") if hasattr(key, each)), key))
    return re.sub(r"[^\w]", "", word)


def _function(function: Callable[..., Any], parameters: Any) -> Tree:
    jax = load_jax()
    names, leaves, structure = _flatten(parameters)

    def whole(given: Sequence[Any]) -> Any:
        return jax.tree_util.tree_unflatten(structure, given)

    return Tree(
        names,
        leaves,
        lambda given, *inputs: function(whole(given), *inputs),
        lambda given, _: (function, whole(given)),
        lambda _: iter(()),
    )


def _linen(module: Any, variables: Any) -> Tree:
    jax = load_jax()
    names, leaves, structure = _flatten(variables)

    def whole(given: Sequence[Any]) -> Any:
        return jax.tree_util.tree_unflatten(structure, given)

    def again(given: Sequence[Any], changes: Mapping[str, Mapping[str, Any]]) -> Any:
        return module.clone(**changes.get("", {})), whole(given)

    return Tree(
        names,
        leaves,
        lambda given, *inputs: module.apply(whole(given), *inputs),
        again,
        lambda given: iter([("", given[0])]),
    )


def _nnx(module: Any) -> Tree:
    from flax import nnx

    jax = load_jax()
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

    return Tree(names, leaves, lambda given, *inputs: whole(given)(*inputs), again, objects)


def _equinox(module: Any) -> Tree:
    import equinox

    jax = load_jax()
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

    return Tree(names, leaves, lambda given, *inputs: whole(given)(*inputs), again, objects)


def run(source: Source, inputs: Inputs) -> list[np.ndarray]:
    """The arrays that a function gives, in the order of the leaves of its result."""
    tree = open_source(source)
    jax = load_jax()
    results = tree.call(tree.leaves, *map(jax.numpy.asarray, arrays_of(inputs)))
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(results)]


def load_jax() -> Any:
    """jax, imported; raises MissingExtra where it or jax2onnx is not installed."""
    try:
        import jax
        import jax2onnx  # noqa: F401
    except ImportError:
        raise missing("jax with jax2onnx", "jax") from None
    return jax


def arrays_of(inputs: Inputs) -> list[np.ndarray]:
    """The inputs as a list of arrays."""
    return [np.asarray(array) for array in (inputs if isinstance(inputs, (list, tuple)) else (inputs,))]


def called(source: Source) -> str:
    """The name that messages give a source."""
    thing = source[0] if isinstance(source, tuple) else source
    return str(getattr(thing, "__name__", type(thing).__name__))
