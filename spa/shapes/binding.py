"""Numbers for the symbolic axes of a graph's inputs.

Each axis gets a prime of its own that divides no static axis of the inputs and weights, so that a product of axes can
be told apart in one way only. Which sizes a graph accepts is not written in it, so there is a ladder of choices.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from spa.errors import UsageError


@dataclass(frozen=True, slots=True)
class Binding:
    """One choice of numbers."""

    numbers: Mapping[str, int]  # symbolic axis -> number
    inputs: Mapping[str, tuple[int, ...]]  # input name -> shape, for inputs of known rank
    ties: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # axis -> those that it is as long as together


@dataclass(frozen=True, slots=True)
class Axis:
    """A symbol to choose a number for."""

    symbol: str
    position: int  # of the axis in the first input that has it
    leads: bool  # stands for a batch, most often: the first axis of its input, or of those that are not static
    rank: int  # of the first input that has it


@dataclass(frozen=True, slots=True)
class _Rung:
    """Sizes of the axes that do not lead: the primes from ``start`` on, times ``unit``."""

    start: int
    unit: int = 1


# From what most graphs take to what few need: long enough for several strided windows; multiples, for graphs that halve
# and join again; short, for short tables; thousands, for raw audio. None: by the rank of the input.
_LADDER = (
    None, _Rung(67), _Rung(3, 32), _Rung(251), _Rung(3, 64), _Rung(2), _Rung(521), _Rung(1031), _Rung(4099),
    _Rung(16411),
)  # fmt: skip
_CHOICE = 6  # so many primes to choose from: one that divides no static axis, if possible
_SEQUENCE, _IMAGE = _Rung(13), _Rung(67)

# Axes of different names may have to be equal (exporters name the batch of each input); some graphs take batch 1 only.
_MANNERS = ("apart", "alike", "single")

# An axis may have to be as long as two others together (past, new and all positions of a decoder that keeps what it has
# seen), or of length one. So many of these are tried.
_MOST_SUMS, _MOST_ALONE = 6, 3
_Ties = Mapping[str, tuple[str, ...]]  # axis -> those that it is as long as together; none: it is of length one

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.FloorDiv: operator.floordiv,
    ast.Mult: operator.mul,
    ast.Sub: operator.sub,
}


def bindings(graph: ir.Graph, inputs: Mapping[str, Sequence[int]]) -> Iterator[Binding]:
    """Choices of numbers for the symbolic input axes, the most usual first; at least one.

    inputs: input name -> shape to use for it

    Raises UsageError where ``inputs`` names no input of the graph or contradicts its static axes.
    """
    declared = declared_shapes(graph)
    given = given_numbers(graph, inputs)
    axes = free_axes(declared, given)
    occupied = {dim for dims in declared.values() for dim in dims if isinstance(dim, int) and dim > 1}
    occupied.update(
        dim for weight in graph.initializers.values() for dim in weight.shape or () if isinstance(dim, int) and dim > 1
    )
    seen = set()
    for rung, manner, ties in _attempts(axes):
        numbers = given | _choose([axis for axis in axes if axis.symbol not in ties], rung, manner, occupied)
        numbers |= {symbol: sum(numbers[part] for part in parts) or 1 for symbol, parts in ties.items()}
        if (choice := tuple(sorted(numbers.items()))) in seen:
            continue
        seen.add(choice)
        yield Binding(numbers, bound_shapes(declared, numbers, inputs), ties)


def _attempts(axes: Sequence[Axis]) -> Iterator[tuple[_Rung | None, str, _Ties]]:
    """Sizes by rank first, then with axes that hang together, then other sizes."""
    for manner in _MANNERS:
        yield None, manner, {}
    for ties, manner in itertools.product(_possible_ties(axes), ("apart", "single")):
        yield None, manner, ties
    for rung, manner in itertools.product(_LADDER[1:], _MANNERS):
        yield rung, manner, {}


def _possible_ties(axes: Sequence[Axis]) -> list[_Ties]:
    """Axes that may be as long as two others, the likeliest first, and axes that may be of length one."""
    free = [axis for axis in axes if not axis.leads]

    def unlikely(total: Axis, parts: Sequence[Axis]) -> tuple[object, ...]:
        past = any("past" in part.symbol.lower() for part in parts)
        state = max(part.rank for part in parts) > total.rank  # (batch, heads, past, size) beside (batch, all)
        return "total" not in total.symbol.lower(), not past, not state, total.rank

    sums = [
        (total, parts)
        for total in free
        for parts in itertools.combinations([axis for axis in free if axis is not total], 2)
    ]
    sums.sort(key=lambda each: unlikely(*each))
    alone = sorted(free, key=lambda axis: ("past" in axis.symbol.lower(), axis.rank))
    return [
        *({total.symbol: tuple(part.symbol for part in parts)} for total, parts in sums[:_MOST_SUMS]),
        *({axis.symbol: ()} for axis in alone[:_MOST_ALONE] if len(free) > 1),
    ]


def bound_shapes(
    declared: Mapping[str, tuple[int | str, ...]], numbers: Mapping[str, int], inputs: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Input name -> shape, with numbers for the symbols of what is declared; those that a caller gives as they are."""
    shapes = {
        name: tuple(dim if isinstance(dim, int) else _number(dim, numbers) for dim in dims)
        for name, dims in declared.items()
    }
    return shapes | {name: tuple(shape) for name, shape in inputs.items()}


def resized(graph: ir.Graph, binding: Binding, inputs: Mapping[str, Sequence[int]]) -> Iterator[Binding]:
    """The same with one more where axes lead and twice the size of others; with the first or the second alone.

    What a graph bakes in of the sizes that it was looked at with shows there.

    Args:
        inputs: shapes that stay.
    """
    declared = declared_shapes(graph)
    axes = free_axes(declared, given_numbers(graph, inputs))
    tied = {axis.symbol for axis in axes if axis.symbol in binding.ties}
    for chosen in ((True, False), (True,), (False,)):
        numbers = dict(binding.numbers)
        for axis in axes:
            if axis.leads in chosen and axis.symbol not in tied and axis.symbol in numbers:
                numbers[axis.symbol] = numbers[axis.symbol] + 1 if axis.leads else 2 * numbers[axis.symbol]
        numbers |= {symbol: sum(numbers[part] for part in binding.ties[symbol]) or 1 for symbol in tied}
        if numbers != binding.numbers:
            yield Binding(numbers, bound_shapes(declared, numbers, inputs), binding.ties)


def open_lengths(graph: ir.Graph, binding: Binding) -> list[int]:
    """The sizes of symbolic axes that do not lead, in the order in which inputs have them."""
    axes = free_axes(declared_shapes(graph), {})
    return [binding.numbers[axis.symbol] for axis in axes if not axis.leads and axis.symbol in binding.numbers]


def evaluate_symbol(symbol: str, numbers: Mapping[str, int]) -> int | None:
    """The number that a symbolic axis stands for, sums and products of symbols included; None where that is open.

    Not by onnx_ir's SymbolicDim.evaluate, which computes powers: an axis named ``9**9**9`` would never end.
    """
    if symbol in numbers:
        return numbers[symbol]
    try:
        return _evaluate(ast.parse(symbol, mode="eval").body, numbers)
    except (SyntaxError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _evaluate(expression: ast.expr, numbers: Mapping[str, int]) -> int:
    match expression:
        case ast.BinOp(left, operation, right):
            return _OPERATORS[type(operation)](_evaluate(left, numbers), _evaluate(right, numbers))
        case ast.Name(name):
            return numbers[name]
        case ast.Constant(int(value)):
            return value
    raise ValueError(ast.dump(expression))


def _number(symbol: str, numbers: Mapping[str, int]) -> int:
    number = evaluate_symbol(symbol, numbers)
    assert number is not None  # every symbol that is no expression of others is free or given
    return number


def declared_shapes(graph: ir.Graph) -> dict[str, tuple[int | str, ...]]:
    """Input name -> shape as declared, an unnamed axis named after its place; inputs of unknown rank left out."""
    return {
        value.name: tuple(
            dim if isinstance(dim, int) and dim >= 0 else symbol_of(dim) or f"{value.name}[{axis}]"
            for axis, dim in enumerate(value.shape)
        )
        for value in graph.inputs
        if value.name and value.shape is not None and not value.is_initializer()
    }


def symbol_of(dim: object) -> str | None:
    """The name of a symbolic axis; None for an unnamed one, which some exporters write as ``?`` or ``None``."""
    name = getattr(dim, "value", None)
    return str(name) if name and name != "None" and any(letter.isalpha() for letter in str(name)) else None


def _unranked(graph: ir.Graph) -> list[str]:
    """Names of the inputs of which not even the rank is declared."""
    return [value.name for value in graph.inputs if value.name and value.shape is None and not value.is_initializer()]


def given_numbers(graph: ir.Graph, inputs: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The symbols that a caller's shapes settle.

    Raises:
        UsageError: they name no input of the graph or contradict its static axes.
    """
    declared, unranked = declared_shapes(graph), _unranked(graph)
    given: dict[str, int] = {}
    for name, shape in inputs.items():
        if name in unranked:
            continue
        if name not in declared:
            known = ", ".join((*declared, *unranked)) or "none"
            raise UsageError(f"no input is named {name!r}; the graph's inputs are {known}")
        dims = declared[name]
        if len(shape) != len(dims) or any(
            dim != size for dim, size in zip(dims, shape, strict=True) if isinstance(dim, int)
        ):
            raise UsageError(f"input {name!r} has the shape {list(dims)}, which {list(shape)} does not fit")
        for dim, size in zip(dims, shape, strict=True):
            if isinstance(dim, str) and given.setdefault(dim, size) != size:
                raise UsageError(f"axis {dim!r} is both {given[dim]} and {size} in the given input shapes")
    return given


def free_axes(declared: Mapping[str, tuple[int | str, ...]], given: Mapping[str, int]) -> list[Axis]:
    """The symbols that are neither given nor sums and products of others."""
    symbols: dict[str, tuple[int, int]] = {}
    leading = {dims[0] for dims in declared.values() if dims and isinstance(dims[0], str)}
    if leading:  # a recurrent state has its batch further on: (2, batch, 128)
        leading |= {next((dim for dim in dims if isinstance(dim, str)), "") for dims in declared.values()}
    for dims in declared.values():
        for position, dim in enumerate(dims):
            if isinstance(dim, str) and dim not in given:
                symbols.setdefault(dim, (position, len(dims)))
    every = dict.fromkeys((*symbols, *given), 1)
    return [
        Axis(symbol, position, symbol in leading, rank)
        for symbol, (position, rank) in symbols.items()
        if evaluate_symbol(symbol, {name: size for name, size in every.items() if name != symbol}) is None
    ]


def _choose(axes: Sequence[Axis], rung: _Rung | None, manner: str, occupied: set[int]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    shared: dict[tuple[bool, int], int] = {}
    for axis in axes:
        if axis.leads and manner == "single":
            numbers[axis.symbol] = 1
            continue
        key = (axis.leads, 0 if axis.leads else axis.position)
        if manner != "apart" and key in shared:
            numbers[axis.symbol] = shared[key]
            continue
        step = rung or (_IMAGE if axis.rank >= 4 else _SEQUENCE)
        start, unit = (2, 1) if axis.leads else (step.start, step.unit)
        taken = {number // unit for number in numbers.values()}
        primes = itertools.islice((prime for prime in _primes(start) if prime not in taken), _CHOICE)
        prime = min(primes, key=lambda prime: sum(dim % prime == 0 for dim in occupied))
        numbers[axis.symbol] = shared[key] = prime * unit
    return numbers


def next_prime(taken: Collection[int]) -> int:
    """The first prime, of those that suit a sequence, that is not taken."""
    return next(prime for prime in _primes(_SEQUENCE.start) if prime not in taken)


def _primes(start: int) -> Iterator[int]:
    for number in itertools.count(max(start, 2)):
        if all(number % factor for factor in range(2, math.isqrt(number) + 1)):
            yield number
