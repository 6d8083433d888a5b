"""Calls of a torch module: its arguments, the tensors in them and the names the graph gives those; and `run`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from spa.errors import UsageError
from spa.frontends.exporting.exported import missing

if TYPE_CHECKING:
    import torch

Inputs = Any
"""A tensor, a tuple of positional arguments, or a dict of keyword arguments."""


def run(module: torch.nn.Module | torch.export.ExportedProgram, inputs: Inputs = None) -> list[np.ndarray]:
    """The tensors that a module returns, in evaluation mode, in the order of its outputs."""
    torch = load_torch()
    module, inputs = opened(module, inputs)
    args, kwargs = arguments_of(inputs)
    with torch.no_grad(), evaluating(module):
        return [to_numpy(tensor) for tensor in tensors_in(module(*args, **kwargs))]


def load_torch() -> Any:
    """torch, imported; raises MissingExtra where it is not installed."""
    try:
        import torch
    except ImportError:
        raise missing("PyTorch", "torch") from None
    return torch


def is_tensor(thing: Any) -> bool:
    """Whether something is a torch tensor."""
    return isinstance(thing, load_torch().Tensor)


def opened(module: Any, inputs: Inputs) -> tuple[Any, Inputs]:
    """An exported program as a module, with the inputs it was exported with."""
    torch = load_torch()
    if isinstance(module, torch.export.ExportedProgram):
        if inputs is None:
            if module.example_inputs is None:
                raise UsageError("the exported program holds no example inputs; give some")
            args, kwargs = module.example_inputs
            inputs = (tuple(args), dict(kwargs))
            return module.module(), _Both(*inputs)
        return module.module(), inputs
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"expected a torch.nn.Module or ExportedProgram, found {type(module).__name__}")
    if inputs is None:
        raise UsageError(f"{called(module)}: a torch module needs example inputs")
    return module, inputs


class _Both(tuple[Any, Any]):
    """Positional and keyword arguments together."""

    def __new__(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Both:
        return super().__new__(cls, (args, kwargs))


def arguments_of(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as positional and keyword arguments."""
    if isinstance(inputs, _Both):
        return inputs
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def tensors_in(tree: Any) -> Iterator[Any]:
    """The tensors in nested arguments or results, in torch's order."""
    from torch.utils import _pytree

    return (leaf for leaf in _pytree.tree_leaves(tree) if is_tensor(leaf))


def _paths(tree: Any) -> list[tuple[list[str], Any]]:
    from torch.utils import _pytree

    leaves, _ = _pytree.tree_flatten_with_path(tree)
    return [
        ([str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path], leaf)
        for path, leaf in leaves
        if is_tensor(leaf)
    ]


def output_names(results: Any) -> list[str]:
    """Keys where the module returns a mapping, else output, or output_0, output_1 ..."""
    paths = [path for path, _ in _paths(results)]
    if paths == [[]]:
        return ["output"]
    return ["_".join(path if path and not path[0].isdigit() else ["output", *path]) for path in paths]


def input_names(module: Any, args: Any, kwargs: Any) -> list[str]:
    """A name for each tensor of the arguments: the parameter of `forward` it goes to, and its place in that."""
    parameters = inspect.signature(module.forward).parameters
    positional = [name for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    named = {str(at): name for at, name in enumerate(positional)}
    first = [[named.get(path[0], f"input_{path[0]}"), *path[1:]] for path, _ in _paths(args)]
    return ["_".join(path) for path in first + [path for path, _ in _paths(kwargs)]]


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor's numbers; bfloat16 as ml_dtypes has it."""
    import ml_dtypes

    tensor = tensor.detach().cpu()
    if tensor.dtype == load_torch().bfloat16:
        bits: np.ndarray = tensor.view(load_torch().int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def called(module: Any) -> str:
    """The name that messages give a module."""
    return type(module).__name__


def one_line(error: Exception) -> str:
    """The first cause of an error, on one line."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
