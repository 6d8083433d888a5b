"""What the outputs lose when one group does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from spa import runtime
from spa.analysis.group import Group
from spa.executor import Threads
from spa.passes.choose.allocation import Curve, through
from spa.passes.layers.problems import Key, Statistics
from spa.passes.layers.workers import working_nbytes
from spa.passes.repair.difference import unit_of_logits
from spa.passes.repair.draft import Draft
from spa.passes.repair.fitting import cut_only, first_uses, refitted
from spa.passes.repair.gates import gate_of
from spa.passes.repair.pieces import Batch
from spa.passes.repair.session import Session
from spa.passes.repair.sliced import Sliced
from spa.passes.repair.stages import cut
from spa.passes.repair.streaming import Stream
from spa.passes.secondorder.damping import few_rows
from spa.presets import Preset

FAR = (0.5, 0.8)
"""Shares of a group beyond the ratio at which the outputs are measured too: an allocation may go that far."""

LEVELS, LEAST_PROBES = 4, 4
"""Cuts of a group at which it is measured, and samples below which there are fewer of them."""


def affordable(flops: float, groups: int, preset: Preset) -> tuple[int, int]:
    """(samples, levels) on which each group is measured: fewer samples, then fewer levels, for large models."""
    preset = preset if preset.probes else replace(preset, probes=LEAST_PROBES)
    most = preset.probe_flops / max(flops * max(groups, 1), 1.0)
    levels = int(np.clip(most / LEAST_PROBES, 1, LEVELS))
    return int(np.clip(most / levels, 1, preset.probes)), levels


def spacing(flops: float, groups: int, samples: int, preset: Preset) -> int:
    """Of groups that are alike one in so many is measured, so that one sample each costs no more than a run of all.

    Behind a group lies half of the network, as a mean.

    Args:
        flops: of one sample.
        samples: that there are.
    """
    return max(1, ceil(0.5 * groups * flops / max(preset.probe_flops, samples * flops, 1.0)))


def shares_of(ratios: Sequence[float], levels: int) -> list[float]:
    """Shares of a group at which it is measured.

    For one ratio `levels` of them: more than it, it, and less, in the order in which they matter; for several one more,
    evenly from the smallest to the furthest.
    """
    if len(ratios) == 1:
        (ratio,) = ratios
        near, far = ([share] if share > ratio else [] for share in FAR)
        return [*near, ratio, *far, 0.5 * ratio][:levels]
    least, most = min(ratios), max(FAR[-1], *ratios)
    return [float(share) for share in np.linspace(least, most, levels + 1)]


def scaled_by(curve: Curve, measured: Mapping[int, float]) -> Curve:
    """A curve on the scale of what was measured, by count of units that go."""
    losses = [float(curve.losses[count]) for count in measured]
    return Curve(curve.group, curve.order, curve.losses, through(losses, list(measured.values())))


class Probe:
    """What the outputs lose when one group does, measured on samples held out.

    The dense network runs once, as far as the group that is measured; what comes behind runs for every measurement.

    Args:
        most: samples at most, of all that there are, for what is measured with nothing refitted, `runs` times.

    Attributes:
        batches: that the outputs are measured on.
        levels: cuts of each group that is measured.
        every: one in so many of groups that are alike is.
    """

    def __init__(self, session: Session, *, most: int | None = None, runs: int = 0) -> None:
        self.session, self.network = session, session.network
        held_out = [session.batches[number] for number in session.split.judges]
        groups = [group for group in session.network.groups if group.branch is None]
        probes, self.levels = affordable(self.flops(held_out[0]), len(groups), session.preset)
        self.every = spacing(self.flops(held_out[0]), len(groups), len(session.data), session.preset)
        if most is not None:  # nothing is fitted, so that every sample may tell
            held_out = list(session.batches)
            paid = session.preset.probe_flops / max(self.flops(held_out[0]) * max(runs, 1), 1.0)
            probes = int(np.clip(paid, LEAST_PROBES, most))
        held_out = held_out[: -(-probes // session.data.count(held_out[0]))]
        self.batches: Sequence[Batch] = [session.data.beginning(batch, probes) for batch in held_out]
        if session.data.batch_size is not None:
            self.batches = held_out
        self._dense_outputs: list[list[np.ndarray]] | None = None
        readers = (reader for of_group in session.network.readers.values() for reader in of_group)
        targets = dict.fromkeys(reader.layer.after for reader in readers)
        if session.network.gates:
            targets |= dict.fromkeys(branch.value for branch in session.network.coupling.branches)
        self.stages = cut(session.network.model, targets, session.network.compared)
        self.stream = self._dense()

    @property
    def dense(self) -> Sequence[Sequence[np.ndarray]]:
        """Each value that is compared in the dense network, batch by batch."""
        if self._dense_outputs is None:
            self._dense_outputs = self.session.outputs(self.batches)
        return self._dense_outputs

    @property
    def threads(self) -> Threads:
        """In which several cuts run at once, where all of them fit into memory."""
        many = self.session.memory.holds(self.network.model) and not runtime.has_cuda()
        return Threads(self.session.threads if many else 1)

    @classmethod
    def kept(cls, session: Session, *, most: int | None = None, runs: int = 0) -> Probe:
        """The probe of a session, made when it is first asked for, until it is dropped."""
        return session.once(f"probe {most} {runs}", lambda: cls(session, most=most, runs=runs))

    @staticmethod
    def drop(session: Session) -> None:
        """Close the probes that a session keeps."""
        for name in [name for name in session.known if name.startswith("probe ")]:
            session.known.pop(name).close()

    def close(self) -> None:
        """Forget what waits to be read."""
        self.stream.close()

    def flops(self, batch: Batch) -> float:
        """Of one sample, from the cost of the model at the sizes at which it is counted."""
        shapes = self.network.sizes.of or self.network.shapes.of
        sizes = [
            (array.size / self.session.data.count(batch), int(np.prod(shapes[value])))
            for value in self.network.model.graph.inputs
            if value in shapes and (array := batch.get(str(value.name))) is not None
        ]
        sample, counted = max(sizes, default=(1, 1))
        return self.network.cost.of("flops") * sample / max(counted, 1)

    def counts(self, curve: Curve, ratios: Sequence[float]) -> list[int]:
        """How many units of a curve's group go where it is measured."""
        size, levels = curve.group.size, range(1, len(curve.losses))
        return sorted({max(1, round(share * size)) for share in shares_of(ratios, self.levels)} & set(levels))

    def scaled(self, curve: Curve, statistics: Mapping[Key, Statistics], ratios: Sequence[float]) -> Curve:
        """The curve with its scale measured: the outputs when the group alone is cut by some shares."""
        counts = self.counts(curve, ratios)
        differences = self.each(curve.group, [curve.order[:count] for count in counts], statistics)
        return scaled_by(curve, {count: self.session.lost(off) for count, off in zip(counts, differences, strict=True)})

    def loss(self, group: Group, units: np.ndarray, statistics: Mapping[Key, Statistics]) -> float:
        """What the outputs lose with units gone and readers refitted, as a mean over them.

        The refits have not seen the samples, as no layer has that the model meets later.
        """
        return self.session.lost(self.differences(group, units, statistics))

    def differences(
        self, group: Group, units: np.ndarray, statistics: Mapping[Key, Statistics]
    ) -> list[dict[str, float]]:
        """How far each output moves with units gone and readers refitted, as `difference` has it."""
        (differences,) = self.each(group, [units], statistics)
        return differences

    def each(
        self, group: Group, cuts: Sequence[np.ndarray], statistics: Mapping[Key, Statistics]
    ) -> list[list[dict[str, float]]]:
        """The differences of several cuts of one group, measured at once where all of them fit into memory."""
        return self.measured(self.drafts(group, cuts, statistics))

    def drafts(self, group: Group, cuts: Sequence[np.ndarray], statistics: Mapping[Key, Statistics]) -> list[Draft]:
        """The network with each of several cuts of one group."""
        widths = [self.session.problem(reader.layer).width for reader in self.network.readers[group.name]]
        nbytes = working_nbytes(max(widths, default=1))
        return self.threads.map(lambda units: self.drafted(group, units, statistics), cuts, nbytes=nbytes)

    def measured(self, drafts: Sequence[Draft]) -> list[list[dict[str, float]]]:
        """The differences of several drafts."""
        if not drafts:
            return []
        dense = self.before(drafts)
        at_once = min(self.threads.at_once(0), len(drafts))
        inside = max(1, Threads(self.session.threads).at_once(0) // at_once)
        return self.threads.map(lambda draft: self.behind(dense, draft, inside), drafts)

    def drafted(self, group: Group, units: np.ndarray, statistics: Mapping[Key, Statistics]) -> Draft:
        """The network with units gone and readers refitted."""
        draft = Draft()
        if group.branch is not None:
            draft.weights[gate_of(group.branch)] = np.zeros(())
        elif not self.network.only_layers_read(group) and len(units):
            draft.sliced = Sliced.of(self.network, {group.name: units})
        readers = {reader.layer: reader.units for reader in self.network.readers[group.name]}
        for layer in first_uses(self.network, readers):
            gone = np.isin(readers[layer], units)
            if self.network.uses[layer]:
                choose = not few_rows(readers[layer])
                refitted(self.session, layer, gone, statistics, pool=False, choose=choose).put(draft)
            else:
                cut_only(self.session, [layer], gone, statistics, draft).put(draft)
        return draft

    def behind(self, dense: Stream, draft: Draft, threads: int) -> list[dict[str, float]]:
        """How far each output moves when all that has not run yet in the dense network runs as it is drafted."""
        with Stream(
            dense.rest, self.batches, base=dense, weights=draft.weights, sliced=draft.sliced,
            memory=self.session.memory, threads=threads,
        ) as pruned:  # fmt: skip
            pruned.advance()
            return self.off(pruned)

    def off(self, pruned: Stream, dense: Stream | None = None) -> list[dict[str, float]]:
        """How far each output is off in a stream that has run to its end.

        Args:
            dense: the dense network, that has run in the same pieces; None: it has run as a whole.
        """
        differences = []
        for at, value in enumerate(self.network.compared):
            numbers = range(len(self.batches))
            theirs: Sequence[np.ndarray] = self.dense[at] if dense is None else [dense.value(value, n) for n in numbers]
            ours = [pruned.value(value, n) for n in numbers] if value in pruned.changed else theirs
            unit = unit_of_logits(theirs, ours) if self.network.logits[at] else 1.0
            differences.append(self.session.difference(at, theirs, ours, self.batches, unit=unit))
        return differences

    def _dense(self) -> Stream:
        return Stream(self.stages, self.batches, memory=self.session.memory, threads=self.session.threads)

    def first_to_differ(self, drafts: Sequence[Draft]) -> int:
        """The first stage that differs from the dense network in one of the drafts."""
        return min(self.stages.first_to_differ(draft.differs) for draft in drafts)

    def before(self, drafts: Sequence[Draft]) -> Stream:
        """The dense network up to the first node that differs from it in one of the drafts."""
        first = self.first_to_differ(drafts)
        if self.stream.done > first:
            self.close()
            self.stream = self._dense()
        while self.stream.done < first:
            self.stream.advance()
            self.stream.forget()
        return self.stream
