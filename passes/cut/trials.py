"""Inputs that a model runs on: sizes of open axes and values of whole numbers are tried until it does.

What a model takes is not all written in it: how far whole numbers may go, which axes belong together, and which input
counts positions (a decoder with a cache is told the length of what it keeps and of all). A wrong choice makes it fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import feeds as feeding
from spa import runtime
from spa.errors import DataError, UsageError
from spa.feeds import Feeds
from spa.passes.cut.difference import tells
from spa.shapes import Shapes
from spa.shapes.binding import Binding, bindings, open_lengths, resized

Outputs = Mapping[str, Any]
Run = Callable[[Mapping[str, np.ndarray]], Outputs]

SEEDS = (0, 1)
INTEGER_LIMITS = (1000, 50, 10, 2, 1)
_MOST_SIZES = 40
_MOST_ELEMENTS = 1 << 22  # of an input that is made larger only to see whether sizes are baked in


@dataclass(frozen=True, slots=True)
class Trial:
    """Inputs that a model ran on, and what it gave.

    Attributes:
        fixed: whether a user gave every value, so that another trial of this size would be the same.
    """

    feeds: Mapping[str, np.ndarray]
    outputs: Outputs
    fixed: bool


class NoTrial(Exception):
    """The model ran on nothing that was tried; says why, and what a user can give."""

    def __init__(self, reason: str, feeds: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(reason)
        self.feeds = feeds


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the inputs of a model may be.

    Attributes:
        graph: whose inputs they are.
        start: the sizes to try first.
        shapes: of inputs, as the user gave them.
        feeds: values, as the user gave them.
    """

    graph: ir.Graph
    start: Binding
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    feeds: Feeds = field(default_factory=dict)

    @classmethod
    def of(
        cls, graph: ir.Graph, shapes: Shapes, given: Mapping[str, Sequence[int]] | None, feeds: Feeds | None
    ) -> Inputs:
        """Inputs of the sizes that a graph was looked at with.

        Raises:
            UsageError: a feed names no input, or contradicts the sizes that are declared or given.
        """
        values = [value for value in graph.inputs if not value.is_initializer()]
        feeding.check(feeds or {}, [str(value.name) for value in values])
        ranks = {str(value.name): len(value.shape) for value in values if value.shape is not None}
        settled = {**(given or {}), **feeding.sizes(feeds or {}, ranks)}
        if feeds and settled != given:
            return cls(graph, next(bindings(graph, settled)), settled, feeds)
        known = {str(value.name): shapes.of[value] for value in values if value in shapes.of}
        return cls(graph, Binding(shapes.binding, known, shapes.ties), settled, feeds or {})

    # ---------------------------------------------------------------------------------------------------- trying
    def trials(self, run: Run) -> list[Trial]:
        """Inputs that the model runs on: of one size with several values, and of another size where it takes one.

        Raises:
            NoTrial: it runs on nothing that was tried.
            UsageError: a feed does not fit its input.
        """
        reason, last = "", None
        for sizes in itertools.islice(self._sizes(), _MOST_SIZES):
            for choice in self._choices(sizes):
                try:
                    last = self._made(sizes, choice, SEEDS[0])
                except _Unmade as error:
                    raise NoTrial(str(error)) from error
                try:
                    first = Trial(last, run(last), self._fixed)
                except DataError as error:
                    reason = str(error) if sizes is self.start or not reason else reason  # what says most
                    continue
                if not any(map(tells, first.outputs.values())):
                    choice, first = self._turned(run, sizes, choice, first)
                return [first, *self._more(run, sizes, choice)]
        raise NoTrial(f"the dense model does not run on random inputs ({reason})", last)

    def _turned(self, run: Run, sizes: Binding, choice: _Choice, first: Trial) -> tuple[_Choice, Trial]:
        """Masks the other way round, if that says something: ones may stand for what is hidden."""
        other = replace(choice, shown=False)
        try:
            feeds = self._made(sizes, other, SEEDS[0])
            trial = Trial(feeds, run(feeds), self._fixed)
        except (DataError, UsageError):
            return choice, first
        return (other, trial) if any(map(tells, trial.outputs.values())) else (choice, first)

    @property
    def _fixed(self) -> bool:
        return all(_is_settled(self.feeds.get(str(value.name))) for value in self._values())

    def _values(self) -> list[ir.Value]:
        return [value for value in self.graph.inputs if not value.is_initializer()]

    def _sizes(self) -> Iterator[Binding]:
        seen = []
        others = list(bindings(self.graph, self.shapes))
        told = [
            binding for binding in others if _named(binding)
        ]  # runtimes take wrong ones as buffers that are not full
        sums = [binding for binding in others if any(binding.ties.values())]
        for binding in itertools.chain(told, [self.start], sums, others):
            if binding.inputs not in seen:
                seen.append(binding.inputs)
                yield binding

    def _more(self, run: Run, sizes: Binding, choice: _Choice) -> list[Trial]:
        """The same with other values, and with other sizes, as far as the model runs on them."""
        trials = []
        for number, other in enumerate([sizes, *resized(self.graph, sizes, self.shapes)]):
            if number and any(np.prod(shape) > _MOST_ELEMENTS for shape in other.inputs.values()):
                continue
            if number or not self._fixed:
                try:
                    feeds = self._made(other, choice, SEEDS[1])
                    trials.append(Trial(feeds, run(feeds), self._fixed))
                except (DataError, UsageError):
                    continue
            if number:
                break
        return trials

    # --------------------------------------------------------------------------------------------------- values
    def _made(self, sizes: Binding, choice: _Choice, seed: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(seed)
        filled = {}
        for value in self._values():
            name = str(value.name)
            if name in self.feeds:
                dtype = np.dtype((value.dtype or ir.DataType.FLOAT).numpy())
                shape = sizes.inputs.get(name, np.shape(self.feeds[name]))
                filled[name] = feeding.fill(name, self.feeds[name], shape, dtype, generator)
        free = {name: shape for name, shape in sizes.inputs.items() if name not in self.feeds}
        high = dict.fromkeys(free, choice.limit)
        try:
            made = runtime.random_feeds(self.graph, shapes=free, seed=seed, high=high, skip=tuple(self.feeds))
        except UsageError as error:
            raise _Unmade(str(error)) from error
        if not choice.shown:
            made |= {name: np.zeros_like(array) for name, array in made.items() if self._is_switch(name, array)}
        counts = self._counts(sizes, choice.scheme)
        return {**made, **{name: np.full_like(made[name], count) for name, count in counts.items()}, **filled}

    @staticmethod
    def _is_switch(name: str, array: np.ndarray) -> bool:
        """Whether an input is made up of ones alone, for being a mask or of truth values."""
        return array.dtype == np.bool_ or runtime.is_mask(name)

    def _choices(self, sizes: Binding) -> Iterator[_Choice]:
        """Values to try: counts of positions where an input may hold one, then ever smaller whole numbers."""
        if self._counters(sizes):
            totals = _totals(self.graph, sizes)
            for limit, scheme in itertools.product(INTEGER_LIMITS[1:], range(len(totals) * len(_SHORT))):
                yield _Choice(limit, scheme)
        for limit in INTEGER_LIMITS:
            yield _Choice(limit)

    def _counters(self, sizes: Binding) -> list[ir.Value]:
        """Whole numbers, one or one a sample, that nobody gave."""
        return [
            value
            for value in self._values()
            if value.dtype in (ir.DataType.INT32, ir.DataType.INT64)
            and value.name not in self.feeds
            and not runtime.is_mask(str(value.name))
            and value.name in sizes.inputs
            and all(size == 1 for size in tuple(value.shape or ())[1:])
        ]

    def _counts(self, sizes: Binding, scheme: int | None) -> dict[str, int]:
        """What each counter holds."""
        if scheme is None:
            return {}
        total = _totals(self.graph, sizes)[scheme // len(_SHORT)]
        short = _SHORT[scheme % len(_SHORT)]
        return {str(v.name): total - (short if sizes.inputs[str(v.name)] else 0) for v in self._counters(sizes)}


def _is_settled(feed: Any) -> bool:
    """Whether a feed is the same however often it is made."""
    return feed is not None and not (isinstance(feed, str) and feed.startswith("range"))


def _named(binding: Binding) -> bool:
    """Whether the names of axes say that one is as long as two others together."""
    return any(
        "total" in total.lower() and any("past" in part.lower() for part in parts)
        for total, parts in binding.ties.items()
    )


_SHORT = (1, 0)
"""By how much the count of each sample falls short of that of all positions: onnxruntime names the last one."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """Of values: whole numbers below a limit, counts of positions by one of several schemes, and what masks are.

    Attributes:
        shown: masks and truth values are ones; else zeros.
    """

    limit: int
    scheme: int | None = None
    shown: bool = True


def _totals(graph: ir.Graph, sizes: Binding) -> list[int]:
    """How many positions there may be in all: of those kept and the new ones together."""
    lengths = open_lengths(graph, sizes)
    tied = [sizes.numbers[symbol] for symbol, parts in sizes.ties.items() if parts]
    return list(dict.fromkeys([*tied, *(left + right for left, right in itertools.combinations(lengths, 2))]))[:3]


class _Unmade(Exception):
    """An input of this type cannot be made up."""
