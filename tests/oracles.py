"""Oracles for the notes of a rule: what a note claims about an operator, found out by running the operator.

    check_products(row)     rows x matrix + bias is what the node gives, or what it works on
    check_linearity(row)    a random change of basis in front of it is the same change behind it

A weight of a product that more is computed with (gates, an activation) is tested by changes that the product does not
show: a matrix that the rows do not see, and a constant column of the rows moved into the bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from spa.analysis.application import Application
from spa.analysis.matching import build, expand
from spa.notation.dims import Factor
from spa.notation.linearity import Passing
from spa.notation.operation import Moves, entry_of
from spa.notation.patterns import Term, names_in, names_of
from spa.notation.positions import leaf_positions
from spa.notation.products import Product
from spa.passes.layers.consumers import Layer
from spa.passes.layers.finding import find_layers
from tests.soundness import Case, Row, Unsound

CLOSE = 1e-4  # of the largest number in a result
MOVED = 1e-2  # of it: what a change that shows moves a result by, at least


def check_products(row: Row) -> int:
    """Compare every product of a row with what the node gives; how many weights were compared.

    Raises:
        Unsound: the node computes something else with a weight.
    """
    *_, application = Case(row).couple()
    pairs = [pair for product in application.rule.products for pair in _sides(product)]
    return sum(_compare(row, *pair) for pair in pairs)


def _sides(product: Product) -> Iterator[tuple[int | None, int]]:
    """(data, weight) with either operand as the stored one where the note allows both."""
    yield product.data, product.weight
    if product.symmetric and product.data is not None:
        yield product.weight, product.data


def _compare(row: Row, data: int | None, weight: int) -> bool:
    """Whether a weight makes a layer, which is then compared."""
    case = Case(row)
    product = next(product for product in case.couple()[-1].rule.products if weight in (product.weight, product.data))
    for at, constant in ((data, False), (weight, True), (product.bias, True)):
        if at in case.tensors:
            case.tensors[at] = replace(case.tensors[at], constant=constant)
    case.row = replace(row, operands=[case.tensors.get(at) for at in range(len(row.operands))])
    model, _, coupling, application = case.couple()
    layer = next((layer for layer in find_layers(model, coupling) if layer.mixing.weight == weight), None)
    if layer is None or not layer.width * layer.output_width:
        return False
    arrays = _prepared(case, application, layer)
    results = case.run(case.model(arrays), arrays)
    rows = layer.rows(np.asarray(results[0] if data is None else arrays[data], np.float64))
    what = f"{case.row}: operand {weight} of {layer.mixing.product}"
    if not layer.mixing.product.inside and (layer.bias is not None or product.bias not in arrays):
        _equal(_given(layer, rows, arrays), layer.output_rows(results[0]), what)
    if layer.mixing.product.data is None or layer.width > 1:
        unseen = np.stack([_unseen(block, layer.output_width) for block in rows])
        same = arrays | {weight: _cast(layer.weight_of(layer.matrix(arrays[weight]) + unseen), arrays[weight])}
        _same(case, same, results, f"{what}: a matrix that no row sees")
    _moved_into_bias(case, layer, rows, arrays, results, what)
    return True


def _prepared(case: Case, application: Application, layer: Layer) -> dict[int, np.ndarray]:
    """Operands such that few rows are told apart, so that there are matrices that no row sees."""
    arrays = {at: array.copy() for at, array in case.dense.items()}
    product = layer.mixing.product
    if product.data is None:  # two steps from a state of zeros: the second reads the first
        assert product.steps is not None
        arrays[0] = np.take(arrays[0], range(2), product.steps)
        (state,) = (name for _, name in layer.mixing.stands_for)
        arrays |= {at: np.minimum(array, 2) for at, array in arrays.items() if array.dtype.kind == "i"}  # lengths
        for at in arrays.keys() - application.weights:
            if state in {name.name for term in application.operand_axes(at) for name in names_of(term)}:
                arrays[at] = np.zeros_like(arrays[at])
        case.shapes = [result.shape for result in case.run(case.model(arrays), arrays)]
        return arrays
    for axis, term in enumerate(application.operand_axes(product.data)):
        if {name.name for name in names_of(term)} & layer.mixing.contracted:
            first = np.take(arrays[product.data], [0], axis)
            factors = np.linspace(0.5, 1.5, arrays[product.data].shape[axis], dtype=first.dtype)
            shape = [1] * first.ndim
            shape[axis] = -1
            arrays[product.data] = first * factors.reshape(shape)
            np.moveaxis(arrays[product.data], axis, 0)[0] = 1.0
            break
    return arrays


def _given(layer: Layer, rows: np.ndarray, arrays: dict[int, np.ndarray]) -> np.ndarray:
    """What the product gives, (blocks, positions, outputs)."""
    product = rows @ layer.matrix(arrays[layer.mixing.weight].astype(np.float64))
    at = layer.mixing.bias
    if at is None or layer.bias is None:
        return np.asarray(product)
    return np.asarray(product + layer.bias_vector(arrays[at].astype(np.float64))[:, None])


def _unseen(rows: np.ndarray, outputs: int) -> np.ndarray:
    """A matrix (width, outputs) that gives zero for all rows; zeros where there is none."""
    _, values, directions = np.linalg.svd(rows)
    rank = int(np.sum(values > 1e-5 * values.max(initial=1e-30)))
    free = directions[rank:]
    noise = np.random.default_rng(0).uniform(0.5, 1.0, (len(free), outputs))
    return np.asarray(free.T @ noise)


def _moved_into_bias(
    case: Case, layer: Layer, rows: np.ndarray, arrays: dict[int, np.ndarray], results: list[np.ndarray], what: str
) -> None:
    """A column of the rows that is one everywhere counts as much in the matrix as in the bias."""
    at = layer.mixing.bias
    if at is None or at not in arrays or layer.bias is not layer.node.inputs[at] or layer.mixing.steps is not None:
        return
    if arrays[at].size == 1 < layer.output_width * layer.block_count:
        return  # one number for all outputs
    ones = [column for column in range(layer.width) if np.all(rows[:, :, column] == 1.0)]
    if not ones:
        return
    weight = layer.mixing.weight
    matrix = layer.matrix(arrays[weight]).astype(np.float64)
    vector = layer.bias_vector(arrays[at].astype(np.float64))
    shift = np.random.default_rng(1).uniform(0.5, 1.0, vector.shape)
    matrix[:, ones[0]] += shift
    moved = arrays | {weight: _cast(layer.weight_of(matrix), arrays[weight])}
    _differs(case, moved, results, f"{what}: another matrix")
    moved[at] = _cast(layer.bias_of(vector - shift, arrays[at]), arrays[at])
    _same(case, moved, results, f"{what}: a constant column moved into the bias")


def _cast(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    return array.reshape(like.shape).astype(like.dtype)


def _same(case: Case, arrays: dict[int, np.ndarray], expected: list[np.ndarray], what: str) -> None:
    for wanted, actual in zip(expected, case.run(case.model(arrays), arrays), strict=True):
        _equal(actual, wanted, what)


def _differs(case: Case, arrays: dict[int, np.ndarray], results: list[np.ndarray], what: str) -> None:
    result = case.run(case.model(arrays), arrays)[0]
    if np.max(np.abs(result - results[0]), initial=0.0) <= MOVED * np.max(np.abs(results[0]), initial=0.0):
        raise Unsound(f"{what} gives the same: nothing is tested")


def _equal(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    scale = float(np.max(np.abs(expected), initial=1e-3))
    if actual.shape != expected.shape or not np.allclose(actual, expected, rtol=0, atol=CLOSE * scale):
        raise Unsound(f"{what} gives {actual}, expected {expected}")


# ------------------------------------------------------------------------------------------------- linearity
def check_linearity(row: Row) -> int:
    """Change the basis along every factor that a row is linear along, in front and behind; how many were compared.

    Raises:
        Unsound: the node computes something else from the changed operands.
    """
    case = Case(row)
    *_, application = case.couple()
    if any(array.dtype.kind != "f" for array in case.run(case.model(case.dense), case.dense)[:1]):
        return 0
    count = 0
    for name, dim in application.factors.items():
        how = application.passes(name)
        if how is not None and dim.size > 1 and not _is_frozen(application, name):
            _changed_basis(case, application, name, how)
            count += 1
    return count


def _is_frozen(application: Application, name: str) -> bool:
    return name.partition(".")[0] in application.rule.frozen


def _changed_basis(case: Case, application: Application, name: str, how: Passing) -> None:
    size = application.factors[name].size
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0] * np.linspace(0.5, 1.5, size)
    given = case.dense
    arrays = {at: array.astype(array.dtype, copy=True) for at, array in given.items()}
    operands = [at for at in arrays if name in {part.name for part in names_in(tuple(application.operand_axes(at)))}]
    moved = operands
    if how is Passing.SAME and entry_of(application.node).moves is Moves.FIRST:
        moved = [0]
    if any(arrays[at].dtype.kind != "f" for at in moved):
        return
    bases = [basis, np.linalg.inv(basis).T] if how is Passing.MEETS else [basis] * len(moved)
    for at, matrix in zip(moved, bases, strict=True):
        terms = application.operand_axes(at)
        arrays[at] = _along(arrays[at], terms, application, name, matrix).astype(arrays[at].dtype)
    before, after = (case.run(case.model(each), each) for each in (given, arrays))
    what = f"{case.row}: a change of basis along {name} in {application.rule}"
    for at, (old, new) in enumerate(zip(before, after, strict=True)):
        pattern = application.rule.results[at]
        axes = expand(pattern, old.ndim) if pattern is not None else ()
        expected = _along(old, axes, application, name, basis) if how is Passing.SAME else old
        if old.dtype.kind == "f" and at == 0:
            _equal(new, expected.astype(new.dtype), what)


def _along(
    array: np.ndarray, terms: Sequence[Term], application: Application, name: str, matrix: np.ndarray
) -> np.ndarray:
    """The array with a matrix applied along the positions of a name, wherever it stands."""
    for axis, term in enumerate(terms):
        numbers = _numbers(term, application, name)
        if numbers is None:
            continue
        moved = np.moveaxis(array, axis, 0).astype(np.float64)
        for column in numbers.T:  # the positions that share everything but the index along the name
            moved[column] = np.tensordot(matrix, moved[column], 1)
        array = np.moveaxis(moved, 0, axis)
    return array


def _numbers(term: Term, application: Application, name: str) -> np.ndarray | None:
    """(factor size, copies) the positions along an axis that each index of a name has; None: it is not there."""
    leaf = Factor(application.factors[name].size)
    factors = {other.name: Factor(application.factors[other.name].size) for other in names_of(term)}
    if name not in factors:
        return None
    dim = build(term, None, factors | {name: leaf}, {})
    columns = [index for factor, index in leaf_positions(dim, {leaf: 0}) if factor is leaf]
    return np.concatenate([_columns(index, leaf.size) for index in columns], axis=1)


def _columns(index: np.ndarray, size: int) -> np.ndarray:
    return np.stack([np.flatnonzero(index == number) for number in range(size)])
