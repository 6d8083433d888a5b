"""Which stored tensors are masks: numbers added to scores so that a softmax leaves positions out."""

from __future__ import annotations

import numpy as np

LARGE = 1e4
"""What is added to mask, at least: -10000 in BERT, the lowest number of a type, or minus infinity."""

_SHARE = 1 / 16  # so many infinities of one sign are no accident


def is_mask(array: np.ndarray) -> bool:
    """Whether a tensor is a mask: zeros and one large number, or infinite in many places, of one sign."""
    numbers = array.astype(np.float64).reshape(-1)
    if np.isnan(numbers).any():
        return False
    others = numbers[numbers != 0]
    if 0 < others.size < numbers.size and abs(others[0]) >= LARGE and bool(np.all(others == others[0])):
        return True
    low, high = (int(np.count_nonzero(numbers == sign * np.inf)) for sign in (-1, 1))
    return min(low, high) == 0 and low + high >= max(1, _SHARE * numbers.size)
