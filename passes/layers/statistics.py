"""Moments of the rows that mixing layers read, collected batch by batch from one stream or from two at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.layers.workers import at_once, each
from spa.passes.secondorder import Moments, is_held_out

MULTIPLE, LEAST_MULTIPLE, LEAST_ROWS = 30, 4, 4096
"""Rows that are enough: so many times the width of a row, at least that many times, and at least so many in all."""

ENOUGH_FLOPS = 3e11
"""Above this a Gram matrix of `MULTIPLE` times its width in rows is made of fewer."""

ENERGY_ROWS = 2048
"""On which the variance of outputs is measured where the moments are not of the dense network."""

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

    def width(self, problem: Problem) -> int:
        """Number of outputs; 0: there is no drift."""

    def rows(self, problem: Problem, number: int, positions: np.ndarray | None) -> np.ndarray:
        """Of some rows of a batch, (blocks, positions, outputs)."""


def enough_rows(width: int) -> int:
    """How many rows are looked at; where there are more, so many of them are drawn."""
    return max(LEAST_ROWS, LEAST_MULTIPLE * width, min(MULTIPLE * width, int(ENOUGH_FLOPS / (4 * width * width))))


def collect(
    problems: Iterable[Problem],
    count: int,
    dense: Fetch,
    pruned: Fetch | None = None,
    *,
    drift: Drift | None = None,
    weigh: Weigh | None = None,
    balance: Balance | None = None,
    threads: int | None = None,
) -> dict[Key, Statistics]:
    """Statistics of some problems, one for all that read the same rows.

    Args:
        count: how many batches there are; the last of every six is held out, of fewer the last.
        dense, pruned: a value of a batch in the dense and in the pruned network; without the second, of one network.
        drift: what outputs should make up for besides.
        weigh: which rows count.
        balance: how much each does; None: all as much.
        threads: how many problems are added to at once; by default one a core.
    """
    options: dict[str, Any] = {"symmetric": pruned is None, "drift": drift, "weigh": weigh, "balance": balance}
    found = {p.key: _Collector(p, count, **options) for p in problems}
    inputs = dict.fromkeys(collector.problem.data for collector in found.values())
    workers = at_once(max((collector.problem.width for collector in found.values()), default=1), threads)
    for number in range(count):
        held_out = count > 1 and is_held_out(number, every=min(6, count))
        arrays = {data: (dense(data, number), pruned and pruned(data, number)) for data in inputs}

        def add(one: _Collector, number: int = number, held_out: bool = held_out, arrays: _Arrays = arrays) -> None:
            one.add(number, *arrays[one.problem.data], held_out)

        each(add, found.values(), workers=workers)
    return {key: collector.statistics() for key, collector in found.items()}


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
    def __init__(
        self,
        problem: Problem,
        count: int,
        *,
        symmetric: bool,
        drift: Drift | None,
        weigh: Weigh | None,
        balance: Balance | None,
    ) -> None:
        self.problem, self.weigh, self.balance = problem, weigh, balance
        self.drift = drift if drift is not None and drift.width(problem) else None
        drift_width = problem.layer.output_width if self.drift is not None else 0
        self.count = count
        self.share = -(-enough_rows(problem.width) // count)  # rows of a batch
        dense_width = None if symmetric else problem.width
        name = problem.layer.name

        def moments() -> list[Moments]:
            return [
                Moments(problem.width, dense_width=dense_width, drift_width=drift_width, name=name)
                for _ in range(problem.layer.block_count)
            ]

        self.fitted, self.held_out = moments(), moments()
        self.dense: list[np.ndarray] = []
        self.pruned: list[np.ndarray] = []

    def statistics(self) -> Statistics:
        """What was collected, ready to be read by several threads."""
        for moments in (*self.fitted, *self.held_out):
            moments.settle()
        if not self.dense:
            return Statistics(self.fitted, self.held_out)
        dense, pruned = (np.concatenate(rows, axis=1) for rows in (self.dense, self.pruned))
        return Statistics(self.fitted, self.held_out, dense, pruned)

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
        into = self.held_out if held_out else self.fitted
        if pruned is None:
            for moments, block in zip(into, rows, strict=True):
                moments.update(block, weights=omega)
            return
        found = self.problem.rows(pruned, positions)
        some = _some(rows.shape[1], max(1, ENERGY_ROWS // self.count), omega)
        self.dense.append(rows[:, some])
        self.pruned.append(found[:, some])
        if self.drift is None:
            for moments, block, other in zip(into, rows, found, strict=True):
                moments.update(other, block, weights=omega)
            return
        off = self.drift.rows(self.problem, number, positions)
        for moments, block, other, missing in zip(into, rows, found, off, strict=True):
            moments.update(other, block, drift=missing, weights=omega)


def _some(rows: int, wanted: int, omega: np.ndarray | None) -> np.ndarray:
    """Numbers of about so many rows, drawn evenly: of their weights, where they have some."""
    if omega is None:
        return np.arange(0, rows, max(1, rows // wanted))
    reached = np.cumsum(omega) / np.sum(omega)
    return np.minimum(np.searchsorted(reached, (np.arange(min(rows, wanted)) + 0.5) / min(rows, wanted)), rows - 1)
