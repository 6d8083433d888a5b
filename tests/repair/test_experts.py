"""Experts chosen by what is lost without each, beside published ways of choosing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import spa
from spa.errors import NothingToPrune, UsageError
from spa.passes.repair.routed import routed as added
from spa.passes.secondorder.experts import Routed, beyond_fence, far_out
from spa.steps import analyse, load_normal
from tests.analysis.test_apart import indexed, masked
from tests.analysis.test_numbering import CHOSEN, EXPERTS, FFN, MIXTURES, WIDTH, Built, _answers, _barred, by_gather
from tests.models import build

OUTLIER = 3


def mixture(*, outlier: bool) -> onnx.ModelProto:
    return built(outlier=outlier).model()


def built(*, outlier: bool) -> Built:
    """Eight experts, of which one is seldom chosen, and what it gives is thirty times as large."""
    example = by_gather()
    if outlier:
        example.stored["router"][:, OUTLIER] *= 0.4
        example.stored["down"][OUTLIER] *= 30
    return example


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


# ------------------------------------------------------------------------------------ what experts add, in every form
FAMILIES = {name: make for name, make in MIXTURES.items() if "few bits" not in name}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_experts_add_is_measured_in_every_form(name: str) -> None:
    """Against numpy, on the same weights laid out as each form wants them."""
    built = FAMILIES[name]()
    model = load_normal(built.model())
    analysis = analyse(model)
    (group,) = [group for group in analysis.groups if group.kind == "experts"]
    x = samples(5, 64)
    measured = added(analysis.model, analysis.coupling, group, [{"x": x[:40]}, {"x": x[40:]}])
    assert measured is not None
    given = _given(built, x, of_nodes=name.startswith("one operator"))
    logits = x @ built.stored["router"]
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    best = np.argsort(-scores, axis=1)[:, :CHOSEN]
    gates = np.zeros_like(scores)
    np.put_along_axis(gates, best, np.take_along_axis(scores, best, 1), 1)
    if "not normalised" not in name:
        gates /= gates.sum(1, keepdims=True)
    lengths = np.linalg.norm(gates[..., None] * given, axis=-1)
    np.testing.assert_allclose(measured.tokens, np.sum(gates > 0, axis=0))
    np.testing.assert_allclose(measured.norms, lengths.sum(0), rtol=1e-4)
    np.testing.assert_allclose(measured.peaks, np.abs(gates[..., None] * given).max((0, 2)), rtol=1e-4)


def _given(built: Built, x: np.ndarray, *, of_nodes: bool) -> np.ndarray:
    """(samples, experts, WIDTH) what each expert gives."""
    stored, outputs = built.stored, []
    for expert in range(EXPERTS):
        if of_nodes:  # weights lie (outputs, inputs), with biases
            hidden = np.maximum(x @ stored["up"][expert].T + stored["b"][expert], 0)
            outputs.append(hidden @ stored["down"][expert].T + stored["c"][expert])
        else:
            outputs.append(np.maximum(x @ stored["up"][expert], 0) @ stored["down"][expert])
    return np.stack(outputs, 1)


def test_packed_experts_are_told_apart_too() -> None:
    analysis = analyse(load_normal(MIXTURES["one operator of few bits"]().model()))
    (group,) = [group for group in analysis.groups if group.kind == "experts"]
    measured = added(analysis.model, analysis.coupling, group, [{"x": samples(5, 64)}])
    assert measured is not None
    assert measured.tokens.sum() == 64 * CHOSEN


@pytest.mark.parametrize("criterion", ["reap", "frequency"])
@pytest.mark.parametrize("outlier", [False, True])
def test_published_ways_choose_what_numpy_does(criterion: str, outlier: bool) -> None:
    counts, saliency = routed(built(outlier=outlier).stored, samples(1))
    expected = np.argsort(saliency if criterion == "reap" else counts, kind="stable")
    result = spa.prune(mixture(outlier=outlier), ratio=0.2, align=1, data={"x": samples(1)}, criterion=criterion)
    (gone,) = result.plan.removed.values()
    assert set(gone) == set(expected[: len(gone)].tolist())
    assert result.report.verified
    assert result.plan.repair.startswith(criterion)
    named = any("super experts" in note and "--protect outliers" in note for note in result.report.notes)
    assert named is outlier


@pytest.mark.parametrize("criterion", ["reap", "frequency", None])
def test_super_experts_stay_where_they_are_protected(criterion: str | None) -> None:
    options = {"criterion": criterion, "protect": "outliers", "include": "experts", "only": "experts"}
    result = spa.prune(mixture(outlier=True), ratio=0.35, align=1, data={"x": samples(1)}, **options)  # type: ignore[arg-type]
    (gone,) = result.plan.removed.values()
    assert OUTLIER not in gone
    assert any("protected: 1 super experts" in note and "3 of" in note for note in result.report.notes)


def test_what_cannot_be_done_is_said() -> None:
    plain = build("(float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": [6, 4]})
    with pytest.raises(UsageError, match="protect outliers is for mixtures of experts"):
        spa.prune(plain, ratio=0.2, protect="outliers", weights=True)
    with pytest.raises(UsageError, match="protect outliers looks at what experts add to tokens: give data"):
        spa.prune(mixture(outlier=True), ratio=0.2, protect="outliers", weights=True, include="experts")
    with pytest.raises(NothingToPrune, match="reap scores whole experts"):
        spa.prune(plain, ratio=0.2, criterion="reap", data={"x": samples(1)})


@pytest.mark.parametrize("form", [indexed, masked])
def test_experts_of_their_own_may_leave_a_constant(form: Callable[[], Built]) -> None:
    """Four give nearly the same for every token: of their hidden units one stays, and the bias holds the rest."""
    example, random = form(), np.random.default_rng(1)
    constant = range(4)
    for expert in constant:
        example.stored[f"up{expert}"] *= 0.05
        example.stored[f"b{expert}"] += 1
        example.stored[f"c{expert}"] += 1.5 * random.standard_normal(WIDTH).astype(np.float32)
    model, x = example.model(), samples(9)
    dense = _answers(model, x)

    def off(result: spa.PruneResult) -> float:
        assert result.report.verified
        return float(np.mean((_answers(ir.to_proto(result.model), x) - dense) ** 2) / np.var(dense))

    options: dict[str, Any] = {"ratio": 0.4, "align": 1, "data": {"x": samples(1, 1024)}}
    units = spa.prune(model, min_keep=0, **options)
    gone = [len(units.plan.removed.get(f"up{expert}:1", ())) for expert in range(EXPERTS)]
    assert min(gone[expert] for expert in constant) > max(gone[len(constant) :])
    assert max(gone) == FFN - 1
    whole = spa.prune(model, include="experts", only="experts", **options)
    assert off(units) < 1e-3 * off(whole)


def test_super_experts_are_told_from_the_rest() -> None:
    """Beyond the fence of their own mixture or of all, and not far below the largest."""
    usual = np.linspace(1.0, 2.0, 8)
    ones = np.ones(8)
    assert far_out([]) == []
    assert far_out([Routed(ones, ones, usual)]) == [[]]
    assert far_out([Routed(ones, ones, usual), Routed(ones, ones, np.where(np.arange(8) == 5, 60.0, usual))]) == [
        [],
        [5],
    ]
    assert far_out([Routed(ones, ones, 0.01 * usual), Routed(ones, ones, 100 * usual)])[0] == []
