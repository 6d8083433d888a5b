"""PyTorch modules to ``onnx_ir.Model`` and back: ``torch.onnx.export``, dynamo first, TorchScript behind it.

torch is imported on use only. `trace` takes dynamo's graph before its optimiser has run, in which every parameter and
buffer is an initializer of its ``state_dict`` name.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from spa.errors import ModelError, UsageError
from spa.frontends.exporting.exported import Traced, check, name_weights, quiet
from spa.frontends.exporting.torch_exporters import Dynamic, Finish, dynamo, torchscript
from spa.frontends.exporting.torch_rebuild import rebuild
from spa.frontends.exporting.torch_running import (
    Inputs,
    arguments_of,
    called,
    evaluating,
    is_tensor,
    load_torch,
    one_line,
    opened,
    output_names,
    run,
    tensors_in,
    to_numpy,
)

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTERS", "Dynamic", "Inputs", "export", "load", "rebuild", "run", "trace"]

EXPORTERS = ("dynamo", "torchscript")
_LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.onnx._internal.exporter._registration", "onnxscript")


def load(path: str | os.PathLike[str]) -> torch.export.ExportedProgram:
    """An exported program (``.pt2``).

    Raises:
        MissingExtra: torch is not installed.
        ModelError: torch cannot read the file.
    """
    torch = load_torch()
    try:
        with quiet(*_LOGGERS):
            return torch.export.load(os.fspath(path))
    except Exception as error:
        raise ModelError(f"{str(path)!r} is no exported program that torch can read: {one_line(error)}") from error


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
        finish=Finish("norms" if keep_batch_norm else "nothing"),
    )
    name_weights(model, arrays)
    check(model, feeds, expected, what=called(module))
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
        module, inputs, opset=opset, exporter=exporter, dynamic=dynamic, finish=Finish("all")
    )
    check(model, feeds, expected, what=called(module))
    kept = frozenset(
        name for name, array in arrays.items() if name in model.graph.initializers and array.dtype.kind in "fV"
    )
    return Traced(model, kept, feeds, expected)


# ---------------------------------------------------------------------------------------------------- exporting
def _exported(
    module: Any,
    inputs: Inputs,
    *,
    opset: int | None,
    exporter: str | None,
    dynamic: Dynamic,
    finish: Finish,
) -> tuple[ir.Model, dict[str, np.ndarray], list[np.ndarray], dict[str, np.ndarray]]:
    """The model, the example inputs by name, what the module makes of them, and the module's arrays."""
    torch = load_torch()
    if exporter is not None and exporter not in EXPORTERS:
        raise UsageError(f"exporter {exporter!r}: expected one of {', '.join(EXPORTERS)}")
    program = module if isinstance(module, torch.export.ExportedProgram) else None
    module, inputs = opened(module, inputs)
    args, kwargs = arguments_of(inputs)
    whole = copy.deepcopy(module) if program is None else module  # exporting leaves traces in some modules
    with evaluating(whole), torch.no_grad():
        try:
            results = whole(*args, **kwargs)
        except Exception as error:
            raise ModelError(f"{called(module)} does not run on the example inputs: {one_line(error)}") from error
        expected = [to_numpy(tensor) for tensor in tensors_in(results)]
        names = output_names(results)
        reasons = []
        for attempt in [exporter] if exporter else EXPORTERS:
            make = dynamo if attempt == "dynamo" else torchscript
            try:
                with quiet(*_LOGGERS):
                    model = make(
                        whole, args, kwargs, names, opset=opset, dynamic=dynamic, finish=finish, program=program
                    )
                break
            except Exception as error:  # noqa: BLE001 - exporters raise anything; each reason is shown if all fail
                reasons.append(f"{attempt}: {one_line(error)}")
        else:
            raise ModelError(f"{called(module)} cannot be exported to ONNX; {'; '.join(reasons)}")
    flat = [to_numpy(tensor) for tensor in tensors_in((args, kwargs))]
    feeds = {str(v.name): array for v, array in zip(model.graph.inputs, flat, strict=True)}
    arrays = {name: to_numpy(tensor) for name, tensor in whole.state_dict(keep_vars=True).items() if is_tensor(tensor)}
    return model, feeds, expected, arrays
