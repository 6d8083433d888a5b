"""What the rules of all nodes say together: which index sets the axes of a graph's tensors share, and which stay.

`spa.analysis.couple` finds it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from spa.analysis.application import Application
from spa.analysis.branch import Branch
from spa.notation.dims import Factor, leaves, show
from spa.operators.norm import AVERAGES
from spa.operators.quantize import RANGE

Axes = tuple[Factor, ...]
EXPERTS = "experts"
"""The kind of what is chosen among by value, and looked up."""
INPUT, OUTPUT = "graph input", "graph output"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an index set stays (or is left alone by default), and which node or tensor says so."""

    text: str
    where: str

    @property
    def weight(self) -> int:
        """Of statistics: 0 for one that a unit may decide, 1 for an average, 2 for a range of quantised numbers."""
        return 2 if self.text == RANGE else 1 if self.text in AVERAGES else 0

    def __str__(self) -> str:
        return f"{self.text} ({self.where})"


@dataclass(slots=True)
class Coupling:
    """The solved graph.

    Attributes:
        axes: a dim for each axis of each tensor whose shape is known.
        applications: the rules, in graph order.
        frozen, statistic, kinds: what was noted of leaves.
        cached: heads that stand in inputs and outputs, where these hold what is handed from call to call.
        graph: what was coupled.
        branches: what may be left out of a sum.
        apart: of experts with weights of their own what goes with each, whose gate is its place in the choice.
        choices: the leaves of each choice among such experts, in order.
    """

    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    applications: list[Application] = field(default_factory=list)
    frozen: dict[Factor, Reason] = field(default_factory=dict)
    statistic: dict[Factor, Reason] = field(default_factory=dict)
    kinds: dict[Factor, set[str]] = field(default_factory=dict)
    reasons: dict[Factor, set[str]] = field(default_factory=dict)  # all that statistics say of a leaf
    least: dict[Factor, int] = field(default_factory=dict)  # how many positions of a leaf stay at least
    cached: dict[Factor, list[ir.Value]] = field(default_factory=dict)
    weights: set[ir.Value] = field(default_factory=set)  # computed from constants alone
    graph: ir.Graph | None = None
    branches: list[Branch] = field(default_factory=list)
    apart: list[Branch] = field(default_factory=list)
    choices: list[list[Factor]] = field(default_factory=list)

    @property
    def gated(self) -> list[Branch]:
        """All that goes as a whole."""
        return [*self.branches, *self.apart]

    def explain(self, value: ir.Value, axis: int) -> str:
        """The dim of an axis in words: its factors, and why those that stay do."""
        dim = self.axes[value][axis]
        reasons = dict.fromkeys(str(self.frozen[leaf]) for leaf in leaves(dim) if leaf in self.frozen)
        return show(dim) + (f": stays, {'; '.join(reasons)}" if reasons else "")


def named(value: ir.Value) -> str:
    """A tensor in words."""
    return repr(value.name) if value.name else "an unnamed tensor"


def called(node: ir.Node) -> str:
    """A node in words."""
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type
