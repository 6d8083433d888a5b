"""Factors and inverses of matrices that barely have any."""

from __future__ import annotations

import numpy as np
import pytest

from spa.passes.secondorder.linalg import factorise, inverse, solve


@pytest.mark.parametrize("kind", ["definite", "scaled", "singular", "indefinite", "zero"])
def test_factors_exist_for_every_symmetric_matrix(kind: str) -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((3 if kind == "singular" else 50, 8))
    matrix = rows.T @ rows
    if kind == "scaled":
        sizes = np.logspace(-9, 9, 8)
        matrix = matrix * sizes * sizes[:, None]
    if kind == "indefinite":
        matrix -= 30 * np.eye(8)
    if kind == "zero":
        matrix *= 0
    lower, scale = factorise(matrix)
    assert np.all(np.isfinite(lower))
    assert np.all(np.isfinite(inverse(matrix)))
    if kind in ("definite", "scaled", "singular"):
        np.testing.assert_allclose(lower @ lower.T, matrix * scale * scale[:, None], atol=1e-7)
    if kind in ("definite", "scaled"):
        for identity in (inverse(matrix) @ matrix, solve(matrix, matrix)):
            np.testing.assert_allclose(identity / scale[:, None] * scale, np.eye(8), atol=1e-9)


def test_nothing_has_an_inverse(capfd: pytest.CaptureFixture[str]) -> None:
    assert inverse(np.zeros((0, 0))).shape == (0, 0)
    assert not any(capfd.readouterr())
