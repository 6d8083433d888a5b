"""Enter operators: a function from an `Operation`, one node as plain values, to its `Rule`.

    @operator("ScaledRelu", domain="my.domain")
    def scaled_relu(operation: Operation) -> Rule:
        return rule("n c *s, c -> n c *s")

The function sees the shapes of operands and results, attributes, and the contents of small constant operands, nothing
else; it raises `Refusal` where it has nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np

from spa.notation.bodies import Bodies
from spa.notation.partial import Dims, Partial
from spa.notation.rule import Rule
from spa.notation.values import Values

Shape = tuple[int, ...]
MICROSOFT = "com.microsoft"


class Refusal(Exception):
    """A rule has nothing to say about this node: all it touches stays, for the reason given, which users read."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One node, as plain values.

    Attributes:
        name, domain, version: of the operator; its domain ("" is ai.onnx), and the opset of the model in it.
        inputs, outputs: shapes, symbolic axes bound to numbers; None where absent or unknown.
        attributes: their values by name; what is not given is left out.
        constants: contents of operands that are the same in every run.
        weights: positions of operands computed from constants alone.
        bound: contents of operands known only under the binding of the symbolic axes.
        floats: positions of operands known to hold floating-point numbers.
        singles: single positions of the first operand may go: an axis of it counts what was chosen among.
    """

    name: str
    domain: str = ""
    version: int = 20
    inputs: Sequence[Shape | None] = ()
    outputs: Sequence[Shape | None] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)
    weights: frozenset[int] = frozenset()
    bound: Mapping[int, np.ndarray] = field(default_factory=dict)
    floats: frozenset[int] = frozenset()
    singles: bool = False

    def shape(self, position: int) -> Shape:
        """The shape of the operand at a `position`.

        Raises:
            Refusal: it is absent or unknown.
        """
        shape = self.inputs[position] if position < len(self.inputs) else None
        if shape is None:
            raise Refusal(f"the shape of operand {position} is unknown")
        return shape

    def result(self, position: int = 0) -> Shape:
        """The shape of the result at a `position`.

        Raises:
            Refusal: it is absent or unknown.
        """
        shape = self.outputs[position] if position < len(self.outputs) else None
        if shape is None:
            raise Refusal(f"the shape of result {position} is unknown")
        return shape

    def has(self, position: int) -> bool:
        """Whether the optional operand at a `position` is there."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of the attribute of a `name`, or the operator's `default` for it."""
        return self.attributes.get(name, default)

    def axis(self, default: int | None = None, *, position: int = 0, name: str = "axis") -> int:
        """The attribute of a `name`, which is an axis, counted from the front of the operand at `position`.

        Args:
            default: the operator's; None: it has none.

        Raises:
            Refusal: the attribute is missing, or the operand's shape is unknown.
        """
        value = self.attributes.get(name, default)
        if value is None:
            raise Refusal(f"attribute {name} is missing")
        rank = len(self.shape(position))
        return int(value) % rank if rank else 0

    def numbers(self, position: int, attribute: str | None = None) -> list[int] | None:
        """Integers of the constant operand at a `position`, or in older opsets of an `attribute`; None: neither."""
        if attribute is not None and attribute in self.attributes:
            value = self.attributes[attribute]
            return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)]
        content = self.constants.get(position)
        return None if content is None else [int(v) for v in content.reshape(-1)]


RuleFunction = Callable[[Operation], Rule]


def operator(*names: str, domain: str = "", **facts: Any) -> Callable[[RuleFunction], RuleFunction]:
    """Enter operators: the decorated function gives the rule of their nodes.

    Args:
        names: of the operators.
        domain: of the operators; "" is ai.onnx.
        facts: what else their `Entry` holds.

    Raises:
        ValueError: one of them has a rule already.
    """

    def decorate(function: RuleFunction) -> RuleFunction:
        for name in names:
            if (domain, name) in _registry:
                raise ValueError(f"two rules for {domain}::{name}")
            _registry[domain, name] = Entry(function, **facts)
        return function

    return decorate


class Moves(Enum):
    """Which operands' elements are moved: those of the first (the others say where to), or of all."""

    FIRST = "first"
    ALL = "all"


class Partly(Enum):
    """Where a result's elements are unknown: where any operand's are, where the first's are, or the chosen one's."""

    ANY = "any"
    FIRST = "first"
    CHOSEN = "chosen"


class Lists(Enum):
    """The sizes of an operand's axes, or how many elements it has."""

    SIZES = "sizes"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers, that a seed makes the same in every run.

    Attributes:
        whole: the attribute `seed` is a whole number.
        trains: the operand that has to be there for anything to be drawn; None: it always is.
    """

    whole: bool = False
    trains: int | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A node normalises each channel (axis 1) by stored numbers, unless an attribute says that it trains.

    Attributes:
        scale, shift, mean, variance: positions of operands.
        epsilon, trains: names of attributes.
    """

    scale: int
    shift: int
    mean: int
    variance: int
    epsilon: str
    trains: str


@dataclass(frozen=True, slots=True)
class Joins:
    """A node adds two operands, and a bias, before all else that it computes.

    Attributes:
        operands: the positions of the two, of which either may be a residual.
        bias: the position of the bias.
        total: the result that holds the sum.
        alone: names of operators of the standard domain that compute the same of one operand, scale and shift, each
            with the opset it came in; 0: onnxruntime's own, for graphs that have it already.
    """

    operands: tuple[int, int]
    bias: int
    total: int
    alone: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """Everything that is said of an operator: the rule of its nodes, and what is known before any shape is.

    Attributes:
        rule: what a node says of its axes; refuses where there is nothing to say.
        moves: each element of a result is an element of an operand: nothing is computed.
        copies: the result is the operand.
        casts: the result is the operand, in another type.
        partly: what is known of a result where only some elements of operands are known.
        lists: of an operand's sizes, what the result holds.
        holds: the result is a tensor in an attribute.
        counts: the data decide how many elements the results have.
        draws: random numbers are drawn.
        quantises: it is part of what a quantised model consists of: a runtime looks for it, no value may stand for it.
        bodies: the graphs in it.
        contradicts: whether operands of such sizes cannot meet, although onnx's own inference lets them.
        completes: dims of the results, which are alike, where neither onnx nor onnxruntime infers them all.
        adds: the result is the sum of the operands.
        compares: the result says where operands are alike.
        finds: the result lists where the operand is not zero.
        blank: the operand, and how many of its elements (None: all), that stand where no number points.
        fills: the attribute that holds the number of which the result consists; zero unless it is given.
        joins: it adds two operands first, and goes on with the sum.
        permutes: the attribute that lists the result's axes by their number in the operand, which are all that moves.
        running: it normalises by stored statistics.
        affine: (scale, shift): operands by which each index of the first result is scaled and shifted, after all else.
        values: of an attention, where the values are.
        continues: (operand, result) pairs: the result is the operand with what this call adds, a cache or a state.
    """

    rule: RuleFunction
    moves: Moves | None = None
    copies: bool = False
    casts: bool = False
    partly: Partly | None = None
    lists: Lists | None = None
    holds: bool = False
    counts: bool = False
    draws: Draws | None = None
    quantises: bool = False
    bodies: Bodies | None = None
    contradicts: Callable[[Partial], bool] | None = None
    completes: Callable[[Partial], Dims | None] | None = None
    adds: bool = False
    compares: bool = False
    finds: bool = False
    blank: tuple[int, int | None] | None = None
    fills: str = ""
    joins: Joins | None = None
    permutes: str = ""
    running: Running | None = None
    affine: tuple[int, int | None] | None = None
    values: Values | None = None
    continues: tuple[tuple[int, int], ...] = ()


class Called(Protocol):
    """What calls an operator by its name: a node, in one form or another."""

    @property
    def op_type(self) -> str:
        """The operator's name."""

    @property
    def domain(self) -> str:
        """The operator's domain."""


_registry: dict[tuple[str, str], Entry] = {}


def registered() -> dict[tuple[str, str], Entry]:
    """Every operator that is known, as (domain, name)."""
    return dict(_registry)


def entry_of(node: Called) -> Entry:
    """What is said of a node's operator; of one that is not known, nothing."""
    return _registry.get(_key(node.domain, node.op_type), _UNKNOWN)


def rule_of(operation: Operation) -> Rule:
    """The rule for a node.

    Raises:
        Refusal: there is none, or it has nothing to say about this node; with the reason in words.
    """
    return _registry.get(_key(operation.domain, operation.name), _UNKNOWN).rule(operation)


def _key(domain: str, name: str) -> tuple[str, str]:
    return "" if domain == "ai.onnx" else domain, name


def _unknown(operation: Operation) -> Rule:
    domain, name = _key(operation.domain, operation.name)
    raise Refusal(f"no rule for operator {f'{domain}::' if domain else ''}{name}")


_UNKNOWN = Entry(_unknown)


def letters(count: int, *, avoid: str = "") -> list[str]:
    """Names for axes: a, b, c ..., a1, b1 ..."""
    alphabet = [c for c in "abcdefghijklmnopqrstuvwxyz" if c not in avoid]
    return [alphabet[k % len(alphabet)] + (str(k // len(alphabet)) if k >= len(alphabet) else "") for k in range(count)]


def pattern(terms: Sequence[str]) -> str:
    """Terms as the text of a tensor's pattern: "a b", or "()" for a scalar."""
    return " ".join(terms) or "()"
