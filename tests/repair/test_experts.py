"""Experts chosen by what is lost without each, beside published ways of choosing them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import spa
from spa.passes.repair.experts import beyond_fence
from tests.analysis.test_numbering import CHOSEN, EXPERTS, WIDTH, Built, _answers, _barred, by_gather

OUTLIER = 3


def mixture(*, outlier: bool) -> onnx.ModelProto:
    return built(outlier=outlier).model()


def built(*, outlier: bool) -> Built:
    """Eight experts, of which one is seldom chosen, and what it gives is thirty times as large."""
    found = by_gather()
    if outlier:
        found.stored["router"][:, OUTLIER] *= 0.4
        found.stored["down"][OUTLIER] *= 30
    return found


def samples(seed: int, count: int = 384) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def routed(stored: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each expert is chosen, and its saliency by REAP: the mean of gate times norm of what it gives."""
    logits = x @ stored["router"]
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    chosen = np.argsort(-scores, axis=1)[:, :CHOSEN]
    counts, sums = np.zeros(EXPERTS), np.zeros(EXPERTS)
    gates = np.take_along_axis(scores, chosen, axis=1)
    for row, experts, shares in zip(x, chosen, gates / gates.sum(axis=1, keepdims=True), strict=True):
        for expert, gate in zip(experts, shares, strict=True):
            given = np.maximum(row @ stored["up"][expert], 0) @ stored["down"][expert]
            counts[expert] += 1
            sums[expert] += gate * np.linalg.norm(given)
    return counts, sums / np.maximum(counts, 1)


def lost(gone: list[int], *, outlier: bool) -> float:
    x = samples(9)
    dense = _answers(mixture(outlier=outlier), x)
    return float(np.mean((_answers(_barred(built(outlier=outlier), gone), x) - dense) ** 2) / np.var(dense))


def chosen(*, outlier: bool) -> tuple[list[int], list[str]]:
    options = {"only": "experts", "include": "experts", "align": 1, "preset": "default"}
    result = spa.prune(mixture(outlier=outlier), ratio=0.2, data={"x": samples(1)}, **options)  # type: ignore[arg-type]
    assert result.report.verified
    return list(result.plan.removed["router:1"]), result.report.notes


def test_the_outlier_stays_though_it_is_seldom_chosen() -> None:
    counts, saliency = routed(built(outlier=True).stored, samples(1))
    assert OUTLIER in np.argsort(counts)[:2]  # frequency loses it
    assert saliency.argmax() == OUTLIER
    gone, notes = chosen(outlier=True)
    assert OUTLIER not in gone
    assert any(f"experts {OUTLIER} stay" in note for note in notes)
    worst = np.argsort(counts)[: len(gone)].tolist()
    assert lost(gone, outlier=True) < 0.3 * lost(worst, outlier=True)


@pytest.mark.parametrize("outlier", [False, True])
def test_ours_loses_no_more_than_reap(outlier: bool) -> None:
    _, saliency = routed(built(outlier=outlier).stored, samples(1))
    gone, _ = chosen(outlier=outlier)
    reap = np.argsort(saliency)[: len(gone)].tolist()
    assert lost(gone, outlier=outlier) <= 1.02 * lost(reap, outlier=outlier)


def test_far_out_is_beyond_the_outer_fence() -> None:
    assert beyond_fence(np.array([1.0, 2.0, 3.0, 4.0, 30.0])) == [4]
    assert beyond_fence(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == []
    assert beyond_fence(np.zeros(6)) == []
