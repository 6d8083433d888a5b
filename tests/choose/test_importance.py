"""Criteria by hand: each formula on a small group.

One file: a formula each.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from spa.analysis.group import Group, Slice
from spa.errors import ModelError, UsageError
from spa.passes.choose.importance import (
    CRITERIA,
    GATHERS,
    NORMALISATIONS,
    Context,
    Criterion,
    Scoring,
    Tensors,
    gather,
    random,
    score_groups,
)
from spa.passes.choose.importance.weights import distance_sums
from tests.grouped import MLP, Grouped, attention, batch_normed, grouped, mlp, residual, shuffled


def scored(
    groups: Sequence[Group], criterion: str | Criterion | None = None, *, notes: list[str] | None = None, **how: Any
) -> list[np.ndarray]:
    return score_groups(groups, criterion, Scoring(**how), notes=notes)


MATRICES = {"wq", "wk", "wv", "wo", "w1", "w2", "c0", "c1", "c2", "c3"}


def by_hand(model: Grouped, group: Group, *, power: int, how: str, roles: str) -> np.ndarray:
    """The same scores from the definition: every unit's numbers picked out one tensor at a time."""
    result = []
    for unit in range(group.size):
        norms = []
        for piece in group.slices:
            wanted = roles == "both" or piece.producer == (roles == "producers")
            if piece.value.name not in MATRICES or not wanted or unit not in piece.unit_of:
                continue
            numbers = np.compress(piece.unit_of == unit, model.weight(piece.value.name), axis=piece.axis).astype(float)
            norms.append((np.abs(numbers) ** power).sum() ** (1 / power))
        result.append({"sum": sum(norms), "mean": np.mean(norms), "max": max(norms), "l2": np.linalg.norm(norms)}[how])
    return np.array(result)


@pytest.mark.parametrize("model", [mlp(), residual(), attention(), shuffled()], ids=["mlp", "cnn", "heads", "pieces"])
@pytest.mark.parametrize("how", GATHERS)
@pytest.mark.parametrize("roles", ["producers", "consumers", "both"])
@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_norms_are_those_of_the_definition(model: Grouped, how: str, roles: str, name: str, power: int) -> None:
    scores = scored(model.groups, name, gather=how, roles=roles, normalise="none")
    for group, score in zip(model.groups, scores, strict=True):
        has_role = roles == "both" or any(p.producer == (roles == "producers") for p in group.slices)
        expected = by_hand(model, group, power=power, how=how, roles=roles if has_role else "both")
        np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_vectors_count_only_where_there_is_nothing_else() -> None:
    model = mlp()
    (before,) = scored(model.groups, normalise="none")
    model.model.graph.initializers["b1"].const_value = ir.tensor(np.full(6, 1e6, np.float32), name="b1")
    (after,) = scored(model.groups, normalise="none")
    np.testing.assert_array_equal(before, after)
    bias = tuple(piece for piece in model.groups[0].slices if piece.value.name == "b1")
    alone = Group("b1:0", "channels", model.groups[0].leaves, bias)
    np.testing.assert_allclose(scored([alone], normalise="none")[0], 1e6)


@pytest.mark.parametrize("shape", [(700, 300), (1, 500, 400), (40, 50, 9, 11), (3, 200001), (262145, 2), (5, 1, 1)])
@pytest.mark.parametrize("power", [1, 2])
def test_sums_over_large_tensors_are_exact(shape: tuple[int, ...], power: int) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    value = ir.Value(name="w", const_value=ir.tensor(array))
    sums = Tensors([])
    for axis in range(len(shape)):
        others = tuple(k for k in range(len(shape)) if k != axis)
        expected = (np.abs(array.astype(float)) ** power).sum(axis=others)
        np.testing.assert_allclose(gather._power_sums(value, [axis], power)[axis], expected, rtol=1e-5)
        np.testing.assert_allclose(sums.power_sums(value, axis, power), expected, rtol=1e-5)


BY_WEIGHTS = [name for name in CRITERIA if name not in {"random", "bn_scale"}]  # these look at no weight, or at few
BY_WHOLE_UNITS = {"fpgm"}  # these hold a tensor's units at once, and read it for each axis
TYPES: list[type] = [
    np.float16, np.float64, np.int8, np.uint8,
    ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("criterion", BY_WEIGHTS)
def test_every_type_is_scored_by_its_numbers(dtype: type, criterion: str) -> None:
    whole = np.random.default_rng(0).integers(-7, 8, (8, 6)) / (1 if "int" in dtype.__name__ else 8)
    middle = {"uint8": 128, "uint4": 8}.get(dtype.__name__, 0)
    piece = stored_slice((whole + middle).astype(dtype), axis=1)
    reference = stored_slice(whole.astype(np.float32), axis=1)
    assert score_piece(piece, criterion) == pytest.approx(score_piece(reference, criterion), rel=1e-6)


def stored_slice(array: np.ndarray, *, axis: int, unit_of: Sequence[int] | None = None) -> Slice:
    value = ir.Value(name="w", const_value=ir.tensor(array, name="w"))
    units = np.arange(array.shape[axis]) if unit_of is None else np.array(unit_of)
    return Slice(value, axis, units, producer=True, consumer=False)


def score_piece(piece: Slice, criterion: str) -> np.ndarray:
    leaf = mlp(units=piece.unit_of.size).groups[0].leaves
    return scored([Group("w:1", "channels", leaf, (piece,))], criterion, normalise="none")[0]


@pytest.mark.parametrize("criterion", BY_WEIGHTS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(criterion: str, wrong: float) -> None:
    model = mlp()
    array = model.weight("w2").copy()
    array[3, 1] = wrong
    model.model.graph.initializers["w2"].const_value = ir.tensor(array, name="w2")
    with pytest.raises(ModelError, match=r"tensor 'w2' holds .*(nan|inf) at \[3, 1\].*finite"):
        scored(model.groups, criterion)


@pytest.mark.parametrize("criterion", BY_WEIGHTS)
def test_numbers_whose_squares_overflow_float32_are_scored(criterion: str) -> None:
    array = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    small, large = (score_piece(stored_slice(array * np.float32(s), axis=1), criterion) for s in (1, 1e30))
    np.testing.assert_allclose(large / large.max(), small / small.max(), rtol=1e-5)


# ------------------------------------------------------------------------------------------------- criteria
@pytest.mark.parametrize("unit_of", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 3, 3], [2, -1, 0, -1, 2, 5], [-1, 1, 1, 1, 4, 4]])
@pytest.mark.parametrize("axis", [0, 1])
def test_distances_are_those_of_the_definition(unit_of: list[int], axis: int) -> None:
    array = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
    piece = stored_slice(array, axis=axis, unit_of=unit_of)
    most = max(unit_of.count(unit) for unit in unit_of if unit >= 0)
    vectors = {}
    for unit in sorted(set(unit_of) - {-1}):
        numbers = np.moveaxis(array, axis, 0)[piece.unit_of == unit].astype(float).reshape(-1)
        vectors[unit] = np.concatenate([numbers, np.zeros(most * 6 - numbers.size)])
    expected = np.zeros(6)
    for unit, mine in vectors.items():
        expected[unit] = sum(np.linalg.norm(mine - other) for other in vectors.values())
    np.testing.assert_allclose(distance_sums(piece, 6), expected, rtol=1e-5)


def test_distances_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = stored_slice(np.random.default_rng(0).standard_normal((9, 50)).astype(np.float32), axis=1)
    whole = distance_sums(piece, 50)
    monkeypatch.setattr("spa.passes.choose.importance.weights._DISTANCES", 350)
    np.testing.assert_allclose(distance_sums(piece, 50), whole, rtol=1e-5)


def test_fpgm_gives_up_what_the_rest_can_replace() -> None:
    array = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32) * 10
    array[:, 4] = np.delete(array, 4, axis=1).mean(axis=1)  # large, but in the middle of all others
    assert np.argmin(score_piece(stored_slice(array, axis=1), "fpgm")) == 4


def test_lamp_relates_a_unit_to_all_that_are_no_smaller() -> None:
    model = residual()
    norms, scores = (scored(model.groups, name, normalise="none") for name in ("l2", "lamp"))
    for norm, score in zip(norms, scores, strict=True):
        expected = [n**2 / sum(m**2 for m in norm if m >= n) for n in norm]
        np.testing.assert_allclose(score, expected, rtol=1e-6)
        assert score.max() == pytest.approx(1)


def test_bn_scale_is_the_scale_and_falls_back_to_l2_on_its_level() -> None:
    model, notes = batch_normed(scales=(0.5, -2.0, 1.0)), list[str]()
    first, second = scored(model.groups, "bn_scale", notes=notes)
    np.testing.assert_allclose(first, [0.5, 2.0, 1.0])
    (norms,) = scored(model.groups[1:], "l2", normalise="none")
    np.testing.assert_allclose(second / norms, np.full(5, second[0] / norms[0]))
    assert second.mean() == pytest.approx(first.mean())
    assert notes == ["bn_scale: 1 of 2 groups have no batch normalisation (c1:0); they were scored by l2"]


def test_bn_scale_without_any_batch_normalisation_is_l2() -> None:
    model, notes = residual(), list[str]()
    scores, norms = scored(model.groups, "bn_scale", notes=notes), scored(model.groups, normalise="none")
    for mine, norm in zip(scores, norms, strict=True):
        np.testing.assert_allclose(mine, norm)
    assert notes == ["bn_scale: 2 of 2 groups have no batch normalisation (c0:0, c1:0); they were scored by l2"]


def test_random_depends_on_seed_and_group_alone() -> None:
    model = residual()
    both, alone = scored(model.groups, random(3)), scored(model.groups[1:], random(3))
    np.testing.assert_array_equal(both[1], alone[0])
    assert not np.array_equal(both[1], scored(model.groups[1:], random(4))[0])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores_every_unit(criterion: str) -> None:
    for model in (mlp(), residual(), attention(), shuffled(), batch_normed()):
        scores = scored(model.groups, criterion)
        assert [score.shape for score in scores] == [(group.size,) for group in model.groups]
        assert all(np.isfinite(score).all() and score.dtype == np.float64 for score in scores)
    assert inspect.getdoc(CRITERIA[criterion]), "say its formula, and the paper: the page Theory shows it"


# --------------------------------------------------------------------------------------------- normalisation
@pytest.mark.parametrize("how", NORMALISATIONS)
def test_normalising_keeps_the_order(how: str) -> None:
    for scores in (np.array([3.0, -1.0, 2.0, 0.5]), np.array([4.0, 4.0]), np.zeros(3), np.zeros(0)):
        normed = gather.normalised(scores, how)
        assert np.isfinite(normed).all()
        np.testing.assert_array_equal(np.argsort(normed, kind="stable"), np.argsort(scores, kind="stable"))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [1, 2, 3, 6]),
        ("mean", [1 / 3, 2 / 3, 1, 2]),
        ("max", [1 / 6, 1 / 3, 1 / 2, 1]),
        ("sum", [1 / 12, 1 / 6, 1 / 4, 1 / 2]),
        ("standard", (np.array([1, 2, 3, 6]) - 3) / np.sqrt(3.5)),
    ],
)
def test_normalising(how: str, expected: Sequence[float]) -> None:
    np.testing.assert_allclose(gather.normalised(np.array([1.0, 2.0, 3.0, 6.0]), how), expected)


def test_scores_are_normalised_group_by_group() -> None:
    for score in scored(residual().groups, "l2", normalise="max"):
        assert score.max() == pytest.approx(1)


# ------------------------------------------------------------------------------------------------- protocol
def test_a_criterion_of_ones_own() -> None:
    model, seen = residual(), list[str]()

    def last_first(groups: Sequence[Group], context: Context, /) -> list[np.ndarray]:
        seen.extend(f"{context.gather} {context.roles}".split())
        context.notes.append("looked at nothing")
        return [np.arange(group.size)[::-1] for group in groups]

    notes: list[str] = []
    scores = scored(model.groups, last_first, gather="max", roles="consumers", notes=notes)
    assert [score.tolist() for score in scores] == [list(range(8))[::-1], list(range(6))[::-1], [0]]
    assert (seen, notes) == (["max", "consumers"], ["looked at nothing"])


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda groups: [np.zeros(3) for _ in groups], UsageError, r"own: expected scores of shape \(6,\) for"),
        (lambda groups: [np.full(6, np.nan) for _ in groups], ModelError, r"own: the scores of .* not finite"),
        (lambda _: [], UsageError, r"criterion .*own: expected an array for each of 1 groups, found 0"),
        (lambda _: None, UsageError, r"criterion .*own: expected an array of numbers"),
        (lambda groups: ["much" for _ in groups], UsageError, r"own: expected an array of numbers for each"),
    ],
)  # fmt: skip
def test_a_criterion_that_returns_something_else_is_refused(
    returned: Callable[[Sequence[Group]], Any], error: type[Exception], message: str
) -> None:
    def own(groups: Sequence[Group], context: Context, /) -> Any:  # noqa: ARG001 - a criterion's form
        return returned(groups)

    with pytest.raises(error, match=message):
        scored(mlp(units=6).groups, own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "lampp"}, "criterion 'lampp': expected one of l1, l2, .*did you mean lamp"),
        ({"gather": "median"}, "gather 'median': expected one of sum, mean, max, l2"),
        ({"roles": "producer"}, "did you mean producers"),
        ({"normalise": "softmax"}, "normalise 'softmax': expected one of none, mean"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scored(mlp().groups, options.pop("criterion", None), **options)


# --------------------------------------------------------------------------------------------------- memory
@pytest.mark.parametrize("criterion", [name for name in BY_WEIGHTS if name not in BY_WHOLE_UNITS])
def test_tensors_are_read_once_and_not_held(criterion: str) -> None:
    reads: list[weakref.ref[np.ndarray]] = []

    def lazy(name: str, *shape: int) -> ir.LazyTensor:
        def read() -> ir.Tensor:
            array = np.ones(shape, np.float32)
            reads.append(weakref.ref(array))
            return ir.Tensor(array, name=name)

        return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)

    model = grouped(MLP, {"w1": lazy("w1", 8, 6), "b1": (6,), "w2": lazy("w2", 6, 4)})
    reads.clear()  # shape inference reads small tensors
    scored(model.groups, criterion)
    assert len(reads) == 2
    assert all(reference() is None for reference in reads)
