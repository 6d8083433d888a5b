"""Weights refitted: the least-squares problem of each, for all the layers that use it, and what solves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from spa.analysis.group import Group
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Statistics, joined
from spa.passes.repair.draft import Draft
from spa.passes.repair.network import Network
from spa.passes.repair.packed import of_few_bits
from spa.passes.repair.regrid import regridded
from spa.passes.repair.session import Session
from spa.passes.secondorder import Consumer, refit, remove_units


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """A new weight (blocks, width, outputs), and the bias (blocks, outputs) of each layer that uses it.

    Attributes:
        loss: share of the outputs' variance that is lost, by the moments that were fitted; NaN without a fit.
        note: why there was no refit, if there was none.
    """

    matrix: np.ndarray
    biases: Mapping[Layer, np.ndarray]
    loss: float
    note: str = ""

    def put(self, draft: Draft) -> None:
        """Into the draft."""
        for layer, bias in self.biases.items():
            draft.put(layer, self.matrix, bias)


def first_uses(network: Network, layers: Iterable[Layer]) -> list[Layer]:
    """Of layers that share a weight the first."""
    first: dict[Layer, None] = {}
    for layer in layers:
        if not any(use in first for use in network.uses[layer]):
            first[layer] = None
    return list(first)


def consumers(
    session: Session, layer: Layer, units: np.ndarray, statistics: Mapping[Key, Statistics]
) -> list[Consumer]:
    """The weight of a layer as least-squares problems, all its uses together; `units` as those of `Reader`."""
    problem, uses = session.problem(layer), session.network.uses[layer]
    matrix, bias = session.network.dense_matrix(layer), session.network.dense_bias(layer)
    read = statistics[problem.key]
    if len(uses) > 1:
        read = joined([(use, statistics[session.problem(use).key]) for use in uses])
    prior = session.prior(problem)
    return problem.consumers(read, matrix, bias, problem.units(units), session.preset.drift, prior)


def read_by(session: Session, layers: Iterable[Layer], statistics: Mapping[Key, Statistics]) -> dict[Key, Statistics]:
    """Of statistics those that refits of some layers look at: of all uses of their weights, as far as known."""
    network = session.network
    keys = (session.problem(use).key for layer in layers for use in (layer, *network.uses[layer]))
    return {key: statistics[key] for key in dict.fromkeys(keys) if key in statistics}


def kept_units(session: Session, group: Group, statistics: Mapping[Key, Statistics], count: int) -> np.ndarray:
    """The units of a group that stay when so many go, by what its readers lose."""
    units = {reader.layer: reader.units for reader in session.network.readers[group.name]}
    layers = first_uses(session.network, units)
    problems = [each for layer in layers for each in consumers(session, layer, units[layer], statistics)]
    rounds = session.preset.swap_rounds
    return remove_units(problems, units=group.size, remove=count, swap_rounds=rounds, judged=False).kept


def refitted(
    session: Session,
    layer: Layer,
    gone: np.ndarray,
    statistics: Mapping[Key, Statistics],
    *,
    pool: bool = True,
    choose: bool = True,
) -> Refitted:
    """The weight of a layer, and the biases of all its uses, when elements of rows are `gone`, (blocks, width).

    Args:
        pool: whether samples held out are fitted too, once they have had their say, and outputs widened.
        choose: whether samples held out choose the damping.
    """
    problems = consumers(session, layer, np.where(gone, 0, -1), statistics)
    spread = session.preset.spread if pool else 0.0
    ours = partial(refit, pool=pool and session.split.pools, spread=spread, threads=session.threads)
    repair = ours if session.baseline is None else session.baseline.repair
    if not choose:
        problems = [replace(consumer, held_out=None) for consumer in problems]
    fits = [repair(consumer, np.flatnonzero(consumer.unit_of_row < 0)) for consumer in problems]
    network = session.network
    stored = of_few_bits(network.model).get(str(layer.weight.name))
    if stored is not None and pool and session.baseline is None and not session.problem(layer).coarse:
        fits = [
            regridded(fit, consumer, stored, pool=session.split.pools)
            for fit, consumer in zip(fits, problems, strict=True)
        ]
    del problems  # each holds the dense weight
    reasons = [fit.reason for fit in fits if fit.reason]
    loss = float(np.mean([fit.loss for fit in fits]))
    matrix, bias = session.problem(layer).assembled(
        fits, network.dense_bias(layer), lambda: network.dense_matrix(layer)
    )
    uses = session.network.uses[layer]
    biases = {layer: bias} if len(uses) == 1 else with_biases(session, uses, matrix, statistics)
    return Refitted(matrix, biases, loss, reasons[0] if reasons else "")


def with_biases(
    session: Session, layers: Sequence[Layer], matrix: np.ndarray, statistics: Mapping[Key, Statistics]
) -> dict[Layer, np.ndarray]:
    """Biases that keep the means of the layers' outputs beside a new weight; their own where nothing is known."""
    biases = {}
    for layer in layers:
        problem, bias = session.problem(layer), session.network.dense_bias(layer)
        read = statistics.get(problem.key)
        if read is not None and read.seen and session.baseline is None:
            dense = session.network.dense_matrix(layer)
            bias = problem.bias_for(read, matrix, dense, bias, session.preset.drift)
        biases[layer] = bias
    return biases


def cut_only(
    session: Session,
    uses: Sequence[Layer],
    gone: np.ndarray,
    statistics: Mapping[Key, Statistics],
    draft: Draft,
    why: str = "",
) -> Refitted:
    """Layers with the weight of the draft but for what is gone, and biases that keep the means of their outputs."""
    matrix = np.where(gone[..., None], 0.0, uses[0].matrix(draft.array(uses[0].weight)))
    return Refitted(matrix, with_biases(session, uses, matrix, statistics), float("nan"), why)


def in_turn(network: Network, layers: Sequence[Layer]) -> Iterator[list[list[Layer]]]:
    """The layers, those together that are one weight in one form; other forms of a weight come one after another."""
    firsts = first_uses(network, layers)
    waiting = [[layer for layer in layers if layer is first or layer in network.uses[first]] for first in firsts]
    while waiting:
        now = {uses[0].weight: uses for uses in reversed(waiting)}
        yield [uses for uses in waiting if now[uses[0].weight] is uses]
        waiting = [uses for uses in waiting if now[uses[0].weight] is not uses]
