"""Text from a folder, before and after a cut: onnxruntime with its caches, and onnxruntime-genai."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import spa
from models import folder as toy
from spa.analysis.plan import Plan
from spa.errors import VerificationError
from spa.steps import analyse, load_normal
from spa.written import verify_files
from tests.decoding import Decoder

PROMPT, LENGTH = "Pruned, it writes", 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A decoder, and those that are cut: other widths, other caches in each layer, a narrower stream, fewer branches,
    a layer less."""
    place = tmp_path_factory.mktemp("folders")
    dense = toy.build(place / "dense", toy.Sizes(layers=3, heads=8, kv_heads=4))
    spa.prune(dense, ratio=0.3, weights=True).save(place / "smaller")
    _cut_caches(dense, {0: [1], 1: [0, 3]}).save(place / "uneven")
    spa.prune(dense, ratio=0.3, weights=True, include="width").save(place / "narrow")
    _without(dense, ATTENTION.format(1), MLP.format(0)).save(place / "shallow")
    _without(dense, ATTENTION.format(1), MLP.format(1)).save(place / "fewer")
    return [dense, *(place / name for name in ("smaller", "uneven", "narrow", "shallow", "fewer"))]


ATTENTION, MLP = "model.layers.{}.attn.o_proj.weight:branch", "model.layers.{}.mlp.down_proj.weight:branch"


def _without(dense: Path, *branches: str) -> spa.PruneResult:
    """Without some residual branches."""
    return spa.apply_plan(dense, Plan(dict.fromkeys(branches, (0,)), dict.fromkeys(branches, 1)))


def _cut_caches(dense: Path, heads: dict[int, list[int]]) -> spa.PruneResult:
    """Without some heads of keys and values, by layer."""
    groups = {group.name: group for group in analyse(load_normal(dense)).groups}
    names = {layer: f"model.layers.{layer}.attn.q_proj.weight:1" for layer in heads}
    assert all(groups[name].kind == "kv_heads" for name in names.values())
    plan = Plan({names[layer]: tuple(units) for layer, units in heads.items()}, dict.fromkeys(names.values(), 4))
    return spa.apply_plan(dense, plan)


def test_layers_may_keep_different_caches(folders: list[Path]) -> None:
    shapes = [value.shape[1] for name, value in Decoder(folders[2] / "model.onnx").inputs.items() if ".key" in name]
    assert shapes == [3, 2, 4]
    config = json.loads((folders[2] / "genai_config.json").read_text())["model"]["decoder"]
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (8, 4)


def test_the_number_of_layers_says_the_caches(folders: list[Path]) -> None:
    """What loops over the layers of a config, as runtimes do, finds a cache for each, and no other is asked for."""
    counts = []
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        assert config["num_hidden_layers"] == decoder["num_hidden_layers"]
        counts.append(decoder["num_hidden_layers"])
        for word, names in (("inputs", "past"), ("outputs", "present")):
            patterns = [decoder[word][f"{names}_{part}_names"] for part in ("key", "value")]
            expected = {pattern % layer for layer in range(counts[-1]) for pattern in patterns}
            session = Decoder(folder / "model.onnx").session
            ends = session.get_inputs() if word == "inputs" else session.get_outputs()
            assert {end.name for end in ends if end.name.startswith(names)} == expected
    assert counts == [3, 3, 3, 3, 2, 2]


def test_a_folder_with_other_numbers_is_checked_against_its_plan(folders: list[Path], tmp_path: Path) -> None:
    dense, fewer = folders[0], folders[-1]
    result = _without(dense, ATTENTION.format(1), MLP.format(1))
    result.save(tmp_path / "fewer.onnx")
    for pruned in (fewer, tmp_path / "fewer.onnx"):  # the graph alone keeps the names
        assert verify_files(dense, pruned, result.plan).verified
    other = _without(dense, ATTENTION.format(0), MLP.format(0))
    with pytest.raises(VerificationError):
        verify_files(dense, fewer, other.plan)


def test_token_by_token_is_the_whole_sequence(folders: list[Path]) -> None:
    ids = [toy.BEGIN, *PROMPT.encode()]
    for folder in folders:
        decoder = Decoder(folder / "model.onnx")
        np.testing.assert_allclose(decoder.stepwise(ids), decoder.whole(ids), atol=1e-4)


def test_genai_writes_what_onnxruntime_does(folders: list[Path]) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    written = []
    for folder in folders:
        model = genai.Model(str(folder))
        ids = [int(token) for token in genai.Tokenizer(model).encode(PROMPT)]
        options = genai.GeneratorParams(model)
        options.set_search_options(max_length=LENGTH, do_sample=False)
        generator = genai.Generator(model, options)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        written.append([int(token) for token in generator.get_sequence(0)])
        expected = Decoder(folder / "model.onnx").greedy(ids, LENGTH)
        assert written[-1] == expected[: len(written[-1])]
        assert len(written[-1]) > len(ids)
    assert written[0] != written[1]
