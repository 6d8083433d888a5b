"""A network with its samples in batches, and how the steps of a repair run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.executor import Result, Threads
from spa.passes.layers.consumers import Layer
from spa.passes.layers.evidence import evidence
from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.layers.split import Split
from spa.passes.layers.statistics import Balance, balanced, collect
from spa.passes.layers.workers import working_nbytes
from spa.passes.repair.dense import Gathering, moments_of
from spa.passes.repair.difference import evened, lost, output_difference
from spa.passes.repair.draft import Draft
from spa.passes.repair.journal import Journal
from spa.passes.repair.memory import Memory
from spa.passes.repair.network import Network
from spa.passes.repair.pieces import Batch
from spa.passes.repair.rowweights import RowWeights
from spa.passes.repair.running import nbytes_of, results
from spa.passes.repair.store import Shelf
from spa.passes.samples.calibrate import Calibration
from spa.passes.secondorder import Baseline, refit
from spa.presets import Preset, Progress

if TYPE_CHECKING:
    from spa.passes.repair.twins import Twins

Made = TypeVar("Made")

BATCH_NBYTES = 1 << 27
"""Of the values that one batch keeps."""

LARGEST_BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What the steps of a repair share: the network, its samples, the settings, and a log.

    Attributes:
        baseline: a published way instead of ours.
        batches: the samples, some at a time, made once; behind the first `judged` of them those that lie beside.
        masks: which rows count.
        split: which batches are fitted, which judge, and which only the report sees.
        seconds: of each step so far, by name.
        notes: what a user should know, in words.
        known: what steps keep for one another, by name.
        twins: sessions like this one on the workers of a cluster, where there is one.
        memory: how much of its own it may use.
        journal: what keeps what is found, for the same command to go on from; None: nothing does.
    """

    network: Network
    data: Calibration
    preset: Preset
    threads: int | None
    progress: Progress
    baseline: Baseline | None
    batches: Sequence[dict[str, np.ndarray]]
    masks: RowWeights
    judged: int
    split: Split
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    twins: Twins | None = None
    memory: Memory = field(default_factory=Memory.of)
    journal: Journal | None = None

    @classmethod
    def of(
        cls,
        network: Network,
        data: Calibration,
        preset: Preset,
        *,
        threads: int | None = None,
        progress: Progress = lambda _step, _share: None,
        baseline: Baseline | None = None,
        memory: Memory | None = None,
    ) -> Session:
        """A session with its batches made: small enough to hold out one in six, and to keep what layers read."""
        memory = memory or Memory.of()
        batches = data.batches(_batch_size(network, data, threads, memory))
        judged = len(batches)
        if data.beside is not None:
            batches += data.beside.batches(_batch_size(network, data.beside, threads, memory))
        run = partial(_outputs, network, threads, memory, Draft())
        masks = RowWeights.of(network.model, network.coupling, batches, network.compared, run)
        split = Split.of(judged, len(data)).beside(range(judged, len(batches)))
        return cls(
            network, data, preset, threads, progress, baseline, batches, masks, judged, split, memory=memory
        )  # fmt: skip

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

    def prior(self, problem: Problem) -> np.ndarray | None:
        """What weights tell of the rows of a problem; None: the samples are like the training data."""
        if not self.data.unlike or self.baseline is not None:
            return None
        alike = self.once("readers", self._readers)[problem.key]
        return evidence([(other, self.network.dense_matrix(other.layer)) for other in alike])

    def _readers(self) -> dict[Key, list[Problem]]:
        readers: dict[Key, list[Problem]] = {}
        for problem in map(self.problem, self.network.layers):
            readers.setdefault(problem.key, []).append(problem)
        return readers

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What is called so, made when it is first asked for, and kept."""
        if name not in self.known:
            self.known[name] = make()
        made: Made = self.known[name]
        return made

    def each(
        self,
        function: Callable[..., Result],
        items: Sequence[tuple[Any, ...]],
        layers: Iterable[Layer] = (),
        *,
        runs: bool = False,
        told: Callable[[float], None] = lambda _share: None,
    ) -> list[Result]:
        """`function(session, *item)` of every item, in their order: here, or with the sessions of workers.

        Args:
            function: of a module; it and the items can be pickled, and name no more than they need.
            layers: whose problems are solved, some at a time: as many as fit into memory.
            runs: the network runs, which has threads of its own, and goes on where the item before ended.
            told: called with the share that is done.
        """
        nbytes = working_nbytes(max((self.problem(layer).width for layer in layers), default=1))

        def share(done: int) -> None:
            told(done / len(items))

        if self.twins is not None:
            return self.twins.map(self, function, items, nbytes=nbytes, in_order=runs, told=share)
        threads = Threads(1 if runs else self.threads)
        return threads.map(lambda item: function(self, *item), items, nbytes=nbytes, told=share)

    def shelf(self) -> Shelf:
        """Where arrays lie that stay until the end."""
        return Shelf(self.memory.kept) if self.journal is None else self.journal.shelf(self.memory)

    # ---------------------------------------------------------------------------------------------- samples
    def weigh(self, problem: Problem, number: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """(rows,) which rows of a batch count; None: all."""
        return self.masks.rows(problem, self.batches[number], shape)

    def balance(self, batch: Batch) -> Balance | None:
        """How much each row of batches such as this one counts; None: all as much."""
        return partial(balanced, samples=self.data.count(batch)) if self.data.balanced else None

    # ------------------------------------------------------------------------------------------------- runs
    def outputs(self, batches: Sequence[Batch], draft: Draft | None = None) -> list[list[np.ndarray]]:
        """Each value that is compared, batch by batch, as it is drafted; by default in the dense network."""
        return _outputs(self.network, self.threads, self.memory, draft or Draft(), batches)

    def dense_statistics(self, problems: Sequence[Problem], *, most: int | None = None) -> dict[Key, Statistics]:
        """What some layers read in the dense network, in all batches that fits see or in that many of them."""
        split = self.split.thinned(most)
        if self.twins is not None:
            return self.twins.statistics(self, problems, split)
        nbytes = sum({problem.key: moments_of(problem) for problem in problems}.values())
        if self.memory.holds(self.network.model) and nbytes <= self.memory.moments:
            return self.statistics_of(
                problems, split, len(split.seen), lambda share: self.progress("statistics", share)
            )
        return {
            key: statistics for _, part in Gathering(self, [problems], split).run() for key, statistics in part.items()
        }

    def run_of(self, problems: Sequence[Problem]) -> Any:
        """An onnxruntime session of the dense network that gives what some layers read."""
        values = list(dict.fromkeys(problem.data for problem in problems))
        return Draft().session(self.network, values, self.batches[0], threads=self.threads)

    def statistics_of(
        self,
        problems: Sequence[Problem],
        split: Split,
        count: int,
        told: Callable[[float], None] = lambda _share: None,
        run: Any = None,
    ) -> dict[Key, Statistics]:
        """The same of the batches of a split, which are some of so many; with what `run_of` gave, or anew."""
        values, batches = list(dict.fromkeys(problem.data for problem in problems)), self.batches
        session = run or self.run_of(problems)
        results: dict[int, dict[ir.Value, np.ndarray]] = {}

        def fetch(value: ir.Value, number: int) -> np.ndarray:
            if number not in results:
                told(number / len(batches))
                results.clear()
                made = runtime.run(session, batches[number])
                results[number] = {value: made[str(value.name)] for value in values}
            return results[number][value]

        balance = self.balance(batches[0])
        return collect(problems, split, fetch, weigh=self.weigh, balance=balance, count=count, threads=self.threads)

    # -------------------------------------------------------------------------------------------- distances
    def difference(
        self,
        at: int,
        dense: Sequence[np.ndarray],
        pruned: Sequence[np.ndarray],
        batches: Sequence[Batch],
        *,
        unit: float = 1.0,
    ) -> dict[str, float]:
        """How far the compared value of that number is off, on some batches; `unit` as of `output_difference`."""
        value = self.network.compared[at]
        weights = [self.masks.of_output(value, b, a.shape) for b, a in zip(batches, dense, strict=True)]
        logits, columns = self.network.logits[at], self.network.columns[at]
        distances = output_difference(dense, pruned, weights, logits=logits, columns=columns, unit=unit)
        if self.data.balanced and "kl" not in distances:
            counts = [self.data.count(batch) for batch in batches]
            return output_difference(*evened(dense, pruned, counts), weights, columns=columns)
        return distances

    def lost(self, differences: Sequence[Mapping[str, float]]) -> float:
        """One number for how far the compared values are off: a mean over them."""
        losses = [lost(off, logits=logits) for off, logits in zip(differences, self.network.logits, strict=True)]
        return float(np.mean(losses)) if losses else 0.0


def _batch_size(network: Network, data: Calibration, threads: int | None, memory: Memory) -> int:
    """Samples in a batch, so that what all layers read of it fits into memory."""
    probe = data.first(1).batches(1)[0]
    values = list(dict.fromkeys([*(layer.after for layer in network.layers), *network.compared]))
    values = values or list(network.model.graph.outputs)  # something at least
    nbytes = nbytes_of(network, values, probe, memory=memory, threads=threads)
    return max(1, int(min(LARGEST_BATCH, BATCH_NBYTES // max(nbytes, 1), len(data) // 12)))


def _outputs(
    network: Network, threads: int | None, memory: Memory, draft: Draft, batches: Sequence[Batch]
) -> list[list[np.ndarray]]:
    """Each value that is compared, as the network is drafted, batch by batch."""
    if not network.compared:
        return []
    shelf = Shelf(memory.waiting)
    outputs: list[list[np.ndarray]] = [[] for _ in network.compared]
    for result in results(network, draft, network.compared, batches, memory=memory, threads=threads):
        for value, arrays in zip(network.compared, outputs, strict=True):
            arrays.append(shelf.keep(result[value]))
    return outputs
