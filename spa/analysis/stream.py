"""Tell widths that are streams, which layer after layer reads and adds to, from those made once and read on.

A residual stream of a transformer enters norms, and so does the hidden width of Linear, LayerNorm, ReLU, Linear. To
cut the stream moves every norm of the network; to cut the hidden width moves the one norm that is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import onnx_ir as ir

from spa.analysis.coupling import Coupling


class Piece(Protocol):
    """What is asked of a group's slices (`spa.analysis.group.Slice`)."""

    @property
    def value(self) -> ir.Value: ...
    @property
    def producer(self) -> bool: ...
    @property
    def consumer(self) -> bool: ...


def is_stream(coupling: Coupling, pieces: Sequence[Piece]) -> bool:
    """Whether a layer that makes the units depends on a layer that reads them; so is what lies in If, Loop or Scan."""
    makers = set(_layers(coupling, (p.value for p in pieces if p.producer and _is_matrix(p.value))))
    readers = set(_layers(coupling, (p.value for p in pieces if p.consumer)))
    main = coupling.applications[0].node.graph if coupling.applications else None
    if any(node.graph is not main for node in makers | readers):
        return True
    itself = {application.node for application in coupling.applications if application.rule.reads}  # a recurrence
    if makers & readers - itself:
        return True
    seen: set[ir.Node] = set()
    waiting = list(readers)
    while waiting:
        for value in waiting.pop().outputs:
            for behind in {use.node for use in value.uses()} - seen:
                if behind in makers:
                    return True
                seen.add(behind)
                waiting.append(behind)
    return False


def _is_matrix(value: ir.Value) -> bool:
    return sum(size != 1 for size in value.shape or ()) > 1


def _layers(coupling: Coupling, values: Iterable[ir.Value]) -> Iterator[ir.Node]:
    """The nodes at which stored tensors meet what is computed, seen through nodes on stored tensors alone."""
    waiting = list(values)
    while waiting:
        for use in waiting.pop().uses():
            derived = [value for value in use.node.outputs if value in coupling.weights]
            if derived:
                waiting += derived
            else:
                yield use.node
