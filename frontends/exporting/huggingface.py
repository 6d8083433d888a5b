"""Hugging Face folders (transformers, PyTorch weights) to ``onnx_ir.Model``, and back to a model whose config loads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from spa.frontends.exporting import torch as torch_frontend
from spa.frontends.exporting.exported import Traced
from spa.frontends.exporting.huggingface_cache import name_cache, with_cache
from spa.frontends.exporting.huggingface_config import fits, rebuild
from spa.frontends.exporting.huggingface_models import Source, example, example_inputs, load, opened, run, without_cache

if TYPE_CHECKING:
    import os

    import transformers

__all__ = [
    "EVEN", "Source", "example_inputs", "export", "fits", "load", "opened", "rebuild", "run", "save", "signature",
    "trace",
]  # fmt: skip

EVEN = True  # one number of a config says the size of all layers
_SKIPPED = ("config.json", "generation_config.json")


def save(model: transformers.PreTrainedModel, folder: str | os.PathLike[str], *, like: Source = None) -> None:
    """Write a model with its config; tokenizer and processor files come from the folder it was made of."""
    model.save_pretrained(folder)
    if like is None or not Path(like).is_dir():
        return
    for path in Path(like).iterdir():
        weights = path.suffix in (".safetensors", ".bin", ".onnx") or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name not in _SKIPPED:
            shutil.copy(path, folder)


def export(
    source: Source, inputs: Mapping[str, Any] | None = None, *, cache: bool = False, opset: int | None = None
) -> ir.Model:
    """A folder or model as an ONNX model, checked against transformers.

    Args:
        source: a folder that `save_pretrained` wrote, or a transformers model, which is never changed.
        inputs: example keyword arguments; made up from the config if left out.
        opset: of the standard operators; the exporter's own default if left out.
        cache: for causal language models, take and give the keys and values of earlier tokens
            (``past_key_values.0.key`` ..., ``present.0.key`` ...).

    Raises:
        MissingExtra: transformers or torch is not installed.
        ModelError: the folder holds no model, or it cannot be exported, or the export computes something else.
        UsageError: no example of the model's main input can be made up.
    """
    model = opened(source)
    if cache:
        wrapped, arguments, axes = with_cache(model)
        made = torch_frontend.export(wrapped, arguments, opset=opset, dynamic=axes)
        return name_cache(made)
    inputs, axes = example(model, inputs)
    with without_cache(model) as plain:
        return torch_frontend.export(plain, inputs, opset=opset, dynamic=axes)


def signature(source: Source, inputs: Mapping[str, Any] | None = None) -> ir.Model:
    """A graph of no nodes with the inputs that an export would have: what samples have to fit."""
    tensors, axes = example(opened(source), inputs)
    named = axes if isinstance(axes, Mapping) else {name: {0: "batch"} for name in tensors}
    values = []
    for name, tensor in tensors.items():
        shape = [named.get(name, {}).get(axis, size) for axis, size in enumerate(tensor.shape)]
        dtype = ir.DataType.from_numpy(tensor.detach().cpu().numpy().dtype)
        values.append(ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype)))
    return ir.Model(ir.Graph(values, [], nodes=[], opset_imports={"": 20}), ir_version=10)


def trace(source: Source, inputs: Mapping[str, Any] | None = None) -> Traced:
    """The graph in which every parameter keeps its ``state_dict`` name."""
    inputs, axes = example(opened(source), inputs)
    with without_cache(opened(source)) as plain:
        return torch_frontend.trace(plain, inputs, dynamic=axes)
