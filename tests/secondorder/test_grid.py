from __future__ import annotations

import numpy as np
import pytest

from spa.passes.secondorder.grid import Form, lost, on_grid

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
