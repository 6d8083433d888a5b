"""Runs of a network as a whole: in one session, or part by part where its weights would not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.passes.repair.draft import Draft
from spa.passes.repair.memory import Memory
from spa.passes.repair.network import Network
from spa.passes.repair.pieces import Batch
from spa.passes.repair.stages import Stages, cut
from spa.passes.repair.streaming import Stream

Results = Mapping[ir.Value, np.ndarray]


def results(
    network: Network,
    draft: Draft,
    values: Sequence[ir.Value],
    batches: Sequence[Batch],
    *,
    memory: Memory,
    threads: int | None = None,
) -> Iterator[Results]:
    """Some values of the network as it is drafted, batch by batch."""
    if memory.holds(network.model):
        session = draft.session(network, values, batches[0], threads=threads)
        for batch in batches:
            made = runtime.run(session, batch)
            yield {value: made[str(value.name)] for value in values}
        return
    stages = cut(network.model, (), values)
    with Stream(stages, batches, weights=draft.weights, sliced=draft.sliced, memory=memory, threads=threads) as stream:
        yield from part_by_part(stages, stream)


def part_by_part(stages: Stages, stream: Stream) -> Iterator[Results]:
    """What is there in the end of a stream that begins, batch by batch."""
    for _ in range(len(stages)):
        stream.advance()
        stream.forget()
    for number in range(len(stream.batches)):
        yield {value: stream.value(value, number) for value in stages.outputs}


def nbytes_of(
    network: Network, values: Sequence[ir.Value], batch: Batch, *, memory: Memory, threads: int | None = None
) -> int:
    """Bytes of some values of the dense network in one batch, of which no more than are read at a time are kept."""
    if memory.holds(network.model):
        (arrays,) = results(network, Draft(), values, [batch], memory=memory, threads=threads)
        return sum(array.nbytes for array in arrays.values())
    stages, total = cut(network.model, values, ()), 0
    with Stream(stages, [batch], memory=memory, threads=threads) as stream:
        for _ in range(len(stages)):
            total += sum(getattr(stream.value(value, 0), "nbytes", 0) for value in stream.advance())
            stream.forget()
    return total
