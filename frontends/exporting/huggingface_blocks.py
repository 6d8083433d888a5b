"""A transformers config with fewer layers, and what the arrays of the layers that are left are called then.

    model.layers.0.*  model.layers.1.*  model.layers.2.*     without 1: layers.2 becomes layers.1, num_hidden_layers 2

The config counts its layers out as those beside a graph do (`spa.frontends.files.layer_lists`), which is tried: its
class, built without memory, has to have these arrays and no others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from spa.frontends.exporting.exported import RebuildError
from spa.frontends.files.configs import edited
from spa.frontends.files.layers import Depth

_BLOCK = re.compile(r"^(.*?\.)(\d+)\.")


def gone_blocks(names: Iterable[str], left: Collection[str]) -> dict[str, list[int]]:
    """By what stands before their number the blocks of which no array is left."""
    blocks: dict[tuple[str, int], bool] = defaultdict(bool)
    for name in names:
        match = _BLOCK.match(name)
        if match is not None:
            blocks[match[1], int(match[2])] |= name in left
    gone: dict[str, list[int]] = defaultdict(list)
    for (before, number), stays in sorted(blocks.items()):
        if not stays and any(blocks[other] for other in blocks if other[0] == before):
            gone[before].append(number)
    return dict(gone)


def without_blocks(
    kind: Any, config: Any, names: Collection[str], gone: Mapping[str, Sequence[int]]
) -> tuple[Any, dict[str, str]]:
    """A config of fewer layers, and by the names of the arrays that are left those that they have then.

    Raises:
        RebuildError: the class builds others from it.
    """
    import torch

    if not gone:
        return config, {name: name for name in names}
    renamed, counts = {}, dict[str, int]()
    for name in names:
        match = _BLOCK.match(name)
        before, number = (match[1], int(match[2])) if match else ("", -1)
        counts[before] = max(counts.get(before, 0), number + 1)
        lost = gone.get(before, ())
        if number not in lost:
            moved = number - sum(each < number for each in lost)
            renamed[name] = f"{before}{moved}.{name[match.end() :]}" if match else name
    config = type(config).from_dict(config.to_dict())
    for before, numbers in gone.items():
        depth = Depth(numbered=tuple(range(counts[before])), gone=tuple(numbers))
        config = type(config).from_dict(edited(config.to_dict(), {}, depth)[0])
    try:
        with torch.device("meta"):
            built = set(kind(config).state_dict())
    except Exception:  # noqa: BLE001 - each class has its own checks
        built = set()
    if built != set(renamed.values()):
        first = next(iter(gone))
        raise RebuildError(f"no {type(config).__name__} says that layers are gone", where=f"{first}{gone[first][0]}")
    return config, renamed
