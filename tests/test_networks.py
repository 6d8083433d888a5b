"""The networks that README's coverage is quoted from: valid, and pruned by half without help."""

from __future__ import annotations

import importlib.util

import onnx
import pytest

from models.networks import NETWORKS
from spa import pipeline

# The least share of parameters that goes at half of all channels, and the kinds of units that have to be among them.
LEAST = {
    "resnet": (0.7, "channels"),
    "mobilenet": (0.65, "channels"),
    "shufflenet": (0.5, "channels"),
    "densenet": (0.7, "channels"),
    "resnext": (0.6, "channels conv_groups"),
    "unet": (0.7, "channels"),
    "convnext": (0.4, "ffn"),
    "vit": (0.45, "ffn heads"),
    "swin": (0.45, "ffn heads"),
    "bert": (0.45, "ffn heads"),
    "experts": (0.45, "ffn"),
    "lstm": (0.65, "hidden"),
    "mixer": (0.45, "ffn"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    model = NETWORKS[name]()
    onnx.checker.check_model(model, full_check=True)
    least, kinds = LEAST[name]
    verifies = importlib.util.find_spec("onnxruntime") is not None
    report = pipeline.prune(model, ratio=0.5, of="channels", verify=verifies, weights=True).report
    assert report.removed_share("params") >= least
    assert {group.kind for group in report.groups if group.removed} == set(kinds.split())
    assert report.exact
    assert not verifies or (report.difference is not None and report.difference < 1e-5)


def test_same_every_time() -> None:
    assert NETWORKS["vit"]().SerializeToString() == NETWORKS["vit"]().SerializeToString()
