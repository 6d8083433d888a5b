"""What weights tell of the data: covariances, and repairs by samples that know nothing of the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from spa.analysis.couple import couple
from spa.passes.layers.evidence import EVIDENCE, evidence
from spa.passes.layers.finding import find_layers
from spa.passes.layers.problems import Problem
from spa.passes.normalize.normalize import normalize
from spa.passes.secondorder import Consumer, Moments, refit, remove_units
from spa.shapes import infer_shapes

WIDTH, RANK, OUTPUTS = 24, 8, 16


def problem(body: str, weight: npt.NDArray[np.float32], shape: str, outputs: str, widest: int) -> Problem:
    """The problem of a network's only layer."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g ({shape} x) => ({outputs} y) {{ {body} }}'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = normalize(ir.from_proto(proto))
    (layer,) = find_layers(model, couple(model, infer_shapes(model)))
    return Problem.of(layer, widest=widest)


def test_inputs_that_no_weight_reads_are_not_believed_in() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((WIDTH, OUTPUTS)).astype(np.float32)
    weight[3] = 0.0
    read = problem("y = MatMul(x, w)", weight, f"float[n, {WIDTH}]", f"float[n, {OUTPUTS}]", 1200)
    matrices = evidence([(read, weight[None]), (read, np.zeros_like(weight)[None])])
    assert matrices is not None
    assert matrices.shape == (1, WIDTH, WIDTH)
    assert not matrices[0, 3].any()
    assert np.trace(matrices[0]) == pytest.approx(EVIDENCE * WIDTH)
    assert matrices[0] == pytest.approx(weight @ weight.T * EVIDENCE * WIDTH / np.sum(weight**2), abs=1e-6)


def test_rows_of_channels_are_told_of_by_all_taps() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 4, 3, 3)).astype(np.float32)
    read = problem("y = Conv(x, w)", weight, "float[n, 4, 9, 9]", "float[n, 5, 7, 7]", 8)
    assert read.coarse
    matrix = read.layer.matrix(weight)
    matrices = evidence([(read, matrix)])
    assert matrices is not None
    taps = np.einsum("ocij,odij->cd", weight, weight)
    assert matrices[0] == pytest.approx(taps * EVIDENCE * 4 / np.trace(taps), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_training_make_up_for_samples_that_do_not_know_the_data(seed: int) -> None:
    """Data vary along eight of 24 directions, and training with weight decay has left no weight along the others."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((WIDTH, RANK)) @ rng.standard_normal((RANK, RANK))
    covariance = root @ root.T / RANK
    weight = covariance @ rng.standard_normal((WIDTH, OUTPUTS))
    moments = Moments(WIDTH)
    moments.update(rng.standard_normal((4096, WIDTH)))
    told = np.square(weight).sum() / WIDTH
    blind = Consumer(moments, weight, np.arange(WIDTH))
    informed = replace(blind, prior=EVIDENCE * weight @ weight.T / told)

    def off(consumer: Consumer) -> float:
        """Share of the true outputs' variance that is lost when a third of the units goes."""
        kept = remove_units([consumer], units=WIDTH, remove=WIDTH // 3).kept
        fit = refit(consumer, kept)
        error = weight.copy()
        error[fit.rows] -= fit.weight
        return float(np.trace(error.T @ covariance @ error) / np.trace(weight.T @ covariance @ weight))

    assert off(informed) < 0.8 * off(blind)


def test_a_prior_is_of_the_width_of_the_rows() -> None:
    with pytest.raises(ValueError, match="prior of shape"):
        Consumer(Moments(4), np.zeros((4, 2)), np.arange(4), prior=np.eye(3))
