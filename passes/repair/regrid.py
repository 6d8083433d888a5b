"""A refit on the grid of the weight that it is for, so that what comes behind makes up for its rounding, too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spa.passes.repair.packed import Packed, rounded_scales
from spa.passes.secondorder import Consumer, Refit
from spa.passes.secondorder.grid import on_grid, same
from spa.passes.secondorder.linalg import Array
from spa.passes.secondorder.problem import NormalEquations, energy, normal_equations, pooled, share, squared_error


def regridded(fit: Refit, consumer: Consumer, stored: Packed, *, pool: bool = True) -> Refit:
    """The refit of a weight of a few bits, rounded by what its consumer reads (`spa.passes.secondorder.grid`).

    A weight that lost none of its inputs keeps its levels, with the bias of the refit's mean, unless the rounded refit
    is better: it has been rounded once already. What is held out judges, and where it was pooled it was fitted, too.

    Args:
        pool: whether the fit has seen what is held out.
    """
    full = normal_equations(consumer, pooled(consumer) if pool else consumer.moments)
    form, plain = stored.grid.form, stored.grid.values().T.astype(stored.dtype.numpy()).astype(np.float64)
    grid = on_grid(fit.weight.T, form, full.restrict(fit.rows).gram)
    rounded = _with(fit, consumer, full, rounded_scales(grid, stored).values().T)
    if len(fit.rows) < len(consumer.unit_of_row) or not same(plain, consumer.weight):
        return rounded
    kept = _with(fit, consumer, full, np.asarray(consumer.weight, np.float64))
    judge = normal_equations(consumer, consumer.judge)
    return min((kept, rounded), key=lambda each: squared_error(consumer, judge, each.weight, each.bias))


def _with(fit: Refit, consumer: Consumer, full: NormalEquations, weight: Array) -> Refit:
    """The refit with another weight (k, m) on its rows, the bias that goes with it and what both lose."""
    equations = full.restrict(fit.rows)
    bias = equations.bias(weight)
    loss = share(squared_error(consumer, equations, weight, bias), energy(consumer, full))
    return replace(fit, weight=weight, bias=bias, loss=loss)
