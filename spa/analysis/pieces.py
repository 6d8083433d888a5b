"""Find the factors that are pieces of one axis: cut up, put into another order, and never taken apart.

A constant Gather that reverses the channels of a convolution says `(a + b + c) -> (c + b + a)`. Every axis that holds
one of the pieces holds them all: they are one group, of which a piece may go as a whole, as long as the axis stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import networkx as nx
import numpy as np

from spa.analysis.coupling import Coupling
from spa.notation.dims import Factor, Kind, leaves


def pieces_of_axes(coupling: Coupling, free: Collection[Factor]) -> list[list[Factor]]:
    """Free leaves that are addends of the same sums and stand nowhere else, in their order.

    One of the sums consists of them and of what stays, so that an axis is theirs; or one of them is a single position,
    which as a group of its own could never go.
    """
    sums: dict[Factor, set[Factor]] = defaultdict(set)
    waiting = list(dict.fromkeys(dim.root for axes in coupling.axes.values() for dim in axes))
    apart = {root for root in waiting if root.kind is Kind.LEAF}
    seen = set(apart)
    while waiting:
        root = waiting.pop()
        if root in seen:
            continue
        seen.add(root)
        for part in root.parts:
            if part.kind is not Kind.LEAF:
                waiting.append(part)
            elif root.kind is Kind.SUM:
                sums[part].add(root)
            else:
                apart.add(part)
    together: dict[frozenset[Factor], list[Factor]] = defaultdict(list)
    for leaf in free:
        if leaf in sums and leaf not in apart:
            together[frozenset(sums[leaf])].append(leaf)
    goes = set(free)
    return [
        pieces
        for around, pieces in together.items()
        if len(pieces) > 1
        and (
            any(leaf.size == 1 for leaf in pieces)
            or any(goes.intersection(leaves(axis)) == set(pieces) for axis in around)
        )
    ]


def gather_pieces(free: Collection[Factor], pieces: Iterable[Sequence[Factor]]) -> list[dict[Factor, int]]:
    """Leaves that compete with each other, each with the number of its first unit, in graph order.

    They were cut out of one factor, and lie as they lay in it; or they are pieces of one axis, and lie as there.
    """
    origins: nx.Graph[Factor] = nx.Graph()
    members: dict[Factor, list[Factor]] = defaultdict(list)
    for leaf in free:
        members[leaf.origin].append(leaf)
    origins.add_nodes_from(members)
    for axis in pieces:
        nx.add_path(origins, [leaf.origin for leaf in axis])
    groups = []
    for component in nx.connected_components(origins):
        if len(component) == 1:
            competing = sorted(members[next(iter(component))], key=lambda leaf: leaf.offset)
        else:
            competing = [leaf for leaf in free if leaf.origin in component]
        starts = np.cumsum([0, *(leaf.size for leaf in competing)])
        groups.append({leaf: int(start) for leaf, start in zip(competing, starts, strict=False)})
    return groups
