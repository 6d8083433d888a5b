"""What the weights that training left tell of the data that a layer reads.

Under weight decay a trained weight is a sum of the rows that it was trained on, W = sum x delta^T / (n lambda): along
directions in which the data never vary it has decayed to nothing. So W W^T tells of their second moments, weighted by
gradients (the neural feature ansatz of Radhakrishnan et al. 2024). Samples of the tool's own do not know that: made-up
pictures, sounds and features vary along all directions. Tokens of a vocabulary are those that training saw.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spa.passes.layers.problems import Problem

EVIDENCE = 0.1
"""Of the mean variance of what a layer reads: how much what its weights tell counts beside samples of our own."""


def evidence(readers: Iterable[tuple[Problem, np.ndarray]]) -> np.ndarray | None:
    """(blocks, width, width) second moments of rows, as the weights of all that read them tell; `EVIDENCE` as a mean
    of the diagonal. None: all weights are zero.

    Args:
        readers: problems with the same rows, each with its dense weight (blocks, layer width, outputs).
    """
    found: np.ndarray | None = None
    for problem, matrix in readers:
        columns = (
            matrix if problem.layout is None else matrix[:, problem.layout].reshape(len(matrix), problem.width, -1)
        )
        columns = columns.astype(np.float64)
        squares = columns @ columns.swapaxes(1, 2)
        sizes = np.trace(squares, axis1=1, axis2=2)[:, None, None]
        squares *= EVIDENCE * problem.width / np.where(sizes > 0, sizes, np.inf)
        found = squares if found is None else found + squares
    if found is None:
        return None
    sizes = np.trace(found, axis1=1, axis2=2)[:, None, None]
    return found * (EVIDENCE * problem.width / np.where(sizes > 0, sizes, np.inf))
