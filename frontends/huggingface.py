"""Hugging Face folders (transformers, PyTorch weights) to ``onnx_ir.Model``, and back to a model whose config loads.

A model's class builds itself from its config, so sizes come back as numbers of the config. Which number stands for
which size is not written down here: it is found by building the class, without memory, from configs that differ in one.
"""

from __future__ import annotations

import copy
import inspect
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from spa.errors import ModelError, UsageError
from spa.frontends import torch as torch_frontend
from spa.frontends.exporting.exported import Parts, RebuildError, Traced, difference, missing, tolerance
from spa.frontends.exporting.torch_rebuild import set_arrays

if TYPE_CHECKING:
    import os

    import transformers

Source = Any
"""A folder that `save_pretrained` wrote, or a transformers model."""

EVEN = True  # one number of a config says the size of all layers
_BATCH, _SEQUENCE, _PAST = 2, 8, 6
_AUDIO = 4000  # samples
_TEXT_AXES = {0: "batch", 1: "sequence"}
_SKIPPED = ("config.json", "generation_config.json")


def load(folder: str | os.PathLike[str]) -> transformers.PreTrainedModel:
    """The model of a folder, as the class that its config names, in its own precision.

    Raises:
        MissingExtra: transformers or torch is not installed.
        ModelError: the folder holds no model that transformers reads.
    """
    library = _transformers()
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True)
        named = [getattr(library, name, None) for name in config.architectures or ()]
        kind = next((each for each in named if each is not None), library.AutoModel)
        return kind.from_pretrained(folder, local_files_only=True, dtype="auto").eval()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{str(folder)!r} holds no model that transformers can read: {reason}") from error


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
        inputs: example keyword arguments; made up from the config if left out.
        cache: for causal language models, take and give the keys and values of earlier tokens
            (``past_key_values.0.key`` ..., ``present.0.key`` ...).

    Raises:
        MissingExtra, ModelError: no transformers; the model cannot be exported.
    """
    model = _opened(source)
    if cache:
        wrapped, arguments, axes = _with_cache(model)
        made = torch_frontend.export(wrapped, arguments, opset=opset, dynamic=axes)
        return _name_cache(made)
    inputs, axes = _example(model, inputs)
    with _without_cache(model) as plain:
        return torch_frontend.export(plain, inputs, opset=opset, dynamic=axes)


def trace(source: Source, inputs: Mapping[str, Any] | None = None) -> Traced:
    """The graph in which every parameter keeps its ``state_dict`` name."""
    inputs, axes = _example(_opened(source), inputs)
    with _without_cache(_opened(source)) as plain:
        return torch_frontend.trace(plain, inputs, dynamic=axes)


def run(source: Source, inputs: Mapping[str, Any] | None = None) -> list[np.ndarray]:
    """What transformers computes, without a cache of earlier tokens."""
    inputs, _ = _example(_opened(source), inputs)
    with _without_cache(_opened(source)) as plain:
        return torch_frontend.run(plain, inputs)


def prune(
    source: Source, inputs: Mapping[str, Any] | None = None, *, ratio: float, **options: Any
) -> transformers.PreTrainedModel:
    """A smaller model of the same class whose config says its sizes, so that it saves and loads as any other.

    A config has one number for all layers, so like layers lose equally many units (scope="local").

    Raises:
        UsageError: another scope, whose plan a config could not express.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
    """
    from spa.adapters import restore
    from spa.frontends import huggingface as this

    model = _opened(source)
    return restore.prune(this, model, inputs, ratio=ratio, even=EVEN, **options).source


# ------------------------------------------------------------------------------------------------------- config
def rebuild(
    source: Source,
    arrays: Mapping[str, np.ndarray],
    parts: Mapping[str, Parts],
    inputs: Any,
    expected: Sequence[np.ndarray],
) -> transformers.PreTrainedModel:
    """A model of the same class, built from a config with other numbers, that holds these arrays.

    Raises:
        RebuildError: no numbers of the config give these sizes, or the model computes something else.
    """
    model = _opened(source)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted |= _aliases(model, {name: array.shape for name, array in arrays.items()})
    config = _fit(type(model), model.config, wanted, parts)
    smaller = type(model)(config).to(model.dtype).eval()
    smaller.load_state_dict(copy.deepcopy(_same_shapes(model, smaller)), strict=False)
    set_arrays(smaller, arrays)
    found = run(smaller, inputs)
    gap = difference(found, expected)
    if gap > tolerance(expected):
        raise RebuildError(f"{type(model).__name__} computes something else with these sizes: it differs by {gap:.1e}")
    return smaller


def _same_shapes(model: Any, smaller: Any) -> dict[str, Any]:
    shapes = {name: tensor.shape for name, tensor in smaller.state_dict().items()}
    return {name: tensor for name, tensor in model.state_dict().items() if shapes.get(name) == tensor.shape}


def _aliases(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes under all names that a tensor has."""
    tensors = model.state_dict(keep_vars=True)
    of = {id(tensors[name]): shape for name, shape in shapes.items()}
    return {name: of[id(tensor)] for name, tensor in tensors.items() if id(tensor) in of}


def _fit(kind: Any, config: Any, wanted: Mapping[str, tuple[int, ...]], parts: Mapping[str, Parts]) -> Any:
    """A config from which the class builds these shapes: numbers change one or two at a time while that helps.

    Raises:
        RebuildError: with the modules that keep other shapes.
    """
    sizes = {pair for places in parts.values() for pair in places.values() if pair[0] != pair[1]}
    moves = [(path, new) for path, value in _numbers(config) for old, new in sorted(sizes) if old == value]
    news = sorted({after for _, after in sizes})
    unset = [(((name,), new),) for name, value in vars(config).items() if value is None for new in news]
    best, wrong = config, _wrong(kind, config, wanted)
    while wrong:
        singles = [(move,) for move in moves]
        pairs = [(one, two) for one in moves for two in moves if one[0] < two[0]]
        for steps in (*singles, *unset, *pairs):  # unset: such as n_inner, None for four times the width
            changed = _changed(best, steps)
            found = None if changed is None else _wrong(kind, changed, wanted)
            if found is not None and len(found) < len(wrong):
                best, wrong = changed, found
                break
        else:
            modules = list(dict.fromkeys(name.rpartition(".")[0] for name in wrong))
            raise RebuildError(
                f"no {type(config).__name__} that transformers takes gives {wrong[0]!r} the shape {wanted[wrong[0]]}",
                where=modules[0],
                alike=modules,
            )
    return best


def _changed(config: Any, steps: Iterable[tuple[tuple[str, ...], int]]) -> Any:
    """A copy of a config with other numbers; None: it does not take them."""
    changed = copy.deepcopy(config)
    try:
        for path, value in steps:
            _set(changed, path, value)
    except Exception:  # noqa: BLE001 - configs check types in their own ways
        return None
    return changed


def _wrong(kind: Any, config: Any, wanted: Mapping[str, tuple[int, ...]]) -> list[str] | None:
    """Arrays that the class builds in another shape from a config; None: it refuses the config."""
    import torch

    try:
        read = type(config).from_dict(config.to_dict())  # as a folder would give it back
        if hasattr(read, "validate"):
            read.validate()
        with torch.device("meta"):
            built = {name: tuple(tensor.shape) for name, tensor in kind(read).state_dict().items()}
    except Exception:  # noqa: BLE001 - each class has its own checks
        return None
    return [name for name, shape in wanted.items() if built.get(name) != shape]


def _numbers(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """The integers of a config and of the configs in it."""
    for name, value in vars(config).items():
        if type(value) is int and value > 1:
            yield (*path, name), value
        elif hasattr(value, "to_dict"):
            yield from _numbers(value, (*path, name))
        elif isinstance(value, (list, tuple)):
            for at, each in enumerate(value):
                if type(each) is int and each > 1:
                    yield (*path, name, str(at)), each


def _set(config: Any, path: tuple[str, ...], value: int) -> None:
    for name in path[:-1]:
        inner = getattr(config, name) if not isinstance(config, (list, tuple)) else config[int(name)]
        if isinstance(inner, (list, tuple)):
            changed = [value if str(at) == path[-1] else each for at, each in enumerate(inner)]
            setattr(config, name, type(inner)(changed))
            return
        config = inner
    setattr(config, path[-1], value)


# ------------------------------------------------------------------------------------------------------- inputs
def _transformers() -> Any:
    try:
        import torch  # noqa: F401 - transformers imports without it, but has no models then
        import transformers
    except ImportError:
        raise missing("transformers", "huggingface") from None
    return transformers


def _opened(source: Source) -> Any:
    library = _transformers()
    if isinstance(source, library.PreTrainedModel):
        return source
    if isinstance(source, (str, Path)):
        return load(source)
    raise UsageError(f"expected a Hugging Face folder or a transformers model, found {type(source).__name__}")


class _without_cache:  # noqa: N801 - a context
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


def _example(model: Any, inputs: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], Any]:
    """Example inputs and their open axes."""
    made = dict(inputs) if inputs is not None else example_inputs(model)
    text = {name: _TEXT_AXES for name in made if name.endswith(("input_ids", "attention_mask", "token_type_ids"))}
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
        ids = torch.randint(3, min(int(text.vocab_size), 1000), (_BATCH, _SEQUENCE), generator=generator)
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.is_encoder_decoder:
            found["decoder_input_ids"] = ids
        return found
    if name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        shape = (_BATCH, getattr(vision, "num_channels", 3), height, width)
        return {name: torch.randn(shape, generator=generator).to(model.dtype)}
    if name == "input_values":
        return {name: torch.randn((_BATCH, _AUDIO), generator=generator).to(model.dtype)}
    raise UsageError(f"{type(model).__name__}: no example of its main input {name!r} can be made up; give inputs")


# -------------------------------------------------------------------------------------------------------- cache
def _with_cache(model: Any) -> tuple[Any, dict[str, Any], Any]:
    """A module that takes and gives keys and values as tensors, example inputs, open axes."""
    import torch

    library = _transformers()
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
        "attention_mask": torch.ones((_BATCH, 2 * _PAST - 2), dtype=torch.int64),
        "past_key_values": past,
    }
    axes = {
        "input_ids": _TEXT_AXES,
        "attention_mask": {0: "batch", 1: "total_sequence"},
        "past_key_values": {0: "batch", 2: "past_sequence"},
    }
    return Cached().eval(), arguments, axes


def _name_cache(model: ir.Model) -> ir.Model:
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
