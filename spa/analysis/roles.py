"""Name the sizes of a language model before and after a cut: heads, heads of keys and values, widths.

Read off the axes of stored tensors: a projection of grouped queries has the axis ``(h r d)``, so h r are the heads,
h those of keys and values, d the size of a head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from math import prod

import onnx_ir as ir

from spa.analysis.caches import HEADS
from spa.analysis.coupling import Coupling
from spa.analysis.group import WIDTH, Group, Masks
from spa.notation.dims import Factor, Kind

Sizes = dict[str, dict[int, tuple[int, ...]]]
"""By role, and by the size before: the sizes after, one for each place."""


def sizes_by_role(coupling: Coupling, groups: Sequence[Group], masks: Masks) -> Sizes:
    """The sizes of heads, kv_heads, head_dim, ffn and width, before and after; of what goes whole there are none."""

    def kept(leaf: Factor) -> int:
        mask = masks.get(leaf)
        return leaf.size if mask is None else int(mask.sum())

    by_role: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    gone = {value for branch in coupling.branches if not kept(branch.gate) for value in branch.stored}
    for group in groups:
        if group.kind in ("ffn", WIDTH) and not gone.issuperset(piece.value for piece in group.slices):
            by_role[group.kind][group.size].append(sum(map(kept, group.leaves)))
    seen = set()
    for chain in _attentions(coupling, gone):
        count = next((at for at, leaf in enumerate(chain) if not _is_head(coupling, leaf)), len(chain))
        parts = {"kv_heads": chain[:1], "heads": chain[:count], "head_dim": chain[count:]}
        for role, leaves in parts.items():
            if leaves and (role, leaves) not in seen:  # keys and values have the same heads: one place
                seen.add((role, leaves))
                by_role[role][prod(leaf.size for leaf in leaves)].append(prod(map(kept, leaves)))
    return {role: {before: tuple(after) for before, after in sizes.items()} for role, sizes in by_role.items()}


def _attentions(coupling: Coupling, gone: Set[ir.Value]) -> Iterator[tuple[Factor, ...]]:
    """The axes of stored tensors that begin with heads, each once, as leaves; without tensors that go whole."""
    seen = set()
    for value, axes in coupling.axes.items():
        for dim in axes if value in coupling.weights and value not in gone else ():
            for chain in _chains(dim):
                if chain not in seen and _is_head(coupling, chain[0]):
                    seen.add(chain)
                    yield chain


def _is_head(coupling: Coupling, leaf: Factor) -> bool:
    return not HEADS.isdisjoint(coupling.kinds.get(leaf, ()))


def _chains(dim: Factor) -> Iterator[tuple[Factor, ...]]:
    """The products that lie side by side in a dim, where all their factors are leaves."""
    root = dim.root
    if root.kind is Kind.SUM:
        for part in root.parts:
            yield from _chains(part)
        return
    chain = (root,) if root.kind is Kind.LEAF else tuple(part.root for part in root.parts)
    if all(leaf.kind is Kind.LEAF for leaf in chain):
        yield chain
