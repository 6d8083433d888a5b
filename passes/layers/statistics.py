"""Moments of the rows that mixing layers read, collected batch by batch from one stream or from two at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import onnx_ir as ir

from spa.executor import Threads, in_pairs
from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.layers.split import Split
from spa.passes.layers.workers import working_nbytes
from spa.passes.secondorder import Moments

MULTIPLE, LEAST_MULTIPLE, LEAST_ROWS = 30, 4, 4096
"""Rows that are enough: so many times the width of a row, at least that many times, and at least so many in all."""

ENOUGH_FLOPS = 3e11
"""Above this a Gram matrix of `MULTIPLE` times its width in rows is made of fewer."""

ENERGY_ROWS = 2048
"""On which the variance of outputs is measured where the moments are not of the dense network."""

SHARDS, SHARDS_NBYTES = 4, 1 << 27
"""Sums in which batches are added up at once, and what those beyond the first may take; rounding depends on neither the
threads nor the memory that there are.
"""

_Arrays = Mapping[ir.Value, tuple[np.ndarray, np.ndarray | None]]
Fetch = Callable[[ir.Value, int], np.ndarray]

Weigh = Callable[[Problem, int, "tuple[int, ...]"], "np.ndarray | None"]
"""(rows,) which rows of a batch count, from the problem, the batch's number and the data's shape; None: all."""

Balance = Callable[[Problem, np.ndarray], np.ndarray]
"""(rows,) how much each row of a batch counts, from the problem and the dense network's data."""

FAINTEST = 1e-9
"""Share of a batch's largest mean square below which a sample says nothing."""


class Drift(Protocol):
    """What the outputs of a layer should make up for, beside what its own input is off by."""

    def key(self, problem: Problem) -> Hashable | None:
        """Layers that read the same rows and have the same key have one drift; None: there is none."""

    def rows(self, problem: Problem, number: int, positions: np.ndarray | None) -> np.ndarray:
        """Of some rows of a batch, (blocks, positions, outputs)."""


def enough_rows(width: int) -> int:
    """How many rows are looked at; where there are more, so many of them are drawn."""
    return max(LEAST_ROWS, LEAST_MULTIPLE * width, min(MULTIPLE * width, int(ENOUGH_FLOPS / (4 * width * width))))


def collect(
    problems: Iterable[Problem],
    split: Split,
    dense: Fetch,
    pruned: Fetch | None = None,
    *,
    drift: Drift | None = None,
    weigh: Weigh | None = None,
    balance: Balance | None = None,
    count: int | None = None,
    threads: int | None = None,
    anywhere: bool = False,
) -> dict[Key, Statistics]:
    """Statistics of some problems, one for all that read the same rows.

    Args:
        split: which batches are fitted, and which are held out to judge fits.
        dense, pruned: a value of a batch in the dense and in the pruned network; without the second, of one network.
        drift: what outputs should make up for besides.
        weigh: which rows count.
        balance: how much each does; None: all as much.
        count: of the batches that there are, where the split has some of them only; rows are shared out among all.
        threads: how many problems are added to at once; by default one a core.
        anywhere: several threads can read values, in any order: batches are then added up in `SHARDS` sums at once.
    """
    alike: dict[Key, list[Problem]] = {}
    for problem in problems:
        alike.setdefault(problem.key, []).append(problem)
    made = partial(
        _Collector, count=count or len(split.seen), symmetric=pruned is None, drift=drift, weigh=weigh, balance=balance
    )
    if anywhere:
        makers = {key: partial(made, mine) for key, mine in alike.items()}
        return _in_shards(makers, split, dense, pruned, threads)
    collectors = {key: made(mine) for key, mine in alike.items()}
    inputs = dict.fromkeys(collector.problem.data for collector in collectors.values())
    widest = max((collector.problem.width for collector in collectors.values()), default=1)
    for number in split.seen:
        held_out = number in split.judging
        arrays = {data: (dense(data, number), pruned and pruned(data, number)) for data in inputs}

        def add(
            collector: _Collector, number: int = number, held_out: bool = held_out, arrays: _Arrays = arrays
        ) -> None:
            collector.add(number, *arrays[collector.problem.data], held_out)

        Threads(threads).map(add, collectors.values(), nbytes=working_nbytes(widest))
    return {key: collector.statistics() for key, collector in collectors.items()}


def _in_shards(
    made: Mapping[Key, Callable[[], _Collector]],
    split: Split,
    dense: Fetch,
    pruned: Fetch | None,
    threads: int | None,
) -> dict[Key, Statistics]:
    """Statistics whose batches are added up in several sums at once."""
    shards = [[make() for make in made.values()]]
    sums = SHARDS if (SHARDS - 1) * sum(collector.nbytes for collector in shards[0]) <= SHARDS_NBYTES else 1
    shards += [[make() for make in made.values()] for _ in range(sums - 1)]

    def add(piece: tuple[_Collector, list[int]]) -> None:
        collector, numbers = piece
        data = collector.problem.data
        for number in numbers:
            collector.add(number, dense(data, number), pruned and pruned(data, number), number in split.judging)

    parts = [numbers.tolist() for numbers in np.array_split(split.seen, sums)]
    pieces = [(collector, numbers) for shard, numbers in zip(shards, parts, strict=True) for collector in shard]
    widest = max((collector.problem.width for collector in shards[0]), default=1)
    Threads(threads).map(add, pieces, nbytes=working_nbytes(widest))
    return {
        key: in_pairs(alike, _Collector.joined).statistics()
        for key, alike in zip(made, zip(*shards, strict=True), strict=True)
    }


def balanced(problem: Problem, data: np.ndarray, samples: int) -> np.ndarray:
    """(rows,) one over the mean square of what each row's sample holds: no range of numbers drowns another.

    Args:
        data: what the layer reads, of that many samples; where they do not lie along the first axis, all count alike.
    """
    rows = problem.row_count(data.shape)
    apart = data.shape[0] == samples and rows % samples == 0
    squares = np.square(data.reshape(samples if apart else 1, -1), dtype=np.float32).mean(1, dtype=np.float64)
    largest = squares.max(initial=0.0)
    if not 0 < largest < np.inf:
        return np.ones(rows)
    said = squares > FAINTEST * largest
    return np.repeat(np.where(said, 1.0 / np.where(said, squares, 1.0), 0.0), rows // len(squares))


class _Collector:
    """Moments of the rows that some problems share, once for each drift that they have."""

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        count: int,
        symmetric: bool,
        drift: Drift | None,
        weigh: Weigh | None,
        balance: Balance | None,
    ) -> None:
        self.problems, self.problem, self.weigh, self.drift = problems, problems[0], weigh, drift
        self.balance = balance
        self.drifts = {problem.layer: None if drift is None else drift.key(problem) for problem in problems}
        problem = self.problem
        self.count = count
        self.share = -(-enough_rows(problem.width) // count)  # rows of a batch
        dense_width = None if symmetric else problem.width
        name = problem.layer.name

        def moments(drift_width: int) -> list[Moments]:
            return [
                Moments(problem.width, dense_width=dense_width, drift_width=drift_width, name=name)
                for _ in range(problem.layer.block_count)
            ]

        self.kinds: dict[Hashable | None, tuple[Problem, list[Moments], list[Moments]]] = {}
        for member in problems:
            drifting = self.drifts[member.layer]
            width = 0 if drifting is None else member.layer.output_width
            if drifting not in self.kinds:
                self.kinds[drifting] = (member, moments(width), moments(width))
        self.dense: list[np.ndarray] = []
        self.pruned: list[np.ndarray] = []

    @property
    def nbytes(self) -> int:
        """Of the sums."""
        return sum(moments.nbytes for _, *both in self.kinds.values() for some in both for moments in some)

    def joined(self, later: _Collector) -> _Collector:
        """This, with what another of the same problems has collected of later batches, which is not used any more."""
        for key, (_, *both) in self.kinds.items():
            for mine, theirs in zip(both, later.kinds[key][1:], strict=True):
                mine[:] = [first.taking(second) for first, second in zip(mine, theirs, strict=True)]
        self.dense += later.dense
        self.pruned += later.pruned
        return self

    def statistics(self) -> Statistics:
        """What was collected, ready to be read by several threads."""
        for _, fitted, held_out in self.kinds.values():
            for moments in (*fitted, *held_out):
                moments.settle()
        _, fitted, held_out = next(iter(self.kinds.values()))
        if not self.dense:
            return Statistics(fitted, held_out)
        dense, pruned = (np.concatenate(rows, axis=1) for rows in (self.dense, self.pruned))
        drifting = {layer: self.kinds[key][1:] for layer, key in self.drifts.items()}
        return Statistics(fitted, held_out, dense, pruned, drifting)

    def add(self, number: int, dense: np.ndarray, pruned: np.ndarray | None, held_out: bool) -> None:
        total = self.problem.row_count(dense.shape)
        weights = None if self.weigh is None else self.weigh(self.problem, number, dense.shape)
        positions = None if weights is None else np.flatnonzero(weights)
        count = total if positions is None else len(positions)
        if not count:
            return
        if count > self.share:  # the same rows of both networks, in any run
            drawn = np.random.default_rng(number).choice(count, self.share, replace=False)
            positions = drawn if positions is None else positions[drawn]
        rows = self.problem.rows(dense, positions)
        omega = None if self.balance is None else self.balance(self.problem, dense)
        if omega is not None and positions is not None:
            omega = omega[positions]
        if pruned is None:
            ((_, *into),) = self.kinds.values()
            for moments, block in zip(into[held_out], rows, strict=True):
                moments.update(block, weights=omega)
            return
        pruned_rows = self.problem.rows(pruned, positions)
        some = _some(rows.shape[1], max(1, ENERGY_ROWS // self.count), omega)
        self.dense.append(rows[:, some])
        self.pruned.append(pruned_rows[:, some])
        for key, (problem, *into) in self.kinds.items():
            off = None if key is None or self.drift is None else self.drift.rows(problem, number, positions)
            for b, moments in enumerate(into[held_out]):
                moments.update(pruned_rows[b], rows[b], drift=None if off is None else off[b], weights=omega)


def _some(rows: int, wanted: int, omega: np.ndarray | None) -> np.ndarray:
    """Numbers of about so many rows, drawn evenly: of their weights, where they have some."""
    if omega is None:
        return np.arange(0, rows, max(1, rows // wanted))
    reached = np.cumsum(omega) / np.sum(omega)
    return np.minimum(np.searchsorted(reached, (np.arange(min(rows, wanted)) + 0.5) / min(rows, wanted)), rows - 1)
