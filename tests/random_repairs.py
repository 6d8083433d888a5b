"""Random graphs repaired with samples: what is said of the result beside what fresh samples show."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
import onnx

from spa import runtime
from spa.errors import BudgetError, NothingToPrune
from spa.passes.repair.difference import output_difference
from spa.pipeline import prune
from tests.random_graphs import random_model

SAMPLES, FRESH = 480, 480
WITHIN = 1.5
"""Factor by which what is reported may be off."""

ROUNDING = 1e-4
"""Distances below this are rounding, of which no share is told."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One repair.

    Attributes:
        said, true: largest relative L2 of an output: as reported, and on fresh samples.
        largest_share: of a layer's variance that is reported as lost.
    """

    seed: int
    said: float
    true: float
    largest_share: float

    @property
    def near(self) -> bool:
        """Whether what is reported is what fresh samples show, within a factor."""
        return max(self.said, self.true) < ROUNDING or self.said / WITHIN <= self.true <= self.said * WITHIN


def samples_of(model: onnx.ModelProto, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Feeds of a random graph, some samples each, of one size."""
    sizes = {"N": 2, "T": 7}
    generator = np.random.default_rng(seed)
    feeds = []
    for _ in range(count // 2):
        feed = {}
        for value in model.graph.input:
            kind = value.type.tensor_type
            shape = [axis.dim_value or sizes[axis.dim_param] for axis in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if not shape:  # the same for all samples
                feed[value.name] = np.ones(shape, dtype)
            elif dtype.kind == "f":
                feed[value.name] = generator.standard_normal(shape).astype(dtype)
            else:
                feed[value.name] = generator.integers(0, 2 if dtype.kind == "b" else 7, shape).astype(dtype)
        feeds.append(feed)
    return feeds


def repair(seed: int, *, ratio: float = 0.3) -> Outcome | None:
    """Repair the random graph of a seed; None: nothing can go, or not as much."""
    model = random_model(seed)
    try:
        result = prune(model, ratio=ratio, data=samples_of(model, SAMPLES, seed), verify=False)
    except (NothingToPrune, BudgetError):
        return None
    outputs = result.report.outputs
    said = max((off["relative_l2"] for off in outputs.values()), default=0.0)
    fresh = samples_of(model, FRESH, seed + 1)
    dense, pruned = (
        [runtime.run(session, feed) for feed in fresh]
        for session in (runtime.session(which, optimize=False) for which in (model, result.model))
    )
    shared = outputs.keys() & dense[0].keys()
    off = (output_difference([run[n] for run in dense], [run[n] for run in pruned]) for n in shared)
    true = max((gap["relative_l2"] for gap in off), default=said)
    shares = (layer.measured for layer in result.report.layers if isfinite(layer.measured))
    return Outcome(seed, said, true, max(shares, default=0.0))
