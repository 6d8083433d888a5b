"""Sessions of a repair on the workers of a cluster: each worker reads the same network and samples, once.

Weights, samples and moments are arrays beside what is pickled (`spa.passes.repair.naming`): a node has them once, and
its workers map them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from spa.errors import ClusterError
from spa.executor import Executor, Result, Shared
from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.layers.split import Split
from spa.passes.layers.workers import one_thread_each
from spa.passes.repair.dense import moments_nbytes
from spa.passes.repair.naming import Names, digest_of
from spa.passes.repair.network import analysed
from spa.passes.repair.packed import Packed, of_few_bits, remembering
from spa.passes.repair.probe import Probe
from spa.passes.repair.session import Session
from spa.passes.secondorder import WAYS
from spa.runtime import large_weights, serialized_without

SHARDS, MOST_SHARDS = 8, 64
"""Parts that samples are split into, however many workers there are: at least, if there are batches, and at most."""

FLOPS_FOR_A_BYTE = 2e3
"""Of a run of the network, for a byte of moments: with more, another shard costs less than it spreads."""

RUN = "run of statistics"
"""What a session on a worker keeps from shard to shard."""

KEPT = 2
"""Sessions that a worker keeps: of one prune, and of another with samples besides."""

Stored = tuple[int, tuple[int, ...], np.ndarray]
"""The type, the shape and the bytes of a tensor."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A model without its large weights, and these beside it, by name; and how those of a few bits were stored."""

    model: bytes
    weights: Mapping[str, Stored]
    packed: Mapping[str, Packed]


@dataclass(frozen=True, slots=True)
class Frame:
    """All that a session is made of again.

    Attributes:
        model: ready for repair.
        known: the arguments of `network.analysed`.
        state, arrays: what a session has beside its network, as `Names.dump` gives it.
        digest: of what layers and groups there are.
    """

    model: Laid
    known: Mapping[str, Any]
    state: bytes
    arrays: Sequence[np.ndarray]
    digest: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session lies on every node.

    Attributes:
        key: of the frame.
        version: counts changes of weights; `changed` holds those that differ from the frame's, by name.
    """

    key: str
    frame: Shared[Frame]
    version: int = 0
    changed: Shared[Mapping[str, Stored]] | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes to a worker, or comes back, as `Names.dump` gives it, and the sessions that it names things of."""

    places: tuple[Place, ...]
    body: bytes
    arrays: Sequence[np.ndarray]

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return sum(array.nbytes for array in self.arrays)


@dataclass(slots=True, eq=False)
class Twins:
    """Sessions like one that is here, on all workers of an executor.

    Attributes:
        names: of the session's network, once something was sent.
        place: where the twins read it.
        sent: the tensors that they have, by name.
    """

    executor: Executor
    names: Names | None = None
    place: Place | None = None
    sent: dict[str, ir.TensorProtocol] = field(default_factory=dict)

    def map(
        self,
        session: Session,
        function: Callable[..., Result],
        items: Sequence[tuple[Any, ...]],
        *,
        nbytes: int,
        in_order: bool,
        told: Callable[[int], None],
    ) -> list[Result]:
        """As `Session.each`.

        Args:
            in_order: begin with the first item, not with the one that most goes along with: of work that grows with it,
                a long piece that begins last is waited for.
        """
        names, place = self.laid_out(session)
        parcels = [Parcel((place,), *names.dump((function, item))) for item in items]  # whose arrays are no copies
        order = range(len(parcels)) if in_order else sorted(range(len(parcels)), key=lambda at: -parcels[at].nbytes)
        what = f"a piece of work ({getattr(function, '__name__', 'function').replace('_', ' ')})"
        done = self.executor.map(work, (parcels[at] for at in order), nbytes=nbytes, what=what, told=told)
        results = {at: names.load(parcel.body, parcel.arrays) for at, parcel in zip(order, done, strict=True)}
        return [results[at] for at in range(len(parcels))]

    def statistics(self, session: Session, problems: Sequence[Problem], split: Split) -> dict[Key, Statistics]:
        """As `Session.dense_statistics`: samples in contiguous shards, whose moments are added in a fixed tree."""
        names, place = self.laid_out(session)
        nbytes = moments_nbytes(problems)
        shards = np.array_split(split.seen, shard_count(session, len(split.seen), nbytes))
        asked = [(problems, split.only(numbers.tolist()), len(split.seen)) for numbers in shards]
        parcels = (Parcel((place,), *names.dump((of_shard, item))) for item in asked)
        parcel = self.executor.reduce(
            work, parcels, partial(joined, added), nbytes=2 * nbytes, what="the moments of a part of the samples",
            told=lambda done: session.progress("statistics", done / len(asked)),
        )  # fmt: skip
        result: dict[Key, Statistics] = names.load(parcel.body, parcel.arrays)
        return result

    def laid_out(self, session: Session) -> tuple[Names, Place]:
        """The session is where workers can read it, with the weights that it has now."""
        values = session.network.model.graph.initializers.items()
        now = {name: value.const_value for name, value in values if value.const_value is not None}
        if self.names is None or self.place is None:
            self.names = Names.of(session.network)
            self.names.add("session", session)
            self.place = Place(uuid.uuid4().hex, self.executor.share(framed(session, self.names)))
            self.sent = now
        changed = {name: _stored(tensor) for name, tensor in now.items() if self.sent.get(name) is not tensor}
        if changed:
            before = {} if self.place.changed is None else self.place.changed.get()
            both = self.executor.share({**before, **changed})
            self.place, self.sent = replace(self.place, version=self.place.version + 1, changed=both), now
        return self.names, self.place


def packed(thing: Any, sessions: Sequence[Session]) -> Parcel:
    """What `opened` gives on a worker, for sessions that have twins.

    Raises:
        pickle.PicklingError, TypeError, AttributeError: something in it cannot be sent.
    """
    laid = [session.twins.laid_out(session) for session in sessions if session.twins is not None]
    names = laid[0][0] if len(laid) == 1 else Names.several([names for names, _ in laid])
    return Parcel(tuple(place for _, place in laid), *names.dump(thing))


def shard_count(session: Session, batches: int, nbytes: int) -> int:
    """How many shards some batches are split into: by what a run costs over the bytes of the moments."""
    samples = batches * session.data.count(session.batches[0])
    worth = session.network.cost.of("flops") * samples / (FLOPS_FOR_A_BYTE * max(nbytes, 1))
    return min(batches, int(np.clip(worth, SHARDS, MOST_SHARDS)))


def of_shard(session: Session, problems: Sequence[Problem], split: Split, count: int) -> dict[Key, Statistics]:
    """`Session.statistics_of`, with the run of the shard before where that gives the same values."""
    values = [problem.data for problem in problems]
    if RUN not in session.known or session.known[RUN][0] != values:
        session.known[RUN] = values, session.run_of(problems)
    return session.statistics_of(problems, split, count, run=session.known[RUN][1])


def added(first: Mapping[Key, Statistics], second: Mapping[Key, Statistics]) -> dict[Key, Statistics]:
    """Statistics of the samples of two shards, of which the first is not used any more."""
    return {key: statistics.taking(second[key]) for key, statistics in first.items()}


def framed(session: Session, names: Names) -> Frame:
    """A session, so that it can be made again."""
    network = session.network
    known = {
        "inputs": network.inputs, "counted": network.counted, "closed": network.closed,
        "new_biases": network.new_biases, "gates": network.gates, "before": network.before,
    }  # fmt: skip
    baseline = next((name for name, way in WAYS.items() if way is session.baseline), None)
    some = replace(session.data.first(1), beside=None, held_out=None)
    state = some, session.preset, baseline, session.batches, session.masks, session.judged, session.split
    return Frame(lay(network.model), known, *names.dump(state), digest_of(network))


def lay(model: ir.Model) -> Laid:
    """A model in parts that can be shared, of which the weights are no copies."""
    large = large_weights((model.graph,))
    apart = {v: tensor for v, tensor in large.items() if tensor.dtype.bitwidth >= 8 and not v.is_graph_input()}
    rest = serialized_without(model, apart, {}, "shared").SerializeToString()
    return Laid(rest, {str(value.name): _stored(tensor) for value, tensor in apart.items()}, of_few_bits(model))


def read(laid: Laid) -> ir.Model:
    """The model again; its large weights are views of what was laid."""
    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(laid.model))
    for name, stored in laid.weights.items():
        _write(model, name, stored)
    return remembering(model, laid.packed)


def _stored(tensor: ir.TensorProtocol) -> Stored:
    numbers = np.ascontiguousarray(tensor.numpy()).reshape(-1)
    return int(tensor.dtype), tuple(tensor.shape.numpy()), numbers.view(np.uint8)


def _write(model: ir.Model, name: str, stored: Stored) -> None:
    """A tensor into a model, as a view of its bytes."""
    dtype = ir.DataType(stored[0])
    array = stored[2].view(dtype.numpy()).reshape(stored[1])
    model.graph.initializers[name].const_value = ir.Tensor(array, dtype=dtype, name=name)


# ---------------------------------------------------------------------------------------------------- on a worker
@dataclass(slots=True, eq=False)
class _Twin:
    """A session that was made again."""

    session: Session
    names: Names
    version: int = 0

    @classmethod
    def of(cls, frame: Frame) -> _Twin:
        network = analysed(read(frame.model), **frame.known)
        if digest_of(network) != frame.digest:
            raise ClusterError("a worker finds other layers in the same model: install the same versions on all nodes")
        names = Names.of(network)
        data, preset, baseline, *rest = names.load(frame.state, frame.arrays)
        repair = None if baseline is None else WAYS[baseline]
        session = Session(network, data, preset, 1, _say_nothing, repair, *rest)
        names.add("session", session)
        return cls(session, names)

    def update(self, place: Place) -> None:
        """The weights as they are by now; what was kept of the former ones goes."""
        if place.version == self.version or place.changed is None:
            return
        for name, stored in place.changed.get().items():
            _write(self.session.network.model, name, stored)
        Probe.drop(self.session)
        self.session.known.clear()
        self.version = place.version


_TWINS: dict[str, _Twin] = {}


def work(parcel: Parcel) -> Parcel:
    """Do what a parcel asks for with the session that is here, and send what it gives."""
    (twin,) = map(_twin, parcel.places)
    function, item = twin.names.load(parcel.body, parcel.arrays)
    return Parcel(parcel.places, *twin.names.dump(function(twin.session, *item)))


def joined(join: Callable[[Any, Any], Any], first: Parcel, second: Parcel) -> Parcel:
    """What two parcels hold, joined."""
    both = (opened(parcel) for parcel in (first, second))
    return Parcel(first.places, *_names(first.places).dump(join(*both)))


def opened(parcel: Parcel) -> Any:
    """What a parcel holds, with the sessions that are here."""
    return _names(parcel.places).load(parcel.body, parcel.arrays)


def _names(places: Sequence[Place]) -> Names:
    names = [_twin(place).names for place in places]
    return names[0] if len(names) == 1 else Names.several(names)


def _twin(place: Place) -> _Twin:
    """The session that lies at a place; read when it is first asked for."""
    twin = _TWINS.pop(place.key, None)
    if twin is None or twin.version > place.version:
        one_thread_each()  # for as long as the worker lives
        twin = _Twin.of(place.frame.get())
    twin.update(place)
    _TWINS[place.key] = twin  # the newest last
    while len(_TWINS) > KEPT:
        del _TWINS[next(iter(_TWINS))]
    return twin


def _say_nothing(step: str, share: float) -> None:
    """No progress is shown on a worker: it is told where pieces are waited for."""
