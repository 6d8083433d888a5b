"""The drift of a residual connection: how far its other branch is off, for which a layer added to it makes up."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.analysis.neighbours import joined_behind, scaled_behind
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Problem
from spa.passes.repair.draft import Draft
from spa.passes.repair.session import Session
from spa.passes.repair.streaming import Stream


@dataclass(frozen=True, slots=True)
class Drift:
    """Dense less pruned values of the branch that a layer's result is added to, in units of that result."""

    session: Session
    draft: Draft
    dense: Stream
    pruned: Stream

    def key(self, problem: Problem) -> Hashable | None:
        """What tells the drift of a problem from that of others with the same rows; None: there is none."""
        junction = None if problem.coarse else self.junction(problem.layer)
        return None if junction is None else (junction[0], junction[1].tobytes())

    def rows(self, problem: Problem, number: int, positions: np.ndarray | None) -> np.ndarray:
        """(blocks, positions, outputs)"""
        junction = self.junction(problem.layer)
        assert junction is not None
        other, scale = junction
        off = self.dense.value(other, number) - self.pruned.value(other, number)
        return problem.layer.output_rows(off * scale, positions)

    def junction(self, layer: Layer) -> tuple[ir.Value, np.ndarray] | None:
        """The other branch, and what one of its units is worth in the layer's result; None where there is none yet."""
        value, scale = layer.result, np.ones(())
        if layer.mixing.result_axes is None:
            return None
        if (norm := scaled_behind(value)) is not None:
            factor, variance = (self.draft.array(stored) for stored in (norm.scale, norm.variance))
            with np.errstate(divide="ignore"):
                inverse = np.sqrt(variance + norm.epsilon) / factor
            rank = len(layer.mixing.result_axes)
            scale = np.where(np.isfinite(inverse), inverse, 0.0).reshape(-1, *[1] * (rank - 2)).astype(np.float32)
            value = norm.node.outputs[0]
        other = joined_behind(value)
        if other is None or other not in self.pruned.changed or not self.dense.has(other):
            return None
        if other in self.session.network.decided:
            return None
        shapes = self.session.network.shapes.of
        return (other, scale) if shapes.get(other) == shapes.get(value) is not None else None
