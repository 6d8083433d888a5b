"""Repair without training: what goes is chosen by its exact effect on the layers that read it, and those are refitted.

1. One run of the dense network gives moments of what every reader of a group reads.
2. Greedy removal with exact downdates gives each group's order and loss curve (`spa.passes.secondorder`).
3. The curves, brought to one scale by measuring what the outputs lose, are spent on the budget (`spa.passes.allocation`).
4. Both networks run side by side, stage by stage: units are chosen again from what their readers really see, and every
   reader is refitted to give, from the pruned network's input, the dense network's output.

The result is as large as the dense model: removed units are read as zero, and `slice_model` cuts them out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from spa.errors import DataError, UsageError
from spa.group import Group
from spa.passes.allocation import Curve, allocate, fit_scale
from spa.passes.biases import drop_zero_biases
from spa.passes.calibrate import Calibration
from spa.passes.consumers import Layer
from spa.passes.network import Network, Reader, output_difference, prepare
from spa.passes.secondorder.greedy import remove_units
from spa.passes.secondorder.solver import Consumer, refit
from spa.passes.selection import select
from spa.passes.statistics import Statistics, collect
from spa.passes.streaming import Batch, Stream, Weights, cut
from spa.plan import Plan

Progress = Callable[[str, float], None]
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """How much work goes into a repair.

    Attributes:
        samples: how many are used at most.
        probes: how many of them the outputs are measured on for the allocation; 0: losses are taken as they are.
        everything: whether layers that read no cut group are refitted too, where what they read has changed.
        swap_rounds: of exchanging removed units for kept ones.
    """

    samples: int | None
    probes: int
    everything: bool
    swap_rounds: int


PRESETS = {"fast": Preset(128, 0, False, 0), "default": Preset(512, 48, True, 2), "best": Preset(None, 128, True, 4)}

STATISTICS_NBYTES = 1 << 30
"""Of moments held at a time; with more, the dense network runs several times."""

BATCH_NBYTES = 1 << 27
"""Of the values that one batch keeps."""

LARGEST_BATCH = 32


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What a repair did to one layer.

    Attributes:
        removed, width: elements of a row that went, and all.
        predicted, measured: relative squared error of the layer's outputs: the curve's, and that on samples held out.
        note: why the layer was not refitted, if it was not.
    """

    name: str
    removed: int
    width: int
    predicted: float
    measured: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Compensation:
    """A dense-shaped model with new weights, the plan to cut from it, and how well it went.

    Attributes:
        difference: of each output on held-out samples: relative L2, and KL where it gives probabilities.
    """

    model: ir.Model
    plan: Plan
    layers: Sequence[LayerReport]
    difference: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]
    notes: Sequence[str]


def compensate(
    model: ir.Model,
    data: Calibration,
    *,
    ratio: float,
    of: str = "params",
    scope: str | None = None,
    preset: str = "default",
    align: int = 1,
    min_keep: float = 0.1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Compensation:
    """Choose what goes, and refit what stays.

    Args:
        model: normalised; not changed.
        data: samples that the model would see.
        ratio, of, scope, align, min_keep, include, exclude, only: as `spa.passes.selection.select` takes them.
        preset: fast, default or best.
        inputs: shapes to analyse with.
        progress: called with the step and the share of it that is done.

    Raises:
        UsageError: there is no such preset, or an option is out of range.
        NothingToPrune, BudgetError: nothing can go, or not as much as asked for.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    network = prepare(model, inputs=inputs)
    run = _Run(network, data.first(chosen.samples), chosen, threads, progress or (lambda step, share: None))
    options = {"ratio": ratio, "of": of, "align": align, "min_keep": min_keep, "include": include, "only": only}
    silent = [group.name for group in network.groups if not network.readers[group.name] or network.others[group.name]]
    silent += [g.name for g in network.groups if g.off is not None and not include]
    curves = run.curves([group for group in network.groups if group.name not in set(silent)], ratio)

    def choose(scores: list[np.ndarray]) -> Plan:
        kept_out = [*exclude, *(group.name for group in network.groups if group.name not in curves)]
        return select(network.groups, scores, network.cost, scope=scope, exclude=kept_out, **options).plan  # type: ignore[arg-type]

    with run.step("allocate"):
        plan = allocate(curves, network.groups, network.cost, of, choose)
    plan = run.repair(curves, plan)
    for name, array in network.weights.items():
        value = network.model.graph.initializers[name]
        assert value.const_value is not None
        dtype = value.const_value.dtype
        value.const_value = ir.Tensor(np.ascontiguousarray(array.astype(dtype.numpy())), dtype=dtype, name=name)
    drop_zero_biases(network.model, network.new_biases)
    return Compensation(network.model, plan, run.reports, run.difference, run.seconds, run.notes)


@dataclass(slots=True)
class _Run:
    network: Network
    data: Calibration
    preset: Preset
    threads: int | None
    progress: Progress
    reports: list[LayerReport] = field(default_factory=list)
    difference: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _batches: list[dict[str, np.ndarray]] | None = None

    def step(self, name: str) -> _Step:
        return _Step(name, self.seconds)

    # -------------------------------------------------------------------------------------------- dense
    def batches(self, values: Sequence[ir.Value]) -> list[dict[str, np.ndarray]]:
        """The samples in batches that are small enough to hold out one in six, and to keep some values of."""
        if self._batches is None:
            probe = self.data.first(1).batches(1)[0]
            results = self.network.session(values, probe, {}, threads=self.threads).run(None, probe)
            nbytes = sum(array.nbytes for array in results if isinstance(array, np.ndarray))
            size = min(LARGEST_BATCH, BATCH_NBYTES // max(nbytes, 1), len(self.data) // 12)
            self._batches = self.data.batches(max(1, int(size)))
        return self._batches

    def curves(self, groups: Sequence[Group], ratio: float) -> dict[str, Curve]:
        """The loss curve of each group, from one run of the dense network for as many as fit into memory."""
        found: dict[str, Curve] = {}
        probe = None
        for part in self.parts(groups):
            with self.step("statistics"):
                statistics = self.dense_statistics([r.layer for group in part for r in self.network.readers[group.name]])
            for group in part:
                self.progress("select", len(found) / len(groups))
                with self.step("select"):
                    curve = self.curve(group, statistics)
                if self.preset.probes:
                    with self.step("measure"):
                        probe = probe or _Probe(self)
                        curve = probe.scaled(curve, statistics, ratio)
                found[group.name] = curve
        return found

    def parts(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """Groups whose statistics fit into memory together."""
        part: list[Group] = []
        keys: dict[Key, int] = {}
        for group in groups:
            layers = [reader.layer for reader in self.network.readers[group.name]]
            mine = {layer.input_key: 16 * layer.block_count * layer.width**2 for layer in layers}
            if part and sum((keys | mine).values()) > STATISTICS_NBYTES:
                yield part
                part, keys = [], {}
            part.append(group)
            keys |= mine
        if part:
            yield part

    def dense_statistics(self, layers: Sequence[Layer]) -> dict[Key, Statistics]:
        values = list(dict.fromkeys(layer.data for layer in layers))
        batches = self.batches(values)
        session = self.network.session(values, batches[0], {}, threads=self.threads)
        results: dict[int, dict[ir.Value, np.ndarray]] = {}

        def fetch(value: ir.Value, number: int) -> np.ndarray:
            if number not in results:
                self.progress("statistics", number / len(batches))
                results.clear()
                results[number] = dict(zip(values, session.run([str(v.name) for v in values], batches[number]), strict=True))
            return results[number][value]

        return collect(layers, len(batches), fetch)

    def curve(self, group: Group, statistics: Mapping[Key, Statistics]) -> Curve:
        problems = [p for r in self.network.readers[group.name] for p in self.problems(r.layer, r.units, statistics)]
        found = remove_units(problems, units=group.size, remove=group.size - 1, swap_rounds=0)
        return Curve(group, found.order, found.loss)

    def problems(self, layer: Layer, units: np.ndarray, statistics: Mapping[Key, Statistics]) -> list[Consumer]:
        """A layer as one least-squares problem for each of its blocks."""
        mine = statistics[layer.input_key]
        weight, bias = self.network.dense_matrix(layer), self.network.dense_bias(layer)
        return [
            Consumer(
                mine.fitted[b], weight[b], units[b], bias[b],
                held_out=mine.held_out[b] if mine.held_out[b].count else None, free_bias=layer.bias is not None,
            )
            for b in range(layer.block_count)
        ]  # fmt: skip

    def refit(self, layer: Layer, gone: np.ndarray, statistics: Mapping[Key, Statistics]) -> tuple[np.ndarray, np.ndarray, str]:
        """New weight and bias of a layer when elements of its rows are `gone`, (blocks, width)."""
        matrix, bias, note = np.zeros_like(self.network.dense_matrix(layer)), self.network.dense_bias(layer).copy(), ""
        for b, problem in enumerate(self.problems(layer, np.where(gone, 0, -1), statistics)):
            kept = np.flatnonzero(~gone[b])
            found = refit(problem, kept)
            matrix[b, kept], bias[b] = found.weight, found.bias
            note = note or found.reason
        return matrix, bias, note

    # ------------------------------------------------------------------------------------------- repair
    def repair(self, curves: Mapping[str, Curve], plan: Plan) -> Plan:
        """Both networks side by side, stage by stage; the plan with the units that were chosen on the way."""
        network = self.network
        removed = {name: np.array(units) for name, units in plan.removed.items()}
        cut_groups = [group for group in network.groups if group.name in removed]
        layers = self.layers(cut_groups)
        values = [layer.data for layer in layers]
        stages, batches = cut(network.model, values), self.batches(values)
        with Stream(stages, batches, threads=self.threads) as dense, Stream(
            stages, batches, base=dense, weights=network.weights, threads=self.threads
        ) as pruned:
            for number in range(len(stages)):
                self.progress("repair", number / len(stages))
                with self.step("run"):
                    there = set(dense.advance())
                    pruned.advance()
                here = [layer for layer in layers if layer.data in there]
                with self.step("statistics"):
                    statistics = self.statistics_of(here, dense, pruned)
                with self.step("select"):
                    self.choose_again(cut_groups, here, statistics, curves, removed)
                with self.step("refit"):
                    for layer in here:
                        self.repair_layer(layer, cut_groups, removed, statistics, dense, pruned)
                dense.forget()
                pruned.forget()
            self.difference = {str(v.name): self.compare(v, dense, pruned, len(batches)) for v in network.model.graph.outputs}
        return Plan.of(network.groups, {name: units.tolist() for name, units in removed.items()})

    def layers(self, groups: Sequence[Group]) -> list[Layer]:
        """The layers to be refitted, in graph order."""
        readers = {reader.layer for group in groups for reader in self.network.readers[group.name]}
        return [layer for layer in self.network.layers if layer in readers or (self.preset.everything and _is_plain(layer))]

    def statistics_of(self, layers: Sequence[Layer], dense: Stream, pruned: Stream) -> dict[Key, Statistics]:
        same = [layer for layer in layers if layer.data not in pruned.changed]
        moved = [layer for layer in layers if layer.data in pruned.changed]
        count = len(dense.batches)
        return collect(same, count, dense.value) | collect(moved, count, dense.value, pruned.value)

    def choose_again(
        self, groups: Sequence[Group], here: Sequence[Layer], statistics: Mapping[Key, Statistics],
        curves: Mapping[str, Curve], removed: dict[str, np.ndarray],
    ) -> None:  # fmt: skip
        """Units of the groups whose readers are all here, from what they really read."""
        for group in groups:
            readers = self.network.readers[group.name]
            free = len(curves[group.name].order) == group.size - 1 and len(group.leaves) == 1
            if free and all(reader.layer in here for reader in readers):
                problems = [p for reader in readers for p in self.problems(reader.layer, reader.units, statistics)]
                count = len(removed[group.name])
                found = remove_units(problems, units=group.size, remove=count, swap_rounds=self.preset.swap_rounds)
                removed[group.name] = np.setdiff1d(np.arange(group.size), found.kept)

    def repair_layer(
        self, layer: Layer, groups: Sequence[Group], removed: Mapping[str, np.ndarray], statistics: Mapping[Key, Statistics],
        dense: Stream, pruned: Stream,
    ) -> None:  # fmt: skip
        gone = np.zeros((layer.block_count, layer.width), bool)
        for group in groups:
            for reader in self.network.readers[group.name]:
                if reader.layer is layer:
                    gone |= np.isin(reader.units, removed[group.name])
        if not gone.any() and layer.data not in pruned.changed:
            return
        if layer.shared:
            matrix, bias, note = np.where(gone[..., None], 0, self.network.dense_matrix(layer)), self.network.dense_bias(layer), "shared"
        else:
            matrix, bias, note = self.refit(layer, gone, statistics)
        self.network.put(self.network.weights, layer, matrix, bias)
        measured = self.measured(layer, matrix, bias, dense, pruned)
        self.reports.append(LayerReport(layer.name, int(gone.sum()), gone.size, float("nan"), measured, note))

    def measured(self, layer: Layer, matrix: np.ndarray, bias: np.ndarray, dense: Stream, pruned: Stream) -> float:
        """Relative squared error of a layer's outputs on rows of the last held-out batch."""
        number = max(5, len(dense.batches) - 1 - len(dense.batches) % 6) if len(dense.batches) >= 6 else len(dense.batches) - 1
        data = dense.value(layer.data, number)
        total = layer.row_count(data.shape)
        positions = np.random.default_rng(0).choice(total, min(total, 2048), replace=False)
        wanted = layer.rows(data, positions) @ self.network.dense_matrix(layer) + self.network.dense_bias(layer)[:, None]
        found = layer.rows(pruned.value(layer.data, number), positions) @ matrix + bias[:, None]
        scale = float(np.sum((wanted - wanted.mean(1, keepdims=True)) ** 2)) or 1.0
        return float(np.sum((wanted - found) ** 2)) / scale

    @staticmethod
    def compare(value: ir.Value, dense: Stream, pruned: Stream, count: int) -> dict[str, float]:
        held_out = [number for number in range(count) if number % 6 == 5] or [count - 1]
        return output_difference(
            [dense.value(value, number) for number in held_out], [pruned.value(value, number) for number in held_out]
        )


def _is_plain(layer: Layer) -> bool:
    """Whether refitting a layer for its own sake is worth it."""
    return layer.block_count == 1 and not layer.shared and layer.mixing.steps is None


class _Step:
    def __init__(self, name: str, seconds: dict[str, float]) -> None:
        self.name, self.seconds = name, seconds

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.start


class _Probe:
    """What the outputs lose when one group does."""

    def __init__(self, run: _Run) -> None:
        self.run, self.network = run, run.network
        batches = run.batches([])
        held_out = [batch for number, batch in enumerate(batches) if number % 6 == 5] or batches[-1:]
        size = len(next(iter(batches[0].values())))
        self.batches: Sequence[Batch] = held_out[: max(1, run.preset.probes // size)]
        self.dense = self.outputs({})

    def outputs(self, weights: Weights) -> list[list[np.ndarray]]:
        values = list(self.network.model.graph.outputs)
        session = self.network.session(values, self.batches[0], weights, threads=self.run.threads)
        results = [session.run(None, dict(batch)) for batch in self.batches]
        return [[result[at] for result in results] for at in range(len(values))]

    def scaled(self, curve: Curve, statistics: Mapping[Key, Statistics], ratio: float) -> Curve:
        """The curve with its scale measured: the group alone cut by `ratio`, and by half of it."""
        counts = sorted({max(1, round(share * curve.group.size)) for share in (0.5 * ratio, ratio)} & set(range(1, len(curve.losses))))
        measured = [self.loss(self.network.readers[curve.group.name], curve.order[:count], statistics) for count in counts]
        scale, power = fit_scale([float(curve.losses[count]) for count in counts], measured)
        return Curve(curve.group, curve.order, curve.losses, scale, power)

    def loss(self, readers: Sequence[Reader], units: np.ndarray, statistics: Mapping[Key, Statistics]) -> float:
        weights: dict[str, np.ndarray] = {}
        for reader in readers:
            matrix, bias, _ = self.run.refit(reader.layer, np.isin(reader.units, units), statistics)
            self.network.put(weights, reader.layer, matrix, bias)
        found = [output_difference(*pair) for pair in zip(self.dense, self.outputs(weights), strict=True)]
        return float(np.mean([one.get("kl", one["relative_l2"] ** 2) for one in found]))


def check_enough(data: Calibration) -> None:
    """Raises DataError where there is nothing to calibrate with."""
    if not len(data):
        raise DataError("calibration data: there are no samples")
