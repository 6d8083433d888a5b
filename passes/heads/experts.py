"""Show what each expert of a mixture does: how often it is chosen, and what it adds to tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.analysis.group import Group
from spa.notation.dims import leaves
from spa.operators.reduce import BARRED, RANKED
from spa.passes.repair.routed import routed
from spa.passes.secondorder.experts import Routed, far_out, reap


@dataclass(frozen=True, slots=True)
class Load:
    """What the experts of one choice do.

    Attributes:
        choice: what the graph calls the node that chooses.
        group: what goes with an expert (`spa groups`).
        shares: of all that were chosen, by expert; they sum to one.
        reap: the mean norm of what each adds to a token that it is chosen for (`spa.passes.secondorder.experts.reap`).
        peaks: the largest absolute number that each adds to a token.
        outliers: the super experts, whose peaks are extreme.
        together: how many experts go together, where the choice is among groups first: a row is a whole group, or the
            same place of all groups.
    """

    choice: str
    group: str
    shares: Sequence[float]
    reap: Sequence[float]
    peaks: Sequence[float]
    outliers: Sequence[int] = ()
    together: int = 1


def expert_loads(
    model: ir.Model, coupling: Coupling, groups: Sequence[Group], batches: Sequence[Mapping[str, np.ndarray]]
) -> list[Load]:
    """What the experts of every choice that may become smaller do, on some batches."""
    mixtures = mixtures_of(model, coupling, groups, batches)
    super_experts = far_out([mixture for _, mixture in mixtures])
    rows = []
    for (group, mixture), units in zip(mixtures, super_experts, strict=True):
        loads, scores, peaks = (each.tolist() for each in (mixture.loads, reap(mixture), mixture.peaks))
        places = [int(np.count_nonzero(piece.unit_of == 0)) for piece in group.slices]  # of the router one an expert
        together = min(filter(None, places), default=1)
        rows.append(Load(_chooser(coupling, group), group.name, loads, scores, peaks, units, together))
    return rows


def mixtures_of(
    model: ir.Model, coupling: Coupling, groups: Sequence[Group], batches: Sequence[Mapping[str, np.ndarray]]
) -> list[tuple[Group, Routed]]:
    """The groups of experts, and what each adds to tokens on some batches; left out are those that cannot be seen."""
    pairs = ((group, routed(model, coupling, group, batches)) for group in groups if group.barred)
    return [(group, each) for group, each in pairs if each is not None]


def _chooser(coupling: Coupling, group: Group) -> str:
    """What the graph calls the node that chooses among experts."""
    mine = set(group.leaves)
    choosers = [
        (reason != RANKED, application.node)
        for application in coupling.applications
        for name, reason in application.rule.statistic.items()
        if reason in BARRED and any(mine.intersection(leaves(dim)) for dim in application.named(name))
    ]
    node = min(choosers, key=lambda each: each[0])[1] if choosers else None
    return group.name if node is None else str(node.name or node.outputs[-1].name)
