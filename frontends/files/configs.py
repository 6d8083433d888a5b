"""Rewrite the sizes in configs that lie beside a graph, after a cut.

    edited({"num_attention_heads": 32}, {"heads": {32: (24, 24)}})     {"num_attention_heads": 24}

A number is one for all layers. Where layers have become different, it stays, which is said: a runtime that looks at
the graph needs none. Layers that go are counted out by `spa.frontends.files.layer_lists`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spa.frontends.files.layer_lists import COUNTS, without_layers
from spa.frontends.files.layers import Depth

Sizes = Mapping[str, Mapping[int, Sequence[int]]]
"""By role, and by the size before: the sizes after, one for each place in the graph."""

WORDS = {
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "head_size", "kv_channels", "d_kv"),
    "ffn": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "decoder_ffn_dim"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
}  # fmt: skip
"""What configs call the sizes of each role."""

_GENAI = ("model", "decoder")
_SECTIONS = (_GENAI, (), ("text_config",), ("decoder",))
"""Where they stand: in the first of these that has such a number."""


def edited(config: Any, sizes: Sizes, depth: Depth | None = None) -> tuple[Any, list[str]]:
    """A config with the sizes and layers after a cut, and what changed or could not be said, in lines."""
    config = copy.deepcopy(config)
    lines: list[str] = []
    for names, section in _sections(config):
        if depth is not None:
            lines += without_layers(section, depth, of_genai=names == _GENAI)
        before = dict(section)
        for role, key in _keys(section):
            after = tuple(sizes.get(role, {}).get(section[key], ()))
            if len(set(after)) == 1 and after[0] != section[key]:
                lines.append(f"{key} {section[key]} -> {after[0]}")
                section[key] = after[0]
            elif len(set(after)) > 1:
                lines.append(f"{key} stays {section[key]}: it is one number, and layers have {_listed(after)}")
        lines += _head_size(section, before)
        break
    return config, lines


def _sections(config: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for names in _SECTIONS:
        section = config
        for name in names:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and (next(_keys(section), None) or not COUNTS.isdisjoint(section)):
            yield names, section


def _keys(section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for role, words in WORDS.items():
        for key in words:
            if type(section.get(key)) is int:
                yield role, key


def _head_size(section: dict[str, Any], before: Mapping[str, Any]) -> list[str]:
    """The size of a head written down, where it was the width over the heads and no longer is."""
    keys = dict(_keys(before))
    width, heads = keys.get("width"), keys.get("heads")
    if "head_dim" in keys or width is None or heads is None or before[width] % before[heads]:
        return []
    size = before[width] // before[heads]
    if size * section[heads] == section[width]:
        return []
    section["head_dim"] = size
    return [f"head_dim {size}, which {width} / {heads} was and is no longer"]


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}{' ...' if len(numbers) > 8 else ''}"
