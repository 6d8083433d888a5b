"""Cuts of a model beside the dense one, on samples that no fit has seen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import spa
from spa import runtime
from spa.errors import DataError
from spa.passes.repair import judge as module
from spa.passes.repair.difference import output_difference
from spa.passes.repair.judge import Judge
from spa.passes.samples.checking import check_samples
from spa.pipeline import load_normal
from tests import models


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def dense() -> ir.Model:
    return load_normal(models.residual_cnn())


def test_the_dense_model_is_no_distance_from_itself(dense: ir.Model) -> None:
    judge = Judge.of(dense, check_samples(samples(20), dense))
    assert judge.count == 20
    for figures in judge.differences(dense).values():
        assert figures["relative_l2"] == pytest.approx(0.0, abs=1e-5)


def test_figures_are_those_of_both_models_run_by_themselves(dense: ir.Model) -> None:
    held_out = samples(24, seed=3)
    result = spa.prune(dense.clone(), ratio=0.3, weights=True, verify=False)
    differences = Judge.of(dense, check_samples(held_out, dense)).differences(result.model)
    (name,) = differences
    before, after = (
        runtime.run(runtime.session(model, optimize=False), {str(model.graph.inputs[0].name): held_out})[name]
        for model in (dense, result.model)
    )
    expected = output_difference([before], [after], logits="kl" in differences[name])
    assert differences[name]["relative_l2"] == pytest.approx(expected["relative_l2"], rel=1e-3)
    assert differences[name]["relative_l2"] > 0.05


def test_a_repaired_cut_is_compared_too(dense: ir.Model) -> None:
    result = spa.prune(dense.clone(), ratio=0.3, data=samples(64), preset="fast", verify=False)
    differences = Judge.of(dense, check_samples(samples(24, seed=3), dense)).differences(result.model)
    assert all(0 < figures["relative_l2"] < 1 for figures in differences.values())


def test_of_large_outputs_fewer_samples_are_taken(dense: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NBYTES", 10 * 4 * 7)
    assert Judge.of(dense, check_samples(samples(50), dense)).count < 50


def test_a_model_of_which_nothing_can_be_compared_is_refused(dense: ir.Model) -> None:
    judge = Judge.of(dense, check_samples(samples(4), dense))
    other = load_normal(models.residual_cnn())
    other.graph.outputs[0].name = "other"
    with pytest.raises(DataError, match="no value"):
        judge.differences(other)
