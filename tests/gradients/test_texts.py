"""Language models are trained on texts, by answers too many to keep, whatever heads their caches have lost."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra torch is not installed")
pytest.importorskip("tokenizers", reason="the extra text is not installed")

import spa
from models import folder as toy
from spa import verdict
from spa.errors import DataError, UsageError
from spa.frontends.files import onnx_file
from spa.gradients import teaching
from spa.gradients.samples import Split, split_samples
from spa.gradients.teaching import COUNTED, TEACHER, Teacher, distillation
from spa.shapes.binding import declared_shapes
from spa.supplied import Reading
from tests.gradients.test_finetune import SAMPLES, network

TEXTS = [
    f"Line {number}: {number * number} is the square of {number}, and {number + 1} comes next." for number in range(64)
]
FEW: dict[str, Any] = {"data": TEXTS, "texts": spa.TextOptions(length=32), "batch_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A decoder, and what is left of it: fewer heads in the caches of one layer than of the other."""
    place = tmp_path_factory.mktemp("folders")
    dense = toy.build(place / "dense", toy.Sizes(heads=8, kv_heads=4))
    spa.prune(dense, ratio=0.4, weights=True, only=["*layers.1*"], of="channels").save(place / "small")
    shapes = declared_shapes(onnx_file.load(place / "small").graph)
    heads = [shapes[f"past_key_values.{layer}.key"][1] for layer in (0, 1)]
    assert heads[0] == 4
    assert heads[1] in (1, 2, 3)
    return dense, place / "small"


def samples_of(folder: Path) -> Split:
    reading = Reading(texts=FEW["texts"])
    return split_samples(TEXTS, onnx_file.load(folder), labels=None, batch_size=8, reading=reading)


def test_a_folder_is_trained_on_texts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    dense, small = folders
    result = spa.finetune(small, teacher=dense, epochs=4, **FEW)
    assert result.report.after < 0.7 * result.report.before
    perplexity = result.report.perplexity
    assert perplexity is not None
    assert perplexity.length == 32
    assert perplexity.pruned != perplexity.dense
    result.save(tmp_path / "tuned")
    assert (tmp_path / "tuned" / "tokenizer.json").exists()


def test_a_prune_trains_what_has_fewer_heads(folders: tuple[Path, Path]) -> None:
    options: dict[str, Any] = {"data": TEXTS, "texts": FEW["texts"], "finetune": "2e", "of": "channels"}
    result = spa.prune(folders[0], ratio=0.4, only=["*layers.1*"], **options)
    assert result.report.verified
    assert any("trained by the dense model's outputs for 2 epochs" in line for line in result.report.trained)
    assert result.report.perplexity is not None


def test_a_layer_that_is_gone_takes_its_caches_and_the_rest_learns(folders: tuple[Path, Path], tmp_path: Path) -> None:
    spa.prune(folders[0], ratio=0.4, weights=True, include="depth", only="depth").save(tmp_path / "short")
    caches = [value.name for value in onnx_file.load(tmp_path / "short").graph.inputs if "past" in str(value.name)]
    assert len(caches) == 2
    result = spa.finetune(tmp_path / "short", teacher=folders[0], epochs=1, **FEW)
    assert result.report.after < result.report.before


def test_texts_that_score_units_are_foretold_before_and_after(folders: tuple[Path, Path]) -> None:
    result = spa.prune(folders[0], ratio=0.4, data=TEXTS, texts=FEW["texts"], criterion="taylor")
    assert result.report.outputs_on == verdict.SAMPLES
    assert result.report.perplexity is not None
    assert result.report.perplexity.pruned != result.report.perplexity.dense


def test_caches_are_no_answers(folders: tuple[Path, Path]) -> None:
    taught, samples = distillation(onnx_file.load(folders[0]), samples_of(folders[1]))
    assert taught.kinds == {"logits": "logits"}
    assert [name for name in samples.beside if name.startswith((TEACHER, COUNTED))] == [f"{TEACHER}logits"]


def test_answers_that_are_too_many_are_given_anew(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dense, small = folders
    kept = spa.finetune(small, teacher=dense, epochs=1, **FEW).report
    monkeypatch.setattr(teaching, "KEPT_NBYTES", 0)
    taught, samples = distillation(onnx_file.load(dense), samples_of(small))
    assert taught.teacher is not None
    assert not samples.beside
    batch = next(samples.held_out())
    sent = pickle.loads(pickle.dumps(taught.teacher))
    for teacher in (taught.teacher, sent):
        np.testing.assert_array_equal(
            teacher.answers(batch)["logits"], Teacher(onnx_file.load(dense)).answers(batch)["logits"]
        )
    anew = spa.finetune(small, teacher=dense, epochs=1, **FEW).report
    assert anew.before == pytest.approx(kept.before, rel=1e-4)
    assert anew.after == pytest.approx(kept.after, rel=1e-3)


def test_options_of_texts_without_texts_are_refused() -> None:
    with pytest.raises(UsageError, match="texts has no effect without texts"):
        spa.finetune(network(8), teacher=network(8), data=SAMPLES, texts=spa.TextOptions(length=32))
    with pytest.raises(DataError, match=r"missing\.txt"):
        spa.finetune(network(8), teacher=network(8), data="missing.txt", texts=spa.TextOptions(length=32))


def test_texts_have_no_labels(folders: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="texts have none: leave labels out"):
        spa.finetune(folders[1], teacher=folders[0], labels="mine", **FEW)


def test_a_repair_knows_its_samples_whatever_heads_are_left(folders: tuple[Path, Path]) -> None:
    options: dict[str, Any] = {"data": TEXTS, "texts": FEW["texts"], "of": "channels", "only": ["*layers.1*"]}
    repaired = spa.prune(folders[0], ratio=0.4, **options).model
    shapes = declared_shapes(repaired.graph)
    assert shapes["past_key_values.1.key"][1] != shapes["past_key_values.0.key"][1]
    reading = Reading(texts=FEW["texts"])
    split = split_samples(TEXTS, onnx_file.load(folders[1]), labels=None, batch_size=8, reading=reading)
    unseen = split.apart_from(repaired).unseen
    assert unseen is not None
    assert 0 < len(unseen) < len(split.calibration) // 2
