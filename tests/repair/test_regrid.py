"""Refits on the grid of their weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from spa.passes.repair.packed import Packed, rounded_scales
from spa.passes.repair.regrid import regridded
from spa.passes.secondorder import Consumer, refit
from spa.passes.secondorder.grid import Form, Grid, on_grid, recovered, same
from spa.passes.secondorder.problem import normal_equations, squared_error
from tests.secondorder.made import correlated, moments_of

FORM = Form(4, 16, symmetric=True)


def stored_as(grid: Grid, dtype: ir.DataType = ir.DataType.FLOAT) -> Packed:
    return Packed(grid, "scales", None, False, False, dtype, {})


def consumer_of(
    distortion: float, *, free_bias: bool = True, dtype: ir.DataType = ir.DataType.FLOAT
) -> tuple[Consumer, Packed]:
    """A weight of a few bits, whose inputs are off by a share of their own."""
    rng = np.random.default_rng(0)
    stored = stored_as(on_grid(rng.standard_normal((12, 40)), FORM), dtype)
    stored = stored_as(rounded_scales(stored.grid, stored), dtype)
    dense = correlated(rng, 600, 40)
    pruned = dense * (1.0 + distortion * rng.standard_normal(40))
    fitted, held_out = (moments_of(pruned[part], dense[part]) for part in (slice(400), slice(400, None)))
    weight = stored.grid.values().T.astype(dtype.numpy()).astype(np.float64)
    return Consumer(fitted, weight, np.full(40, -1), held_out=held_out, free_bias=free_bias), stored


def error(consumer: Consumer, fit: Any) -> float:
    judge = normal_equations(consumer, consumer.judge).restrict(fit.rows)
    return squared_error(consumer, judge, fit.weight, fit.bias)


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
@pytest.mark.parametrize("free_bias", [True, False])
def test_a_weight_whose_inputs_are_what_they_were_keeps_its_levels(free_bias: bool, dtype: ir.DataType) -> None:
    consumer, stored = consumer_of(0.01, free_bias=free_bias, dtype=dtype)
    fit = regridded(refit(consumer, np.arange(40)), consumer, stored)
    np.testing.assert_array_equal(fit.weight, consumer.weight)


def test_a_weight_whose_inputs_are_off_is_refitted_on_its_grid() -> None:
    consumer, stored = consumer_of(0.5)
    plain = refit(consumer, np.arange(40))
    fit = regridded(plain, consumer, stored)
    assert not same(fit.weight, consumer.weight)
    assert recovered(fit.weight.T, FORM) is not None
    assert recovered(plain.weight.T, FORM) is None
    assert error(consumer, plain) < error(consumer, fit)
    assert fit.loss > plain.loss


def test_rows_that_stay_are_rounded_for_what_is_read() -> None:
    """Of forty inputs thirty: blocks lie elsewhere now."""
    consumer, stored = consumer_of(0.0)
    rows = np.flatnonzero(np.arange(40) % 4)
    fit = regridded(refit(consumer, rows), consumer, stored)
    assert fit.weight.shape == (30, 12)
    grid = recovered(fit.weight.T, FORM)
    assert grid is not None
    assert grid.levels.shape == (12, 30)
    nearest = on_grid(refit(consumer, rows).weight.T, FORM).values().T
    full = normal_equations(consumer).restrict(rows)
    assert error(consumer, fit) < squared_error(
        consumer, normal_equations(consumer, consumer.judge).restrict(rows), nearest, full.bias(nearest)
    )


def test_a_block_whose_scale_is_too_small_for_its_type_is_zero() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 32))
    weight[2, 16:] *= 1e-9
    grid = on_grid(weight, FORM)
    rounded = rounded_scales(grid, stored_as(grid, ir.DataType.FLOAT16)).values()
    assert np.abs(rounded[2, 16:]).max() == 0.0
    np.testing.assert_allclose(rounded, grid.values(), atol=2e-3)
