"""Factors and inverses of matrices that barely have any."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest

from spa.passes.secondorder import lapack
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


@pytest.mark.parametrize("arguments", ["known", "other"])
def test_routines_without_the_lock_give_what_those_with_it_do(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if arguments == "other":  # as a later scipy may have them: its own wrappers are called then
        monkeypatch.setattr(lapack, "ARGUMENTS", dict.fromkeys(lapack.ARGUMENTS, "char int"))
    lapack._routine.cache_clear()
    assert (lapack._routine("dpotrf") is None) == (arguments == "other")
    rows = np.random.default_rng(1).standard_normal((40, 12))
    matrix, right = rows.T @ rows, rows[:12, :5]
    np.testing.assert_allclose(solve(matrix, right), np.linalg.solve(matrix, right), rtol=1e-9)
    np.testing.assert_allclose(inverse(matrix), np.linalg.inv(matrix), rtol=1e-9)
    assert lapack.cholesky(np.asfortranarray(np.diag([1.0, -1.0]))) == 2
    lapack._routine.cache_clear()


def test_lapack_works_in_the_place_of_its_matrix_alone() -> None:
    wrongs: list[Any] = [np.eye(3, dtype=np.float32), np.arange(12.0).reshape(3, 4)[:, :3]]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="Fortran order"):
            lapack.cholesky(wrong)


def test_threads_factorise_at_once() -> None:
    matrix, beside, done = np.asfortranarray(np.eye(1500) + 1.0 / 1500), [0], threading.Event()

    def count() -> None:
        while not done.wait(1e-5):  # which lets the lock go
            beside[0] += 1

    assert lapack.cholesky(np.asfortranarray(np.eye(2))) == 0  # what is imported for it is there
    counting, interval = threading.Thread(target=count), sys.getswitchinterval()
    counting.start()
    sys.setswitchinterval(1000.0)  # from here on the lock changes hands only where it is let go
    try:
        before = beside[0]
        assert lapack.cholesky(matrix) == 0
        assert beside[0] > before
    finally:
        done.set()
        sys.setswitchinterval(interval)
        counting.join()
