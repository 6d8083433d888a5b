"""How far outputs moved."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.repair import kinds
from spa.passes.repair.difference import evened, lost, lost_share, output_difference, unit_of_logits
from spa.passes.repair.kinds import WHOLE, Part, column_axes, parts_of
from spa.passes.repair.moved import Traits, moved
from spa.passes.repair.network import prepare
from spa.pipeline import analyse, load_normal
from tests import models
from tests.repair.test_streaming import noisy


def test_differences_of_outputs() -> None:
    random = np.random.default_rng(0)
    left = [random.standard_normal((4, 5)) for _ in range(2)]
    assert output_difference(left, left) == {"relative_l2": 0.0}
    moved = output_difference(left, [array + 0.1 for array in left])["relative_l2"]
    whole = np.concatenate(left)
    assert moved == pytest.approx(0.1 * np.sqrt(whole.size) / np.linalg.norm(whole - whole.mean(0)))


def test_divergence_of_probabilities() -> None:
    left, right = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    kl = output_difference([left], [right])["kl"]
    assert kl == pytest.approx(0.5 * (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)))
    assert output_difference([left], [left])["kl"] == pytest.approx(0)


def test_divergence_of_logits_does_not_see_what_all_classes_share() -> None:
    random = np.random.default_rng(0)
    left = random.standard_normal((4, 5))
    assert "kl" not in output_difference([left], [left + 1])
    assert output_difference([left], [left + 1], logits=True)["kl"] == pytest.approx(0, abs=1e-12)
    right = left + random.standard_normal((4, 5))
    p, q = (np.exp(rows) / np.exp(rows).sum(1, keepdims=True) for rows in (left, right))
    measures = output_difference([left], [right], logits=True)
    assert measures["kl"] == pytest.approx(np.mean(np.sum(p * np.log(p / q), 1)))
    assert lost(measures, logits=True) == measures["kl"] + measures["relative_l2"] ** 2


def test_probabilities_are_off_by_their_divergence_alone() -> None:
    rows = np.array([[0.5, 0.5], [0.9, 0.1]])
    measures = output_difference([rows], [rows[::-1]])
    assert lost(measures) == measures["kl"] > 0


def test_rows_that_do_not_count_and_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 3, 7, 5))
    weights = [random.integers(0, 2, 7).astype(np.float64) for _ in left]
    kept = [np.concatenate([part[w > 0] for part, w in zip(parts, weights, strict=True)]) for parts in (left, right)]
    whole = output_difference([kept[0]], [kept[1]], logits=True)
    monkeypatch.setattr(kinds, "BLOCK", 15)
    assert output_difference(left, right, weights, logits=True) == pytest.approx(whole)


def test_outputs_that_hardly_vary_are_measured_by_their_size() -> None:
    left = np.full((8, 3), 7.0)
    assert output_difference([left], [left * 1.01])["relative_l2"] == pytest.approx(0.01)


def test_which_outputs_may_be_logits() -> None:
    assert prepare(load_normal(models.gated_mlp())).logits == [True]
    assert prepare(load_normal(models.attention())).logits == [True]


@pytest.mark.parametrize("kind", ["Relu", "Softmax", "Transpose"])
def test_what_something_else_makes_is_no_logits(kind: str) -> None:
    text = f"(float[n,4] x) => (float[n,4] y) {{ h = MatMul(x, w)  r = Relu(h)  m = MatMul(r, v)  y = {kind}(m) }}"
    assert prepare(load_normal(ir.to_proto(noisy(text, {"w": (4, 6), "v": (6, 4)})))).logits == [False]


def test_scores_that_are_masked_are_left_out() -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 4, 5))
    hidden = np.full((4, 3), -np.inf)
    masked = [np.concatenate([rows, hidden], axis=1) for rows in (left, right)]
    plain = output_difference([left], [right], logits=True)
    measures = output_difference([masked[0]], [masked[1]], logits=True)
    assert measures["kl"] == pytest.approx(plain["kl"])
    assert measures["relative_l2"] == pytest.approx(plain["relative_l2"], rel=0.1)  # its mean is over the zeros too
    nothing = np.full((4, 5), np.nan)
    assert output_difference([nothing], [nothing], logits=True) == {"relative_l2": 0.0, "kl": 0.0, "top1": 1.0}
    assert not np.isfinite(output_difference([left], [nothing], logits=True)["relative_l2"])


def test_no_sample_drowns_the_others() -> None:
    """One whose numbers are a thousand times as large, and one that is off: evened, the small one is seen."""
    random = np.random.default_rng(0)
    left = random.standard_normal((12, 6))
    right = left + 0.3 * random.standard_normal(left.shape) * (np.arange(12) != 3)[:, None]
    left[3], right[3] = 1000 * left[3], 1000 * right[3]
    assert output_difference([left], [right])["relative_l2"] < 2e-3
    dense, pruned = evened([left[:6], left[6:]], [right[:6], right[6:]], [6, 6])
    assert 0.1 < output_difference(dense, pruned)["relative_l2"] < 0.6
    whole = [left[None, :6]]
    assert evened(whole, whole, [6])[0][0] is whole[0], "samples do not lie along the first axis"


def test_first_choices_that_stay() -> None:
    left = np.eye(4) * 3
    right = left.copy()
    right[0] = [0.0, 9.0, 0.0, 0.0]
    assert output_difference([left], [right], logits=True)["top1"] == 0.75
    assert "top1" not in output_difference([left], [right])


def test_a_lost_share_is_the_square_of_what_is_said_of_an_output() -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 50, 6)) + 40
    assert output_difference([left], [right])["relative_l2"] ** 2 == pytest.approx(lost_share([left], [right]))
    halves = lost_share([left[:20], left[20:]], [right[:20], right[20:]])
    assert halves == pytest.approx(lost_share([left], [right])), "whatever batches there are"
    assert lost_share([left * 16], [right * 16]) == pytest.approx(lost_share([left], [right]))


# ---------------------------------------------------------------------------------------------------------- kinds
def columns(*scales: float, axis: int = 1, shape: tuple[int, ...] = (24,), seed: int = 0) -> np.ndarray:
    """Random numbers whose columns along an axis vary by so much, around ten times that."""
    random = np.random.default_rng(seed)
    made = (random.standard_normal((*shape, len(scales))) + 10.0) * np.array(scales)
    return np.moveaxis(made, -1, axis).astype(np.float32)


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (columns(*[100.0] * 4, *[0.2] * 2), ["[:, 0:4]", "[:, 4:6]"]),
        (columns(*[0.1] * 80, *[150.0] * 4), ["[:, 0:80]", "[:, 80:84]"]),
        (columns(*[100.0] * 4, *[0.2] * 80, shape=(6, 50)), ["[:, 0:4]", "[:, 4:84]"]),
        (columns(*[100.0] * 4, 0.9, 0.01, shape=(6, 50), axis=2), ["[:, :, 0:4]", "[:, :, 4:5]", "[:, :, 5:6]"]),
        (columns(30.0, 0.5), ["[:, 0:1]", "[:, 1:2]"]),
        (columns(*np.geomspace(1, 4, 10)), [""]),
        (columns(*np.geomspace(1, 1000, 40)), [""]),  # all between: nothing says where a kind would end
        (columns(*[1.0] * 20, 1e-7), [""]),  # a class that no sample shows
        (columns(*[5.0, 0.01] * 10), [""]),  # kinds lie side by side
        (columns(*[1.0] * 3, 0.0), [""]),
        (np.zeros((8, 5), np.float32), [""]),
        (np.arange(40.0, dtype=np.float32), [""]),
    ],
)
def test_kinds_of_columns(array: np.ndarray, parts: list[str]) -> None:
    actual = parts_of([array[:5], array[5:]])
    assert [str(part) for part in actual] == parts
    if len(parts) > 1:
        axis = actual[0].axis
        assert axis is not None
        assert np.array_equal(np.concatenate([part.of(array) for part in actual], axis=axis), array)


def test_positions_are_of_one_kind() -> None:
    """The rim of a map varies less than its middle: no kind of its own, as the graph says where channels lie."""
    text = "(float[n,2,h,w] x) => (float[n,3,p,q] y) { a=Conv(x,w) r=Relu(a) y=Conv(r,u) }"
    analysis = analyse(load_normal(models.build(text, {"w": (4, 2, 3, 3), "u": (3, 4, 1, 1)})))
    axes = column_axes(analysis.coupling)(analysis.model.graph.outputs[0])
    assert axes == {1}
    rim = columns(*[0.1] * 4, *[10.0] * 12, shape=(6, 3, 8), axis=3)
    assert len(parts_of([rim])) > 1
    assert parts_of([rim], axes) == WHOLE
    assert set(output_difference([rim], [rim + np.float32(0.01)], columns={1})) == {"relative_l2"}


def test_outputs_of_several_shapes_or_of_whole_numbers_are_of_one_kind() -> None:
    two = columns(*[100.0] * 4, *[0.2] * 2, shape=(6, 50), axis=2)
    assert parts_of([two[:, :20], two]) == WHOLE
    assert parts_of([two.astype(np.int64)]) == WHOLE
    assert parts_of([]) == WHOLE


def test_scores_beside_boxes_are_heard() -> None:
    boxes, scores = columns(*[100.0] * 4), columns(*[0.1] * 3, seed=1)
    dense = np.concatenate([boxes, scores], axis=1)
    off = np.random.default_rng(2).permutation(scores)
    pruned = np.concatenate([boxes * 1.0001, off], axis=1)
    measures = output_difference([dense], [pruned])
    assert measures["relative_l2[:, 0:4]"] < 0.01
    assert measures["relative_l2"] == measures["relative_l2[:, 4:7]"] > 1.0
    assert lost(measures) > 0.5
    alone = output_difference([boxes], [boxes * 1.0001])
    assert measures["relative_l2[:, 0:4]"] == pytest.approx(alone["relative_l2"], rel=1e-5)


def test_kinds_along_another_axis_than_that_of_rows() -> None:
    """Positions lie along the last axis, and some of them do not count."""
    dense = np.concatenate([columns(*[100.0] * 4, shape=(6, 30)), columns(*[0.1] * 3, shape=(6, 30), seed=1)], axis=1)
    pruned = dense + np.float32(0.01)
    counts = np.ones(dense.shape[:2])
    counts[3:] = 0
    pruned[3:] = 1e6
    channels = dense[:3].std((0, 2))
    plain = output_difference([dense[:3]], [pruned[:3]])
    assert plain["relative_l2[:, 4:7]"] == pytest.approx(0.01 / np.sqrt(np.mean(channels[4:] ** 2)), rel=1e-4)
    measures = output_difference([dense], [pruned], [counts.reshape(-1)])
    assert measures["relative_l2[:, 4:7]"] == pytest.approx(0.1, rel=0.25)
    assert measures["relative_l2[:, 0:4]"] == pytest.approx(1e-4, rel=0.25)
    assert Part(1, 4, 7).of(dense).shape == (6, 3, 30)


def test_probabilities_are_of_one_kind() -> None:
    rows = np.array([[0.9, 0.0999, 0.0001]] * 6) + np.random.default_rng(0).uniform(-1e-5, 1e-5, (6, 3))
    rows /= rows.sum(1, keepdims=True)
    assert set(output_difference([rows], [rows[::-1]])) == {"relative_l2", "kl", "top1"}


def test_outputs_of_any_length_say_how_far_they_moved() -> None:
    """Scores of pairs are as many as there are pairs; a score of each sample has no rows."""
    random = np.random.default_rng(0)
    runs = [{"pairs": random.standard_normal((n, m)), "scores": random.standard_normal(n)} for n, m in ((4, 5), (6, 9))]
    off = [{name: 1.1 * array for name, array in run.items()} for run in runs]
    by_output = moved(runs, off, traits={"pairs": Traits(logits=True)})
    assert by_output.keys() == {"pairs", "scores"}
    assert all(set(measures) == {"relative_l2"} for measures in by_output.values())
    assert by_output["pairs"]["relative_l2"] == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e2])
def test_divergence_of_plain_numbers_does_not_depend_on_their_unit(factor: float) -> None:
    random = np.random.default_rng(0)
    dense = random.standard_normal((40, 12))
    pruned = dense + 0.2 * random.standard_normal(dense.shape)
    arrays = [factor * dense], [factor * pruned]
    unit = unit_of_logits(*arrays)
    assert np.sqrt(np.mean(np.var(unit * factor * dense, axis=1))) == pytest.approx(3.0)
    plain = output_difference([dense], [pruned], logits=True, unit=unit_of_logits([dense], [pruned]))
    assert output_difference(*arrays, logits=True, unit=unit) == pytest.approx(plain)
    pruned[0, 0] = np.inf
    assert unit_of_logits([dense], [pruned]) == 1.0


def test_large_outputs_are_compared_in_less_memory_than_one_batch_takes_in_double_precision() -> None:
    random = np.random.default_rng(0)
    dense = [random.standard_normal((2, 256, 20000), np.float32).astype(np.float16) for _ in range(3)]
    pruned = [(array * np.float16(1.01)).astype(np.float16) for array in dense]
    tracemalloc.start()
    try:
        measures = output_difference(dense, pruned, logits=True, unit=unit_of_logits(dense, pruned))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert measures["relative_l2"] == pytest.approx(0.01, rel=0.05)
    assert "kl" in measures
    assert peak < 8 * dense[0].size
