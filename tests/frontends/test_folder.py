from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import spa
from models import folder as toy
from spa import cli
from spa.errors import ModelError, UsageError
from spa.frontends.files import configs, folder, onnx_file
from tests.decoding import Decoder

TEXT = [toy.BEGIN, *b"The decoder runs."]


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return toy.build(tmp_path / "dense")


def _prune(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["prune", *map(str, words), "--weights"])
    return int(ended.value.code or 0)


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


def _rows(result: spa.PruneResult, weight: str) -> int:
    tensor = result.model.graph.initializers[weight].const_value
    assert tensor is not None
    return int(tensor.shape.numpy()[0])


def _check_cache(path: Path) -> None:
    decoder = Decoder(path)
    np.testing.assert_allclose(decoder.stepwise(TEXT), decoder.whole(TEXT), atol=1e-4)


@pytest.mark.parametrize("genai", [True, False])
def test_a_folder_becomes_a_folder_that_runs(tmp_path: Path, genai: bool) -> None:
    dense, smaller = toy.build(tmp_path / "dense", genai=genai), tmp_path / "smaller"
    assert _prune(dense, "--ratio", 0.25, "-o", smaller) == 0
    assert {path.name for path in smaller.iterdir()} == {path.name for path in dense.iterdir()}
    assert (smaller / "tokenizer.json").read_bytes() == (dense / "tokenizer.json").read_bytes()
    assert (smaller / "model.onnx.data").stat().st_size < 0.8 * (dense / "model.onnx.data").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "smaller"]
    for place in (dense, smaller):
        _check_cache(place / "model.onnx")


def test_configs_follow_the_widths_that_stay_even(dense: Path, tmp_path: Path) -> None:
    smaller = tmp_path / "smaller"
    assert _prune(dense, "--ratio", 0.25, "--scope", "local", "--only", "ffn", "-o", smaller) == 0
    inner = onnx.load(smaller / "model.onnx").graph.initializer
    wide = next(list(t.dims) for t in inner if t.name == "model.layers.1.mlp.up_proj.weight")[1]
    assert _read(smaller / "config.json") == _read(dense / "config.json") | {"intermediate_size": wide}
    assert wide < toy.Sizes().ffn
    assert _read(smaller / "genai_config.json") == _read(dense / "genai_config.json")


def test_configs_follow_query_heads_and_the_report_says_so(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = tmp_path / "smaller"
    assert _prune(dense, "--ratio", 0.06, "--only", "heads", "-o", smaller) == 0
    assert _read(smaller / "genai_config.json")["model"]["decoder"]["num_attention_heads"] == 2
    assert _read(smaller / "config.json")["num_attention_heads"] == 2
    assert "genai_config.json: num_attention_heads 4 -> 2" in capsys.readouterr().out
    _check_cache(smaller / "model.onnx")


def test_uneven_layers_leave_the_number_and_say_why(dense: Path, tmp_path: Path) -> None:
    result = spa.prune(dense, ratio=0.1, only=["model.layers.0.mlp.gate_proj.weight:1"], weights=True)
    note = next(note for note in result.report.notes if "intermediate_size" in note)
    wide = _rows(result, "model.layers.0.mlp.down_proj.weight")
    assert note.startswith("config.json: intermediate_size stays 128")
    assert note.endswith(f"layers have {wide}, 128")
    result.save(tmp_path / "smaller")
    assert _read(tmp_path / "smaller" / "config.json") == _read(dense / "config.json")


def test_the_residual_width_is_said_in_both_configs(dense: Path, tmp_path: Path) -> None:
    result = spa.prune(dense, ratio=0.15, include="width", only="width", weights=True)
    result.save(tmp_path / "smaller")
    wide = _rows(result, "lm_head.weight")
    assert wide < toy.Sizes().width
    assert _read(tmp_path / "smaller" / "config.json")["hidden_size"] == wide
    assert _read(tmp_path / "smaller" / "genai_config.json")["model"]["decoder"]["hidden_size"] == wide
    _check_cache(tmp_path / "smaller" / "model.onnx")


def test_a_graph_can_still_be_asked_for_alone(dense: Path, tmp_path: Path) -> None:
    assert _prune(dense, "--ratio", 0.25, "-o", tmp_path / "small.onnx") == 0
    assert onnx_file.load(tmp_path / "small.onnx").graph.outputs[0].name == "logits"


def test_by_default_the_folder_goes_beside(dense: Path, tmp_path: Path) -> None:
    assert _prune(dense, "--ratio", 0.25, "-q") == 0
    assert (tmp_path / "dense.pruned" / "genai_config.json").is_file()


def test_other_commands_take_folders(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, smaller = tmp_path / "plan.json", tmp_path / "smaller"
    assert _prune(dense, "--ratio", 0.25, "-o", smaller, "--save-plan", plan, "-q") == 0
    for words in (
        ["groups", dense],
        ["verify", dense, smaller, "--plan", plan],
        ["apply", dense, plan, "-o", tmp_path / "again"],
        ["bench", dense, smaller, "--seconds", "0.1"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        assert not ended.value.code, words
    assert "model.layers.0.mlp.gate_proj.weight:1" in capsys.readouterr().out
    assert (tmp_path / "again" / "config.json").read_text() == (smaller / "config.json").read_text()


def test_weights_of_frameworks_and_hidden_files_are_not_copied(dense: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", ".cache", "notes.txt"):
        (dense / name).write_text("here")
    (dense / "chat").mkdir()
    (dense / "chat" / "template.jinja").write_text("{{ text }}")
    result = spa.prune(dense, ratio=0.25, weights=True)
    result.save(tmp_path / "smaller")
    copied = {str(path.relative_to(tmp_path / "smaller")) for path in (tmp_path / "smaller").rglob("*")}
    assert {"notes.txt", "chat/template.jinja"} <= copied
    assert not {"model.safetensors", ".cache"} & copied
    assert any("model.safetensors" in note for note in result.report.notes)


def test_a_folder_of_links_is_one_and_what_is_no_file_stays_behind(dense: Path, tmp_path: Path) -> None:
    """As the cache of a hub is laid out: names in one folder, contents in another."""
    linked, smaller = tmp_path / "linked", tmp_path / "smaller"
    linked.mkdir()
    for path in dense.iterdir():
        (linked / path.name).symlink_to(path)
    (linked / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(linked / "pipe")
    assert _prune(linked, "--ratio", 0.25, "-o", smaller) == 0
    assert {path.name for path in smaller.iterdir()} == {path.name for path in dense.iterdir()}
    assert not any(path.is_symlink() for path in smaller.iterdir())
    _check_cache(smaller / "model.onnx")


def test_a_graph_below_and_weights_inside_stay_where_they_were(tmp_path: Path) -> None:
    dense = toy.build(tmp_path / "dense", genai=False)
    (dense / "onnx").mkdir()
    onnx.save(onnx.load(dense / "model.onnx"), dense / "onnx" / "model.onnx")
    (dense / "model.onnx").unlink()
    (dense / "model.onnx.data").unlink()
    spa.prune(dense, ratio=0.25, weights=True).save(tmp_path / "smaller")
    assert (tmp_path / "smaller" / "onnx" / "model.onnx").is_file()
    assert not list((tmp_path / "smaller").glob("**/*.data"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dense", "lies in the one that is read"), ("dense/inside", "lies in the one"), ("full", "it holds files already"),
     ("full/file", "it is a file"), ("nowhere/smaller", "there is no folder")],
)  # fmt: skip
def test_targets_that_are_refused_before_the_work(
    dense: Path, tmp_path: Path, name: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert _prune(dense, "--ratio", 0.25, "-o", tmp_path / name) == 2
    assert expected in capsys.readouterr().err or name == "dense"
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_left_of_a_folder_that_could_not_be_written(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "save_file", full)
    result = spa.prune(dense, ratio=0.25, weights=True)
    with pytest.raises(UsageError, match="No space left"):
        result.save(tmp_path / "smaller")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_an_empty_folder_is_filled(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "smaller").mkdir()
    spa.prune(dense, ratio=0.25, weights=True).save(tmp_path / "smaller")
    assert (tmp_path / "smaller" / "model.onnx").is_file()


def _break(dense: Path, how: str) -> None:
    config = _read(dense / "genai_config.json")
    decoder = config["model"]["decoder"]
    if how == "no name":
        del decoder["filename"]
    elif how == "elsewhere":
        decoder["filename"] = "../dense/model.onnx/../../x.onnx"
    elif how == "pipeline":
        decoder["pipeline"] = [{"embeddings": {"filename": "model.onnx"}}]
    text = "{" if how == "no json" else json.dumps(config)
    (dense / "genai_config.json").write_text(text)
    if how == "several":
        (dense / "genai_config.json").unlink()
        shutil.copy(dense / "model.onnx", dense / "decoder_with_past_model.onnx")


@pytest.mark.parametrize(
    ("how", "expected"),
    [("no name", "expected the name of the graph"), ("elsewhere", "no such file in the folder"),
     ("pipeline", "several graphs"), ("no json", "is no JSON"),
     ("several", "holds 2 graphs (decoder_with_past_model.onnx, model.onnx)")],
)  # fmt: skip
def test_folders_that_do_not_say_which_graph(
    dense: Path, how: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _break(dense, how)
    assert _prune(dense, "--ratio", 0.25) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ModelError):
        onnx_file.load(dense)


# ------------------------------------------------------------------------------------------------------ configs
def test_a_head_size_that_nobody_wrote_down_is_written_down() -> None:
    config = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    edited, lines = configs.edited(config, {"heads": {4: (3, 3)}, "kv_heads": {2: (2,)}})
    assert edited == {"hidden_size": 64, "num_attention_heads": 3, "num_key_value_heads": 2, "head_dim": 16}
    said = "head_dim 16, which hidden_size / num_attention_heads was and is no longer"
    assert lines == ["num_attention_heads 4 -> 3", said]


def test_configs_inside_configs_and_other_words() -> None:
    config = {"model_type": "x", "text_config": {"n_embd": 48, "n_head": 4, "head_dim": 12}, "vision": {"n_head": 4}}
    edited, _ = configs.edited(config, {"heads": {4: (2,)}, "width": {48: (40,)}})
    assert edited["text_config"] == {"n_embd": 40, "n_head": 2, "head_dim": 12}
    assert edited["vision"] == {"n_head": 4}
    assert configs.edited([1, 2], {"heads": {4: (2,)}}) == ([1, 2], [])
