"""Both networks side by side, stage by stage: units chosen by what readers really see, and every reader refitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.executor import Threads
from spa.passes.choose.allocation import Curve
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Statistics
from spa.passes.layers.statistics import collect
from spa.passes.repair.affine import Affine, find_affines
from spa.passes.repair.affine import refit as refit_affine
from spa.passes.repair.draft import Draft
from spa.passes.repair.drift import Drift
from spa.passes.repair.fitting import Refitted, cut_only, in_turn, kept_units, read_by, refitted
from spa.passes.repair.gates import gate_of
from spa.passes.repair.measuring import lost_on_unseen
from spa.passes.repair.session import Session
from spa.passes.repair.sliced import Sliced
from spa.passes.repair.stages import cut
from spa.passes.repair.streaming import Stream

STATE = "repair"
"""In a journal: both streams, and what was refitted."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What a repair did to one layer.

    Attributes:
        removed, width: elements of a row that went, and all.
        predicted, measured: share of the outputs' variance that is lost: by the moments that were fitted, and on
            samples that no fit has seen, of the variance over all of these; NaN where it was not measured. The variance
            is estimated on some rows: a predicted loss of next to nothing may come out below zero, and counts as zero.
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
        draft: the weights of the pruned network.
        difference: of each output on samples that no fit has seen.
        ahead: statistics of the dense network, for what is not there yet when a weight has to be known.
        settled: weights that have run, and stay as they are.
        rescaled: how many scales behind norms were refitted.
    """

    session: Session
    curves: Mapping[str, Curve]
    removed: dict[str, np.ndarray]
    draft: Draft = field(default_factory=Draft)
    reports: list[LayerReport] = field(default_factory=list)
    difference: dict[str, dict[str, float]] = field(default_factory=dict)
    ahead: dict[Key, Statistics] = field(default_factory=dict)
    settled: set[ir.Value] = field(default_factory=set)
    rescaled: int = 0

    def run(self) -> Plan:
        """Refit, in the network's weights; the plan with the units that were chosen on the way."""
        session, network = self.session, self.session.network
        layers = self.layers()
        self.ahead = self.read_ahead(layers)
        widths = [group for group in self.groups() if group.branch is None]
        apart = {group.name: self.removed[group.name] for group in widths if not network.only_layers_read(group)}
        gone = [group.branch for group in self.groups() if group.branch is not None]
        self.draft.weights |= {gate_of(branch): np.zeros(()) for branch in gone}
        if apart:
            self.draft.sliced = Sliced.of(network, apart)
        batches = session.batches
        affines = find_affines(network, self.groups()) if session.baseline is None else []
        targets = [*(layer.after for layer in layers), *(affine.result for affine in affines)]
        stages = cut(network.model, targets, network.compared)
        with (
            Stream(stages, batches, memory=session.memory, threads=session.threads) as dense,
            Stream(
                stages,
                batches,
                base=dense,
                weights=self.draft.weights,
                sliced=self.draft.sliced,
                memory=session.memory,
                threads=session.threads,
            ) as pruned,
        ):
            self.go_on(dense, pruned)
            for number in range(dense.done, len(stages)):
                session.progress("repair", number / len(stages))
                last = number + 1 == len(stages) and not stages.targets[number]
                only = session.split.unseen if last else None  # outputs are large, and compared on these alone
                with session.step("run"):
                    there = set(dense.advance(only))
                    pruned.advance(only)
                self.rescaled += 0 if last else self.rescale([a for a in affines if a.result in there], dense, pruned)
                self.stage([layer for layer in layers if layer.after in there], dense, pruned)
                dense.forget()
                pruned.forget()
                if session.journal is not None:
                    session.journal.save()
            if self.rescaled:
                session.notes.append(
                    f"{self.rescaled} of {len(affines)} scales behind norms of hidden widths were refitted"
                )
            numbers = session.split.unseen
            for at, value in enumerate(network.compared):
                ours, theirs = ([stream.value(value, n) for n in numbers] for stream in (pruned, dense))
                self.difference[str(value.name)] = session.difference(at, theirs, ours, [batches[n] for n in numbers])
        return Plan.of(network.groups, {name: units.tolist() for name, units in self.removed.items()})

    def go_on(self, dense: Stream, pruned: Stream) -> None:
        """From where an earlier run was, if there was one; from now on the journal knows where this one is."""
        journal = self.session.journal
        if journal is None:
            return
        if STATE in journal.state:
            state = journal.state[STATE]
            self.removed, self.reports, self.settled = state["removed"], state["reports"], state["settled"]
            self.rescaled = state["rescaled"]
            weights = {name: journal.array(laid, np.dtype(np.float64)) for name, laid in state["weights"].items()}
            self.draft.weights.clear()  # the streams read from it
            self.draft.weights.update(weights)
            dense.restore(state["dense"])
            pruned.restore(state["pruned"])
        journal.state[STATE] = lambda: {
            "removed": self.removed, "reports": self.reports, "settled": self.settled, "rescaled": self.rescaled,
            "weights": {name: journal.laid(array) for name, array in self.draft.weights.items()},
            "dense": dense.state(), "pruned": pruned.state(),
        }  # fmt: skip

    def read_ahead(self, layers: Sequence[Layer]) -> dict[Key, Statistics]:
        """Dense statistics of layers that read their own node's result, and of those that share a weight."""
        uses = self.session.network.uses
        early = [layer for layer in layers if layer.mixing.steps is not None or len(uses[layer]) > 1]
        problems = [self.session.problem(layer) for layer in early]
        if not problems:
            return {}
        with self.session.step("statistics"):
            return self.session.dense_statistics(problems)

    def measured_outputs(self, draft: Draft, numbers: Sequence[int]) -> dict[str, dict[str, float]]:
        """How far the outputs are off on batches of these numbers as the network is drafted."""
        session = self.session
        batches = [session.batches[number] for number in numbers]
        dense, pruned = (session.outputs(batches, used) for used in (None, draft))
        names = [str(value.name) for value in session.network.compared]
        return {name: session.difference(at, dense[at], pruned[at], batches) for at, name in enumerate(names)}

    def rescale(self, affines: Sequence[Affine], dense: Stream, pruned: Stream) -> int:
        """Refit the scales and shifts of values that are there now; how many it helped."""
        split = self.session.split
        numbers = {"fitted": split.fitted, "held_out": split.judges}
        return sum(refit_affine(affine, dense, pruned, self.draft, **numbers) for affine in affines)

    def stage(self, layers: Sequence[Layer], dense: Stream, pruned: Stream) -> None:
        """Choose and refit what is fed by the values that are there now."""
        session = self.session
        with session.step("statistics"):
            statistics = self.statistics(layers, dense, pruned)
        with session.step("select"):
            self.choose_again(layers, statistics)
        with session.step("refit"):
            for part in in_turn(session.network, layers):
                self.reports += self.refit(part, statistics, dense, pruned)

    def groups(self) -> Iterator[Group]:
        """The groups that are cut."""
        return (group for group in self.session.network.groups if group.name in self.removed)

    def layers(self) -> list[Layer]:
        """The layers to be refitted, in graph order."""
        network = self.session.network
        readers = {reader.layer for group in self.groups() for reader in network.readers[group.name]}
        inside = {node for group in self.groups() if group.branch is not None for node in group.branch.nodes}
        return [
            layer
            for layer in network.layers
            if layer.node not in inside
            and (
                layer in readers
                or (self.session.preset.everything and self.session.baseline is None and _is_plain(layer))
            )
        ]

    def statistics(self, layers: Sequence[Layer], dense: Stream, pruned: Stream) -> dict[Key, Statistics]:
        """What layers read, in the pruned network and in the dense one where that differs."""
        session, split = self.session, self.session.split
        problems = [session.problem(layer) for layer in layers]
        now = [problem for problem in problems if problem.layer.mixing.steps is None]
        moved = [p for p in now if p.data in pruned.changed and p.data not in session.network.decided]
        same = [problem for problem in now if problem not in moved]
        if session.symmetric:
            same, moved = now, []
        drift = Drift(session, self.draft, dense, pruned) if session.preset.drift else None
        rows: dict[str, Any] = {
            "weigh": session.weigh, "balance": session.balance(dense.batches[0]), "threads": session.threads,
            "anywhere": True,
        }  # fmt: skip
        collected = collect(same, split, dense.value, **rows)
        return self.ahead | collected | collect(moved, split, dense.value, pruned.value, drift=drift, **rows)

    def choose_again(self, layers: Sequence[Layer], statistics: Mapping[Key, Statistics]) -> None:
        """Units of the groups whose readers are all here, from what they really read."""
        session, network = self.session, self.session.network
        if session.baseline is not None:
            return
        asked = []
        for group in self.groups():
            readers = [reader.layer for reader in network.readers[group.name]]
            free = len(self.curves[group.name].order) == group.size - 1 and len(group.leaves) == 1
            free = free and network.only_layers_read(group)
            if free and all(layer in layers for layer in readers):
                asked.append((group, read_by(session, readers, statistics), len(self.removed[group.name])))
        for (group, *_), kept in zip(asked, session.each(kept_units, asked, layers), strict=True):
            self.removed[group.name] = np.setdiff1d(np.arange(group.size), kept)

    def refit(
        self, part: Sequence[Sequence[Layer]], statistics: Mapping[Key, Statistics], dense: Stream, pruned: Stream
    ) -> list[LayerReport]:
        """Refit some weights, each in those of its uses that are here, and say how well that went.

        Nothing is done where there is nothing to make up for.
        """
        session = self.session
        chosen = [(uses, self.gone(uses[0])) for uses in part]
        chosen = [(uses, gone) for uses, gone in chosen if gone.any() or self.moved(uses, pruned)]
        reasons = [self.left_alone(uses, gone, statistics) for uses, gone in chosen]
        self.settled.update(uses[0].weight for uses in part)
        asked = [
            (uses[0], gone, read_by(session, uses[:1], statistics))
            for (uses, gone), reason in zip(chosen, reasons, strict=True)
            if not reason
        ]
        layers = [layer for uses, _ in chosen for layer in uses]
        solved = iter(session.each(refitted, asked, layers))
        new = [
            self.cut_only(uses, gone, statistics, reason) if reason else next(solved)
            for (uses, gone), reason in zip(chosen, reasons, strict=True)
        ]

        # One by one: weights may have a bias in common, of which each takes a part (W and R of a GRU).
        taken = [self.taken(uses, gone, refit, statistics) for (uses, gone), refit in zip(chosen, new, strict=True)]
        judged = [(layer, gone, refit) for (uses, gone), refit in zip(chosen, taken, strict=True) for layer in uses]
        return Threads(session.threads).map(lambda item: self.report(*item, dense, pruned), judged)

    def moved(self, uses: Sequence[Layer], pruned: Stream) -> bool:
        """Whether what some layers read has changed, so that a refit has something to make up for."""
        return self.session.baseline is None and any(layer.data in pruned.changed for layer in uses)

    def left_alone(self, uses: Sequence[Layer], gone: np.ndarray, statistics: Mapping[Key, Statistics]) -> str:
        """Why a weight is not refitted in its uses that are here; empty: it is."""
        session, first = self.session, uses[0]
        if not all(statistics[session.problem(layer).key].seen for layer in uses):
            return "left alone: no sample reaches it"
        if not session.network.uses[first]:
            return "left alone: its weight is used by other nodes too"
        if first.weight in self.settled and first.shared:
            return "bias only: its weight was fitted where it was used first"
        if first.shared and not gone.any():
            return "bias only: its weight is used where nothing has changed too"
        return ""

    def taken(
        self, uses: Sequence[Layer], gone: np.ndarray, new: Refitted, statistics: Mapping[Key, Statistics]
    ) -> Refitted:
        """A refit that the draft has taken, or what it has instead."""
        new.put(self.draft)
        if not all(map(self.draft.holds, uses)):
            self.draft.weights.pop(str(uses[0].weight.name))
            new = self.cut_only(uses, gone, statistics, "left alone: its new weights are too large for their type")
            new.put(self.draft)
        return new

    def gone(self, layer: Layer) -> np.ndarray:
        """(blocks, width) which elements of a layer's rows go."""
        gone = np.zeros((layer.block_count, layer.width), bool)
        for group in self.groups():
            for reader in self.session.network.readers[group.name]:
                if reader.layer is layer:
                    gone |= np.isin(reader.units, self.removed[group.name])
        return gone

    def cut_only(
        self, uses: Sequence[Layer], gone: np.ndarray, statistics: Mapping[Key, Statistics], why: str
    ) -> Refitted:
        """A weight that is not refitted."""
        return cut_only(self.session, uses, gone, statistics, self.draft, why)

    def report(self, layer: Layer, gone: np.ndarray, new: Refitted, dense: Stream, pruned: Stream) -> LayerReport:
        """What was done to a layer, and what that loses on samples that no fit has seen."""
        apart = layer.mixing.steps is not None or layer.data in self.session.network.decided
        measured = float("nan") if apart else lost_on_unseen(self.session, layer, new, dense, pruned)
        return LayerReport(layer.name, int(gone.sum()), gone.size, max(new.loss, 0.0), measured, new.note)


def _is_plain(layer: Layer) -> bool:
    """Whether refitting a layer for its own sake is worth it."""
    return layer.block_count == 1 and layer.mixing.steps is None
