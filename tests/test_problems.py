"""A layer as least-squares problems, and back."""

from __future__ import annotations

import numpy as np
import pytest

from spa.passes.consumers import Layer
from spa.passes.network import Network, prepare
from spa.passes.problems import Problem, Statistics
from spa.passes.secondorder import Moments, refit
from spa.pipeline import load_normal
from tests.models import build

X = np.random.default_rng(1).standard_normal((400, 6, 5, 5)).astype(np.float32)


def layer(taps: int) -> tuple[Network, Layer]:
    side = 5 - taps + 1
    text = f"(float[N,6,5,5] x) => (float[N,4,{side},{side}] y) {{ y = Conv(x, w) }}"
    network = prepare(load_normal(build(text, {"w": [4, 6, taps, taps]})))
    (found,) = network.layers
    return network, found


def moments(problem: Problem, data: np.ndarray) -> Statistics:
    fitted = Moments(problem.width)
    (rows,) = problem.rows(data)
    fitted.update(rows)
    return Statistics([fitted], [Moments(problem.width)])


@pytest.mark.parametrize(("taps", "widest", "coarse"), [(3, 54, False), (3, 53, True), (1, 1, False)])
def test_long_rows_are_channels_only_unless_the_window_is_one_element(taps: int, widest: int, coarse: bool) -> None:
    problem = Problem.of(layer(taps)[1], widest=widest)
    assert problem.coarse is coarse
    assert problem.width == (6 if coarse else 6 * taps * taps)
    assert problem.rows(X).shape == (1, problem.row_count(X.shape), problem.width)


def test_chosen_rows_are_those_of_all() -> None:
    for problem in (Problem(layer(3)[1]), Problem(layer(3)[1], coarse=True)):
        chosen = np.array([5, 0, 17])
        np.testing.assert_array_equal(problem.rows(X, chosen), problem.rows(X)[:, chosen])


def test_coarse_rows_are_channels_at_a_position() -> None:
    (rows,) = Problem(layer(3)[1], coarse=True).rows(X)
    np.testing.assert_array_equal(rows[0], X[0, :, 0, 0])
    np.testing.assert_array_equal(rows[5 * 5 + 7], X[1, :, 1, 2])


@pytest.mark.parametrize("coarse", [False, True])
def test_with_everything_kept_the_layer_stays(coarse: bool) -> None:
    network, found = layer(3)
    problem, matrix, bias = Problem(found, coarse), network.dense_matrix(found), network.dense_bias(found)
    units = problem.units(np.full((1, found.width), -1))
    (consumer,) = problem.consumers(moments(problem, X), matrix, bias, units)
    fit = refit(consumer, np.arange(problem.width))
    new, shifted = problem.assembled([fit], matrix, bias)
    np.testing.assert_allclose(new, matrix, atol=1e-5)
    np.testing.assert_allclose(shifted, bias, atol=1e-5)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_channel_that_copies_another_is_made_up_for(coarse: bool) -> None:
    network, found = layer(3)
    data = X.copy()
    data[:, 4] = 2 * data[:, 1]
    problem, matrix, bias = Problem(found, coarse), network.dense_matrix(found), network.dense_bias(found)
    gone = np.repeat(np.arange(6) == 4, 9)[None]
    units = problem.units(np.where(gone, 0, -1))
    (consumer,) = problem.consumers(moments(problem, data), matrix, bias, units)
    new, shifted = problem.assembled([refit(consumer, np.flatnonzero(consumer.unit_of_row < 0))], matrix, bias)
    assert not new[gone].any()
    (rows,) = found.rows(data)
    wanted, got = rows @ matrix[0] + bias[0], rows @ new[0] + shifted[0]
    assert np.mean((wanted - got) ** 2) < 1e-3 * np.var(wanted)


def test_losses_are_shares_of_what_the_dense_outputs_vary() -> None:
    network, found = layer(3)
    problem = Problem(found)
    dense = problem.rows(X)
    pair = Moments(problem.width, dense_width=problem.width)
    pair.update(0.5 * dense[0], dense[0])
    statistics = Statistics([pair], [Moments(problem.width, dense_width=problem.width)], dense, 0.5 * dense)
    matrix = network.dense_matrix(found)
    units = np.full((1, found.width), -1)
    (consumer,) = problem.consumers(statistics, matrix, network.dense_bias(found), units)
    assert consumer.energy == pytest.approx(np.var(dense[0] @ matrix[0], axis=0).sum())
    assert refit(consumer, np.arange(problem.width)).loss == pytest.approx(0.0, abs=1e-3), (
        "twice the weights give it all"
    )
