"""Symmetric positive definite systems that have to be solved whatever the calibration data were."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
    from scipy.linalg import lapack

    diagonal = np.diagonal(matrix)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    for jitter in JITTERS:
        lower, info = lapack.dpotrf(_scaled(matrix, scale, jitter).T, lower=1, clean=1, overwrite_a=1)
        if info == 0:
            return lower, scale
    values, vectors = np.linalg.eigh(_scaled(matrix, scale, 0.0))
    raised = np.maximum(values, EIGENVALUE_FLOOR * max(float(values[-1]), 1.0))
    lower, _ = lapack.dpotrf((vectors * raised) @ vectors.T, lower=1, clean=1)
    return lower, scale


def solve(matrix: Array, right: Array) -> Array:
    """Solution (d, m) of ``matrix @ solution = right`` for a symmetric ``matrix``, see `factorise`."""
    from scipy.linalg import cho_solve

    lower, scale = factorise(matrix)
    solution: Array = cho_solve((lower, True), scale[:, None] * right, check_finite=False)
    return scale[:, None] * solution


def inverse(matrix: Array) -> Array:
    """Inverse (d, d) of a symmetric matrix, see `factorise`."""
    from scipy.linalg import lapack

    if not len(matrix):  # LAPACK complains of it, on the standard error
        return matrix.copy()
    lower, scale = factorise(matrix)
    half, _ = lapack.dpotri(lower, lower=1, overwrite_c=1)
    full: Array = np.add(half, half.T, order="C")
    np.fill_diagonal(full, np.diagonal(half))
    full *= scale
    full *= scale[:, None]
    return full


def _scaled(matrix: Array, scale: Array, jitter: float) -> Array:
    scaled = matrix * scale
    scaled *= scale[:, None]
    if jitter:
        scaled[np.diag_indices_from(scaled)] += jitter
    return np.ascontiguousarray(scaled)
