"""Prune PyTorch modules: `prune(module, example_inputs, ratio=0.3)` gives a smaller module of the same class.

Exporting alone, `export`, gives the ONNX graph. torch is imported on use only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spa import gradients
from spa.adapters import restore
from spa.analysis.group import Group
from spa.errors import UsageError
from spa.frontends.exporting import torch as frontend
from spa.frontends.exporting.torch import EXPORTERS, Dynamic, Inputs, export, load, rebuild, run, trace
from spa.gradients.options import CRITERIA, WITHOUT_SAMPLES, LearningOptions
from spa.passes.choose.importance.gather import Context, Scores

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTERS", "Dynamic", "Inputs", "export", "load", "prune", "rebuild", "run", "trace"]

_LEARNING = ("data", "loss", "labels", "oracle_budget")


def prune(module: torch.nn.Module, example_inputs: Inputs, *, ratio: float, **options: Any) -> torch.nn.Module:
    """A smaller module of the same class that computes the same as the pruned ONNX graph.

    The module is traced, the graph pruned, and the parameters, buffers and attributes that carry sizes are set to what
    the plan leaves. Groups that the module's code cannot express (it computes a head size from the width, say) are left
    alone, and the logger ``spa`` says which.

    Args:
        module: never changed.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        ratio: the share to remove, between 0 and 1.
        options: as for `spa.prune`; `spa.adapters.restore.prune` also returns the plan and the report. For a criterion
            by gradients (taylor, fisher ...) they are the module's own: `data` gives batches as a DataLoader does,
            (inputs, targets) or inputs alone, and `loss` is called with the module's output and the targets.

    Raises:
        MissingExtra: torch, or onnxruntime, is not installed.
        ModelError: the module cannot be exported.
        UsageError, DataError: an option or the samples are wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the smaller module does not compute what the pruned graph does.
    """
    if options.get("criterion") in CRITERIA:
        options = _by_autograd(module, options)
    smaller: torch.nn.Module = restore.prune(frontend, module, example_inputs, ratio=ratio, **options).source
    return smaller


def _by_autograd(module: torch.nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which the criterion that is named takes its gradients from the module itself."""
    name = options["criterion"]
    if name in WITHOUT_SAMPLES:
        return dict(options)
    gradients.require()
    if options.get("data") is None:
        raise UsageError(f"criterion {name!r} needs samples: give data, batches as a DataLoader gives them")
    if isinstance(options["data"], (str, os.PathLike)) or options.get("labels") is not None:
        return dict(options)  # a file, whose names are those of the graph's inputs
    budget = LearningOptions(**{key: options[key] for key in ("oracle_budget",) if options.get(key)}).oracle_budget
    training = module.training
    scored = gradients.criterion_of_module(
        name, module.eval(), data=options["data"], loss=options.get("loss"), budget=budget
    )

    def criterion(groups: Sequence[Group], context: Context, /) -> Scores:
        try:
            return scored(groups, context)
        finally:
            module.train(training)

    return {key: value for key, value in options.items() if key not in _LEARNING} | {"criterion": criterion}
