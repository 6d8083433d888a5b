"""Find the inputs of a language model, masks, positions and caches, and fill them for some tokens.

    Decoder.of(model.graph).feeds(ids)       ids (samples, tokens) -> every input by name

Told apart by types, shapes and the words in their names (mask, position), which all exporters share. Caches are the
inputs that an output gives back longer: the same axes but one, which is open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_WORDS = {"mask": "mask", "positions": "position", "kinds": "type|segment"}
"""What stands in the names of inputs of whole numbers, beside the tokens."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """The inputs of a language model, by what they are for.

    Attributes:
        tokens: the input of token numbers, (samples, tokens).
        others: the inputs of whole numbers of the same shape, by what they are: mask, positions, kinds.
        caches: the inputs of keys and values of earlier tokens, and the names of the outputs that they become.
        lengths: which axis of each cache counts tokens, by its name.
        scores: the output of scores, (samples, tokens, vocabulary); None: there is none of that shape.
    """

    tokens: ir.Value
    others: Mapping[str, ir.Value]
    caches: Mapping[ir.Value, str]
    lengths: Mapping[str, int]
    scores: str | None

    @classmethod
    def of(cls, graph: ir.Graph) -> Decoder | None:
        """The inputs of a graph; None: some is none of these."""
        values = [value for value in graph.inputs if not value.is_initializer()]
        whole = [value for value in values if _is_whole(value) and _rank(value) == 2]
        others = {role: named[0] for role, word in _WORDS.items() if (named := _named(whole, word))}
        tokens = [value for value in whole if value not in others.values()]
        rest = [value for value in values if value not in whole]
        caches, lengths = _caches(rest, graph.outputs)
        if len(tokens) != 1 or len(caches) < len(rest):
            return None
        scores = [value for value in graph.outputs if _rank(value) == 3 and str(value.name) not in caches.values()]
        return cls(tokens[0], others, caches, lengths, str(scores[0].name) if scores else None)

    @property
    def length(self) -> int | None:
        """How many tokens it takes; None: any number."""
        fixed = [_size(value, 1) for value in (self.tokens, *self.others.values())]
        return next((size for size in fixed if size is not None), None)

    @property
    def batch(self) -> int | None:
        """How many samples it takes at a time; None: any number."""
        return _size(self.tokens, 0)

    def feeds(self, ids: np.ndarray, caches: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """What every input is given for some tokens.

        Args:
            ids: (samples, tokens).
            caches: of the tokens before, by input name; None: there are none before.
        """
        count, length = ids.shape
        caches = self.empty(count) if caches is None else caches
        past = next((array.shape[self.lengths[name]] for name, array in caches.items()), 0)
        numbers = {
            "mask": np.ones((count, past + length)),
            "positions": np.tile(np.arange(past, past + length), (count, 1)),
            "kinds": np.zeros((count, length)),
        }
        feeds = {str(self.tokens.name): ids.astype(_dtype(self.tokens))}
        feeds |= {str(value.name): numbers[role].astype(_dtype(value)) for role, value in self.others.items()}
        return feeds | dict(caches)

    def empty(self, count: int) -> dict[str, np.ndarray]:
        """Caches before the first token, by input name."""
        caches = {}
        for value in self.caches:
            name = str(value.name)
            shape = [_size(value, axis) or 0 for axis in range(_rank(value) or 0)]
            shape[0], shape[self.lengths[name]] = count, 0
            caches[name] = np.zeros(shape, _dtype(value))
        return caches

    def behind(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The caches behind the tokens of a run, by input name."""
        return {str(value.name): outputs[name] for value, name in self.caches.items()}

    def shapes(self, count: int, length: int) -> dict[str, tuple[int, ...]]:
        """The shape of every input for some tokens, before which there are none."""
        return {name: array.shape for name, array in self.feeds(np.zeros((count, length), np.int64)).items()}


def _caches(values: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> tuple[dict[ir.Value, str], dict[str, int]]:
    """Inputs that come back longer, with the output of each; axes that count tokens by the input's name."""
    caches: dict[ir.Value, str] = {}
    lengths: dict[str, int] = {}
    free = list(outputs)
    for value in values:
        axes = [at for at in range(1, _rank(value) or 0) if _size(value, at) is None]
        if _is_whole(value) or len(axes) != 1:
            continue
        likely = [output for output in free if _continues(value, output, axes[0])]
        if not likely:
            continue
        number = _place(value)
        output = next((output for output in likely if _place(output) == number), likely[0])
        free.remove(output)
        caches[value], lengths[str(value.name)] = str(output.name), axes[0]
    return caches, lengths


def _continues(value: ir.Value, output: ir.Value, length: int) -> bool:
    """Whether an output has the axes of an input, but for how many tokens it counts."""
    if output.dtype != value.dtype or _rank(output) != _rank(value) or _size(output, length) is not None:
        return False
    return all(_size(value, at) == _size(output, at) for at in range(1, _rank(value) or 0) if at != length)


def _place(value: ir.Value) -> str:
    """What a name says from its first number on: 0.key of past_key_values.0.key."""
    match = re.search(r"\d.*", str(value.name))
    return match[0] if match else ""


def _named(values: Sequence[ir.Value], word: str) -> list[ir.Value]:
    return [value for value in values if re.search(word, str(value.name).lower())]


def _is_whole(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.INT64, ir.DataType.INT32)


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _size(value: ir.Value, axis: int) -> int | None:
    size = None if value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None


def _dtype(value: ir.Value) -> np.dtype:
    assert value.dtype is not None
    return np.dtype(value.dtype.numpy())
