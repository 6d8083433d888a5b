from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spa.adapters import restore
from spa.cli import main
from spa.errors import DataError, ModelError, UsageError
from spa.frontends import huggingface as frontend
from spa.frontends.exporting.exported import difference, run_model
from spa.passes.normalize.normalize import normalize
from spa.passes.samples.checking import check_samples

pytest.importorskip("torch", reason="the extra huggingface is not installed")
transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")

SMALL = {"hidden_size": 32, "num_attention_heads": 8, "num_hidden_layers": 2, "intermediate_size": 128}


def llama() -> Any:
    numbers = {**SMALL, "num_key_value_heads": 4, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers))


def bert() -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, vocab_size=64))


def vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, image_size=16, patch_size=8))


@pytest.mark.parametrize("make", [llama, bert, vit])
def test_a_folder_comes_back_as_a_folder_that_loads(make: Any, tmp_path: Path) -> None:
    transformers.set_seed(0)
    make().save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "tokenizer_config.json").write_text("{}")
    restored = restore.prune(frontend, str(tmp_path / "dense"), None, ratio=0.2, even=frontend.EVEN)
    frontend.save(restored.source, tmp_path / "small", like=tmp_path / "dense")
    again = frontend.load(tmp_path / "small")
    dense = frontend.load(tmp_path / "dense")
    assert type(again) is type(dense)
    assert again.num_parameters() < 0.82 * dense.num_parameters()
    assert again.config.intermediate_size < 128
    assert (tmp_path / "small" / "tokenizer_config.json").exists()
    feeds = frontend.trace(restored.source).feeds
    assert difference(frontend.run(again), run_model(restored.result.model, feeds, what="the pruned graph")) < 1e-4


def test_a_cache_of_keys_and_values() -> None:
    model = frontend.export(llama(), cache=True)
    names = [value.name for value in model.graph.inputs]
    assert names[:3] == ["input_ids", "attention_mask", "past_key_values.0.key"]
    assert [value.name for value in model.graph.outputs][1:3] == ["present.0.key", "present.0.value"]
    key = next(value for value in model.graph.inputs if value.name == "past_key_values.0.key")
    assert [str(size) for size in key.shape or ()] == ["batch", "4", "past_sequence", "4"]


def test_what_a_config_cannot_say() -> None:
    with pytest.raises(UsageError, match="scope='local'"):
        frontend.prune(bert(), ratio=0.2, scope="global")
    with pytest.raises(UsageError, match="no causal language model"):
        frontend.export(bert(), cache=True)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(ModelError, match="holds no model that transformers can read"):
        frontend.export(str(tmp_path))


def test_with_samples_the_smaller_model_is_repaired() -> None:
    torch = pytest.importorskip("torch")
    transformers.set_seed(0)
    dense = bert().eval()
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 64, (128, 12))
    data = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    feeds = {name: torch.tensor(array) for name, array in data.items()}
    tries: list[dict[str, Any]] = [{}, {"data": data, "preset": "fast"}]
    with torch.no_grad():
        expected = dense(**feeds).logits
        off = []
        for options in tries:
            smaller = frontend.prune(dense, ratio=0.2, **options)
            assert smaller.num_parameters() < 0.82 * dense.num_parameters()
            off.append(float(torch.linalg.norm(smaller.eval()(**feeds).logits - expected)))
    assert off[1] < 0.5 * off[0]


# ------------------------------------------------------------------------------------------------------- depth
DEEP = {**SMALL, "num_hidden_layers": 4}


def deep(kind: str) -> Any:
    """Of four layers, of which the second gives next to nothing."""
    transformers.set_seed(0)
    if kind == "qwen2":
        types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
        numbers = {**DEEP, "num_key_value_heads": 4, "vocab_size": 64, "layer_types": types, "sliding_window": 4}
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**numbers, use_sliding_window=True))
    elif kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_head=4, n_layer=4, vocab_size=64, n_positions=16)
        model = transformers.GPT2LMHeadModel(config)
    else:
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**DEEP, image_size=16, patch_size=8))
    for name, array in model.named_parameters():
        if any(f"{word}.1." in name for word in ("layers", "h", "layer")) and array.ndim > 1:
            array.data *= 1e-3
    return model.eval()


@pytest.mark.parametrize(("kind", "by"), [("qwen2", "samples"), ("gpt2", "weights"), ("vit", "weights")])
def test_whole_layers_go_and_the_config_counts_them_out(kind: str, by: str, tmp_path: Path) -> None:
    dense, random = deep(kind), np.random.default_rng(0)
    ids = random.integers(0, 64, (48, 8))
    pictures = {"pixel_values": random.standard_normal((48, 3, 16, 16)).astype(np.float32)}
    data = pictures if kind == "vit" else {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    options: dict[str, Any] = {"weights": True} if by == "weights" else {"data": data, "preset": "fast"}
    restored = restore.prune(
        frontend, dense, None, ratio=0.15, even=frontend.EVEN, include=["depth"], only=["depth"], **options
    )
    (name,) = restored.result.plan.removed
    assert name.endswith(".1:block")
    assert restored.result.report.verified
    frontend.save(restored.source, tmp_path / "small")
    again = frontend.load(tmp_path / "small")
    assert again.config.num_hidden_layers == 3
    if kind == "qwen2":
        assert again.config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    feeds = frontend.trace(restored.source).feeds
    assert difference(frontend.run(again), run_model(restored.result.model, feeds, what="the pruned graph")) < 1e-4
    assert difference(frontend.run(again), frontend.run(dense)) < 0.05
    assert dense.config.num_hidden_layers == 4


def test_layers_go_alone() -> None:
    with pytest.raises(UsageError, match="layers go whole and alone: give only=depth"):
        frontend.prune(deep("vit"), ratio=0.2, include="depth", weights=True)


# --------------------------------------------------------------------------------------- sizes that a config takes
def test_heads_go_by_default_in_numbers_that_the_config_takes() -> None:
    """Of eight heads in four groups three groups would do, which no config with a width of 32 takes: two have to."""
    transformers.set_seed(0)
    restored = restore.prune(frontend, llama().eval(), None, ratio=0.3, even=frontend.EVEN)
    config = restored.source.config
    assert config.num_attention_heads < 8
    assert config.hidden_size % config.num_attention_heads == 0
    assert config.num_attention_heads % config.num_key_value_heads == 0
    removed = {name: len(units) for name, units in restored.result.plan.removed.items()}
    assert set(restored.widths).isdisjoint(restored.left)
    for name, kept in restored.widths.items():
        size = restored.result.plan.sizes.get(name, 0)
        assert not removed.get(name) or size - removed[name] in kept
    feeds = frontend.trace(restored.source).feeds
    assert (
        difference(frontend.run(restored.source), run_model(restored.result.model, feeds, what="the pruned graph"))
        < 1e-4
    )


@pytest.mark.parametrize("make", [llama, bert])
def test_like_layers_are_levelled_at_once(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each plan is measured by is what the next one is asked for: one more after a level was found."""
    levels: list[float | None] = []
    measured = restore._level

    def level(*given: Any) -> float | None:
        levels.append(measured(*given))
        return levels[-1]

    monkeypatch.setattr(restore, "_level", level)
    restore.prune(frontend, make().eval(), None, ratio=0.2, even=frontend.EVEN)
    assert levels.count(None) >= 1
    runs = "".join("." if asked is None else "x" for asked in levels).split(".")
    assert max(map(len, runs)) <= 4


# ---------------------------------------------------------------------------------------------- samples, at once
BAD = {
    "a wrong name": ({"pixels": np.zeros((4, 3))}, "no samples for input 'input_ids'; found 'pixels'"),
    "a wrong rank": ({"input_ids": np.ones((4, 8, 2), int)}, "input_ids"),
    "tokens that there are not": (
        {"input_ids": np.full((4, 8), 64)},
        "the model does not run on these samples .*: index out of range",
    ),
    "fractions": ({"input_ids": np.full((4, 8), 0.5)}, "input 'input_ids' is INT64, found fractions"),
    "other sizes": (
        {"input_ids": np.ones((4, 8), int), "attention_mask": np.ones((4, 5), int)},
        "sequence is 8 in input 'input_ids' and 5 in 'attention_mask'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_refused_before_anything_is_exported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, message = BAD[name]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("exported before the samples were looked at")

    monkeypatch.setattr(frontend, "trace", never)
    with pytest.raises(DataError, match=message):
        restore.prune(frontend, llama().eval(), None, ratio=0.2, even=frontend.EVEN, data=samples)


@pytest.mark.parametrize("output", ["small", "small.onnx"])
def test_data_at_the_command_line(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens alone: the mask is ones; the result is repaired, as a folder or as ONNX."""
    monkeypatch.chdir(tmp_path)
    transformers.set_seed(0)
    llama().save_pretrained("dense")
    np.savez("ids.npz", input_ids=np.random.default_rng(0).integers(0, 64, (48, 12)))
    asked = ["--ratio", "0.2", "--data", "ids.npz", "--preset", "fast", "--json"]
    with pytest.raises(SystemExit, match="0"):
        main(["prune", "dense", *asked, "-o", output])
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "verified"
    assert result["layers"]
    assert any(note.startswith("attention_mask is one everywhere") for note in result["notes"])
    assert (tmp_path / output).exists()
    np.savez("wrong.npz", input_ids=np.full((48, 12), 99))
    with pytest.raises(SystemExit, match="2"):
        main(["prune", "dense", "--ratio", "0.2", "--data", "wrong.npz", "-o", "other"])
    assert "the model does not run on these samples" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_batches_for_a_decoder_are_samples() -> None:
    """All inputs given: the exporter looks the mask up along the batch, at counted places."""
    model = frontend.export(llama().eval())
    ids = np.random.default_rng(0).integers(0, 64, (10, 12))
    samples = check_samples({"input_ids": ids, "attention_mask": np.ones_like(ids)}, normalize(model))
    assert len(samples) == 10
    assert not samples.notes
