from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spa.adapters import restore
from spa.errors import ModelError, UsageError
from spa.frontends import huggingface as frontend
from spa.frontends.exporting.exported import difference, run_model

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
    found = restore.prune(frontend, str(tmp_path / "dense"), None, ratio=0.2, even=frontend.EVEN)
    frontend.save(found.source, tmp_path / "small", like=tmp_path / "dense")
    again = frontend.load(tmp_path / "small")
    dense = frontend.load(tmp_path / "dense")
    assert type(again) is type(dense)
    assert again.num_parameters() < 0.82 * dense.num_parameters()
    assert again.config.intermediate_size < 128
    assert (tmp_path / "small" / "tokenizer_config.json").exists()
    feeds = frontend.trace(found.source).feeds
    assert difference(frontend.run(again), run_model(found.result.model, feeds, what="the pruned graph")) < 1e-4


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
