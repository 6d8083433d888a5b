"""How far the outputs of a network moved, in numbers that can be compared between networks.

| figure | what it is |
|---|---|
| lost share | mean square of what an output is off by, over the variance of the dense one around the mean of each column; over its mean square where it does not vary |
| relative_l2 | the root of the lost share; of an output of several kinds of columns (boxes in pixels beside scores), that of the worst kind, and that of each as relative_l2[:, 4:84] |
| kl | mean Kullback-Leibler divergence of rows of probabilities, or of the softmax of rows that may be logits, in nats |
| top1 | share of these rows whose largest number is where the dense one has it |

An output of probabilities is off by its divergence, any other by the lost share. What a stored weight makes along the
last axis may be logits or plain numbers, and no graph says which: it is off by both.

What was decided (the class of an ArgMax, the boxes that a suppression leaves) is not off by numbers: the values that it
was decided from are compared.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.analysis.reading import reads
from spa.notation.patterns import names_of
from spa.passes.layers.consumers import Layer
from spa.passes.repair.kinds import WHOLE, Part, blocks_of, parts_of

LOGITS_SPREAD = 64.0
"""Numbers of a row that lie further apart are no logits: boxes in pixels, say."""

LOGITS_DEVIATION = 3.0
"""Standard deviation of the logits of a row: trained classifiers of ten to a thousand classes have 2 to 5."""

NEXT_TO_NOTHING = 1e-12
"""Variances below this share of the mean square are rounding."""


def output_difference(
    dense: Sequence[np.ndarray],
    pruned: Sequence[np.ndarray],
    weights: Sequence[np.ndarray | None] = (),
    *,
    logits: bool = False,
    columns: Container[int] | None = None,
    unit: float = 1.0,
) -> dict[str, float]:
    """How far an output moved: relative_l2, with kl and top1 where its rows have them, as the module says.

    What is not finite in the dense network (scores masked with minus infinity) is left out.

    Args:
        dense, pruned: the output over all samples, a batch each; a row lies along the last axis.
        weights: for each batch (rows,), zero for rows that do not count.
        logits: rows that are no probabilities may be their logarithms, but for a constant.
        columns: the axes along which columns may be of several kinds; None: any.
        unit: factor on rows before they count as logits, as `unit_of_logits` has it.
    """
    weights = weights or [None] * len(dense)
    probabilities = all(_are_probabilities(left, there) for left, _, there in _blocks(dense, dense, weights))
    parts = WHOLE if probabilities else parts_of(dense, columns)
    shares = {str(part): lost_share(*_cut(part, dense, pruned, weights)) for part in parts}
    distances = {"relative_l2": float(np.sqrt(max(shares.values(), default=0.0)))}
    if len(parts) > 1:
        distances |= {f"relative_l2{part}": float(np.sqrt(share)) for part, share in shares.items()}
    first = next(_blocks(dense, dense, weights), None)
    logits = logits and first is not None and unit * _spread(first[0], first[2]) < LOGITS_SPREAD
    width = dense[0].shape[-1] if len(dense) and dense[0].ndim else 1
    if (probabilities or logits) and width > 1:
        distances |= _divergence(_blocks(dense, pruned, weights), logits=not probabilities, unit=unit)
    return distances


def unit_of_logits(dense: Sequence[np.ndarray], pruned: Sequence[np.ndarray]) -> float:
    """The factor that brings the rows of an output to the spread of usual logits; 1 where a number is not finite.

    Whether rows are logits no graph says, and so a divergence of what are plain numbers may not depend on their unit.
    """
    if not all(np.all(there) for _, _, there in _blocks(pruned, pruned, ())):
        return 1.0
    variance, count = 0.0, 0
    for rows, _, there in _blocks(dense, dense, ()):
        if not np.all(there):
            return 1.0
        variance += float(np.sum(np.var(rows, axis=1)))
        count += len(rows)
    spread = np.sqrt(variance / max(count, 1))
    return float(LOGITS_DEVIATION / spread) if 0.0 < spread < np.inf else 1.0


def lost_share(
    dense: Sequence[np.ndarray], pruned: Sequence[np.ndarray], weights: Sequence[np.ndarray | None] = ()
) -> float:
    """The lost share of rows along the last axis; arguments as those of `output_difference`."""
    error = squares = 0.0
    sums, count = np.zeros(()), 0
    for left, right, _ in _blocks(dense, pruned, weights):
        error += float(np.sum((left - right) ** 2))
        squares += float(np.sum(left**2))
        sums = sums + left.sum(0)
        count += len(left)
    variance = squares - float(np.sum(sums**2)) / max(count, 1)
    return error / ((variance if variance > NEXT_TO_NOTHING * squares else squares) or 1.0)


def _divergence(
    blocks: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], *, logits: bool, unit: float
) -> dict[str, float]:
    """Mean divergence of rows, and the share of them that keep their first choice."""
    kl, same, count = 0.0, 0, 0
    for left, right, there in blocks:
        first = [np.argmax(np.where(there, rows, -np.inf), axis=1) for rows in (left, right)]
        same += int(np.sum(first[0] == first[1]))
        count += len(left)
        if logits:
            left, right = _log_softmax(unit * left, there), _log_softmax(unit * right, there)
            kl += float(np.sum(np.exp(left) * (left - right), where=there))
        else:
            kl += float(np.sum(left * (np.log(left + 1e-12) - np.log(np.maximum(right, 0) + 1e-12))))
    return {"kl": max(kl, 0.0) / count, "top1": same / count} if count else {}  # rounding may leave less than none


def _cut(
    part: Part, dense: Sequence[np.ndarray], pruned: Sequence[np.ndarray], weights: Sequence[np.ndarray | None]
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray], Sequence[np.ndarray | None]]:
    """Outputs of one part, its axis the last where all rows count, and weights of their rows."""
    if part.axis is None:
        return dense, pruned, weights
    if all(weight is None for weight in weights):
        sides = ([np.moveaxis(part.of(array), part.axis, -1) for array in arrays] for arrays in (dense, pruned))
        return next(sides), next(sides), weights
    rows = [
        weight
        if weight is None or part.axis == array.ndim - 1
        else part.of(weight.reshape(array.shape[:-1])).reshape(-1)
        for array, weight in zip(dense, weights, strict=True)
    ]
    return [part.of(array) for array in dense], [part.of(array) for array in pruned], rows


def evened(
    dense: Sequence[np.ndarray], pruned: Sequence[np.ndarray], counts: Sequence[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs in which no sample is further from the others than most are, scaled together with those of the pruned.

    Samples of numbers that are too large drown the others in every sum of squares; those on which a network says next
    to nothing are left as faint as they are.

    Args:
        counts: how many samples each batch has; outputs that do not have one along the first axis stay as they are.
    """
    if any(array.shape[:1] != (count,) for array, count in zip(dense, counts, strict=True)):
        return list(dense), list(pruned)
    total = sum(counts)
    flat = [array.reshape(len(array), -1).astype(np.float64) for array in dense]
    shapes = {array.shape[1] for array in flat}
    if len(shapes) > 1 or not all(np.all(np.isfinite(array)) for array in flat):
        return list(dense), list(pruned)
    middle = np.median(np.concatenate(flat), axis=0) if total > 2 else np.zeros(flat[0].shape[1])
    apart = [np.sqrt(np.mean((array - middle) ** 2, axis=1)) for array in flat]
    usual = float(np.median(np.concatenate(apart)))
    factors = [np.minimum(1.0, usual / np.maximum(size, 1e-30)) if usual else np.ones(len(size)) for size in apart]

    def scaled(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            ((array.reshape(len(array), -1) - middle) * factor[:, None]).reshape(array.shape)
            for array, factor in zip(arrays, factors, strict=True)
        ]

    return scaled(dense), scaled(pruned)


def lost(distances: Mapping[str, float], *, logits: bool = False) -> float:
    """One number for what `output_difference` found: kinds of columns count as much as each other."""
    kinds = [value**2 for name, value in distances.items() if name.startswith("relative_l2[")]
    squared = float(np.mean(kinds)) if kinds else distances["relative_l2"] ** 2
    if "kl" not in distances:
        return squared
    return distances["kl"] + squared if logits else distances["kl"]


def may_be_logits(value: ir.Value, layers: Sequence[Layer]) -> bool:
    """Whether a stored weight makes the last axis of a value, with nothing but a bias behind it."""
    for layer in layers:
        last = [name.name for term in (layer.mixing.result_axes or ())[-1:] for name in names_of(term)]
        if layer.result is value and last and set(last) <= set(layer.outputs):
            return True
    return False


def comparable(
    model: ir.Model,
    coupling: Coupling,
    dtypes: Mapping[ir.Value, ir.DataType],
    decided: Container[ir.Value],
    inside: Container[ir.Value],
) -> list[ir.Value]:
    """The values that tell how far a model's outputs moved, each once.

    An output of floating-point numbers is compared itself; of any other, and of one whose size the data decide, the
    last such values before it; integers where nothing but the data is before them. Sizes are not compared.

    Args:
        dtypes: of values, as far as known.
        decided: values whose size the data decide.
        inside: values of which something may be removed: what is left of them need not be what it was.
    """
    values: dict[ir.Value, None] = {}
    blind = {application.node: application.rule.unseen for application in coupling.applications}
    for output in model.graph.outputs:
        before: dict[ir.Value, None] = {}
        seen, waiting = {output}, [output]
        while waiting:
            value = waiting.pop(0)
            node = value.producer()
            if node is None:
                continue
            if value not in decided and value in dtypes and dtypes[value].is_floating_point():
                before |= {} if value in inside else {value: None}
                continue
            unseen = {node.inputs[at] for at in blind.get(node, ())}
            new = [v for v in reads(node) if v not in unseen and v not in seen]
            seen.update(new)
            waiting += new
        if not before and output not in decided and any(value.is_graph_input() for value in seen - {output}):
            before[output] = None
        values |= before
    return list(values)


def _blocks(
    dense: Sequence[np.ndarray], pruned: Sequence[np.ndarray], weights: Sequence[np.ndarray | None]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, width) of both networks, float64, some at a time, and where those of the dense are finite: else 0."""
    for left, right, weight in zip(dense, pruned, weights or [None] * len(dense), strict=True):
        width = left.shape[-1] if left.ndim else 1
        left_rows, right_rows = left.reshape(-1, width), right.reshape(-1, width)
        if weight is not None and np.any(weight):
            left_rows, right_rows = left_rows[weight > 0], right_rows[weight > 0]
        for left, right in zip(blocks_of(left_rows), blocks_of(right_rows), strict=True):
            left, right = left.astype(np.float64), right.astype(np.float64)
            there = np.isfinite(left)
            if not np.all(there):
                left, right = np.where(there, left, 0.0), np.where(there, right, 0.0)
            yield left, right, there


def _spread(rows: np.ndarray, there: np.ndarray) -> float:
    """How far apart the numbers of a row are, as a mean over rows."""
    if not np.any(there):
        return 0.0
    some = np.any(there, axis=1)
    most = np.max(rows, axis=1, initial=-np.inf, where=there)[some]
    least = np.min(rows, axis=1, initial=np.inf, where=there)[some]
    return float(np.mean(most - least))


def _are_probabilities(rows: np.ndarray, there: np.ndarray) -> bool:
    return bool(np.all(there)) and rows.min(initial=0.0) >= 0 and np.allclose(rows.sum(1), 1.0, atol=1e-3)


def _log_softmax(rows: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Of what is there in each row; zero beside it."""
    peak = np.max(rows, axis=1, keepdims=True, initial=-np.inf, where=there)
    shifted = np.where(there, rows - peak, -np.inf)
    total = np.sum(np.exp(shifted), axis=1, keepdims=True)
    return np.where(there, shifted - np.log(np.where(total > 0, total, 1.0)), 0.0)
