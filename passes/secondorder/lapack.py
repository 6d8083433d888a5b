"""LAPACK for several threads at once.

`scipy.linalg.lapack` keeps the interpreter's lock while a routine runs, so that threads that factorise wait for one
another. The same routines, as scipy gives them to Cython, are called through ctypes, which lets the lock go.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

ARGUMENTS = {
    "dpotrf": "char int double int int",
    "dpotri": "char int double int int",
    "dpotrs": "char int int double int double int int",
}
"""Of each routine what its arguments point to; the last says how it went."""

_TYPES: dict[str, Any] = {"char": ctypes.c_char_p, "int": ctypes.POINTER(ctypes.c_int), "double": ctypes.c_void_p}


def cholesky(matrix: Matrix) -> int:
    """Lower factor of a symmetric matrix (d, d), float64 in Fortran order, in its place; above the diagonal all stays.

    Returns:
        Zero, or the order of the first leading minor that is not positive.
    """
    routine = _routine("dpotrf")
    if routine is None:
        from scipy.linalg import lapack

        return int(lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=1)[1])
    return _called(routine, matrix)


def inverse_of(lower: Matrix) -> int:
    """Lower triangle of the inverse, in the place of a factor as `cholesky` leaves it.

    Returns:
        Zero, or the number of the first diagonal element that is zero.
    """
    routine = _routine("dpotri")
    if routine is None:
        from scipy.linalg import lapack

        return int(lapack.dpotri(lower, lower=1, overwrite_c=1)[1])
    return _called(routine, lower)


def solve_with(lower: Matrix, right: Matrix) -> None:
    """Solution (d, m) of ``lower @ lower.T @ x = right``, in the place of the right side; both in Fortran order."""
    routine = _routine("dpotrs")
    if routine is None:
        from scipy.linalg import lapack

        lapack.dpotrs(lower, right, lower=1, overwrite_b=1)
        return
    _called(routine, lower, right)


def _called(routine: Callable[..., None], matrix: Matrix, *right: Matrix) -> int:
    """What a routine says of the lower triangle of a matrix, and of a right side."""
    for array in (matrix, *right):
        if not (array.flags.f_contiguous and array.flags.writeable and array.dtype == np.float64):
            raise ValueError("LAPACK works in the place of float64 numbers in Fortran order")
    lead, info = ctypes.c_int(max(len(matrix), 1)), ctypes.c_int()
    counts = [ctypes.c_int(n) for n in (len(matrix), *(array.shape[1] for array in right))]
    arrays = [part for array in (matrix, *right) for part in (array.ctypes.data, lead)]
    routine(b"L", *counts, *arrays, info)
    return info.value


@functools.cache
def _routine(name: str) -> Callable[..., None] | None:
    """What calls a routine without the lock; None: scipy does not give it with the arguments that are known."""
    from scipy.linalg import cython_lapack

    capsule: Any = cython_lapack.__pyx_capi__.get(name)
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature: bytes = b"" if capsule is None else name_of(capsule)
    given = [part.split(" *")[0] for part in signature.decode().removeprefix("void (").split(", ")]
    known = ARGUMENTS[name].split()
    if ["double" if part.endswith("_d") else part for part in given] != known:
        return None
    made: Callable[..., None] = ctypes.CFUNCTYPE(None, *(_TYPES[part] for part in known))(
        pointer_of(capsule, signature)
    )
    return made
