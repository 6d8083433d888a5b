"""Prune Hugging Face models: `prune(source, ratio=0.2)` gives a smaller model whose config loads it again.

Exporting alone, `export`, gives the ONNX graph. transformers and torch are imported on use only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spa.adapters import restore
from spa.frontends.exporting import huggingface as frontend
from spa.frontends.exporting.huggingface import (
    EVEN,
    Source,
    example_inputs,
    export,
    fits,
    load,
    opened,
    rebuild,
    run,
    save,
    signature,
    trace,
)  # fmt: skip

if TYPE_CHECKING:
    import transformers

__all__ = [
    "EVEN", "Source", "example_inputs", "export", "fits", "load", "prune", "rebuild", "run", "save", "signature",
    "trace",
]  # fmt: skip


def prune(
    source: Source, inputs: Mapping[str, Any] | None = None, *, ratio: float, **options: Any
) -> transformers.PreTrainedModel:
    """A smaller model of the same class whose config says its sizes, so that it saves and loads as any other.

    A config has one number for all layers, so like layers lose equally many units (scope="local").

    Args:
        source: a transformers model, never changed, or a folder that `save_pretrained` wrote.
        inputs: example tensors by name; by default made up from what the config says.
        ratio: the share to remove, between 0 and 1.
        options: as for `spa.prune`; `spa.adapters.restore.prune` also returns the plan and the report.

    Raises:
        MissingExtra: transformers, torch or onnxruntime is not installed.
        ModelError: the source is no model that transformers reads, or it cannot be exported.
        UsageError, DataError: another scope, whose plan a config could not express; an option or the samples are wrong.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
        VerificationError: the smaller model does not compute what the pruned graph does.
    """
    model = opened(source)
    return restore.prune(frontend, model, inputs, ratio=ratio, even=EVEN, **options).source
