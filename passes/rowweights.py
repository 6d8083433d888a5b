"""Rows that count: positions that a mask among the inputs hides are left out of every statistic.

Padding fills a batch, and no output that anyone looks at depends on it. Which rows of a layer it fills, the coupled
graph says: a mask's axes and the free axes of what the layer reads are the same factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.coupling import Coupling
from spa.dims import ONE, Factor, Kind, leaves
from spa.passes.problems import Problem


@dataclass(frozen=True, slots=True, eq=False)
class RowWeights:
    """Weights of rows, from masks among the inputs.

    Attributes:
        masks: inputs that are masks, each with the factors of its axes.
    """

    coupling: Coupling
    masks: Mapping[str, tuple[Factor, ...]]

    @classmethod
    def of(cls, model: ir.Model, coupling: Coupling, samples: Mapping[str, np.ndarray]) -> RowWeights:
        """The masks of a model: inputs called so that hold nothing but zeros and ones, and both."""
        masks = {}
        for value in model.graph.inputs:
            array = samples.get(str(value.name))
            if array is None or value not in coupling.axes or not runtime.is_mask(str(value.name)):
                continue
            if np.any(array == 0) and np.any(array == 1) and np.all((array == 0) | (array == 1)):
                masks[str(value.name)] = _leaves(coupling.axes[value])
        return cls(coupling, masks)

    def rows(self, problem: Problem, batch: Mapping[str, np.ndarray], shape: Sequence[int]) -> np.ndarray | None:
        """(rows,) which rows of a batch count, in the order of `Problem.rows`; None: all of them.

        Args:
            shape: of what the layer reads, in this batch.
        """
        layer = problem.layer
        if layer.mixing.window is not None or layer.mixing.steps is not None:
            return None
        inside = {leaf for name in (*layer.blocks, *layer.contracted) for leaf in leaves(layer.factors[name])}
        return self._along(self.coupling.axes[layer.data], inside, batch, shape)

    def of_output(self, value: ir.Value, batch: Mapping[str, np.ndarray], shape: Sequence[int]) -> np.ndarray | None:
        """(rows,) which rows of a value count, a row being what lies along its last axis; None: all of them."""
        axes = self.coupling.axes.get(value, ())
        return self._along(axes, set(leaves(axes[-1])), batch, shape) if axes and len(axes) == len(shape) else None

    def _along(
        self, axes: Sequence[Factor], inside: set[Factor], batch: Mapping[str, np.ndarray], shape: Sequence[int]
    ) -> np.ndarray | None:
        free = tuple(leaf for leaf in _leaves(axes) if leaf not in inside)
        for name, mine in self.masks.items():
            if mine == free:
                return np.asarray(batch[name]).reshape(-1).astype(np.float64)
            single = {dim.root: at for at, dim in enumerate(axes) if dim.root.kind is Kind.LEAF}
            if set(mine) <= set(free) and set(free) <= single.keys() and len(set(free)) == len(free):
                places = [free.index(leaf) for leaf in mine]
                if places == sorted(places):
                    sizes = [shape[single[leaf]] for leaf in free]
                    beside = [size if at in places else 1 for at, size in enumerate(sizes)]
                    return np.broadcast_to(batch[name].reshape(beside), sizes).reshape(-1).astype(np.float64)
        return None


def _leaves(axes: Sequence[Factor]) -> tuple[Factor, ...]:
    return tuple(leaf for dim in axes for leaf in leaves(dim) if leaf is not ONE)
