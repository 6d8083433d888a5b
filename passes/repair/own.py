"""Repairs by samples of the tool's own: whether one may stand, and what is said of it.

A repair that made-up inputs speak for need not be one that real inputs would: weights that training made small are
evidence about these, of which noise knows nothing. So a repair stands only where it halves the distance that a cut by
weights alone leaves, on each kind of inputs that it was not fitted on; of pictures and sounds, where made-up ones are
known to speak for real ones, it has to be nearer by a fifth. Kinds of pictures of which a network says nothing (a
detector of text, of gratings) are no judges: there new samples of the usual kinds are. Where weights alone leave
nothing of the outputs, there is nothing to protect: there it has to be nearer.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from spa import runtime
from spa.errors import DataError
from spa.passes.cut.boundary import UNCHANGED, Boundary
from spa.passes.repair.difference import evened, lost, output_difference
from spa.passes.repair.memory import Memory
from spa.passes.repair.running import part_by_part
from spa.passes.repair.stages import cut
from spa.passes.repair.streaming import Stream
from spa.passes.samples.calibrate import Calibration

MARGIN, CARRIED_OVER = 0.25, 0.64
"""A repair may lose at most that share of what a cut by weights alone loses, and where samples are pictures or sounds:
losses are squares of distances."""

WRECKED = 0.5
"""Of the outputs' variance: a cut by weights that loses as much has nothing left that a repair might spoil."""

OTHERS = 48
"""Samples of kinds that nothing was fitted on: with half as many, shares differ between draws by a factor of two."""

AT_ONCE, PATIENCE = 5.0, 600.0
"""Seconds beyond which it is said how long a repair will take; and beyond which weights decide where nobody asked."""

TOPPED_UP = 0.9
"""Of what held-out samples lose, at most that share with samples of our own besides: few samples say it roughly."""

TARGET = 60.0
"""Seconds within which a repair that nobody asked for should be done on two cores."""

ALTERNATIVES = "--data SAMPLES is better; --weights cuts by weights alone, at once"


class WeightsDoBetter(Exception):
    """Weights alone should decide, and why."""


def check_gain(
    dense: ir.Model,
    repaired: ir.Model,
    weighed: ir.Model,
    columns: Mapping[str, Container[int] | None],
    others: Sequence[Calibration],
    boundary: Boundary = UNCHANGED,
    *,
    carried_over: bool = False,
) -> None:
    """Refuse a repair that gains little on samples that it was not fitted on; arguments as for `share_lost`.

    Args:
        others: samples, of which the worst decide.
        carried_over: the samples are pictures or sounds, which speak for real ones.

    Raises:
        WeightsDoBetter: the repaired model loses too much of what one cut by weights loses.
    """
    margin = CARRIED_OVER if carried_over else MARGIN
    for some in others:
        gained = gain(dense, repaired, weighed, columns, some, boundary)
        most = 1.0 if gained.wrecked else margin
        if gained.share > most:
            raise WeightsDoBetter(
                "on inputs of other kinds, a repair by samples of our own leaves "
                f"{np.sqrt(gained.share):.2g} of the distance from the dense model that weights alone leave, more than "
                f"the {np.sqrt(most):.2g} that it may"
            )


class Gain(NamedTuple):
    """What a repair is worth beside a cut by weights.

    Attributes:
        share: what the repaired model loses, of what the one cut by weights loses.
        wrecked: whether that one loses `WRECKED` or more.
    """

    share: float
    wrecked: bool


def gain(
    dense: ir.Model,
    repaired: ir.Model,
    weighed: ir.Model,
    columns: Mapping[str, Container[int] | None],
    others: Calibration,
    boundary: Boundary = UNCHANGED,
) -> Gain:
    """What a repaired model loses beside what one cut by weights loses.

    Args:
        columns: the values to compare, which all three models have, and the axes of their columns; None: any.
        boundary: the inputs that the one cut by weights has smaller.
    """
    batches = others.batches(others.batch_size or 8)
    counts = [others.count(batch) for batch in batches]
    smaller = [boundary.cut(batch) for batch in batches]
    pairs = ((dense, batches), (repaired, batches), (weighed, smaller))
    wanted, ours, theirs = (values_of(model, list(columns), feeds) for model, feeds in pairs)
    mine, other = (
        [_difference(wanted[name], outputs[name], counts, axes) for name, axes in columns.items()]
        for outputs in (ours, theirs)
    )
    lost_of_ours, lost_of_theirs = (
        float(np.sum([lost(difference) for difference in differences])) for differences in (mine, other)
    )
    wrecked = bool(np.mean([difference["relative_l2"] ** 2 for difference in other]) >= WRECKED) if other else False
    if not np.isfinite(lost_of_ours):
        return Gain(float("inf"), wrecked)
    return Gain(lost_of_ours / lost_of_theirs if lost_of_theirs > 0 else float(lost_of_ours > 0), wrecked)


def mean_loss(outputs: Mapping[str, Mapping[str, float]]) -> float:
    """What the outputs lose, as a mean over them; none: nothing."""
    return float(np.mean([lost(difference) for difference in outputs.values()])) if outputs else 0.0


def in_words(seconds: float) -> str:
    """A time as somebody would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds / 5) * 5 if seconds >= 10 else round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _difference(
    dense: Sequence[np.ndarray], other: Sequence[np.ndarray], counts: Sequence[int], columns: Container[int] | None
) -> Mapping[str, float]:
    if any(left.shape != right.shape for left, right in zip(dense, other, strict=True)):
        return {"relative_l2": float("inf")}
    return output_difference(*evened(dense, other, counts), columns=columns)


def values_of(
    model: ir.Model, names: Sequence[str], batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, list[np.ndarray]]:
    """Some values of a model, by name, batch by batch."""
    part = model.clone()
    known = {str(value.name): value for node in part.graph for value in node.outputs}
    known |= {str(value.name): value for value in (*part.graph.inputs, *part.graph.initializers.values())}
    if missing := [name for name in names if name not in known]:
        raise DataError(f"the model has no value {missing[0]!r}")
    there = {value.name for value in part.graph.outputs}
    if not there.issuperset(names):  # kernels may want results of a node that nothing reads
        part.graph.outputs[:] = [known[name] for name in names]
        RemoveUnusedNodesPass()(part)
    memory, wanted = Memory.of(), [known[name] for name in names]
    if not memory.holds(part):
        stages = cut(part, (), wanted)
        with Stream(stages, batches, memory=memory) as stream:
            by_batch = list(part_by_part(stages, stream))
        return {name: [each[known[name]] for each in by_batch] for name in names}
    session = runtime.session(part, optimize=True)
    results = [runtime.run(session, batch) for batch in batches]
    return {name: [result[name] for result in results] for name in names}
