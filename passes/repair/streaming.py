"""Running a model piece by piece: the graph is cut behind chosen values; what crosses a cut waits for the next piece.

A full pass costs about one forward run. Between two pieces, weights that have not run yet may be replaced, so that a
second stream can follow the first with other weights; it computes only what those change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.analysis.reading import reads
from spa.passes.repair.memory import Memory, weights_nbytes
from spa.passes.repair.pieces import Batch, Sessions, Weights, piece
from spa.passes.repair.stages import Stages, parted
from spa.passes.repair.store import Store


class Smaller(Protocol):
    """A model without some units that stands for the one that was cut into stages (`spa.passes.repair.sliced`)."""

    @property
    def model(self) -> ir.Model: ...
    @property
    def changed(self) -> Set[ir.Node]: ...
    def nodes(self, dense: Sequence[ir.Node]) -> list[ir.Node]: ...
    def narrow(self, weights: Weights) -> Weights: ...
    def widen(self, value: ir.Value, array: np.ndarray) -> np.ndarray: ...
    def narrowed(self, value: ir.Value, axis: int, shape: Sequence[int]) -> np.ndarray | None: ...


class Stream:
    """A model that runs stage by stage over all batches.

    Args:
        base: a stream over the same stages and batches, one stage ahead; what is the same there is not computed again.
        weights: stored tensors, by name, that differ from the model's; may be changed between stages.
        sliced: a smaller model that runs instead; its values are read with zeros where units were.
        memory: what may wait in memory, and how many weights one session may have: a stage with more runs in parts.
        waiting: bytes of values that may wait in memory; None: as many as `memory` has for one stream.
        sessions: what streams of one base share; None: each piece has a session of its own.
    """

    def __init__(
        self,
        stages: Stages,
        batches: Sequence[Batch],
        *,
        base: Stream | None = None,
        weights: Weights | None = None,
        sliced: Smaller | None = None,
        memory: Memory | None = None,
        waiting: int | None = None,
        sessions: Sessions | None = None,
        threads: int | None = None,
    ) -> None:
        self.stages, self.batches, self.base, self.threads = stages, batches, base, threads
        self.weights: Weights = {} if weights is None else weights
        self.sliced, self.sessions = sliced, sessions
        self.weights_nbytes = None if memory is None else memory.weights
        self.store = Store() if memory is None else Store(memory.waiting if waiting is None else waiting)
        self.changed: set[ir.Value] = set()  # values that differ from the base's
        self.done = 0
        if base is None:
            for value in stages.model.graph.inputs:
                for number, batch in enumerate(batches):
                    if value.name and value.name in batch:
                        self.store.put(value, number, batch[value.name])

    def advance(self, only: Iterable[int] | None = None) -> Sequence[ir.Value]:
        """Run the next stage; the targets that it gives.

        Args:
            only: numbers of the batches that are wanted; None: all.
        """
        stage = self.done
        differing = {node for node in self.stages.nodes[stage] if self._differs(node)}
        if differing:
            numbers = range(len(self.batches)) if only is None else list(only)
            self._run(stage, self._with_inner(stage, differing), numbers)
        self.done += 1
        return self.stages.targets[stage]

    @property
    def rest(self) -> Stages:
        """The stages that have not run, as one."""
        return self.stages.behind(self.done)

    def value(self, value: ir.Value, batch: int) -> Any:
        """A value that waits, of one batch, of the dense shape."""
        array = self._kept(value, batch)
        if self.sliced is None or not isinstance(array, np.ndarray) or not (self.base is None or value in self.changed):
            return array
        return self.sliced.widen(value, array)

    def _kept(self, value: ir.Value, batch: int) -> Any:
        """A value that waits, as the next nodes read it."""
        if self.base is not None and value not in self.changed and (value, batch) not in self.store:
            return self.base.value(value, batch)
        return self.store.get(value, batch)

    def rescale(self, value: ir.Value, axis: int, slope: np.ndarray, offset: np.ndarray) -> None:
        """Scale and shift a value that waits and differs from the base's, in every batch; both are (dense units,)."""
        for number in range(len(self.batches)):
            if (value, number) not in self.store:
                continue
            array = self.store.get(value, number)
            shape = [1] * array.ndim
            shape[axis] = -1
            keep = None if self.sliced is None else self.sliced.narrowed(value, axis, array.shape)
            factor, addend = (each if keep is None else each[keep] for each in (slope, offset))
            made = (array * factor.reshape(shape) + addend.reshape(shape)).astype(array.dtype)
            self.store.drop(value, number)
            self.store.put(value, number, made)

    def has(self, value: ir.Value) -> bool:
        """Whether a value is there now."""
        return (value, 0) in self.store or (self.base is not None and self.base.has(value))

    def forget(self) -> None:
        """Drop what no later stage reads; the base last, since another stream may still read from it."""
        for value, number in self.store.held():
            if self.stages.last_use.get(value, -1) < self.done:
                self.store.drop(value, number)

    def state(self) -> dict[str, Any]:
        """Where the stream is, as `restore` takes it."""
        kept = [(value, number, self.store.get(value, number)) for value, number in self.store.held()]
        return {"done": self.done, "changed": set(self.changed), "kept": kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where another stream over the same stages and batches was."""
        for value, number in self.store.held():
            self.store.drop(value, number)
        self.done, self.changed = state["done"], set(state["changed"])
        for value, number, array in state["kept"]:
            self.store.put(value, number, array)

    def close(self) -> None:
        """Forget everything."""
        self.store.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _differs(self, node: ir.Node) -> bool:
        if self.base is None:
            return True
        differs = self.sliced is not None and node in self.sliced.changed
        differs = differs or any(value in self.changed or value.name in self.weights for value in reads(node))
        if differs:
            self.changed.update(node.outputs)
        return differs

    def _with_inner(self, stage: int, nodes: set[ir.Node]) -> list[ir.Node]:
        """Some nodes of a stage, and those whose results they read that no stream keeps beyond the stage."""
        if self.base is None:
            return list(self.stages.nodes[stage])
        needed: set[ir.Node] = set()
        of_stage, waiting = set(self.stages.nodes[stage]), list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                made_here = (value.producer() for value in reads(node) if not self.base.has(value))
                waiting += [producer for producer in made_here if producer is not None and producer in of_stage]
        return [node for node in self.stages.nodes[stage] if node in needed]

    def _is_shape(self, value: ir.Value, numbers: Sequence[int]) -> bool:
        """Whether a value may say a shape: as many integers in every batch.

        Shape inference takes the length of such a tensor for zero where it has only a name.
        """
        first = self._kept(value, numbers[0])
        if not isinstance(first, np.ndarray) or first.ndim != 1 or first.dtype.kind != "i":
            return False
        return all(self._kept(value, number).shape == first.shape for number in numbers[1:])

    def _run(self, stage: int, nodes: Sequence[ir.Node], numbers: Sequence[int]) -> None:
        """Run nodes of a stage, part by part where their weights do not fit into one session."""
        made = [value for node in nodes for value in node.outputs]
        wanted = set(self.stages.targets[stage])
        gives = {v for v in made if v in wanted or self.stages.last_use.get(v, -1) > stage}
        if self.base is not None:
            gives &= self.changed
        if not gives:
            return
        parts = parted(nodes, self.stages.model, self.weights_nbytes)
        last_read = {v: at for at, part in enumerate(parts) for v in _taken(part)}
        inner: set[ir.Value] = set()
        for at, part in enumerate(parts):
            new = (value for node in part for value in node.outputs if value not in inner)
            there = [value for value in new if value in gives or last_read.get(value, -1) > at]
            if there:
                self._run_part(part, there, numbers, whole=len(parts) == 1)
            inner.update(there)
            gone = {value for value in inner - gives if last_read.get(value, -1) <= at}
            inner -= gone
            for value in gone:
                for number in numbers:
                    self.store.drop(value, number)

    def _run_part(
        self, nodes: Sequence[ir.Node], gives: Sequence[ir.Value], numbers: Sequence[int], *, whole: bool
    ) -> None:
        """Run some nodes in one session, over some batches."""
        made = {value for node in nodes for value in node.outputs}
        constants = self.stages.model.graph.initializers
        takes = list(dict.fromkeys(v for n in nodes for v in reads(n) if v not in made and v.name not in constants))
        all_of = range(len(self.batches)) if whole else numbers  # what lies between parts is of these batches alone
        first = {str(value.name): self._kept(value, all_of[0]) for value in takes}
        fixed = {str(value.name) for value in takes if self._is_shape(value, all_of)}
        stored = {str(value.name) for node in nodes for value in reads(node)}
        weights: Weights = {name: array for name, array in self.weights.items() if name in stored}
        model = self.stages.model
        if self.sliced is not None:
            model, weights, nodes = self.sliced.model, self.sliced.narrow(weights), self.sliced.nodes(nodes)

        def make(threads: int | None) -> tuple[Any, int]:
            part = piece(model, nodes, first, [str(v.name) for v in gives], weights, fixed)
            return runtime.session(part, optimize=True, threads=threads), weights_nbytes(part)

        if self.sessions is None:
            session, _ = make(self.threads)
        else:
            key = None if weights or self.sliced is not None else (tuple(nodes), tuple(gives), frozenset(fixed))
            session = self.sessions.get(key, make)
        for number in numbers:
            feeds = {str(value.name): self._kept(value, number) for value in takes}
            results = runtime.run(session, feeds)
            for value in gives:
                self.store.put(value, number, results[str(value.name)])


def _taken(nodes: Sequence[ir.Node]) -> set[ir.Value]:
    """What nodes read and do not make."""
    return {v for node in nodes for v in reads(node)} - {v for node in nodes for v in node.outputs}


def batches_of(samples: Batch, size: int) -> Iterator[Batch]:
    """Samples, some at a time; the last batch may be smaller."""
    count = min(len(array) for array in samples.values())
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in samples.items()}
