"""PyTorch modules to ``onnx_ir.Model`` and back: ``torch.onnx.export``, dynamo first, TorchScript behind it.

torch is imported on use only. `trace` takes dynamo's graph before its optimiser has run, in which every parameter and
buffer is an initializer of its ``state_dict`` name.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from spa.errors import ModelError, UsageError
from spa.frontends.exporting.exported import Traced, check, close_inputs, missing, name_weights, open_arrays, quiet
from spa.frontends.exporting.torch_rebuild import rebuild as rebuild
from spa.frontends.files import onnx_file

if TYPE_CHECKING:
    import torch

Inputs = Any
"""A tensor, a tuple of positional arguments, or a dict of keyword arguments."""

Dynamic = bool | Mapping[str, Mapping[int, str]]
"""Open axes by argument and their names; True: axis 0, where all inputs agree on it."""

EXPORTERS = ("dynamo", "torchscript")
_LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.onnx._internal.exporter._registration", "onnxscript")
_INNER = "inner."


def load(path: str | os.PathLike[str]) -> torch.export.ExportedProgram:
    """An exported program (``.pt2``).

    Raises:
        MissingExtra: torch is not installed.
        ModelError: torch cannot read the file.
    """
    torch = _torch()
    try:
        with quiet(*_LOGGERS):
            return torch.export.load(os.fspath(path))
    except Exception as error:
        raise ModelError(f"{str(path)!r} is no exported program that torch can read: {_line(error)}") from error


def export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    inputs: Inputs = None,
    *,
    opset: int | None = None,
    exporter: str | None = None,
    dynamic: Dynamic = True,
    keep_batch_norm: bool = False,
) -> ir.Model:
    """A module as an ONNX model, in evaluation mode, checked against the module on the example inputs.

    Args:
        module: what to export; never changed. An `ExportedProgram` brings its own inputs.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        opset: of the standard operators; the exporter's own default if left out.
        exporter: dynamo or torchscript; if left out, dynamo, and TorchScript where that fails.
        dynamic: whether the batch axis (axis 0, where all inputs agree on it) is symbolic, or which axes of which
            argument are, with their names: {"input_ids": {0: "batch", 1: "sequence"}}.
        keep_batch_norm: keep BatchNormalization after convolutions instead of folding it into them.

    Raises:
        MissingExtra: torch is not installed.
        ModelError: no exporter takes the module, or the result computes something else.
    """
    model, feeds, expected, arrays = _exported(
        module,
        inputs,
        opset=opset,
        exporter=exporter,
        dynamic=dynamic,
        finish=_Finish("norms" if keep_batch_norm else "nothing"),
    )
    name_weights(model, arrays)
    check(model, feeds, expected, what=_called(module))
    return model


def trace(
    module: torch.nn.Module | torch.export.ExportedProgram,
    inputs: Inputs = None,
    *,
    opset: int | None = None,
    exporter: str | None = None,
    dynamic: Dynamic = True,
) -> Traced:
    """The same with every parameter and buffer an initializer of its ``state_dict`` name; arguments as in `export`."""
    model, feeds, expected, arrays = _exported(
        module, inputs, opset=opset, exporter=exporter, dynamic=dynamic, finish=_Finish("all")
    )
    check(model, feeds, expected, what=_called(module))
    kept = frozenset(
        name for name, array in arrays.items() if name in model.graph.initializers and array.dtype.kind in "fV"
    )
    return Traced(model, kept, feeds, expected)


def run(module: torch.nn.Module | torch.export.ExportedProgram, inputs: Inputs = None) -> list[np.ndarray]:
    """The tensors that a module returns, in evaluation mode, in the order of its outputs."""
    torch = _torch()
    module, inputs = _opened(module, inputs)
    args, kwargs = _arguments(inputs)
    with torch.no_grad(), _evaluating(module):
        return [to_numpy(tensor) for tensor in _tensors(module(*args, **kwargs))]


def prune(module: torch.nn.Module, example_inputs: Inputs, *, ratio: float, **options: Any) -> torch.nn.Module:
    """A smaller module of the same class that computes the same as the pruned ONNX graph.

    The module is traced, the graph pruned, and the parameters, buffers and attributes that carry sizes are set to what
    the plan leaves. Groups that the module's code cannot express (it computes a head size from the width, say) are left
    alone, and the logger ``spa`` says which.

    Args:
        module: never changed.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        ratio: the share to remove, between 0 and 1.
        options: as for `spa.prune`; `spa.adapters.restore.prune` also returns the plan and the report.

    Raises:
        MissingExtra, ModelError: no torch; the module cannot be exported.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the smaller module does not compute what the pruned graph does.
    """
    from spa.adapters import restore
    from spa.frontends import torch as this

    smaller: torch.nn.Module = restore.prune(this, module, example_inputs, ratio=ratio, **options).source
    return smaller


# ---------------------------------------------------------------------------------------------------- exporting
def _exported(
    module: Any,
    inputs: Inputs,
    *,
    opset: int | None,
    exporter: str | None,
    dynamic: Dynamic,
    finish: _Finish,
) -> tuple[ir.Model, dict[str, np.ndarray], list[np.ndarray], dict[str, np.ndarray]]:
    """The model, the example inputs by name, what the module makes of them, and the module's arrays."""
    torch = _torch()
    if exporter is not None and exporter not in EXPORTERS:
        raise UsageError(f"exporter {exporter!r}: expected one of {', '.join(EXPORTERS)}")
    program = module if isinstance(module, torch.export.ExportedProgram) else None
    module, inputs = _opened(module, inputs)
    args, kwargs = _arguments(inputs)
    whole = copy.deepcopy(module) if program is None else module  # exporting leaves traces in some modules
    with _evaluating(whole), torch.no_grad():
        try:
            results = whole(*args, **kwargs)
        except Exception as error:
            raise ModelError(f"{_called(module)} does not run on the example inputs: {_line(error)}") from error
        expected = [to_numpy(tensor) for tensor in _tensors(results)]
        names = _output_names(results)
        reasons = []
        for attempt in [exporter] if exporter else EXPORTERS:
            make = _dynamo if attempt == "dynamo" else _torchscript
            try:
                with quiet(*_LOGGERS):
                    model = make(
                        whole, args, kwargs, names, opset=opset, dynamic=dynamic, finish=finish, program=program
                    )
                break
            except Exception as error:  # noqa: BLE001 - exporters raise anything; each reason is shown if all fail
                reasons.append(f"{attempt}: {_line(error)}")
        else:
            raise ModelError(f"{_called(module)} cannot be exported to ONNX; {'; '.join(reasons)}")
    flat = [to_numpy(tensor) for tensor in _tensors((args, kwargs))]
    feeds = {str(v.name): array for v, array in zip(model.graph.inputs, flat, strict=True)}
    arrays = {name: to_numpy(tensor) for name, tensor in whole.state_dict(keep_vars=True).items() if _is_tensor(tensor)}
    return model, feeds, expected, arrays


def _dynamo(
    module: Any, args: Any, kwargs: Any, names: list[str], *, opset: Any, dynamic: Dynamic, finish: Any, program: Any
) -> ir.Model:
    torch = _torch()
    if program is None:
        given, named, axes = _doubled(module, args, kwargs, dynamic)
        program = torch.export.export(module, given, named, dynamic_shapes=axes)
    made = torch.onnx.export(program, optimize=False, verbose=False, opset_version=opset, output_names=names)
    finish(made, module)
    model: ir.Model = made.model
    _name_axes(model, dynamic)
    return onnx_file.load(model)


def _doubled(module: Any, args: Any, kwargs: Any, dynamic: Dynamic) -> tuple[Any, Any, Any]:
    """Example inputs and which of their axes are open; a batch of one, which would count as constant, is doubled."""
    from torch.utils import _pytree

    torch = _torch()
    leaves = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if _is_tensor(leaf)]
    sizes = {leaf.shape[0] for leaf in leaves if leaf.ndim}
    if not dynamic or (dynamic is True and len(sizes) != 1):
        return args, kwargs, None
    if sizes == {1}:
        args, kwargs = _pytree.tree_map(
            lambda leaf: torch.cat([leaf, leaf]) if _is_tensor(leaf) and leaf.ndim else leaf, (args, kwargs)
        )
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    if isinstance(dynamic, Mapping):
        chosen = {
            name: _pytree.tree_map(lambda x, name=name: _open(x, dynamic.get(name, ())), tree)
            for name, tree in given.items()
        }
    else:
        chosen = _pytree.tree_map(lambda x: _open(x, (0,)), dict(given))
    return args, kwargs, chosen


def _open(leaf: Any, axes: Iterable[int]) -> Any:
    auto = _torch().export.Dim.AUTO
    return {axis: auto for axis in axes if axis < leaf.ndim} if _is_tensor(leaf) else None


def _torchscript(
    module: Any, args: Any, kwargs: Any, names: list[str], *, opset: Any, dynamic: Dynamic, finish: Any, program: Any
) -> ir.Model:
    torch = _torch()
    if program is not None:
        raise ModelError("an exported program has no source to trace")
    flat = _flattened(module, args, kwargs)
    tensors = tuple(_tensors((args, kwargs)))
    inputs = _input_names(module, args, kwargs)
    axes: Any = None
    if isinstance(dynamic, Mapping):
        axes = {
            name: dict(asked) for name in inputs for key, asked in dynamic.items() if f"{name}_".startswith(f"{key}_")
        }
    elif dynamic and len({tensor.shape[0] for tensor in tensors if tensor.ndim}) == 1:
        axes = {name: {0: "batch"} for name, tensor in zip(inputs, tensors, strict=True) if tensor.ndim}
    raw, mode = finish.kept == "all", torch.onnx.TrainingMode
    saved = [(tensor, tensor.detach().clone()) for tensor in module.state_dict(keep_vars=True).values()]
    if raw:
        _make_distinct(module)  # the exporter merges equal tensors
    with tempfile.TemporaryDirectory() as folder, _plain_attention():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            flat, tensors, str(path), dynamo=False, opset_version=opset, input_names=inputs, output_names=names,
            dynamic_axes=axes, do_constant_folding=not raw, keep_initializers_as_inputs=False,
            training=mode.EVAL if finish.kept == "nothing" else mode.PRESERVE,
        )  # fmt: skip
        model = onnx_file.load(onnx.load(str(path)))
    for tensor, numbers in saved:
        tensor.data.copy_(numbers)
    arrays = {
        name: to_numpy(tensor) for name, tensor in module.state_dict(keep_vars=True).items() if _is_tensor(tensor)
    }
    for name, value in list(model.graph.initializers.items()):
        if name.startswith(_INNER):
            model.graph.initializers.pop(name)
            value.name = name.removeprefix(_INNER)
            if raw and value.name in arrays:
                value.const_value = ir.Tensor(arrays[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


@contextmanager
def _plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention as single operators, not as the fused one that only torch has."""
    mha = _torch().backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


def _flattened(module: Any, args: Any, kwargs: Any) -> Any:
    """A module of tensors in, tensors out, for the exporter that knows no keyword arguments."""
    from torch.utils import _pytree

    torch = _torch()
    leaves, spec = _pytree.tree_flatten((args, kwargs))

    class Flat(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            given = iter(tensors)
            filled = [next(given) if _is_tensor(leaf) else leaf for leaf in leaves]
            positional, named = _pytree.tree_unflatten(filled, spec)
            return tuple(_tensors(self.inner(*positional, **named)))

    return Flat().train(module.training)


def _make_distinct(module: Any) -> None:
    """Move every float tensor by a little of its own, so that no two are equal."""
    torch = _torch()
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict(keep_vars=True).values():
        if _is_tensor(tensor) and tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            tensor.data.mul_(1 + 0.01 * noise).add_(1e-3 * noise)


@dataclass(frozen=True, slots=True)
class _Finish:
    """How the exporter's optimiser runs on its graph: what is no constant at the time cannot be folded.

    Attributes:
        kept: nothing, norms (what batch norms read) or all (parameters and buffers).
    """

    kept: str

    def __call__(self, made: Any, module: Any) -> None:
        names: Iterable[str] = ()
        if self.kept == "norms":
            norms = [node for node in made.model.graph if node.op_type == "BatchNormalization"]
            names = [str(value.name) for node in norms for value in node.inputs[1:] if value is not None]
        elif self.kept == "all":
            tensors = module.state_dict(keep_vars=True)
            names = [name for name, tensor in tensors.items() if _is_tensor(tensor) and tensor.is_floating_point()]
        held = open_arrays(made.model, frozenset(names))
        made.optimize()
        close_inputs(made.model, held)


def _name_axes(model: ir.Model, dynamic: Dynamic) -> None:
    """The exporter invents names such as s77 for open axes; give them those that people use."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        asked: Mapping[int, str] = {0: "batch"}
        if isinstance(dynamic, Mapping):
            key = next((key for key in dynamic if f"{value.name}_".startswith(f"{key}_")), "")
            asked = dynamic.get(key, {})
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and axis in asked:
                names.setdefault(str(size), asked[axis])
    for value in itertools.chain(model.graph.inputs, *(node.outputs for node in model.graph)):
        if value.shape is not None:
            value.shape = ir.Shape([names.get(str(axis), axis) for axis in value.shape])


# ---------------------------------------------------------------------------------------------------- arguments
def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise missing("PyTorch", "torch") from None
    return torch


def _is_tensor(thing: Any) -> bool:
    return isinstance(thing, _torch().Tensor)


def _opened(module: Any, inputs: Inputs) -> tuple[Any, Inputs]:
    """An exported program as a module, with the inputs it was exported with."""
    torch = _torch()
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
        raise UsageError(f"{_called(module)}: a torch module needs example inputs")
    return module, inputs


class _Both(tuple[Any, Any]):
    """Positional and keyword arguments together."""

    def __new__(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Both:
        return super().__new__(cls, (args, kwargs))


def _arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, _Both):
        return inputs
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def _tensors(tree: Any) -> Iterator[Any]:
    from torch.utils import _pytree

    return (leaf for leaf in _pytree.tree_leaves(tree) if _is_tensor(leaf))


def _paths(tree: Any) -> list[tuple[list[str], Any]]:
    from torch.utils import _pytree

    found, _ = _pytree.tree_flatten_with_path(tree)
    return [
        ([str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path], leaf)
        for path, leaf in found
        if _is_tensor(leaf)
    ]


def _output_names(results: Any) -> list[str]:
    """Keys where the module returns a mapping, else output, or output_0, output_1 ..."""
    paths = [path for path, _ in _paths(results)]
    if paths == [[]]:
        return ["output"]
    return ["_".join(path if path and not path[0].isdigit() else ["output", *path]) for path in paths]


def _input_names(module: Any, args: Any, kwargs: Any) -> list[str]:
    parameters = inspect.signature(module.forward).parameters
    positional = [name for name, p in parameters.items() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    named = {str(at): name for at, name in enumerate(positional)}
    first = [[named.get(path[0], f"input_{path[0]}"), *path[1:]] for path, _ in _paths(args)]
    return ["_".join(path) for path in first + [path for path, _ in _paths(kwargs)]]


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor's numbers; bfloat16 as ml_dtypes has it."""
    import ml_dtypes

    tensor = tensor.detach().cpu()
    if tensor.dtype == _torch().bfloat16:
        bits: np.ndarray = tensor.view(_torch().int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _called(module: Any) -> str:
    return type(module).__name__


def _line(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
