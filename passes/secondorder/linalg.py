"""Symmetric positive definite systems that have to be solved whatever the calibration data were."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spa.passes.secondorder import lapack

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

JITTERS = (0.0, 1e-10, 1e-9, 1e-8)
"""Tried in turn on the diagonal of the equilibrated matrix, which is one."""

EIGENVALUE_FLOOR = 1e-8
"""Share of the largest eigenvalue to which the others are raised when no jitter was enough."""


def factorise(matrix: Array) -> tuple[Array, Array]:
    """Cholesky factor of a symmetric matrix after scaling its diagonal to one.

    The condition number of the scaled matrix is within a factor d of the best that any diagonal scaling can reach
    (van der Sluis 1969). A matrix that is not positive definite gets a growing jitter; if that is not enough, its
    eigenvalues are raised to a floor.

    Args:
        matrix: symmetric, (d, d); left as it is.

    Returns:
        ``lower`` (d, d) and ``scale`` (d,) with ``lower @ lower.T == scale * matrix * scale[:, None]``, but for the
        jitter.
    """
    diagonal = np.diagonal(matrix)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    for jitter in JITTERS:
        lower = _scaled(matrix, scale, jitter).T
        if lapack.cholesky(lower) == 0:
            return _lower(lower), scale
    values, vectors = np.linalg.eigh(_scaled(matrix, scale, 0.0))
    raised = np.maximum(values, EIGENVALUE_FLOOR * max(float(values[-1]), 1.0))
    lower = np.asfortranarray((vectors * raised) @ vectors.T)
    lapack.cholesky(lower)
    return _lower(lower), scale


def solve(matrix: Array, right: Array) -> Array:
    """Solution (d, m) of ``matrix @ solution = right`` for a symmetric ``matrix``, see `factorise`."""
    lower, scale = factorise(matrix)
    solution = np.asfortranarray(scale[:, None] * right)
    lapack.solve_with(lower, solution)
    return scale[:, None] * solution


def inverse(matrix: Array) -> Array:
    """Inverse (d, d) of a symmetric matrix, see `factorise`."""
    if not len(matrix):  # LAPACK complains of it, on the standard error
        return matrix.copy()
    half, scale = factorise(matrix)
    lapack.inverse_of(half)
    full: Array = np.add(half, half.T, order="C")
    np.fill_diagonal(full, np.diagonal(half))
    full *= scale
    full *= scale[:, None]
    return full


def _lower(factor: Array) -> Array:
    """A factor in Fortran order, with zeros above its diagonal now."""
    for at in range(1, len(factor)):
        factor[:at, at] = 0.0
    return factor


def _scaled(matrix: Array, scale: Array, jitter: float) -> Array:
    scaled = matrix * scale
    scaled *= scale[:, None]
    if jitter:
        scaled[np.diag_indices_from(scaled)] += jitter
    return np.ascontiguousarray(scaled)
