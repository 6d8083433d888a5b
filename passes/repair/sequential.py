"""Both networks side by side, stage by stage: units chosen by what readers really see, and every reader refitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group
from spa.analysis.neighbours import joined_behind, scaled_behind
from spa.analysis.plan import Plan
from spa.passes.choose.allocation import Curve
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.layers.statistics import collect
from spa.passes.repair.dense import Refitted, Session
from spa.passes.repair.streaming import Stream, Weights, cut
from spa.passes.secondorder import remove_units

MEASURED_ROWS = 2048


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What a repair did to one layer.

    Attributes:
        removed, width: elements of a row that went, and all.
        predicted, measured: share of the outputs' variance that is lost: by the moments that were fitted, and on
            samples held out; NaN where it was not measured. The variance is estimated on some rows, so that a predicted
            loss of next to nothing may come out below zero: it counts as zero.
        note: why the layer was not refitted, if it was not.
    """

    name: str
    removed: int
    width: int
    predicted: float
    measured: float
    note: str = ""


@dataclass(slots=True, eq=False)
class Repair:
    """The sequential pass.

    Attributes:
        removed: for each group (by name) the units that go.
        difference: of each output on held-out samples.
    """

    session: Session
    curves: Mapping[str, Curve]
    removed: dict[str, np.ndarray]
    reports: list[LayerReport] = field(default_factory=list)
    difference: dict[str, dict[str, float]] = field(default_factory=dict)

    def run(self) -> Plan:
        """Refit, in the network's weights; the plan with the units that were chosen on the way."""
        session, network = self.session, self.session.network
        layers = self.layers()
        for group in self.groups():
            if network.others[group.name]:
                network.erase_for_good(group, self.removed[group.name])
        batches = session.batches([layer.after for layer in layers])
        stages = cut(network.model, [layer.after for layer in layers], network.compared)
        with (
            Stream(stages, batches, threads=session.threads) as dense,
            Stream(stages, batches, base=dense, weights=network.weights, threads=session.threads) as pruned,
        ):
            for number in range(len(stages)):
                session.progress("repair", number / len(stages))
                last = number + 1 == len(stages) and not stages.targets[number]
                only = session.held_out() if last else None  # outputs are large, and compared on samples held out
                with session.step("run"):
                    there = set(dense.advance(only))
                    pruned.advance(only)
                self.stage([layer for layer in layers if layer.after in there], dense, pruned)
                dense.forget()
                pruned.forget()
            numbers = session.held_out()
            for at, value in enumerate(network.compared):
                ours, theirs = ([stream.value(value, n) for n in numbers] for stream in (pruned, dense))
                self.difference[str(value.name)] = session.difference(at, theirs, ours, [batches[n] for n in numbers])
        return Plan.of(network.groups, {name: units.tolist() for name, units in self.removed.items()})

    def measured_outputs(self, weights: Weights) -> dict[str, dict[str, float]]:
        """How far the outputs are off on held-out samples with some weights."""
        session = self.session
        batches = [session.batches([])[number] for number in session.held_out()]
        dense, pruned = (session.outputs(batches, used) for used in ({}, weights))
        names = [str(value.name) for value in session.network.compared]
        return {name: session.difference(at, dense[at], pruned[at], batches) for at, name in enumerate(names)}

    def stage(self, layers: Sequence[Layer], dense: Stream, pruned: Stream) -> None:
        """Choose and refit what is fed by the values that are there now."""
        session = self.session
        with session.step("statistics"):
            statistics = self.statistics(layers, dense, pruned)
        with session.step("select"):
            self.choose_again(layers, statistics)
        with session.step("refit"):
            found = session.at_once(lambda layer: self.refit(layer, statistics, dense, pruned), layers, layers)
            self.reports += [report for report in found if report is not None]

    def groups(self) -> Iterator[Group]:
        """The groups that are cut."""
        return (group for group in self.session.network.groups if group.name in self.removed)

    def layers(self) -> list[Layer]:
        """The layers to be refitted, in graph order."""
        network = self.session.network
        readers = {reader.layer for group in self.groups() for reader in network.readers[group.name]}
        return [
            layer
            for layer in network.layers
            if layer in readers
            or (self.session.preset.everything and self.session.baseline is None and _is_plain(layer))
        ]

    def statistics(self, layers: Sequence[Layer], dense: Stream, pruned: Stream) -> dict[Key, Statistics]:
        """What layers read, in the pruned network and in the dense one where that differs."""
        session, count = self.session, len(dense.batches)
        problems = [session.problem(layer) for layer in layers]
        now = [problem for problem in problems if problem.layer.mixing.steps is None]
        moved = [p for p in now if p.data in pruned.changed and p.data not in session.network.decided]
        same = [problem for problem in now if problem not in moved]
        if session.symmetric:
            same, moved = now, []
        again = {p.key: session.recurrent[p.key] for p in problems if p.layer.mixing.steps is not None}
        drift = self.drift(dense, pruned) if session.preset.drift else None
        threads = session.threads
        weigh = session.weigh
        rows: dict[str, Any] = {"weigh": weigh, "balance": session.balance(dense.batches[0]), "threads": threads}
        found = collect(same, count, dense.value, **rows) | again
        return found | collect(moved, count, dense.value, pruned.value, drift=drift, **rows)

    def choose_again(self, layers: Sequence[Layer], statistics: Mapping[Key, Statistics]) -> None:
        """Units of the groups whose readers are all here, from what they really read."""
        session = self.session

        def choose(group: Group) -> None:
            readers = session.network.readers[group.name]
            free = len(self.curves[group.name].order) == group.size - 1 and len(group.leaves) == 1
            free = free and bool(readers) and not session.network.others[group.name]
            if free and all(reader.layer in layers for reader in readers):
                consumers = [c for r in readers for c in session.consumers(r.layer, r.units, statistics)]
                count, swaps = len(self.removed[group.name]), session.preset.swap_rounds
                kept = remove_units(consumers, units=group.size, remove=count, swap_rounds=swaps).kept
                self.removed[group.name] = np.setdiff1d(np.arange(group.size), kept)

        if session.baseline is None:
            session.at_once(choose, list(self.groups()), layers)

    def refit(
        self, layer: Layer, statistics: Mapping[Key, Statistics], dense: Stream, pruned: Stream
    ) -> LayerReport | None:
        """Refit one layer, and say how well that went; None where there is nothing to make up for."""
        network = self.session.network
        gone = np.zeros((layer.block_count, layer.width), bool)
        for group in self.groups():
            for reader in network.readers[group.name]:
                if reader.layer is layer:
                    gone |= np.isin(reader.units, self.removed[group.name])
        if not gone.any() and (layer.data not in pruned.changed or self.session.baseline is not None):
            return None
        if layer.shared:
            new = self.unfitted(layer, gone, "its weight is used by several nodes")
        elif not statistics[self.session.problem(layer).key].seen:
            new = self.unfitted(layer, gone, "no sample reaches it")
        else:
            new = self.session.refit(layer, gone, statistics)
        network.put(network.weights, layer, new.matrix, new.bias)
        if not network.holds(layer):
            new = self.unfitted(layer, gone, "its new weights are too large for their type")
            network.put(network.weights, layer, new.matrix, new.bias)
        apart = layer.mixing.steps is not None or layer.data in network.decided
        measured = float("nan") if apart else self.measured(layer, new, dense, pruned)
        return LayerReport(layer.name, int(gone.sum()), gone.size, max(new.loss, 0.0), measured, new.note)

    def unfitted(self, layer: Layer, gone: np.ndarray, why: str) -> Refitted:
        """A layer as it was, without what is gone."""
        matrix = np.where(gone[..., None], 0.0, self.session.network.dense_matrix(layer))
        return Refitted(matrix, self.session.network.dense_bias(layer), float("nan"), f"left alone: {why}")

    def measured(self, layer: Layer, new: Refitted, dense: Stream, pruned: Stream) -> float:
        """Share of the variance of a layer's outputs that is lost, on rows of the last held-out batch."""
        network, number = self.session.network, self.session.held_out()[-1]
        data = dense.value(layer.data, number)
        weights = self.session.weigh(Problem(layer), number, data.shape)
        rows = np.arange(layer.row_count(data.shape)) if weights is None else np.flatnonzero(weights)
        positions = np.random.default_rng(0).choice(rows, min(len(rows), MEASURED_ROWS), replace=False)
        wanted = layer.rows(data, positions) @ network.dense_matrix(layer) + network.dense_bias(layer)[:, None]
        found = layer.rows(pruned.value(layer.data, number), positions) @ new.matrix + new.bias[:, None]
        scale = float(np.sum((wanted - wanted.mean(1, keepdims=True)) ** 2)) or 1.0
        return float(np.sum((wanted - found) ** 2)) / scale

    def drift(self, dense: Stream, pruned: Stream) -> Drift:
        """What the other branch of a residual connection is off by, for the layers whose result is added to it."""
        return Drift(self.session, dense, pruned)


@dataclass(frozen=True, slots=True)
class Drift:
    """Dense less pruned values of the branch that a layer's result is added to, in units of that result."""

    session: Session
    dense: Stream
    pruned: Stream

    def width(self, problem: Problem) -> int:
        """How many columns the drift of a problem has: its outputs, or none."""
        found = None if problem.coarse else self.junction(problem.layer)
        return 0 if found is None else problem.layer.output_width

    def rows(self, problem: Problem, number: int, positions: np.ndarray | None) -> np.ndarray:
        """(blocks, positions, outputs)"""
        found = self.junction(problem.layer)
        assert found is not None
        other, scale = found
        off = self.dense.value(other, number) - self.pruned.value(other, number)
        return problem.layer.output_rows(off * scale, positions)

    def junction(self, layer: Layer) -> tuple[ir.Value, np.ndarray] | None:
        """The other branch, and what one of its units is worth in the layer's result; None where there is none yet."""
        value, scale = layer.result, np.ones(())
        if layer.mixing.result_axes is None:
            return None
        if (found := scaled_behind(value)) is not None:
            factor, variance = (self.session.network.array(stored) for stored in (found.scale, found.variance))
            with np.errstate(divide="ignore"):
                inverse = np.sqrt(variance + found.epsilon) / factor
            rank = len(layer.mixing.result_axes)
            scale = np.where(np.isfinite(inverse), inverse, 0.0).reshape(-1, *[1] * (rank - 2)).astype(np.float32)
            value = found.node.outputs[0]
        other = joined_behind(value)
        if other is None or other not in self.pruned.changed or not self.dense.has(other):
            return None
        if other in self.session.network.decided:
            return None
        shapes = self.session.network.shapes.of
        return (other, scale) if shapes.get(other) == shapes.get(value) is not None else None


def _is_plain(layer: Layer) -> bool:
    """Whether refitting a layer for its own sake is worth it."""
    return layer.block_count == 1 and not layer.shared and layer.mixing.steps is None
