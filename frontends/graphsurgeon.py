"""Prune onnx-graphsurgeon graphs: `prune(graph, ratio=0.3)` gives a smaller graph.

The package is imported on use only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spa.adapters import restore
from spa.frontends.files.graphsurgeon_graph import load, to_graph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["load", "prune", "to_graph"]


def prune(graph: gs.Graph, *, ratio: float, **options: Any) -> gs.Graph:
    """A smaller graph; the one given is not changed.

    Args:
        graph: of onnx-graphsurgeon, with the weights that it holds.
        ratio: the share to remove, between 0 and 1.
        options: as for `spa.prune`.

    Raises:
        MissingExtra: onnxruntime is not installed.
        ModelError, UsageError, DataError, NothingToPrune, BudgetError, VerificationError: as `spa.prune`.
    """
    return to_graph(restore.prune_model(load(graph), ratio=ratio, **options))
