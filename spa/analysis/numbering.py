"""Whole numbers that are positions of a factor: chosen by value in one place, and looked up by in others.

    TopK over experts -> numbers -> Reshape -> Gather from the stacked weights of the experts

Without some experts the others keep their order and get new numbers, in the choice and in the tables alike. So the
factor may go, as long as these numbers do nothing but look up, or are compared with stored ones, which follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from spa.analysis.application import Application
from spa.notation.dims import Factor, Misfit
from spa.notation.equations import unify
from spa.notation.operation import Moves, entry_of


@dataclass(slots=True, eq=False)
class Pick:
    """A choice among the positions of a factor.

    Attributes:
        node: what chooses.
        looked: the tables' factors that its numbers look up.
        marked: nodes that mark where one of its numbers is chosen.
        spoiled: whether the numbers do something else, too, or nobody knows how many are chosen.
        read: whether anything reads the numbers.
    """

    node: ir.Node
    factor: Factor
    looked: list[Factor] = field(default_factory=list)
    marked: set[ir.Node] = field(default_factory=set)
    spoiled: bool = False
    read: bool = True

    @property
    def is_unread(self) -> bool:
        """Whether only the values of what was chosen go on, so that its numbers may be any."""
        return not self.read and not self.spoiled

    @property
    def is_closed(self) -> bool:
        """Whether its numbers look up and do nothing else."""
        return bool(self.looked) and not self.spoiled


@dataclass(slots=True)
class Numbering:
    """What is known of such numbers, node by node in the order of the graph."""

    of: dict[ir.Value, Pick] = field(default_factory=dict)
    picks: list[Pick] = field(default_factory=list)

    def looked_up(self, application: Application) -> set[str]:
        """The names of a node that numbers of a choice look up: one with the factor that was chosen among."""
        names = set()
        for position, name in application.rule.looks:
            pick = self._at(application.node, position)
            if pick is None or name not in application.factors:
                continue
            try:
                unify(application.factors[name], pick.factor)
            except Misfit:
                pick.spoiled = True
                continue
            pick.looked.append(application.factors[name])
            names.add(name)
        return names

    def compared(self, node: ir.Node) -> tuple[Pick, int | None, int] | None:
        """The choice whose numbers a node compares with stored ones, and their position.

        In the middle the one stored number; None: they are all numbers of the choice in their order, along an axis.
        """
        if not entry_of(node).compares:
            return None
        for position, pick in self._read(node):
            other = 1 - position
            value = node.inputs[other] if other < len(node.inputs) else None
            array = None if value is None or value.const_value is None else value.const_value.numpy()
            if array is not None and array.size == 1 and 0 <= int(array.reshape(-1)[0]) < pick.factor.size:
                return pick, int(array.reshape(-1)[0]), other
            if array is not None and max(array.shape, default=0) == array.size == pick.factor.size:
                return (pick, None, other) if array.reshape(-1).tolist() == list(range(array.size)) else None
        return None

    def follow(self, node: ir.Node, application: Application | None, looked: set[str]) -> None:
        """Where numbers go on from a node; None: nothing is known of it."""
        rule = None if application is None else application.rule
        read = {position for position, name in rule.looks if name in looked} if rule else set()
        unseen = set(rule.unseen) if rule else set()
        for position, pick in self._read(node):
            if position in read | unseen or node in pick.marked:
                continue
            if rule is not None and self._moves(node, position):
                for value in node.outputs:
                    self._put(value, pick)
            else:
                pick.spoiled = True
        if application is not None and rule is not None:
            for result, name in rule.picks:
                if result < len(node.outputs) and name in application.factors:
                    numbers = node.outputs[result]
                    goes_on = bool(numbers.uses()) or numbers.is_graph_output()
                    pick = Pick(node, application.factors[name], spoiled=name not in rule.least, read=goes_on)
                    self.picks.append(pick)
                    self._put(numbers, pick)

    def _at(self, node: ir.Node, position: int) -> Pick | None:
        value = node.inputs[position] if position < len(node.inputs) else None
        return None if value is None else self.of.get(value)

    def _read(self, node: ir.Node) -> Iterator[tuple[int, Pick]]:
        for position in range(len(node.inputs)):
            pick = self._at(node, position)
            if pick is not None:
                yield position, pick

    def _put(self, value: ir.Value, pick: Pick) -> None:
        pick.spoiled |= value.is_graph_output()
        other = self.of.setdefault(value, pick)
        if other is not pick:  # numbers of two choices beside each other
            pick.spoiled = other.spoiled = True

    def _moves(self, node: ir.Node, position: int) -> bool:
        """Whether a node hands on the elements of an operand, and mixes them with none that are not numbers, too."""
        moves = Moves.FIRST if entry_of(node).casts else entry_of(node).moves
        if moves is Moves.ALL:
            return all(value is None or value in self.of for value in node.inputs)
        return moves is Moves.FIRST and position == 0
