"""Units by their rows, and a few of them as they leave one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spa.passes.secondorder.linalg import Array, Indices


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Units of equal block size k: their numbers (n,) and the positions of their rows (n, k)."""

    units: Indices
    positions: Indices


def blocks(unit_of_row: Indices) -> list[Blocks]:
    """Rows of every unit >= 0, one entry for each block size."""
    order = np.argsort(unit_of_row, kind="stable")
    order = order[unit_of_row[order] >= 0]
    units, start, sizes = np.unique(unit_of_row[order], return_index=True, return_counts=True)
    alike = [(size, sizes == size) for size in np.unique(sizes)]
    return [Blocks(units[these], order[start[these, None] + np.arange(size)]) for size, these in alike]


def traces(inverses: Array, grams: Array) -> Array:
    """tr(inverses[j]^-1 grams[j]), (n,), of stacks (n, k, k)."""
    if inverses.shape[1] == 1:
        return np.asarray(grams[:, 0, 0] / inverses[:, 0, 0])
    return np.asarray(np.trace(np.linalg.solve(inverses, grams), axis1=1, axis2=2))


class Pool:
    """A few units of a `System`: enough of the inverse and of W W^T to remove them one by one as if all were there.

    The downdates (4) of the rows P of the pool need only the blocks of P: the inverse becomes
    Ht^-1_PP - T Ht^-1_BP and the Gram of weights (I - T E_B) W W^T (I - T E_B)^T, T = Ht^-1_PB (Ht^-1_BB)^-1.
    """

    def __init__(self, inverse_block: Array, gram: Array, unit: Indices) -> None:
        self.inverse, self.gram, self.unit = inverse_block, gram, unit
        self.blocks = blocks(unit)

    def saliency(self, units: int) -> Array:
        """(3) of the units of the pool, (units,)."""
        scores = np.zeros(units)
        for block in self.blocks:
            at = block.positions
            pairs = at[:, :, None], at[:, None, :]
            scores[block.units] = traces(self.inverse[pairs], self.gram[pairs])
        return scores

    def remove(self, unit: int) -> None:
        """Remove one unit by (4)."""
        at = np.flatnonzero(self.unit == unit)
        if not len(at):
            return
        lines = self.inverse[at]
        step = np.linalg.solve(lines[:, at], lines).T
        self.inverse -= step @ lines
        self.gram -= step @ self.gram[at]
        self.gram -= self.gram[:, at] @ step.T
        # A one on the diagonal keeps the block of a removed unit invertible; its weights are zero.
        self.inverse[at, at] = 1.0
