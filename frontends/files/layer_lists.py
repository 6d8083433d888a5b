"""Take layers out of a config: their number, and what it lists by layer.

    {"num_hidden_layers": 4, "layer_types": [a, b, a, b], "sliding_window": {"layers": [1, 3]}}      without layer 1
    {"num_hidden_layers": 3, "layer_types": [a, a, b], "sliding_window": {"layers": [2]}}

Lists are told by their names, which speak of layers or blocks or are those of a size, and by their length or contents.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from spa.frontends.files.layers import Depth

COUNTS = frozenset({"num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers"})
"""What configs call the number of layers."""

_DECODER = ("num_decoder_layers", "decoder_layers")
"""Those that say it of a decoder, beside one of an encoder."""

_FIRST = ("first_k_dense_replace", "max_window_layers", "num_dense_layers")
"""Numbers that say how many of the first layers are of a kind."""

_PERIODS = re.compile(r"(interval|period|offset|_freq|_pattern|sparse_step|every_n_layers)$")
"""Names of numbers that count layers off, which nothing can say once some are gone."""

_LISTS = re.compile(r"layer|block|^num_.*heads$|intermediate_size|ffn|head_dim|pattern")
"""Names of lists that may have an entry for each layer."""


def without_layers(section: dict[str, Any], depth: Depth, *, of_genai: bool = False) -> list[str]:
    """Change a section of a config, in place, to say the layers that a cut leaves; in lines what changed or could not.

    Args:
        of_genai: it is read by onnxruntime-genai, which counts caches and no other parts of a layer.
    """
    keys = [key for key in section if key in COUNTS and type(section[key]) is int]
    if depth.whole or not keys:
        return []
    key = next((key for key in keys if key in _DECODER and depth.numbered), keys[0])
    count = section[key]
    layers = depth.layers(count)
    several = len({section[each] for each in keys}) > 1 and not depth.numbered
    if layers is None or several:
        went = sum(not stays for stays in depth.branches)
        return [f"{key} stays {count}: {went} residual branches went, of layers that nothing tells apart"]
    gone, partly = layers
    if len(gone) == count:
        return [f"{key} stays {count}: no layer has a cache any more, and none is counted"]
    lines = []
    if gone:
        section[key] = count - len(gone)
        lines += [f"{key} {count} -> {section[key]}", *_shortened(section, count, gone)]
    if partly and not of_genai:
        which = f"layer{'s' * (len(partly) > 1)} {_listed(partly)}"
        lines.append(f"a part of {which} is gone, which no number says: what reads the graph runs it")
    return lines


def _shortened(section: dict[str, Any], count: int, gone: Collection[int], at: str = "") -> Iterator[str]:
    """Take layers out of all that a section lists by layer, in place; what was changed or could not be."""
    for key, value in list(section.items()):
        if isinstance(value, dict) and not COUNTS.isdisjoint(value):
            continue  # another model's
        after = _without(key, value, count, gone)
        if after != value:
            section[key] = after
            yield f"{at}{key} without layer{'s' * (len(gone) > 1)} {_listed(sorted(gone))}"
        elif type(value) is int and value > 1 and _PERIODS.search(key):
            yield f"{at}{key} stays {value}: it counts layers off, of which some are gone"
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from _shortened(inner, count, gone, f"{at}{key}.")


def _without(key: str, value: Any, count: int, gone: Collection[int]) -> Any:
    """What a config says, without some of so many layers; the same where it does not speak of layers."""

    def moved(number: int) -> int:
        return number - sum(each < number for each in gone)

    if type(value) is int and key in _FIRST:
        return moved(value)
    if isinstance(value, dict) and "layer" in key and all(each.isdigit() and int(each) < count for each in value):
        return {str(moved(int(each))): what for each, what in value.items() if int(each) not in gone}
    if not isinstance(value, list) or not value:
        return value
    if "layer" in key and _numbers_layers(value, count):
        return [moved(number) for number in value if number not in gone]
    if len(value) == count and _LISTS.search(key):
        return [each for number, each in enumerate(value) if number not in gone]
    return value


def _numbers_layers(value: list[Any], count: int) -> bool:
    """Whether a list holds numbers of layers, each once and in order, and not something of each layer."""
    ascending = all(type(each) is int for each in value) and value == sorted(set(value))
    return ascending and value[0] >= 0 and value[-1] < count


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
