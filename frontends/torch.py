"""Prune PyTorch modules: `prune(module, example_inputs, ratio=0.3)` gives a smaller module of the same class.

Exporting alone, `export`, gives the ONNX graph. torch is imported on use only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spa.adapters import restore
from spa.frontends.exporting import torch as frontend
from spa.frontends.exporting.torch import EXPORTERS, Dynamic, Inputs, export, load, rebuild, run, trace

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTERS", "Dynamic", "Inputs", "export", "load", "prune", "rebuild", "run", "trace"]


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
    smaller: torch.nn.Module = restore.prune(frontend, module, example_inputs, ratio=ratio, **options).source
    return smaller
