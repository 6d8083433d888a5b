"""Read arrays from numpy's files, of which nothing is executed: no pickled objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class UnreadableError(Exception):
    """A file holds no plain arrays, and why."""


def load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """What a file holds: the array of an .npy, or the arrays of an .npz by name.

    Raises:
        UnreadableError: it is missing, damaged, neither of the two, or holds objects.
    """
    try:
        with path.open("rb") as file:  # numpy leaves it open where it fails
            content = np.load(file, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else dict(content)
    except Exception as error:  # whatever its parsers, zip and zlib raise for damaged files
        raise UnreadableError(_why(error)) from error


def _why(error: Exception) -> str:
    if "pickle" in str(error):  # numpy takes whatever it does not know for a pickle, and advises to load that
        return "it is neither .npy nor .npz, or holds objects"
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
