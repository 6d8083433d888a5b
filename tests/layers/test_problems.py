"""A layer as least-squares problems, and back."""

from __future__ import annotations

import numpy as np
import pytest

from spa.passes.layers import problems
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Problem, Statistics
from spa.passes.repair.network import Network, prepare
from spa.passes.secondorder import Moments, refit
from spa.pipeline import load_normal
from tests.models import build

X = np.random.default_rng(1).standard_normal((400, 6, 5, 5)).astype(np.float32)


def layer(taps: int) -> tuple[Network, Layer]:
    side = 5 - taps + 1
    text = f"(float[N,6,5,5] x) => (float[N,4,{side},{side}] y) {{ y = Conv(x, w) }}"
    network = prepare(load_normal(build(text, {"w": [4, 6, taps, taps]})))
    (target,) = network.layers
    return network, target


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
    for problem in (Problem(layer(3)[1]), Problem.coarsely(layer(3)[1])):
        chosen = np.array([5, 0, 17])
        np.testing.assert_array_equal(problem.rows(X, chosen), problem.rows(X)[:, chosen])


def test_coarse_rows_are_channels_at_a_position() -> None:
    (rows,) = Problem.coarsely(layer(3)[1]).rows(X)
    np.testing.assert_array_equal(rows[0], X[0, :, 0, 0])
    np.testing.assert_array_equal(rows[5 * 5 + 7], X[1, :, 1, 2])


@pytest.mark.parametrize("coarse", [False, True])
def test_with_everything_kept_the_layer_stays(coarse: bool) -> None:
    network, target = layer(3)
    problem = Problem.coarsely(target) if coarse else Problem(target)
    matrix, bias = network.dense_matrix(target), network.dense_bias(target)
    units = problem.units(np.full((1, target.width), -1))
    (consumer,) = problem.consumers(moments(problem, X), matrix, bias, units)
    fit = refit(consumer, np.arange(problem.width))
    new, shifted = problem.assembled([fit], bias, lambda: matrix)
    np.testing.assert_allclose(new, matrix, atol=1e-5)
    np.testing.assert_allclose(shifted, bias, atol=1e-5)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_channel_that_copies_another_is_made_up_for(coarse: bool) -> None:
    network, target = layer(3)
    data = X.copy()
    data[:, 4] = 2 * data[:, 1]
    problem = Problem.coarsely(target) if coarse else Problem(target)
    matrix, bias = network.dense_matrix(target), network.dense_bias(target)
    gone = np.repeat(np.arange(6) == 4, 9)[None]
    units = problem.units(np.where(gone, 0, -1))
    (consumer,) = problem.consumers(moments(problem, data), matrix, bias, units)
    new, shifted = problem.assembled([refit(consumer, np.flatnonzero(consumer.unit_of_row < 0))], bias, lambda: matrix)
    assert not new[gone].any()
    (rows,) = target.rows(data)
    wanted, got = rows @ matrix[0] + bias[0], rows @ new[0] + shifted[0]
    assert np.mean((wanted - got) ** 2) < 1e-3 * np.var(wanted)


def test_losses_are_shares_of_what_the_dense_outputs_vary() -> None:
    network, target = layer(3)
    problem = Problem(target)
    dense = problem.rows(X)
    pair = Moments(problem.width, dense_width=problem.width)
    pair.update(0.5 * dense[0], dense[0])
    statistics = Statistics([pair], [Moments(problem.width, dense_width=problem.width)], dense, 0.5 * dense)
    matrix = network.dense_matrix(target)
    units = np.full((1, target.width), -1)
    (consumer,) = problem.consumers(statistics, matrix, network.dense_bias(target), units)
    assert consumer.energy == pytest.approx(np.var(dense[0] @ matrix[0], axis=0).sum())
    assert refit(consumer, np.arange(problem.width)).loss == pytest.approx(0.0, abs=1e-3), (
        "twice the weights give it all"
    )


def flattened(order: str) -> tuple[Network, Layer]:
    """A matrix behind a flattening of (channels, 2, 3), channels first or last."""
    turned = "t = Transpose<perm=[0,2,3,1]>(r) f = Flatten(t)" if order == "last" else "f = Flatten(r)"
    text = f"(float[N,3,2,3] x) => (float[N,4] y) {{ c = Conv(x, u) r = Relu(c) {turned} y = MatMul(f, w) }}"
    network = prepare(load_normal(build(text, {"u": [6, 3, 1, 1], "w": [36, 4]})))
    return network, network.layers[-1]


@pytest.mark.parametrize("order", ["first", "last"])
def test_long_rows_of_flattened_data_are_channels_at_a_place(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, target = flattened(order)
    assert not Problem.of(target, widest=1200, removable=network.removable).coarse
    monkeypatch.setattr(problems, "LONGEST", 30)
    assert not Problem.of(target, widest=20).coarse, "nothing of it may go"
    assert not Problem.of(target, widest=36, removable=network.removable).coarse
    problem = Problem.of(target, widest=20, removable=network.removable)
    assert (problem.coarse, problem.width, problem.places) == (True, 6, 6)
    made = np.random.default_rng(0).standard_normal((5, 6, 2, 3)).astype(np.float32)
    data = (made if order == "first" else made.transpose(0, 2, 3, 1)).reshape(5, -1)
    assert problem.row_count(data.shape) == 30
    (rows,) = problem.rows(data)
    np.testing.assert_array_equal(rows.reshape(5, 2, 3, 6), made.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(problem.rows(data, np.array([7, 0]))[0], rows[[7, 0]])
    units = target.unit_of(next(group for group in network.groups if network.readers[group.name]))
    np.testing.assert_array_equal(problem.units(units), [np.arange(6)])


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_copied_channel_of_flattened_data_is_made_up_for(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channel 4 is channel 1: the layer does without it, at every place."""
    monkeypatch.setattr(problems, "LONGEST", 30)
    network, target = flattened(order)
    problem = Problem.of(target, widest=20, removable=network.removable)
    made = np.random.default_rng(0).standard_normal((300, 6, 2, 3)).astype(np.float32)
    made[:, 4] = made[:, 1]
    data = (made if order == "first" else made.transpose(0, 2, 3, 1)).reshape(300, -1)
    matrix, bias = network.dense_matrix(target), network.dense_bias(target)
    (consumer,) = problem.consumers(moments(problem, data), matrix, bias, np.arange(6)[None])
    kept = np.array([0, 1, 2, 3, 5])
    new, shifted = problem.assembled([refit(consumer, kept)], bias, lambda: matrix)
    gone = problem.layout[4] if problem.layout is not None else np.zeros(0, int)
    assert not new[0][gone].any()
    np.testing.assert_allclose(data @ new[0] + shifted[0], data @ matrix[0] + bias[0], atol=2e-2)
