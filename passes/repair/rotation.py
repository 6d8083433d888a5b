"""Free bases turned so that what matters most comes first, and leaving out the rest loses least.

Where stored weights read the factor (values of an attention, a linear residual stream), with C the covariance of what
they read and W their rows, leaving out all but r directions and refitting loses what the truncated singular value
decomposition of C^(1/2) W loses (Eckart and Young 1936): the directions are C^(-1/2) U. Only the spaces that the first
r of them span matter, so R is their orthogonal factor, and nothing is scaled.

Where two computed values meet (queries and keys), with second moments C_q and C_k and U S V^T = C_q^(1/2) C_k^(1/2),
the products q^T k lose least in R_q = C_q^(-1/2) U S^(1/2) and R_k = R_q^(-T) = C_k^(-1/2) V S^(1/2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from spa.analysis.group import Group
from spa.notation.dims import Factor, Kind, product
from spa.notation.positions import leaf_positions
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.repair.bases import find_bases
from spa.passes.repair.basis import Basis, NotFree, Place, Rows, rows_of
from spa.passes.repair.draft import Draft
from spa.passes.repair.running import results
from spa.passes.repair.store import Shelf

if TYPE_CHECKING:
    from spa.passes.repair.session import Session

RIDGE = 1e-6
"""Share of the mean variance that every direction has at least."""

AGREEMENT = {2: 5e-2, 4: 1e-3, 8: 1e-9}
"""How far outputs may move, of the largest one, by the bytes of a number in the tensors that are turned."""

BATCHES = 16
"""On which moments are measured: of what readers read, and of queries and keys."""

WIDEST = 8192
"""Rows of readers that are longer are not looked at: their moments would not fit into memory."""


@dataclass(frozen=True, slots=True)
class Turned:
    """A group in its best basis.

    Attributes:
        losses: (units + 1,) share that is lost when the last k units are gone: summed over readers and products.
        meets: whether products of computed values depend on the group, which no refit makes up for.
    """

    losses: np.ndarray
    meets: bool


def turn(session: Session, groups: Sequence[Group]) -> dict[str, Turned]:
    """Turn the free bases of groups, in the session's network; what is known of each afterwards, by name."""
    network = session.network
    bases = find_bases(network.model, network.coupling, groups)
    chosen = [group for group in groups if group.name in bases and _understood(session, group, bases[group.name])]
    if not chosen or not network.compared:
        return {}
    statistics: dict[Key, Statistics] = {}
    readers = [_problem(reader.layer) for group in chosen for reader in network.readers[group.name]]
    if readers:
        statistics = session.dense_statistics(readers, most=BATCHES)
        unseen = {problem.layer for problem in readers if not statistics[problem.key].seen}
        chosen = [g for g in chosen if not unseen & {reader.layer for reader in network.readers[g.name]}]
    sums = _products(session, [basis for group in chosen for basis in bases[group.name] if basis.meetings])
    places = [p for group in chosen for b in bases[group.name] for p in (*b.same, *b.inverse)]
    stored = {place.value: place.value.const_value for place in places}
    probe = session.batches[:1]
    before = session.outputs(probe)
    turned, shelf = {}, session.shelf()
    for group in chosen:
        losses = np.zeros(group.size + 1)
        for basis in bases[group.name]:
            matrices, energy = (
                _of_products(sums[id(basis)]) if basis.meetings else _of_readers(session, group, basis, statistics)
            )
            _write(session, basis, matrices, shelf)
            lost = np.concatenate([[0.0], np.cumsum(energy.sum(0)[::-1])])
            losses += lost / (lost[-1] or 1.0)
        turned[group.name] = Turned(losses, any(basis.meetings for basis in bases[group.name]))
    coarsest = min((tensor.dtype.itemsize for tensor in stored.values() if tensor is not None), default=4)
    if turned and not _agree(before, session.outputs(probe), AGREEMENT[int(coarsest)]):
        for value, tensor in stored.items():
            value.const_value = tensor
        session.notes.append("no group was turned: the outputs would have moved by more than rounding")
        return {}
    return turned


def _agree(before: Sequence[Sequence[np.ndarray]], after: Sequence[Sequence[np.ndarray]], share: float) -> bool:
    """Whether outputs are the same but for a share of the largest."""
    pairs = [(a, b) for left, right in zip(before, after, strict=True) for a, b in zip(left, right, strict=True)]
    for old, new in pairs:
        if old.dtype.kind == "f":
            there = np.isfinite(old)
            off = np.abs(old[there].astype(np.float64) - new[there])
            most = share * np.max(np.abs(old[there]), initial=0.0)
            if not (np.array_equal(there, np.isfinite(new)) and np.max(off, initial=0.0) <= most):
                return False
    return True


def _understood(session: Session, group: Group, bases: Sequence[Basis]) -> bool:
    """Whether everything that sums over the group is a reader with a weight of its own, or a product of the bases."""
    network = session.network
    met = {meeting.application.node for basis in bases for meeting in basis.meetings}
    others = {str(node.name or node.op_type) for node in met}
    if not set(network.others[group.name]) <= others or any(r.layer.shared for r in network.readers[group.name]):
        return False
    if any(_problem(reader.layer).width > WIDEST for reader in network.readers[group.name]):
        return False
    try:
        for reader in network.readers[group.name]:
            for basis in bases:
                for place in basis.inverse:
                    if place.value is reader.layer.weight:
                        rows_of(basis, _row_dim(reader.layer), number=place.number, slot=place.slot)
    except NotFree:
        return False
    read = {place.value for basis in bases if not basis.meetings for place in basis.inverse}
    return read == {reader.layer.weight for reader in network.readers[group.name]}


# ------------------------------------------------------------------------------------------------- readers
def _problem(layer: Layer) -> Problem:
    """Rows of channels: the taps of a window share them."""
    return Problem.of(layer, widest=0)


def _row_dim(layer: Layer) -> Factor:
    """What a row of `_problem` is made of."""
    taps = {name for name, _ in layer.mixing.stands_for} if layer.mixing.window is not None else set()
    return product(*(layer.factors[name] for name in layer.contracted if name not in taps))


def _of_readers(
    session: Session, group: Group, basis: Basis, statistics: Mapping[Key, Statistics]
) -> tuple[np.ndarray, np.ndarray]:
    """R (copies, d, d), and the energy of each direction (copies, d)."""
    network, size = session.network, basis.leaf.size
    covariance, reach = np.zeros((basis.copies, size, size)), np.zeros((basis.copies, size, size))
    for reader in network.readers[group.name]:
        layer, problem = reader.layer, _problem(reader.layer)
        for place in (place for place in basis.inverse if place.value is layer.weight):
            rows = rows_of(basis, _row_dim(layer), number=place.number, slot=place.slot)
            for block, moments in enumerate(statistics[problem.key].fitted):
                gram = moments.gram
                matrix = network.dense_matrix(layer)[block].reshape(problem.width, -1)
                energy = float(np.vdot(matrix, gram @ matrix)) or 1.0
                trace = float(np.trace(gram)) or 1.0
                for k, copy in enumerate(rows.copy):
                    positions = rows.positions[:, k]
                    covariance[copy] += gram[np.ix_(positions, positions)] / trace
                    reach[copy] += matrix[positions] @ matrix[positions].T * (trace / energy)
    return _directions(covariance, reach)


def _directions(covariance: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonal R whose first columns span what C^(1/2) W W^T C^(1/2) is largest in, and its eigenvalues."""
    matrices, energies = np.empty_like(covariance), np.empty(covariance.shape[:2])
    for copy, (second_moments, read) in enumerate(zip(covariance, reach, strict=True)):
        root, inverse = _roots(second_moments)
        values, vectors = np.linalg.eigh(root @ read @ root)
        matrices[copy] = np.linalg.qr(inverse @ vectors[:, ::-1])[0]
        energies[copy] = np.maximum(values[::-1], 0.0)
    return matrices, energies


def _roots(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C^(1/2) and C^(-1/2), of a slightly damped C."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + RIDGE * max(float(np.trace(covariance)) / len(covariance), 1e-30)
    root = np.sqrt(values)
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


# ------------------------------------------------------------------------------------------------- products
def _products(session: Session, bases: Sequence[Basis]) -> dict[int, np.ndarray]:
    """For each basis (by id) sum x x^T of both sides where they meet, (2, copies, d, d), in the dense network."""
    values = list(dict.fromkeys(p.value for b in bases for m in b.meetings for p in (m.first, m.second)))
    sums = {id(b): np.zeros((2, b.copies, b.leaf.size, b.leaf.size)) for b in bases}
    if not values:
        return sums
    fitted = [session.batches[number] for number in session.split.fitted]
    fitted = fitted[:: max(1, len(fitted) // BATCHES)]
    axes = session.network.coupling.axes
    for arrays in results(session.network, Draft(), values, fitted, memory=session.memory, threads=session.threads):
        for basis in bases:
            for meeting in basis.meetings:
                for side, place in enumerate((meeting.first, meeting.second)):
                    sums[id(basis)][side] += _moments(basis, place, axes[place.value], arrays[place.value])
    return sums


def _moments(basis: Basis, place: Place, axes: Sequence[Factor], array: np.ndarray) -> np.ndarray:
    """sum x x^T for each copy of the basis, (copies, d, d), of a computed value."""
    wanted = {basis.leaf, *basis.heads}
    columns = [_columns(dim, size, wanted) for dim, size in zip(axes, array.shape, strict=True)]
    index = [column for leaf, column in columns[place.axis] if leaf is basis.leaf][place.number]
    positions = np.stack([np.flatnonzero(index == k) for k in range(basis.leaf.size)], axis=-1)  # (K, d)
    copy = np.zeros((1,) * array.ndim, int)
    for head in basis.heads:
        copy = copy * head.size
        for axis, of_axis in enumerate(columns):
            for leaf, column in of_axis:
                if leaf is head and (axis != place.axis or np.all(column[positions] >= 0)):
                    copy = copy + column.reshape([-1 if at == axis else 1 for at in range(array.ndim)])
    whole = np.moveaxis(np.broadcast_to(copy, array.shape), place.axis, -1)[..., positions[:, 0]].reshape(-1)
    rows = np.moveaxis(array, place.axis, -1)[..., positions].reshape(-1, basis.leaf.size).astype(np.float64)
    sums = np.zeros((basis.copies, basis.leaf.size, basis.leaf.size))
    for number in range(basis.copies):
        mine = rows[whole == number]
        sums[number] = mine.T @ mine
    return sums


def _columns(dim: Factor, size: int, wanted: set[Factor]) -> list[tuple[Factor, np.ndarray]]:
    """Where factors lie along an axis that may be longer or shorter than it was analysed with."""
    root = dim.root
    if size == root.size:
        return list(leaf_positions(root, wanted))
    if root.kind is Kind.PRODUCT and size % (rest := root.size // root.parts[0].size) == 0:
        inside = product(*root.parts[1:])
        return [(leaf, np.tile(column, size // rest)) for leaf, column in leaf_positions(inside, wanted)]
    return []


def _of_products(sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R_q (copies, d, d), and the energy of each direction (copies, d)."""
    matrices, energies = np.empty_like(sides[0]), np.empty(sides[0].shape[:2])
    for copy, (query, key) in enumerate(zip(*sides, strict=True)):
        (root, inverse), (other, _) = _roots(query), _roots(key)
        left, values, _ = np.linalg.svd(root @ other)
        values = np.maximum(values, RIDGE * values[0])
        matrices[copy] = inverse @ left * np.sqrt(values)
        energies[copy] = values**2
    return matrices, energies


# ------------------------------------------------------------------------------------------------- writing
def _write(session: Session, basis: Basis, matrices: np.ndarray, shelf: Shelf) -> None:
    """R into the tensors of one side, R^-T into those of the other."""
    axes = session.network.coupling.axes
    opposite = np.linalg.inv(matrices).transpose(0, 2, 1)
    for places, change in ((basis.same, matrices), (basis.inverse, opposite)):
        for place in places:
            rows = rows_of(basis, axes[place.value][place.axis], number=place.number, slot=place.slot)
            _change(place, rows, change, shelf)


def _change(place: Place, rows: Rows, matrices: np.ndarray, shelf: Shelf) -> None:
    """t'_e = sum_d t_d M_de along an axis of a stored tensor."""
    tensor = place.value.const_value
    assert tensor is not None
    array = np.array(np.moveaxis(tensor.numpy().astype(np.float64), place.axis, 0))
    for copy, matrix in enumerate(matrices):
        positions = rows.positions[:, rows.copy == copy]  # (d, k)
        array[positions] = np.tensordot(matrix, array[positions], axes=(0, 0))
    changed = np.ascontiguousarray(np.moveaxis(array, 0, place.axis).astype(tensor.dtype.numpy()))
    place.value.const_value = ir.Tensor(shelf.keep(changed), dtype=tensor.dtype, name=place.value.name)
