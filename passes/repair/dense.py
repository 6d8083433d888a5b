"""What the dense network says of each group: the order in which its units would go, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.group import Group
from spa.passes.choose.allocation import Curve, through
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.layers.statistics import Balance, balanced, collect
from spa.passes.layers.workers import Item, Result, at_once, each
from spa.passes.repair.difference import evened, lost, output_difference
from spa.passes.repair.network import Network
from spa.passes.repair.rotation import Turned
from spa.passes.repair.rowweights import RowWeights
from spa.passes.repair.streaming import Batch, Stream, Weights, cut
from spa.passes.samples.calibrate import Calibration
from spa.passes.secondorder import Baseline, Consumer, Removal, is_held_out, refit, remove_units

Progress = Callable[[str, float], None]

STATISTICS_NBYTES = 1 << 31
"""Of moments held at a time; with more, the dense network runs several times."""

BATCH_NBYTES = 1 << 27
"""Of the values that one batch keeps."""

LARGEST_BATCH = 32

FAR = (0.5, 0.8)
"""Shares of a group beyond the ratio at which the outputs are measured too: an allocation may go that far."""

LEVELS, LEAST_PROBES = 4, 4
"""Cuts of a group at which it is measured, and samples below which there are fewer of them."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How much work goes into a repair.

    Attributes:
        samples: how many are used at most.
        probes: how many of them the outputs are measured on for the allocation; 0: losses are taken as they are.
        everything: whether layers that read no cut group are refitted too, where what they read has changed.
        swap_rounds: of exchanging removed units for kept ones.
        widest: rows of convolutions that would be longer are channels only.
        drift: the share that a layer makes up for of what the other branch of a residual connection is off by.
        spread: how far outputs get the variance back that a fit takes from them, see `secondorder.solver.widened`.
        probe_flops: what all these measurements may cost.
    """

    samples: int | None
    probes: int
    everything: bool
    swap_rounds: int
    widest: int
    drift: float = 1.0
    spread: float = 0.5
    probe_flops: float = 2e12


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """A layer's new weight (blocks, width, outputs) and bias (blocks, outputs).

    Attributes:
        loss: share of the outputs' variance that is lost, by the moments that were fitted.
        note: why there was no refit, if there was none.
    """

    matrix: np.ndarray
    bias: np.ndarray
    loss: float
    note: str


@dataclass(slots=True, eq=False)
class Session:
    """A network, its samples, and what the steps of a repair share."""

    network: Network
    data: Calibration
    preset: Preset
    threads: int | None
    progress: Progress
    baseline: Baseline | None = None  # a published way instead of ours
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    recurrent: dict[Key, Statistics] = field(default_factory=dict)  # of layers that read their own node's result
    turned: dict[str, Turned] = field(default_factory=dict)  # groups in their best basis, by name
    _masks: RowWeights | None = None
    _batches: list[dict[str, np.ndarray]] | None = None

    @property
    def symmetric(self) -> bool:
        """Whether layers are repaired from what the dense network reads."""
        return self.baseline is not None and self.baseline.repair is not refit

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the time of a step."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def problem(self, layer: Layer) -> Problem:
        """A layer as it is fitted."""
        return Problem.of(layer, widest=self.preset.widest, removable=self.network.removable)

    def batches(self, values: Sequence[ir.Value]) -> list[dict[str, np.ndarray]]:
        """The samples in batches that are small enough to hold out one in six, and to keep some values of."""
        if self._batches is None:
            probe = self.data.first(1).batches(1)[0]
            values = values or self.network.compared or list(self.network.model.graph.outputs)  # something at least
            results = runtime.run(self.network.session(values, probe, {}, threads=self.threads), probe)
            nbytes = sum(array.nbytes for array in results.values())
            size = min(LARGEST_BATCH, BATCH_NBYTES // max(nbytes, 1), len(self.data) // 12)
            self._batches = self.data.batches(max(1, int(size)))
        return self._batches

    @property
    def masks(self) -> RowWeights:
        """Which rows count."""
        if self._masks is None:
            network, run = self.network, partial(self.outputs, weights={})
            self._masks = RowWeights.of(network.model, network.coupling, self.batches([]), network.compared, run)
        return self._masks

    def weigh(self, problem: Problem, number: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """(rows,) which rows of a batch count; None: all."""
        return self.masks.rows(problem, self.batches([])[number], shape)

    def balance(self, batch: Batch) -> Balance | None:
        """How much each row of batches such as this one counts; None: all as much."""
        return partial(balanced, samples=self.data.count(batch)) if self.data.balanced else None

    def difference(
        self, at: int, dense: Sequence[np.ndarray], pruned: Sequence[np.ndarray], batches: Sequence[Batch]
    ) -> dict[str, float]:
        """How far the compared value of that number is off, on some batches."""
        value = self.network.compared[at]
        weights = [self.masks.of_output(value, b, a.shape) for b, a in zip(batches, dense, strict=True)]
        found = output_difference(dense, pruned, weights, logits=self.network.logits[at])
        if self.data.balanced and "kl" not in found:
            counts = [self.data.count(batch) for batch in batches]
            found |= output_difference(*evened(dense, pruned, counts), weights)
        return found

    def lost(self, differences: Sequence[Mapping[str, float]]) -> float:
        """One number for how far the compared values are off: a mean over them."""
        losses = [lost(off, logits=logits) for off, logits in zip(differences, self.network.logits, strict=True)]
        return float(np.mean(losses)) if losses else 0.0

    def held_out(self) -> list[int]:
        """The numbers of the batches that no fit sees; of a single one, that one."""
        count = len(self.batches([]))
        return [number for number in range(count) if is_held_out(number, every=min(6, count))]

    def outputs(self, batches: Sequence[Batch], weights: Weights) -> list[list[np.ndarray]]:
        """Each value that is compared, with some weights, batch by batch."""
        values = self.network.compared
        if not values:
            return []
        session = self.network.session(values, batches[0], weights, threads=self.threads)
        results = [runtime.run(session, batch) for batch in batches]
        return [[result[str(value.name)] for result in results] for value in values]

    def consumers(self, layer: Layer, units: np.ndarray, statistics: Mapping[Key, Statistics]) -> list[Consumer]:
        """A layer as least-squares problems; `units` as those of `Reader`."""
        problem = self.problem(layer)
        matrix, bias = self.network.dense_matrix(layer), self.network.dense_bias(layer)
        return problem.consumers(statistics[problem.key], matrix, bias, problem.units(units), self.preset.drift)

    def refit(
        self, layer: Layer, gone: np.ndarray, statistics: Mapping[Key, Statistics], *, pool: bool = True
    ) -> Refitted:
        """New weight and bias of a layer when elements of its rows are `gone`, (blocks, width).

        Args:
            pool: whether samples held out are fitted too, once they have had their say, and outputs widened.
        """
        consumers = self.consumers(layer, np.where(gone, 0, -1), statistics)
        ours = partial(refit, pool=pool, spread=self.preset.spread if pool else 0.0)
        repair = ours if self.baseline is None else self.baseline.repair
        fits = [repair(consumer, np.flatnonzero(consumer.unit_of_row < 0)) for consumer in consumers]
        matrix, bias = self.network.dense_matrix(layer), self.network.dense_bias(layer)
        reasons = [fit.reason for fit in fits if fit.reason]
        loss = float(np.mean([fit.loss for fit in fits]))
        return Refitted(*self.problem(layer).assembled(fits, matrix, bias), loss, reasons[0] if reasons else "")

    # -------------------------------------------------------------------------------------------- curves
    def curves(self, groups: Sequence[Group], ratio: float) -> dict[str, Curve]:
        """The loss curve of each group, from one run of the dense network for as many as fit into memory."""
        found: dict[str, Curve] = {}
        probe = None
        groups = self.network.in_order(groups)
        for part in self.parts(groups):
            layers = [reader.layer for group in part for reader in self.network.readers[group.name]]
            with self.step("statistics"):
                statistics = self.dense_statistics([self.problem(layer) for layer in layers])
            unreached = {group.name: self.unreached(group, statistics) for group in part}
            part = [group for group in part if unreached[group.name] is None]
            self.notes += [
                f"{name} is left alone: no sample reaches {layer.name}"
                for name, layer in unreached.items()
                if layer is not None
            ]
            with self.step("select"):
                self.progress("select", len(found) / len(groups))
                curves = self.at_once(partial(self.curve, statistics=statistics), part, layers)
            for curve in curves:
                self.progress("measure", len(found) / len(groups))
                if self.preset.probes and self.baseline is None:
                    with self.step("measure"):
                        probe = probe or Probe(self)
                        curve = probe.scaled(curve, statistics, ratio)
                found[curve.group.name] = curve
        if probe is not None:
            probe.close()
        return found

    def unreached(self, group: Group, statistics: Mapping[Key, Statistics]) -> Layer | None:
        """The first reader of a group that no sample reaches."""
        layers = (reader.layer for reader in self.network.readers[group.name])
        return next((layer for layer in layers if not statistics[self.problem(layer).key].seen), None)

    def at_once(
        self, function: Callable[[Item], Result], items: Iterable[Item], layers: Iterable[Layer]
    ) -> list[Result]:
        """`function` of every item, some at a time: as many as fit into memory with the problems of these layers."""
        widest = max((self.problem(layer).width for layer in layers), default=1)
        return each(function, items, workers=at_once(widest, self.threads))

    def parts(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """Groups whose statistics fit into memory together."""
        part: list[Group] = []
        sizes: dict[Key, int] = {}
        for group in groups:
            problems = [self.problem(reader.layer) for reader in self.network.readers[group.name]]
            mine = {problem.key: 16 * problem.layer.block_count * problem.width**2 for problem in problems}
            if part and sum((sizes | mine).values()) > STATISTICS_NBYTES:
                yield part
                part, sizes = [], {}
            part.append(group)
            sizes |= mine
        if part:
            yield part

    def dense_statistics(self, problems: Sequence[Problem], *, most: int | None = None) -> dict[Key, Statistics]:
        """What some layers read in the dense network, in all batches or in that many of them."""
        values = list(dict.fromkeys(problem.data for problem in problems))
        batches = self.batches(values)
        numbers = range(0, len(batches), -(-len(batches) // (most or len(batches))))
        session = self.network.session(values, batches[0], {}, threads=self.threads)
        results: dict[int, dict[ir.Value, np.ndarray]] = {}

        def fetch(value: ir.Value, at: int) -> np.ndarray:
            if at not in results:
                self.progress("statistics", at / len(numbers))
                results.clear()
                made = runtime.run(session, batches[numbers[at]])
                results[at] = {value: made[str(value.name)] for value in values}
            return results[at][value]

        def weigh(problem: Problem, at: int, shape: tuple[int, ...]) -> np.ndarray | None:
            return self.weigh(problem, numbers[at], shape)

        found = collect(
            problems, len(numbers), fetch, weigh=weigh, balance=self.balance(batches[0]), threads=self.threads
        )
        self.recurrent |= {p.key: found[p.key] for p in problems if p.layer.mixing.steps is not None}
        return found

    def curve(self, group: Group, statistics: Mapping[Key, Statistics]) -> Curve:
        """Order and losses of a group's units, by greedy removal."""
        readers = self.network.readers[group.name]
        consumers = [c for reader in readers for c in self.consumers(reader.layer, reader.units, statistics)]
        if self.baseline is not None:
            scores = self.baseline.score(consumers, group.size)
            order = np.argsort(scores, kind="stable")[: group.size - 1]
            total = float(np.sum(scores)) or 1.0
            return Curve(group, order, np.concatenate([[0.0], np.cumsum(scores[order]) / total]))
        turned = self.turned.get(group.name)
        if turned is not None and turned.meets:
            return Curve(group, np.arange(group.size - 1, 0, -1), turned.losses[:-1])
        found = remove_units(consumers, units=group.size, remove=group.size - 1, swap_rounds=0)
        return Curve(group, found.order, expected_losses(found))


def expected_losses(found: Removal) -> np.ndarray:
    """(removals + 1,) loss on samples that were not fitted: what was measured on them, where it is more than the fit's.

    With fewer samples than inputs a fit loses nothing on its own samples, however many units go. Between two levels at
    which it was measured, the loss grows as that of the fit does: the first units that go are the cheapest.
    """
    levels = found.held_out_levels
    if not len(levels):
        return found.loss
    measured = np.maximum.accumulate(np.maximum(found.held_out_loss, 0.0))
    evenly = 1e-9 * (float(found.loss.max()) or 1.0) * np.arange(len(found.loss))  # where the fit loses nothing
    fitted = np.maximum.accumulate(found.loss) + evenly
    return np.asarray(np.maximum(found.loss, np.interp(fitted, fitted[levels], measured)))


def affordable(flops: float, groups: int, preset: Preset) -> tuple[int, int]:
    """(samples, levels) on which each group is measured: fewer samples, then fewer levels, for large models."""
    most = preset.probe_flops / max(flops * max(groups, 1), 1.0)
    levels = int(np.clip(most / LEAST_PROBES, 1, LEVELS))
    return int(np.clip(most / levels, 1, preset.probes)), levels


class Probe:
    """What the outputs lose when one group does, measured on samples held out.

    The dense network runs once, as far as the group that is measured; what comes behind runs for every measurement.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.network = session, session.network
        batches = session.batches([])
        held_out = [batches[number] for number in session.held_out()]
        probes, self.levels = affordable(self.flops(held_out[0]), len(session.network.groups), session.preset)
        held_out = held_out[: -(-probes // session.data.count(held_out[0]))]
        self.batches: Sequence[Batch] = [session.data.beginning(batch, probes) for batch in held_out]
        if session.data.batch_size is not None:
            self.batches = held_out
        self.dense = session.outputs(self.batches, {})
        readers = (reader for found in session.network.readers.values() for reader in found)
        targets = dict.fromkeys(reader.layer.after for reader in readers)
        self.stages = cut(session.network.model, targets, session.network.compared)
        self.stream = Stream(self.stages, self.batches, threads=session.threads)

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

    def scaled(self, curve: Curve, statistics: Mapping[Key, Statistics], ratio: float) -> Curve:
        """The curve with its scale measured: the group alone cut by more than `ratio`, by `ratio`, and by less."""
        size, levels = curve.group.size, range(1, len(curve.losses))
        near, far = ([share] if share > ratio else [] for share in FAR)
        shares = [*near, ratio, *far, 0.5 * ratio]
        counts = sorted({max(1, round(share * size)) for share in shares[: self.levels]} & set(levels))
        measured = [self.loss(curve.group, curve.order[:count], statistics) for count in counts]
        scale = through([float(curve.losses[count]) for count in counts], measured)
        return Curve(curve.group, curve.order, curve.losses, scale)

    def loss(self, group: Group, units: np.ndarray, statistics: Mapping[Key, Statistics]) -> float:
        """What the outputs lose with units gone and readers refitted, as a mean over them.

        The refits have not seen the samples, as no layer has that the model meets later.
        """
        weights: dict[str, np.ndarray] = {}
        if self.network.others[group.name]:
            self.network.erase(weights, group, units)
        for reader in self.network.readers[group.name]:
            new = self.session.refit(reader.layer, np.isin(reader.units, units), statistics, pool=False)
            self.network.put(weights, reader.layer, new.matrix, new.bias)
        dense = self.before(weights)
        found = []
        with Stream(dense.rest, self.batches, base=dense, weights=weights, threads=self.session.threads) as pruned:
            pruned.advance()
            for at, value in enumerate(self.network.compared):
                theirs = self.dense[at]
                ours = [pruned.value(value, n) for n in range(len(theirs))] if value in pruned.changed else theirs
                found.append(self.session.difference(at, theirs, ours, self.batches))
        return self.session.lost(found)

    def before(self, weights: Weights) -> Stream:
        """The dense network up to the first node that reads one of some stored tensors."""
        first = self.stages.first_to_read(weights)
        if self.stream.done > first:
            self.close()
            self.stream = Stream(self.stages, self.batches, threads=self.session.threads)
        while self.stream.done < first:
            self.stream.advance()
            self.stream.forget()
        return self.stream
