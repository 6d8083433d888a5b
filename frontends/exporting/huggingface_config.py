"""A transformers model of smaller sizes, built from its config.

A model's class builds itself from its config, so sizes come back as numbers of the config. Which number stands for
which size is not written down here: it is found by building the class, without memory, from configs that differ in one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spa.frontends.exporting.exported import Parts, RebuildError, difference, tolerance
from spa.frontends.exporting.huggingface_blocks import gone_blocks, without_blocks
from spa.frontends.exporting.huggingface_models import Source, opened, run
from spa.frontends.exporting.torch_rebuild import set_arrays

if TYPE_CHECKING:
    import transformers


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
    model = opened(source)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted |= _aliases(model, {name: array.shape for name, array in arrays.items()})
    config, names = without_blocks(type(model), model.config, wanted, gone_blocks(wanted, arrays))
    wanted = {names[name]: shape for name, shape in wanted.items() if name in names}
    parts = {names[name]: part for name, part in parts.items() if name in names}
    config = _fit(type(model), config, wanted, parts)
    smaller = type(model)(config).to(model.dtype).eval()
    state = {names[name]: tensor for name, tensor in model.state_dict().items() if name in names}
    smaller.load_state_dict(copy.deepcopy(_same_shapes(state, smaller)), strict=False)
    set_arrays(smaller, {names[name]: array for name, array in arrays.items()})
    outputs = run(smaller, inputs)
    gap = difference(outputs, expected)
    if gap > tolerance(expected):
        raise RebuildError(f"{type(model).__name__} computes something else with these sizes: it differs by {gap:.1e}")
    return smaller


def fits(source: Source, shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, Parts]) -> bool:
    """Whether some config of the model's class gives arrays of these shapes."""
    model = opened(source)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} | _aliases(model, shapes)
    try:
        _fit(type(model), model.config, wanted, parts)
    except RebuildError:
        return False
    return True


def _same_shapes(state: Mapping[str, Any], smaller: Any) -> dict[str, Any]:
    shapes = {name: tensor.shape for name, tensor in smaller.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if shapes.get(name) == tensor.shape}


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
        pairs = [(first, second) for first in moves for second in moves if first[0] < second[0]]
        for steps in (*singles, *unset, *pairs):  # unset: such as n_inner, None for four times the width
            changed = _changed(best, steps)
            remaining = None if changed is None else _wrong(kind, changed, wanted)
            if remaining is not None and len(remaining) < len(wrong):
                best, wrong = changed, remaining
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
