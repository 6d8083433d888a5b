"""What the weights that training left tell of the data that a layer reads.

Under weight decay a trained weight is a sum of the rows that it was trained on, W = sum x delta^T / (n lambda): along
directions in which the data never vary it has decayed to nothing. So W W^T tells of their second moments, weighted by
gradients (the neural feature ansatz of Radhakrishnan et al. 2024). Samples of the tool's own do not know that: made-up
pictures and sounds vary along all directions. Tokens of a vocabulary are those that training saw; of features and
tables, which small networks learn, weights told less than samples did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spa.passes.layers.problems import Problem

EVIDENCE = 0.1
"""Of the mean variance of what a layer reads: how much what its weights tell counts beside samples of our own."""


def evidence(readers: Sequence[tuple[Problem, np.ndarray]]) -> np.ndarray:
    """(blocks, width, width) second moments of rows, as the weights of all that read them tell, each weight as much as
    any other; `EVIDENCE` as a mean of the diagonal, zero where all weights of a block are.

    Args:
        readers: problems with the same rows, one at least, each with its dense weight (blocks, layer width, outputs).
    """
    told = np.zeros(())
    for problem, matrix in readers:
        told = told + _of_trace_one(_squares(problem, matrix))
    return EVIDENCE * readers[0][0].width * _of_trace_one(told)


def _squares(problem: Problem, matrix: np.ndarray) -> np.ndarray:
    """W W^T, (blocks, width, width); of rows that are channels only, over all places."""
    columns = matrix if problem.layout is None else matrix[:, problem.layout].reshape(len(matrix), problem.width, -1)
    columns = columns.astype(np.float64)
    return np.asarray(columns @ columns.swapaxes(1, 2))


def _of_trace_one(squares: np.ndarray) -> np.ndarray:
    traces = np.trace(squares, axis1=1, axis2=2)[:, None, None]
    return np.asarray(squares / np.where(traces > 0, traces, np.inf))
