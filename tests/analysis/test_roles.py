from __future__ import annotations

from pathlib import Path

import numpy as np

from models import decoder, folder
from spa.analysis.plan import Plan
from spa.analysis.roles import sizes_by_role
from spa.steps import analyse, load_normal


def _sizes(source: object, removed: dict[str, list[int]]) -> dict:
    analysis = analyse(load_normal(source))
    plan = Plan.of(analysis.groups, {name: np.array(units) for name, units in removed.items()})
    return sizes_by_role(analysis.coupling, analysis.groups, plan.masks(analysis.groups))


def test_fused_attention_names_its_heads() -> None:
    query = "model.layers.0.attn.q_proj.weight:1"
    roles = _sizes(folder.graph_of(folder.Sizes(layers=1, heads=8, kv_heads=4)), {f"{query}#2": [1], query: [0]})
    assert set(roles["heads"][8]) == {3}
    assert set(roles["kv_heads"][4]) == {3}
    assert set(roles["head_dim"][16]) == {16}
    assert roles["ffn"] == {128: (128,)}
    assert roles["width"] == {64: (64,)}


def test_attention_of_plain_products_names_them_too(tmp_path: Path) -> None:
    path = decoder.build(decoder.PRESETS["tiny"], tmp_path, dtype="float32")
    removed = {"layers.0.q.weight:1": [0], "layers.1.q.weight:1": [0], "layers.1.q.weight:1#2": [1]}
    roles = _sizes(path, removed)
    assert roles["heads"][8] == (6, 3)
    assert roles["kv_heads"][4] == (3, 3)
    assert set(roles["head_dim"][8]) == {8}


def test_a_fused_projection_of_queries_keys_and_values(tmp_path: Path) -> None:
    sizes = decoder.Decoder(layers=1, heads=8, kv_heads=8)
    path = decoder.build(sizes, tmp_path, dtype="float32")
    roles = _sizes(path, {"layers.0.q.weight:1": [2, 5]})
    assert set(roles["heads"][8]) == {6} == set(roles["kv_heads"][8])
