from __future__ import annotations

import numpy as np
import pytest

from spa.passes.secondorder.grid import Form, lost, on_grid, recovered

FORMS = [Form(bits, block, symmetric) for bits in (4, 8) for block in (16, 32) for symmetric in (True, False)]


def _weight(outputs: int = 6, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((outputs, width)) + 0.5


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_levels_are_near(form: Form) -> None:
    weight = _weight()
    grid = on_grid(weight, form)
    assert grid.scales.shape == (6, -(-50 // form.block)) == grid.zeros.shape
    assert grid.levels.max() < form.levels
    assert np.abs(grid.values() - weight).max() < 8 / (form.levels - 2)
    if form.symmetric:
        assert set(grid.zeros.reshape(-1)) == {form.levels / 2}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_lies_on_a_grid_stays(form: Form) -> None:
    values = on_grid(_weight(width=64), form).values()
    np.testing.assert_allclose(on_grid(values, form).values(), values, atol=np.abs(values).max() / form.levels / 3)


@pytest.mark.parametrize("form", [Form(4, 16, True), Form(4, 16, False)], ids=str)
def test_correlated_rows_are_used(form: Form) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((400, 8)) @ rng.standard_normal((8, 50)) + 0.1 * rng.standard_normal((400, 50))
    gram, weight = rows.T @ rows, _weight()
    assert lost(weight, on_grid(weight, form, gram), gram) < 0.6 * lost(weight, on_grid(weight, form), gram)


def test_rows_that_say_nothing_and_weights_that_are_zero() -> None:
    form = Form(4, 16, True)
    assert np.all(on_grid(np.zeros((2, 20)), form).values() == 0)
    weight = _weight()
    np.testing.assert_array_equal(
        on_grid(weight, form, np.zeros((50, 50))).levels.shape, on_grid(weight, form).levels.shape
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("bits", "symmetric"), [(2, True), (4, True), (4, False), (8, True), (8, False)])
def test_a_weight_on_a_grid_is_recognised(bits: int, symmetric: bool, dtype: type) -> None:
    """Also with a row of zeros, of one sign, and a last block of a few numbers."""
    rng = np.random.default_rng(bits)
    weight = rng.standard_normal((9, 37))
    weight[3], weight[4] = 0.0, np.abs(weight[4])
    form = Form(bits, 16, symmetric=symmetric)
    values = on_grid(weight, form).values().astype(dtype).astype(np.float64)
    grid = recovered(values, form)
    assert grid is not None
    assert grid.levels.max() < 2**bits
    assert grid.zeros.min() >= 0
    np.testing.assert_allclose(grid.values(), values, rtol=0, atol=1e-6 * np.abs(values).max())
    values[5, 20] += 0.3 * grid.scales[5, 1]
    assert recovered(values, form) is None
    assert recovered(weight, form) is None


def test_levels_beside_a_large_one_are_not_lost() -> None:
    """A hundredth of the largest number is more than a step of 8 bits."""
    levels = 128 + np.random.default_rng(0).integers(-1, 2, (5, 32))
    levels[:, 7] = 255
    values = np.asarray((levels - 128) * 0.01, np.float64)
    grid = recovered(values, Form(8, 32, symmetric=True))
    assert grid is not None
    np.testing.assert_allclose(grid.values(), values, rtol=0, atol=1e-12)


def test_nothing_is_on_no_grid() -> None:
    assert recovered(np.zeros((3, 0)), Form(4, 16, symmetric=True)) is None
