"""A causal language model that takes and gives keys and values of earlier tokens, under the names runtimes expect."""

from __future__ import annotations

import inspect
from typing import Any

import onnx_ir as ir

from spa.errors import UsageError
from spa.frontends.exporting.huggingface_models import BATCH, TEXT_AXES, example_inputs, load_transformers

_PAST = 6  # tokens before those of the example


def with_cache(model: Any) -> tuple[Any, dict[str, Any], Any]:
    """A module that takes and gives keys and values as tensors, example inputs, open axes."""
    import torch

    library = load_transformers()
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise UsageError(f"{type(model).__name__} is no causal language model, so it has no cache of keys and values")

    known = inspect.signature(model.forward).parameters
    called = "cache" if "cache" in known else "past_key_values"  # before transformers 5.24

    class Cached(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any, past_key_values: Any) -> dict[str, Any]:
            cache = library.DynamicCache()
            for at in range(len(past_key_values) // 2):
                cache.update(past_key_values[2 * at], past_key_values[2 * at + 1], at)
            given = self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **{called: cache})
            present = [array for layer in given[called].layers for array in (layer.keys, layer.values)]
            return {"logits": given.logits, "present": present}

    with torch.no_grad():
        ids = example_inputs(model)["input_ids"]
        filled = model(input_ids=ids[:, :_PAST], use_cache=True)[called]
    past = [array for layer in filled.layers for array in (layer.keys, layer.values)]
    arguments = {
        "input_ids": ids[:, : _PAST - 2],
        "attention_mask": torch.ones((BATCH, 2 * _PAST - 2), dtype=torch.int64),
        "past_key_values": past,
    }
    axes = {
        "input_ids": TEXT_AXES,
        "attention_mask": {0: "batch", 1: "total_sequence"},
        "past_key_values": {0: "batch", 2: "past_sequence"},
    }
    return Cached().eval(), arguments, axes


def name_cache(model: ir.Model) -> ir.Model:
    """The names that runtimes of language models look for: past_key_values.0.key, present.0.value."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        words, _, number = str(value.name).rpartition("_")
        if words in ("past_key_values", "present") and number.isdigit():
            value.name = f"{words}.{int(number) // 2}.{('key', 'value')[int(number) % 2]}"
    for name in [name for name in model.graph.initializers if name.startswith("inner.")]:
        value = model.graph.initializers.pop(name)
        value.name = name.removeprefix("inner.")
        model.graph.register_initializer(value)
    return model
