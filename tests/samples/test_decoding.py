from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import spa
from models import folder as toy
from spa import cli
from spa.errors import DataError, UsageError
from spa.passes.samples import decoding
from spa.passes.samples.datafree import Recipe
from spa.steps import load_normal
from tests.decoding import Decoder

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.build(tmp_path_factory.mktemp("toy") / "dense", toy.Sizes(layers=1, length=32))


def test_texts_are_written_token_by_token(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "gumbel", lambda shape, _: np.zeros(shape))
    samples = Recipe.of(load_normal(dense)).samples(most=64)
    ids = samples.samples["input_ids"]
    assert ids.shape == (8, 32)  # 32: the longest that the model runs with
    assert samples.notes == ("texts that the model wrote itself",)
    decoder = Decoder(dense / "model.onnx")
    for row in ids[:3]:
        assert decoder.greedy([int(row[0])], 32) == list(row)


def test_texts_differ_and_are_the_same_again(dense: Path) -> None:
    first, again = (Recipe.of(load_normal(dense)).samples(most=64).samples["input_ids"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first, axis=0)) == len(first)
    assert first.max() < toy.Sizes().vocabulary


def test_a_length_can_be_asked_for(dense: Path) -> None:
    recipe = Recipe.of(load_normal(dense), inputs={"input_ids": (1, 12)})
    assert recipe.others(24).samples["attention_mask"].shape == (24, 12)
    with pytest.raises(DataError, match="does not run on 99 tokens behind empty caches"):
        Recipe.of(load_normal(dense), inputs={"input_ids": (1, 99)})


def test_pruning_by_its_own_texts(dense: Path) -> None:
    result = spa.prune(dense, ratio=0.2, data_free=True, preset="fast")
    assert result.report.verified
    assert result.report.layers
    assert any("texts that the model wrote itself" in note for note in result.report.notes)


# ------------------------------------------------------------------------------------------------------- texts
def _likelihoods(path: Path, ids: list[int]) -> np.ndarray:
    logits = Decoder(path).whole(ids)[:-1].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logs[np.arange(len(ids) - 1), ids[1:]]


def test_perplexity_is_that_of_texts_held_out(dense: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the extra text is not installed")
    texts = [chr(97 + k) * 100 for k in range(16)]
    options = spa.TextOptions(length=21)
    result = spa.prune(dense, ratio=0.25, data=texts, texts=options, preset="fast")
    result.save(tmp_path / "smaller")
    perplexities = result.report.perplexity
    assert perplexities is not None
    stream = (texts[7] + "\n\n" + texts[15] + "\n\n").encode()
    windows = [[toy.BEGIN, *stream[start : start + 20]] for start in range(0, len(stream) - 19, 20)]
    assert (perplexities.tokens, perplexities.length) == (20 * len(windows), 21)
    for place, perplexity in ((dense, perplexities.dense), (tmp_path / "smaller", perplexities.pruned)):
        logs = np.concatenate([_likelihoods(place / "model.onnx", ids) for ids in windows])
        assert perplexity == pytest.approx(np.exp(-logs.mean()), rel=1e-4)
    assert perplexities.pruned != perplexities.dense


def test_texts_at_the_command_line(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers", reason="the extra text is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    lines = [json.dumps({"text": part}) for part in (DOCS / "theory.md").read_text().split("\n\n") if part.strip()]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    words = ["prune", str(dense), "--ratio", "0.25", "--data", str(tmp_path / "texts.jsonl"), "--preset", "fast", "-o"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, str(tmp_path / "one")])
    assert not ended.value.code
    assert "tokens of texts held out" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, str(tmp_path / "two"), "--json", "--text-length", "16"])
    assert not ended.value.code
    printed = json.loads(capsys.readouterr().out)
    jsonschema.validate(printed, json.loads((Path(spa.__file__).parent / "schema.json").read_text()))
    assert printed["perplexity"]["length"] == 16
    assert printed["perplexity"]["dense"] > 1


def test_texts_for_a_model_that_takes_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello " * 400)
    model = Path(__file__).resolve().parents[2] / "models" / "fashion_resnet.onnx"
    with pytest.raises(DataError, match="texts are for models of tokens"):
        spa.prune(model, ratio=0.2, data=tmp_path)
    with pytest.raises(UsageError, match="texts has no effect"):
        spa.prune(model, ratio=0.2, texts=spa.TextOptions(length=9), weights=True)
