"""How a node with graphs in it (branches, the body of a loop) hands tensors to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import onnx_ir as ir

Pair = tuple[ir.Value, ir.Value]


@dataclass(slots=True)
class Links:
    """Tensors that are the same on both sides of a body's boundary.

    Attributes:
        entering: (outer, inner) pairs; inner is an input of the body.
        leaving: pairs that are one tensor once the body has run.
        stacked: (outer, inner, axis): the outer tensor holds one inner tensor for each round, along that axis.
        opaque: tensors that nothing is known of: they stay as they are.
    """

    entering: list[Pair] = field(default_factory=list)
    leaving: list[Pair] = field(default_factory=list)
    stacked: list[tuple[ir.Value, ir.Value, int]] = field(default_factory=list)
    opaque: list[ir.Value] = field(default_factory=list)

    @property
    def linked(self) -> set[ir.Value]:
        """Inputs of the body that an outer tensor is handed to, whole or in rounds."""
        return {inner for _, inner in self.entering} | {inner for _, inner, _ in self.stacked}


@dataclass(frozen=True, slots=True)
class State:
    """Where a loop's state lies: so many inputs of the node and the body, and outputs of the body, come before it.

    Attributes:
        count: how many tensors it is of; they are the node's first results.
    """

    before: int
    returned: int
    count: int


class Runs(Enum):
    """When a body runs: as operand 0 decides, until a condition ends it, or once for each position of its sequences."""

    BRANCH = "branch"
    ROUNDS = "rounds"
    SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class Bodies:
    """The graphs in a node.

    Attributes:
        runs: when they run.
        names: of the attributes that hold them; of branches the first is taken where operand 0 is true.
        links: what a body shares with the node.
        state: where the state lies that a node hands from round to round; None: it has no rounds.
    """

    runs: Runs
    names: tuple[str, ...]
    links: Callable[[ir.Node, ir.Graph], Links]
    state: Callable[[ir.Node], State] | None = None
