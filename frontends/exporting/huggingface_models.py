"""Models as transformers holds them: read from a folder, example inputs made up from the config, and run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spa.errors import ModelError, UsageError
from spa.frontends.exporting import torch as torch_frontend
from spa.frontends.exporting.exported import missing

if TYPE_CHECKING:
    import os

    import transformers

Source = Any
"""A folder that `save_pretrained` wrote, or a transformers model."""

BATCH, SEQUENCE = 2, 8
TEXT_AXES = {0: "batch", 1: "sequence"}
_AUDIO = 4000  # samples


def load(folder: str | os.PathLike[str]) -> transformers.PreTrainedModel:
    """The model of a folder, as the class that its config names, in its own precision.

    Raises:
        MissingExtra: transformers or torch is not installed.
        ModelError: the folder holds no model that transformers reads.
    """
    library = load_transformers()
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True)
        named = [getattr(library, name, None) for name in config.architectures or ()]
        kind = next((each for each in named if each is not None), library.AutoModel)
        return kind.from_pretrained(folder, local_files_only=True, dtype="auto").eval()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{str(folder)!r} holds no model that transformers can read: {reason}") from error


def run(source: Source, inputs: Mapping[str, Any] | None = None) -> list[np.ndarray]:
    """What transformers computes, without a cache of earlier tokens."""
    inputs, _ = example(opened(source), inputs)
    with without_cache(opened(source)) as plain:
        return torch_frontend.run(plain, inputs)


def load_transformers() -> Any:
    """transformers, imported; raises MissingExtra where it or torch is not installed."""
    try:
        import torch  # noqa: F401 - transformers imports without it, but has no models then
        import transformers
    except ImportError:
        raise missing("transformers", "huggingface") from None
    return transformers


def opened(source: Source) -> Any:
    """The transformers model of a source; a folder is read."""
    library = load_transformers()
    if isinstance(source, library.PreTrainedModel):
        return source
    if isinstance(source, (str, Path)):
        return load(source)
    raise UsageError(f"expected a Hugging Face folder or a transformers model, found {type(source).__name__}")


class without_cache:  # noqa: N801 - a context
    """The model, computing no keys and values for later tokens."""

    def __init__(self, model: Any) -> None:
        self.model, self.before = model, getattr(model.config, "use_cache", None)

    def __enter__(self) -> Any:
        if self.before is not None:
            self.model.config.use_cache = False
        return self.model

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            self.model.config.use_cache = self.before


def example(model: Any, inputs: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], Any]:
    """Example inputs and their open axes."""
    import torch

    given = example_inputs(model) if inputs is None else inputs
    made = {name: torch.as_tensor(each) if isinstance(each, np.ndarray) else each for name, each in given.items()}
    text = {name: TEXT_AXES for name in made if name.endswith(("input_ids", "attention_mask", "token_type_ids"))}
    return made, text or True


def example_inputs(model: transformers.PreTrainedModel) -> dict[str, Any]:
    """Keyword arguments that a model takes, made up from its config: token ids, pixels or audio.

    Raises:
        UsageError: its main input is of another kind.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    name, config = model.main_input_name, model.config
    if name == "input_ids":
        text = config.get_text_config()
        ids = torch.randint(3, min(int(text.vocab_size), 1000), (BATCH, SEQUENCE), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids
        return inputs
    if name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        shape = (BATCH, getattr(vision, "num_channels", 3), height, width)
        return {name: torch.randn(shape, generator=generator).to(model.dtype)}
    if name == "input_values":
        return {name: torch.randn((BATCH, _AUDIO), generator=generator).to(model.dtype)}
    raise UsageError(f"{type(model).__name__}: no example of its main input {name!r} can be made up; give inputs")
