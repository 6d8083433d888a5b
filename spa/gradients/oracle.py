"""The oracle: what the loss really is without each unit, for as long as there is time.

A unit is gone when all of its stored numbers are read as zero. Where not every unit can be measured, those that are lie
evenly along what a Taylor score foretells, and the others are read off between them (`numpy.interp`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spa.analysis.group import Group, Slice
from spa.gradients.losses import Distance
from spa.gradients.networks import Network
from spa.gradients.spending import Spend
from spa.gradients.sums import Pieces
from spa.passes.choose.importance.gather import Scores

LEAST = 3
"""Units of a group that are measured at least."""

TRIED = 2
"""Runs that are timed before the rest is planned."""


def oracle(
    network: Network,
    groups: Sequence[Group],
    pieces: Pieces,
    foretold: Callable[[], Scores],
    budget: Spend,
    progress: Callable[[float], None],
) -> tuple[Scores, str]:
    """For each group (units,) how much the loss grows without a unit, and what was measured, in words.

    Args:
        foretold: scores by which the units that are measured are chosen, where not all can be.
        budget: a time, or a number of runs; a run is one batch through the network.
    """
    start = time.perf_counter()
    batches = list(network.batches())
    with torch.no_grad():
        measure = _Measure(network, batches)
        begun = time.perf_counter()
        for number in range(TRIED):
            measure(number % len(batches))
        pace = (time.perf_counter() - begun) / TRIED
    units = sum(group.size for group in groups)
    left = budget.seconds and max(budget.seconds - (time.perf_counter() - start), 0.0)
    runs = int(budget.amount if left is None else left / max(pace, 1e-9))
    used = np.linspace(0, len(batches) - 1, max(1, min(len(batches), runs // max(units, 1)))).round().astype(int)
    chosen = [np.arange(group.size) for group in groups]
    if runs < units:
        guess = foretold()
        share = runs / max(units, 1)
        chosen = [_evenly(scores, max(LEAST, int(share * len(scores)))) for scores in guess]
    results, done, all_chosen = [], 0, sum(map(len, chosen))
    for at, (group, mine) in enumerate(zip(groups, pieces, strict=True)):
        scores = np.zeros(group.size)
        for unit in chosen[at]:
            with torch.no_grad(), _without(network, mine, int(unit)):
                scores[unit] = np.mean([measure(number) - measure.dense[number] for number in used])
            done += 1
            progress(done / all_chosen)
        results.append(scores if len(chosen[at]) == group.size else _between(scores, chosen[at], guess[at]))
    said = f"oracle: {all_chosen} of {units} units measured, each on {len(used)} of {len(batches)} batches"
    return results, said


def _evenly(scores: np.ndarray, count: int) -> np.ndarray:
    """Units whose scores lie evenly in the order of all, the least and the largest among them."""
    order = np.argsort(scores, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


def _between(measured: np.ndarray, chosen: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """(units,) what was measured, and for the others what lies between their neighbours in the order foretold."""
    rank = np.argsort(np.argsort(guess, kind="stable"), kind="stable")
    result = np.interp(rank, rank[chosen], measured[chosen])
    result[chosen] = measured[chosen]
    return result


class _Measure:
    """The loss on a batch: that of the network, or without one the distance from its own outputs as they were."""

    def __init__(self, network: Network, batches: Sequence[Any]) -> None:
        self.network, self.batches = network, batches
        self.distance = [Distance.of(network.tensors(network.outputs(b))) for b in batches] if network.drawn else None
        self.dense = [self(number) for number in range(len(batches))]

    def __call__(self, number: int) -> float:
        outputs = self.network.outputs(self.batches[number])
        if self.distance is not None:
            value = float(self.distance[number](self.network.tensors(outputs)))
        else:
            value = float(self.network.loss(outputs, self.batches[number]))
        return value if np.isfinite(value) else float(np.finfo(np.float32).max)


@contextmanager
def _without(network: Network, pieces: Sequence[Slice], unit: int) -> Iterator[None]:
    """The network while all stored numbers of a unit are zero."""
    kept: list[tuple[Tensor, int, Tensor, Tensor]] = []
    for piece in pieces:
        tensor = network.weights[piece.value]
        where = torch.from_numpy(np.flatnonzero(piece.unit_of == unit)).to(tensor.device)
        kept.append((tensor, piece.axis, where, tensor.index_select(piece.axis, where).clone()))
        tensor.index_fill_(piece.axis, where, 0.0)
    try:
        yield
    finally:
        for tensor, axis, where, numbers in reversed(kept):
            tensor.index_copy_(axis, where, numbers)
