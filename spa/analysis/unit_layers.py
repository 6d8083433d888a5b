"""The units along the axes of tensors, in layers where occurrences of one group overlap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set

import numpy as np

from spa.analysis.coupling import Coupling
from spa.notation.dims import Factor, leaves
from spa.notation.positions import leaf_positions, occurrences


def dims_with(coupling: Coupling, wanted: Set[Factor]) -> dict[Factor, Set[Factor]]:
    """The dims that hold wanted factors, and which."""
    dims = {dim.root: None for axes in coupling.axes.values() for dim in axes} if wanted else {}
    return {dim: held for dim in dims if (held := wanted & set(leaves(dim)))}


class UnitLayers:
    """The units along dims, worked out once for all the constants that share a dim."""

    def __init__(self, unit_of_leaf: Mapping[Factor, tuple[int, int]]) -> None:
        self.unit_of_leaf = unit_of_leaf
        self.occurrences: dict[Factor, list[tuple[Factor, int, np.ndarray]]] = {}
        self.known: dict[tuple[Factor, frozenset[Factor]], list[tuple[int, bool, np.ndarray]]] = {}

    def of(self, dim: Factor, consumed: Set[Factor]) -> list[tuple[int, bool, np.ndarray]]:
        """(group, whether its leaves are consumed, the unit at each position) for the groups along a dim.

        Occurrences of one group that overlap lie in several layers.
        """
        root = dim.root
        if root not in self.occurrences:
            self.occurrences[root] = list(occurrences(root, self.unit_of_leaf))
        along = (
            frozenset(leaf for leaf, _, _ in self.occurrences[root] if leaf in consumed) if consumed else frozenset()
        )
        if (root, along) not in self.known:
            self.known[root, along] = self.laid(root, along)
        return self.known[root, along]

    def laid(self, root: Factor, consumed: Set[Factor]) -> list[tuple[int, bool, np.ndarray]]:
        """The layers of `of`, made new."""
        layers: dict[tuple[int, bool], list[np.ndarray]] = defaultdict(list)
        for leaf, start, index in self.occurrences[root]:
            number, offset = self.unit_of_leaf[leaf]
            span = slice(start, start + len(index))
            mine = index >= 0
            for layer in layers[number, leaf in consumed]:
                if not np.any(mine & (layer[span] >= 0)):
                    break
            else:
                layer = np.full(root.size, -1)
                layers[number, leaf in consumed].append(layer)
            layer[span][mine] = index[mine] + offset
        return [(number, consumer, layer) for (number, consumer), stack in layers.items() for layer in stack]


def thin_axes(coupling: Coupling, layers: UnitLayers, loose: Set[Factor]) -> dict[int, list[tuple[Factor, np.ndarray]]]:
    """For each group, the axes whose every position lies in a factor that may go; any other keeps something."""
    axes: dict[int, list[tuple[Factor, np.ndarray]]] = defaultdict(list)
    may_go = {leaf for leaf in layers.unit_of_leaf if leaf.size == 1} | loose
    single = {leaf for choice in coupling.choices for leaf in choice}  # an axis of one of these goes with its expert
    for dim, held in dims_with(coupling, may_go).items():
        if dim in single:
            continue
        if np.any([index >= 0 for _, index in leaf_positions(dim, held)], axis=0).all():
            for number, _, unit_of in layers.of(dim, set()):
                axes[number].append((dim, unit_of))
    return axes
