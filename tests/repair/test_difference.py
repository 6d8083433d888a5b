"""How far outputs moved."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.repair import difference
from spa.passes.repair.difference import evened, lost, output_difference
from spa.passes.repair.network import prepare
from spa.pipeline import load_normal
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
    found = output_difference([left], [right])["kl"]
    assert found == pytest.approx(0.5 * (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)))
    assert output_difference([left], [left])["kl"] == pytest.approx(0)


def test_divergence_of_logits_does_not_see_what_all_classes_share() -> None:
    random = np.random.default_rng(0)
    left = random.standard_normal((4, 5))
    assert "kl" not in output_difference([left], [left + 1])
    assert output_difference([left], [left + 1], logits=True)["kl"] == pytest.approx(0, abs=1e-12)
    right = left + random.standard_normal((4, 5))
    p, q = (np.exp(rows) / np.exp(rows).sum(1, keepdims=True) for rows in (left, right))
    found = output_difference([left], [right], logits=True)
    assert found["kl"] == pytest.approx(np.mean(np.sum(p * np.log(p / q), 1)))
    assert lost(found, logits=True) == found["kl"] + found["relative_l2"] ** 2


def test_probabilities_are_off_by_their_divergence_alone() -> None:
    rows = np.array([[0.5, 0.5], [0.9, 0.1]])
    found = output_difference([rows], [rows[::-1]])
    assert lost(found) == found["kl"] > 0


def test_rows_that_do_not_count_and_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 3, 7, 5))
    weights = [random.integers(0, 2, 7).astype(np.float64) for _ in left]
    kept = [np.concatenate([part[w > 0] for part, w in zip(parts, weights, strict=True)]) for parts in (left, right)]
    whole = output_difference([kept[0]], [kept[1]], logits=True)
    monkeypatch.setattr(difference, "BLOCK", 15)
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
    found = output_difference([masked[0]], [masked[1]], logits=True)
    assert found["kl"] == pytest.approx(plain["kl"])
    assert found["relative_l2"] == pytest.approx(plain["relative_l2"], rel=0.1)  # its mean is over the zeros too
    nothing = np.full((4, 5), np.nan)
    assert output_difference([nothing], [nothing], logits=True) == {"relative_l2": 0.0, "kl": 0.0}
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
