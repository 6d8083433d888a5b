"""Count how often each expert is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import EXPERTS, Coupling
from spa.notation.dims import leaves
from spa.operators.reduce import RANKED
from spa.passes.repair.own import values_of


@dataclass(frozen=True, slots=True)
class Load:
    """How often the experts of one choice are chosen.

    Attributes:
        choice: what the graph calls the node that chooses.
        shares: of all that were chosen, by expert; they sum to one.
    """

    choice: str
    shares: Sequence[float]


def expert_loads(model: ir.Model, coupling: Coupling, batches: Sequence[Mapping[str, np.ndarray]]) -> list[Load]:
    """The load of every choice among experts, on some batches."""
    choices: list[tuple[ir.Node, int]] = []
    for application in coupling.applications:
        ranked = [name for name, text in application.rule.statistic.items() if text == RANKED]
        dims = [dim for name in ranked for dim in application.named(name)]
        sizes = [leaf.size for dim in dims for leaf in leaves(dim) if EXPERTS in coupling.kinds.get(leaf, ())]
        node = application.node
        if len(sizes) == 1 and len(node.outputs) > 1 and node.graph is coupling.graph:
            choices.append((node, sizes[0]))
    found = values_of(model, [str(node.outputs[1].name) for node, _ in choices], batches) if choices else {}
    loads = []
    for node, size in choices:
        numbers = np.concatenate([array.reshape(-1) for array in found[str(node.outputs[1].name)]])
        counts = np.bincount(numbers.astype(int), minlength=size)
        loads.append(Load(str(node.name or node.outputs[1].name), (counts / max(1, counts.sum())).tolist()))
    return loads
