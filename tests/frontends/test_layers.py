"""Layers counted out of configs, and caches numbered anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import spa
from spa.analysis.plan import Plan
from spa.frontends.files import configs
from spa.frontends.files.layers import Depth, rename
from spa.frontends.files.weights import Origin
from spa.steps import analyse, depth_of, load_normal
from tests import depth as networks

CACHES = [f"{word}.{layer}.{part}" for word in ("past", "present") for layer in range(4) for part in ("k", "v")]


def _without(*layers: int, branches: list[bool] | None = None) -> Depth:
    return Depth.of(CACHES, {name for name in CACHES if int(name.split(".")[1]) in layers}, branches or [True] * 8)


def test_numbers_of_caches_move_up() -> None:
    depth = _without(0, 2)
    assert depth.numbered == (0, 1, 2, 3)
    assert depth.gone == (0, 2)
    assert depth.renamed == {
        f"{word}.{before}.{part}": f"{word}.{after}.{part}"
        for word in ("past", "present") for before, after in ((1, 0), (3, 1)) for part in ("k", "v")
    }  # fmt: skip


def test_a_layer_stays_as_long_as_any_of_its_caches_does() -> None:
    """As of a decoder that attends to an encoder too."""
    names = [f"past_{layer}_{part}" for layer in range(3) for part in ("self", "cross")]
    assert Depth.of(names, {"past_1_self"}, []).gone == ()
    assert Depth.of(names, {"past_1_self", "past_1_cross"}, []).renamed == {
        "past_2_self": "past_1_self", "past_2_cross": "past_1_cross",
    }  # fmt: skip


def test_of_several_numbers_the_one_in_which_names_differ() -> None:
    names = [f"model.0.past.{layer}" for layer in (3, 5, 9)]
    depth = Depth.of([*names, "state"], {names[1]}, [])
    assert depth.numbered == (3, 5, 9)
    assert depth.renamed == {"model.0.past.9": "model.0.past.8"}


@pytest.mark.parametrize(
    ("branches", "count", "expected"),
    [([True, True, False, False, True, True], 3, ([1], [])), ([False, True, False, False, True, True], 3, ([1], [0])),
     ([True, False], 2, ([1], [])), ([True, False, True], 2, None), ([], 2, None), ([True] * 4, 0, None)],
)  # fmt: skip
def test_without_caches_branches_tell_the_layers(branches: list[bool], count: int, expected: Any) -> None:
    assert Depth(branches).layers(count) == expected


def test_what_a_config_lists_by_layer() -> None:
    config = {
        "num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"], "mlp_only_layers": [0, 3],
        "eos_token_id": [1, 2, 3, 4],
        "num_key_value_heads": [1, 2, 3, 4], "first_k_dense_replace": 2, "sliding_window_pattern": 2,
        "per_layer_config": {"1": {"x": 1}, "3": {"x": 3}}, "vision_config": {"num_hidden_layers": 4, "layers": [1]},
        "rope_scaling": {"short_factor": [1.0, 2.0, 3.0, 4.0]},
    }  # fmt: skip
    edited, lines = configs.edited(config, {}, _without(1))
    assert edited == config | {
        "num_hidden_layers": 3, "layer_types": ["a", "c", "d"], "mlp_only_layers": [0, 2],
        "num_key_value_heads": [1, 3, 4], "first_k_dense_replace": 1, "per_layer_config": {"2": {"x": 3}},
    }  # fmt: skip
    assert lines[0] == "num_hidden_layers 4 -> 3"
    assert "layer_types without layer 1" in lines
    assert "sliding_window_pattern stays 2: it counts layers off, of which some are gone" in lines


def test_what_onnxruntime_genai_lists_by_layer() -> None:
    decoder = {"num_hidden_layers": 4, "sliding_window": {"layers": [1, 3]}, "layer_types": ["x", "y", "x", "y"],
               "state_groups": [{"kind": "kv", "layer_ids": [0, 1, 2, 3]}]}  # fmt: skip
    edited, lines = configs.edited({"model": {"decoder": decoder}}, {}, _without(0, 3, branches=[False, True] * 4))
    assert edited["model"]["decoder"] == {
        "num_hidden_layers": 2, "sliding_window": {"layers": [0]}, "layer_types": ["y", "x"],
        "state_groups": [{"kind": "kv", "layer_ids": [0, 1]}],
    }  # fmt: skip
    assert "sliding_window.layers without layers 0, 3" in lines
    assert not any("a part of" in line for line in lines)


@pytest.mark.parametrize(
    ("config", "depth", "line"),
    [({"num_hidden_layers": 4}, _without(0, 1, 2, 3), "num_hidden_layers stays 4: no layer has a cache any more"),
     ({"num_layers": 3}, Depth([True, False]), "num_layers stays 3: 1 residual branches went, of layers that nothing"),
     ({"num_layers": 2, "num_decoder_layers": 1}, Depth([False, True]), "num_layers stays 2: 1 residual branches"),
     ({"n_layer": 2}, Depth([True, False, True, True]), "a part of layer 0 is gone, which no number says")],
)  # fmt: skip
def test_what_no_number_says_is_said(config: dict[str, int], depth: Depth, line: str) -> None:
    edited, lines = configs.edited(config, {}, depth)
    assert edited == config
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_a_decoder_says_its_own_number_beside_that_of_an_encoder() -> None:
    config = {"num_layers": 4, "num_decoder_layers": 4}
    assert configs.edited(config, {}, _without(2))[0] == {"num_layers": 4, "num_decoder_layers": 3}


def test_without_cuts_of_depth_nothing_changes() -> None:
    config = {"num_hidden_layers": 4, "layer_types": ["a"] * 4}
    assert configs.edited(config, {}, Depth([True] * 8, (0, 1, 2, 3))) == (config, [])
    assert configs.edited(config, {}, Origin().depth) == (config, [])


def test_what_lies_inside_under_the_new_name_makes_way() -> None:
    x = ir.Value(name="past.1", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT))
    inner = ir.node("Relu", [x], name="first")
    inner.outputs[0].name = "past.0"
    last = ir.node("Relu", [inner.outputs[0]], name="last")
    last.outputs[0].name = "present.1"
    model = ir.Model(ir.Graph([x], last.outputs, nodes=[inner, last], opset_imports={"": 20}), ir_version=10)
    rename(model, {"past.1": "past.0", "present.1": "present.0"})
    names = [x.name, inner.outputs[0].name, last.outputs[0].name]
    assert names == ["past.0", "past.0/inside1", "present.0"]


@pytest.mark.parametrize("kind", ["plain", "Attention", "GroupQueryAttention"])
def test_layers_of_a_graph_by_its_caches(kind: str) -> None:
    analysis = analyse(load_normal(networks.cached(kind)))
    depth = depth_of(analysis, Plan({"0.wo:branch": (0,)}, {"0.wo:branch": 1}))
    assert depth.branches == (False, True)
    assert depth.gone == (0,)
    assert depth.renamed["past.1.k"] == "past.0.k"
    assert depth.renamed["present.1.v"] == "present.0.v"


def test_sizes_of_what_goes_whole_are_no_sizes(tmp_path: Path) -> None:
    """An attention that goes does not make the others uneven."""
    from models import folder as toy

    dense = toy.build(tmp_path / "dense", toy.Sizes(layers=2))
    branch, heads = "model.layers.0.attn.o_proj.weight:branch", "model.layers.1.attn.q_proj.weight:1#2"
    groups = {group.name: group.size for group in analyse(load_normal(dense)).groups}
    plan = Plan({branch: (0,), heads: (1,)}, {branch: 1, heads: groups[heads]})
    notes = spa.apply_plan(dense, plan).report.notes
    assert any(note == "config.json: num_attention_heads 4 -> 2" for note in notes)
    assert not any("stays" in note for note in notes if "heads" in note)
