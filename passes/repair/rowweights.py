"""Rows that count: positions that a mask among the inputs hides are left out of every statistic.

Padding fills a batch, and no output that anyone looks at depends on it. Which input says so, and whether by ones or by
zeros, the model is asked: what it hides may be anything. Which rows of a layer it fills, the coupled graph says: a
mask's axes and the free axes of what the layer reads are the same factors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.coupling import Coupling
from spa.notation.dims import ONE, Factor, Kind, leaves
from spa.passes.layers.problems import Problem
from spa.passes.repair.pieces import Batch

Run = Callable[[Sequence[Batch]], Sequence[Sequence[np.ndarray]]]

UNMOVED = 1e-4
"""Share of its largest number by which an output may move under what a mask hides: rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class RowWeights:
    """Weights of rows, from masks among the inputs.

    Attributes:
        masks: inputs that are masks, each with the factors of its axes.
        inverted: names of those whose ones hide.
    """

    coupling: Coupling
    masks: Mapping[str, tuple[Factor, ...]]
    inverted: Collection[str] = ()

    @classmethod
    def of(
        cls, model: ir.Model, coupling: Coupling, batches: Sequence[Batch], compared: Sequence[ir.Value], run: Run
    ) -> RowWeights:
        """The masks of a model: inputs of zeros and ones such that what one of the two marks changes nothing elsewhere.

        Args:
            compared: the values that may not change.
            run: each of these values, batch by batch.
        """
        masks: dict[str, tuple[Factor, ...]] = {}
        inverted: list[str] = []
        for value in model.graph.inputs:
            name = str(value.name)
            batch = next((batch for batch in batches if name in batch and is_binary(batch[name])), None)
            if batch is None or value not in coupling.axes:
                continue
            runs = run(
                [batch, *(_disturbed(name, model, batch, places) for places in (batch[name] == 0, batch[name] == 1))]
            )
            for axes in _axes_of(value, model, coupling):
                ways = [cls(coupling, {name: axes}, inverse) for inverse in ((), (name,))]
                hiding = [way for way in ways if way._hides(batch, compared, runs)]
                if len(hiding) == len(ways):  # places that never meet, so that only the name is left to tell
                    hiding = hiding[:1] if runtime.is_mask(name) else []
                if hiding:
                    masks[name] = axes
                    inverted += hiding[0].inverted
                    break
        return cls(coupling, masks, inverted)

    def _hides(self, batch: Batch, compared: Sequence[ir.Value], runs: Sequence[Sequence[np.ndarray]]) -> bool:
        """Whether what does not count may be anything, and what counts may not.

        Args:
            runs: of each compared value, as it is, and with other inputs disturbed at the zeros and at the ones.
        """
        before, *after = zip(*runs, strict=True)
        off = [self._moved(batch, compared, before, moved) for moved in after]
        hidden, seen = reversed(off) if self.inverted else off
        return hidden <= UNMOVED < seen

    def _moved(
        self, batch: Batch, compared: Sequence[ir.Value], before: Sequence[np.ndarray], after: Sequence[np.ndarray]
    ) -> float:
        """By what share of its largest number some value moved where it counts."""
        most = 0.0
        for value, old, new in zip(compared, before, after, strict=True):
            weights = self.of_output(value, batch, old.shape)
            counts = np.ones(old.shape[:-1], bool) if weights is None else weights.reshape(old.shape[:-1]) > 0
            left, right = old[counts].astype(np.float64), new[counts].astype(np.float64)
            gap = float(np.max(np.abs(left - right), initial=0.0))
            most = max(most, gap / (float(np.max(np.abs(left), initial=0.0)) or 1.0))
        return most

    def _counts(self, name: str, batch: Batch) -> np.ndarray:
        """(elements of the mask,) one for those that count."""
        ones = np.asarray(batch[name]).reshape(-1).astype(np.float64)
        return 1.0 - ones if name in self.inverted else ones

    def rows(self, problem: Problem, batch: Mapping[str, np.ndarray], shape: Sequence[int]) -> np.ndarray | None:
        """(rows,) which rows of a batch count, in the order of `Problem.rows`; None: all of them.

        Args:
            shape: of what the layer reads, in this batch.
        """
        layer = problem.layer
        if layer.mixing.window is not None or layer.mixing.steps is not None:
            return None
        inside = {leaf for name in (*layer.blocks, *layer.contracted) for leaf in leaves(layer.factors[name])}
        weights = self._along(self.coupling.axes[layer.data], inside, batch, shape)
        return None if weights is None else np.repeat(weights, problem.places)

    def of_output(self, value: ir.Value, batch: Mapping[str, np.ndarray], shape: Sequence[int]) -> np.ndarray | None:
        """(rows,) which rows of a value count, a row being what lies along its last axis; None: all of them."""
        axes = self.coupling.axes.get(value, ())
        return self._along(axes, set(leaves(axes[-1])), batch, shape) if axes and len(axes) == len(shape) else None

    def _along(
        self, axes: Sequence[Factor], inside: set[Factor], batch: Mapping[str, np.ndarray], shape: Sequence[int]
    ) -> np.ndarray | None:
        free = tuple(leaf for leaf in _leaves(axes) if leaf not in inside)
        for name, mask_axes in self.masks.items():
            if mask_axes == free:
                return self._counts(name, batch)
            single = {dim.root: at for at, dim in enumerate(axes) if dim.root.kind is Kind.LEAF}
            if set(mask_axes) <= set(free) and set(free) <= single.keys() and len(set(free)) == len(free):
                places = [free.index(leaf) for leaf in mask_axes]
                if places == sorted(places):
                    sizes = [shape[single[leaf]] for leaf in free]
                    beside = [size if at in places else 1 for at, size in enumerate(sizes)]
                    return np.broadcast_to(self._counts(name, batch).reshape(beside), sizes).reshape(-1)
        return None


def _axes_of(value: ir.Value, model: ir.Model, coupling: Coupling) -> list[tuple[Factor, ...]]:
    """What the axes of a mask may be: its own, or those of an input declared over the same axes.

    A mask that a graph reads by index, position by position, is coupled to nothing.
    """
    shape = value.shape
    candidates = [_leaves(coupling.axes[value])]
    for other in model.graph.inputs:
        known = other.shape is not None and shape is not None and other in coupling.axes
        if known and list(other.shape or ())[: len(shape or ())] == list(shape or ()):
            candidates.append(_leaves(coupling.axes[other][: len(shape or ())]))
    return list(dict.fromkeys(candidates))


def _disturbed(name: str, model: ir.Model, batch: Batch, places: np.ndarray) -> Batch:
    """A batch in which other inputs hold, at some places of a mask, what they hold at others."""
    disturbed, order = dict(batch), np.random.default_rng(0).permutation(places.size)
    for other in (str(value.name) for value in model.graph.inputs):
        if other == name or other not in batch or batch[other].shape[: places.ndim] != places.shape:
            continue
        rows = batch[other].reshape(places.size, -1).copy()
        rows[places.reshape(-1)] = rows[order[places.reshape(-1)]]
        disturbed[other] = rows.reshape(batch[other].shape)
    return disturbed


def is_binary(array: np.ndarray) -> bool:
    """Whether an array holds zeros and ones, and both."""
    return bool(np.any(array == 0) and np.any(array == 1) and np.all((array == 0) | (array == 1)))


def _leaves(axes: Sequence[Factor]) -> tuple[Factor, ...]:
    return tuple(leaf for dim in axes for leaf in leaves(dim) if leaf is not ONE)
