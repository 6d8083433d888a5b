"""`spa heads`: the table of a model, and heads that are protected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa
from models import folder as toy
from spa.cli import main
from spa.errors import UsageError
from spa.passes.heads.experts import expert_loads
from spa.pipeline import analyse, load_normal
from tests.heads.test_attention import HEADS, TOKENS, WIDTH, plain
from tests.models import build
from tests.repair.test_experts import built, mixture, routed, samples

SIZES = toy.Sizes(layers=2, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.build(tmp_path_factory.mktemp("heads") / "dense", SIZES)


def test_a_language_model_needs_no_samples(decoder: Path) -> None:
    report = spa.heads(decoder)
    assert [(row.attention, row.head) for row in report.rows] == [
        (f"node/model.layers.{layer}.attn/out", head) for layer in range(2) for head in range(4)
    ]
    for row in report.rows:
        assert None not in (row.first, row.previous, row.entropy, row.retrieval)
        assert 0 < (row.retrieval or 0) < 1
        assert row.group is not None
    assert all(row.importance is None for row in report.rows)


def test_of_another_model_samples_are_needed_and_tell_importance() -> None:
    model = plain()
    with pytest.raises(UsageError, match="give data"):
        spa.heads(model)
    x = np.random.default_rng(1).standard_normal((48, TOKENS, WIDTH)).astype(np.float32)
    report = spa.heads(model, data={"x": x})
    assert [row.head for row in report.rows] == list(range(HEADS))
    measured = [row.importance for row in report.rows if row.importance is not None]
    assert len(measured) == HEADS - 1  # one stays
    assert all(loss >= 0 for loss in measured)
    assert all(row.retrieval is None for row in report.rows)


def test_a_model_without_attention() -> None:
    model = build("(float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": [6, 4]})
    with pytest.raises(UsageError, match="no attention was found"):
        spa.heads(model)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("by", ["weights", "samples"])
def test_protected_heads_stay(decoder: Path, layer: int, by: str) -> None:
    """Of two the one with the higher score, whichever would go otherwise."""
    name = f"model.layers.{layer}.attn.q_proj.weight:1"
    scores: dict[int, float] = {}
    for row in spa.heads(decoder).rows:
        if row.group == name and row.unit is not None:
            scores[row.unit] = max(row.retrieval or 0.0, scores.get(row.unit, 0.0))
    (lower, _), (higher, least) = sorted(scores.items(), key=lambda item: item[1])
    ids = np.random.default_rng(0).integers(0, 200, (24, 16))
    caches = {f"past_key_values.{n}.{part}": np.zeros((24, 2, 0, 16), np.float32) for n in (0, 1) for part in WORDS}
    data = {"input_ids": ids, "attention_mask": np.ones_like(ids), **caches}
    options: dict[str, Any] = {"weights": True} if by == "weights" else {"data": data, "preset": "fast"}
    result = spa.prune(decoder, ratio=0.02, only=[name], align=1, protect=f"retrieval:{0.999 * least:.8f}", **options)
    assert result.plan.removed == {name: (lower,)}
    assert higher != lower
    assert result.report.verified
    assert any(note.startswith("protected: ") for note in result.report.notes)


WORDS = ("key", "value")


def test_only_language_models_have_what_is_protected() -> None:
    with pytest.raises(UsageError, match="protect retrieval is for language models"):
        spa.prune(plain(), ratio=0.2, weights=True, protect="retrieval")
    with pytest.raises(UsageError, match=r"expected retrieval, retrieval:0\.5 .*, or outliers"):
        spa.prune(plain(), ratio=0.2, weights=True, protect="sinks")


def test_loads_of_experts() -> None:
    analysis = analyse(load_normal(mixture(outlier=True)))
    (load,) = expert_loads(analysis.model, analysis.coupling, analysis.groups, [{"x": samples(1)}])
    counts, saliency = routed(built(outlier=True).stored, samples(1))
    assert load.shares == pytest.approx(counts / counts.sum())
    assert load.reap == pytest.approx(saliency, rel=1e-4)
    assert load.outliers == [3]


def test_a_mixture_without_attention_has_its_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    onnx.save(mixture(outlier=True), tmp_path / "mixture.onnx")
    np.savez(tmp_path / "x.npz", x=samples(1))
    with pytest.raises(SystemExit):
        main(["heads", str(tmp_path / "mixture.onnx"), "--data", str(tmp_path / "x.npz")])
    shown = capsys.readouterr().out
    assert "super expert" in shown
    assert "choice of experts" in shown
