"""What is said of a pruned model beside that its cut is exact."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from rich.console import Console

from spa import pipeline, verdict
from spa.report import print_report
from tests import models


@pytest.mark.parametrize(
    ("measures", "on", "word"),
    [
        ({"relative_l2": 0.03}, verdict.HELD_OUT, "moved"),
        ({"relative_l2": 0.6}, verdict.HELD_OUT, "not usable"),
        ({"relative_l2": 0.6}, verdict.MADE_UP, "not usable"),
        ({"relative_l2": 0.6}, verdict.RANDOM, "moved"),
        ({"relative_l2": 2.5}, verdict.RANDOM, "probably not usable"),
        ({"relative_l2": float("nan")}, verdict.RANDOM, "probably not usable"),
        ({"relative_l2": 0.4, "top1": 0.3, "kl": 2.0}, verdict.HELD_OUT, "not usable"),
        ({"relative_l2": 0.04, "top1": 0.3, "kl": 1e-5}, verdict.HELD_OUT, "moved"),  # plain numbers that change places
        ({"relative_l2": 0.04, "top1": 0.99, "kl": 7.0}, verdict.HELD_OUT, "moved"),  # large plain numbers
    ],
)
def test_when_a_model_is_not_usable(measures: dict[str, float], on: str, word: str) -> None:
    said = verdict.summary({"y": measures}, on)
    assert said.startswith(word)
    assert on in said
    assert bool(verdict.unusable({"y": measures}, on)) == ("not usable" in word)


def test_only_what_was_held_out_is_no_guess() -> None:
    assert "says nothing of real ones" not in verdict.summary({"y": {"relative_l2": 0.1}}, verdict.HELD_OUT)
    for on in (verdict.MADE_UP, verdict.RANDOM):
        assert "says nothing of real ones" in verdict.summary({"y": {"relative_l2": 0.1}}, on)
    assert verdict.summary({"y": {"relative_l2": 0.1}}, verdict.GIVEN).endswith("on the inputs given")


def test_a_sample_that_was_fitted_is_not_called_held_out() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    result = pipeline.prune(models.residual_cnn(), ratio=0.3, data={"x": x}, preset="fast")
    assert result.report.outputs_on == verdict.FITTED
    assert "held out" not in json.loads(result.report.to_json())["verdict"]


def test_of_several_outputs_the_worst_is_named() -> None:
    outputs = {"a": {"relative_l2": 0.1}, "b": {"relative_l2": 0.3}, "c": {"relative_l2": 0.2}}
    assert "b, most of 3 outputs: relative L2 0.3" in verdict.summary(outputs, verdict.HELD_OUT)
    wrong = {name: {"relative_l2": 0.9} for name in "abcd"}
    assert "a: relative L2 0.9; b: relative L2 0.9 and 2 more outputs" in verdict.summary(wrong, verdict.HELD_OUT)
    assert verdict.summary({}, verdict.HELD_OUT) == ""


def said_of(result: pipeline.PruneResult) -> str:
    file = io.StringIO()
    print_report(result.report, Console(file=file, width=140))
    return file.getvalue()


@pytest.mark.parametrize("make", [models.residual_cnn, models.attention, models.gated_mlp])
def test_pruning_by_weights_says_how_far_outputs_moved(make: Callable[[], onnx.ModelProto]) -> None:
    result = pipeline.prune(make(), ratio=0.3, criterion="l2")
    (measures,) = result.report.outputs.values()
    assert result.report.outputs_on == verdict.RANDOM
    assert measures["relative_l2"] > 0.0
    text = said_of(result)
    assert "output, on random inputs" in text
    assert "held out" not in text
    assert json.loads(result.report.to_json())["verdict"] in text


def test_a_destroyed_network_is_not_called_usable() -> None:
    result = pipeline.prune(models.residual_cnn(), ratio=0.8, criterion="l2", align=1)
    assert result.report.verified
    scale = result.report.outputs["y"]["relative_l2"]
    assert ("not usable without fine-tuning: y: relative L2" in said_of(result)) == (
        scale > verdict.RELATIVE_L2_AT_RANDOM
    )


def test_what_samples_say_goes_by_its_name() -> None:
    x = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    given = pipeline.prune(models.residual_cnn(), ratio=0.3, data={"x": x}, preset="fast")
    assert "output, on samples held out" in said_of(given)
    made = pipeline.prune(models.residual_cnn(), ratio=0.3, data_free=True, preset="fast")
    assert made.report.outputs_on == verdict.MADE_UP
    text = said_of(made)
    assert "output, on made-up inputs" in text
    assert "measured on made-up inputs" in text
    assert "held out" not in text


@pytest.mark.parametrize(("make", "on"), [(models.residual_cnn, verdict.SHIPPED), (models.gated_mlp, verdict.MADE_UP)])
def test_shipped_samples_are_called_shipped(make: Callable[[], onnx.ModelProto], on: str) -> None:
    """Photographs and text are no made-up inputs; features of a network that takes no pictures are."""
    result = pipeline.prune(make(), ratio=0.3, data="builtin", preset="fast")
    assert result.report.outputs_on == on
    assert f"output, on {on}" in said_of(result)
    assert "says nothing of real ones" in said_of(result) or "not usable" in said_of(result)


def test_one_row_a_run_loses_no_more_than_there_is() -> None:
    """One sample a run: shares are of the variance over all samples held out, whatever the size of the samples."""
    text = "(float[1,40] x) => (float[1,5] y) { a=MatMul(x,u) r=Relu(a) c=MatMul(r,v) s=Relu(c) y=MatMul(s,w) }"
    model = models.build(text, {"u": (40, 64), "v": (64, 64), "w": (64, 5)})
    x = np.random.default_rng(1).standard_normal((64, 40)).astype(np.float32)
    reports = [pipeline.prune(model, ratio=0.3, data={"x": scale * x}).report for scale in (1, 16)]
    shares = [[layer.measured for layer in report.layers] for report in reports]
    assert all(0 <= share < 1 for share in shares[0])
    assert shares[1] == pytest.approx(shares[0], rel=0.02)
