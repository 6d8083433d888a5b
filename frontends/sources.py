"""Name a model in one word, a path, a folder or ``package.module:factory``, and find the frontend that reads it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx_ir as ir

from spa.errors import ModelError, UsageError
from spa.fields import function_of
from spa.frontends.addresses import refuse_address
from spa.frontends.files.folder import is_onnx_folder

_FRONTENDS = {"transformers": "huggingface", "torch": "torch", "keras": "keras", "flax": "jax", "equinox": "jax"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A framework's model, the frontend that knows it, and example inputs; None: the frontend makes them up."""

    frontend: ModuleType
    model: Any
    inputs: Any = None


def is_framework(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a framework's, not an ONNX file."""
    path = Path(source)
    if path.is_dir():
        return not is_onnx_folder(path)
    return path.suffix in (".keras", ".pt2") or (not path.exists() and _is_factory(str(source)))


def export(
    source: str | os.PathLike[str], *, before: Callable[[Opened], None] | None = None, **options: Any
) -> ir.Model:
    """A source as an ONNX model, checked against its framework.

    Args:
        before: called with what the framework holds before anything is exported.

    Raises:
        MissingExtra: the framework is not installed; names the extra.
        ModelError, UsageError: there is no such source, or it cannot be exported.
    """
    opened = open_source(source)
    if before is not None:
        before(opened)
    try:
        model: ir.Model = opened.frontend.export(opened.model, opened.inputs, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        name = opened.frontend.__name__.rpartition(".")[2]
        raise UsageError(f"{source}: {' and '.join(options)} cannot be chosen for {name}") from error
    return model


def open_source(source: str | os.PathLike[str]) -> Opened:
    """Read a framework's model.

    Args:
        source: a ``.keras`` file, a ``.pt2`` exported program, a Hugging Face folder, or ``package.module:factory``,
            which is called without arguments and returns a model or (model, example inputs).

    Raises:
        MissingExtra: the framework is not installed; names the extra.
        ModelError, UsageError: there is no such source, or it is none of these.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{str(path)!r} is a folder without config.json: expected a Hugging Face model, or a folder of "
                "onnxruntime-genai or optimum"
            )
        transformers = _frontend("huggingface")
        return Opened(transformers, transformers.load(path))
    if not path.exists() and _is_factory(str(source)):
        return _call(str(source))
    refuse_address(source)
    if not path.is_file():
        raise ModelError(
            f"{str(source)!r}: there is no such file or folder; a factory is given as package.module:factory"
        )
    if path.suffix == ".keras":
        keras = _frontend("keras")
        return Opened(keras, keras.load(path))
    if path.suffix == ".pt2":
        torch = _frontend("torch")
        return Opened(torch, torch.load(path))
    raise UsageError(f"{str(source)!r}: expected .keras, .pt2, a Hugging Face folder or package.module:factory")


def frontend_of(model: Any) -> ModuleType:
    """The frontend for a framework's model, known by where its classes come from.

    Raises:
        UsageError: it comes from nowhere that SPA knows.
    """
    thing = model[0] if isinstance(model, tuple) else model
    roots = [kind.__module__.partition(".")[0] for kind in type(thing).__mro__]
    for framework, name in _FRONTENDS.items():
        if framework in roots:
            return _frontend(name)
    if callable(thing):
        return _frontend("jax")
    raise UsageError(f"expected a model of torch, transformers, Keras, flax or equinox, found {type(thing).__name__}")


def _frontend(name: str) -> ModuleType:
    return importlib.import_module(f"spa.frontends.exporting.{name}")


def _is_factory(text: str) -> bool:
    module, colon, name = text.partition(":")
    return bool(colon) and module.replace(".", "").isidentifier() and name.isidentifier()


def _call(text: str) -> Opened:
    try:
        factory = function_of(text)
    except UsageError as error:
        raise UsageError(f"{text}: {error}") from error
    made = factory()
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return Opened(frontend_of(model), model, inputs)
