"""The least-squares problem of one consumer of the units to be removed: what it is, its normal equations, its error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from spa.passes.secondorder.linalg import Array, Indices
from spa.passes.secondorder.moments import Moments

MOST_WEIGHTS, PART_WEIGHTS = 1 << 24, 1 << 23
"""Of a consumer that is fitted as one, and of a part of one that is not."""


@dataclass(frozen=True, slots=True, eq=False)
class Consumer:
    """A mixing layer y = W0^T x + b0 that reads units about to be removed, and what is known of its input.

    Attributes:
        moments: of the input of width d' in the pruned and d in the dense network, which may be the same.
        weight: W0, dense weights, (d, m).
        unit_of_row: unit to which a row of the pruned input belongs, (d',); -1: the row always stays.
        bias: b0, dense bias, (m,); None: zero.
        anchor: weights that the pruned network has now, (d', m), towards which damping pulls; None: W0.
        held_out: moments of samples that no fit sees; None or without rows: nothing is held out.
        output_weight: F, positive semi-definite weight of output errors, (m, m), or its diagonal, (m,); None: identity.
            F changes which units are chosen and what a loss is, never a refit: every output has its own weights.
        alpha: weight of this consumer's loss beside that of others; None: 1 / energy.
        energy: tr(F Cov y) of the dense outputs; None: from the moments, exact for symmetric ones without drift,
            otherwise that of the anchored layer.
        sample: some rows of the dense network and the same of the pruned one, (n, d) and (n, d'), that tell how much
            outputs shrank; None: from the moments, if they are symmetric.
        drift: beta, share of the drift r in ``moments`` that the outputs should make up for.
        free_bias: whether a bias may be added; if not, b0 stays and moments are taken about zero.
        prior: covariance of the input that is believed in besides, (d, d), in units of its mean variance: the rows of
            both networks, which are as wide then, have it in common; None: none.
    """

    moments: Moments
    weight: Array
    unit_of_row: Indices
    bias: Array | None = None
    anchor: Array | None = None
    held_out: Moments | None = None
    output_weight: Array | None = None
    alpha: float | None = None
    energy: float | None = None
    sample: tuple[Array, Array] | None = None
    drift: float = 0.0
    free_bias: bool = True
    prior: Array | None = None
    _output_root: Array | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        width = self.moments.width
        dense_width = self.moments.dense_width or width
        outputs = self.weight.shape[-1]
        for what, array, shapes in (
            ("weight", self.weight, [(dense_width, outputs)]),
            ("unit_of_row", self.unit_of_row, [(width,)]),
            ("bias", self.bias, [(outputs,)]),
            ("anchor", self.anchor, [(width, outputs)]),
            ("output_weight", self.output_weight, [(outputs,), (outputs, outputs)]),
            ("prior", self.prior, [(dense_width, width)]),
        ):
            if array is not None and array.shape not in shapes:
                raise ValueError(f"{what} of shape {shapes[0]} expected, found {array.shape}")
        if self.anchor is None and dense_width != width:
            raise ValueError(f"an anchor of shape {(width, outputs)} is needed beside {dense_width} dense rows")
        held_out = self.held_out
        if held_out is not None and (held_out.width, held_out.dense_width) != (width, self.moments.dense_width):
            raise ValueError("held-out moments must have the widths of the moments")
        object.__setattr__(self, "_output_root", _root(self.output_weight))

    @property
    def anchored(self) -> Array:
        """Weights towards which damping pulls, (d', m)."""
        return np.asarray(self.weight if self.anchor is None else self.anchor, np.float64)

    @property
    def dense_bias(self) -> Array:
        """b0, (m,)."""
        return np.zeros(self.weight.shape[1]) if self.bias is None else np.asarray(self.bias, np.float64)

    @property
    def judge(self) -> Moments | None:
        """Held-out moments, if there are any rows in them."""
        return self.held_out if self.held_out is not None and self.held_out.count else None

    def weigh(self, outputs: Array) -> Array:
        """Columns (..., m) of output errors times R with F = R R^T, so that their plain square is weighted by F."""
        if self._output_root is None:
            return outputs
        return np.asarray(outputs * self._output_root if self._output_root.ndim == 1 else outputs @ self._output_root)

    def kept_rows(self, kept_units: Indices) -> Indices:
        """Rows (of the d') that stay when ``kept_units`` stay, ascending."""
        return np.flatnonzero((self.unit_of_row < 0) | np.isin(self.unit_of_row, kept_units))


def _root(output_weight: Array | None) -> Array | None:
    """R of F = R R^T, negative eigenvalues taken for rounding."""
    if output_weight is None or output_weight.ndim == 1:
        return None if output_weight is None else np.sqrt(np.maximum(output_weight, 0.0))
    values, vectors = np.linalg.eigh(output_weight)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def parted(consumer: Consumer) -> Iterator[Consumer]:
    """A consumer as several of some outputs each, where it has more weights than `MOST_WEIGHTS`.

    Every output has a problem of its own: errors and energies of the parts add up. A fit holds a
    dozen matrices as large as its weight, and the head of a language model is large.
    """
    if consumer.weight.size <= MOST_WEIGHTS or consumer.output_weight is not None or consumer.drift:
        yield consumer
        return
    for some in columns_of(consumer.weight):
        yield replace(
            consumer, weight=consumer.weight[:, some], bias=None if consumer.bias is None else consumer.bias[some],
            anchor=None if consumer.anchor is None else consumer.anchor[:, some],
            energy=None,
        )  # fmt: skip


def columns_of(weight: Array) -> list[slice]:
    """Parts of the columns of a weight (d, m): one, unless it is larger than `MOST_WEIGHTS`."""
    outputs = weight.shape[-1]
    count = 1 if weight.size <= MOST_WEIGHTS else min(outputs, -(-weight.size // PART_WEIGHTS))
    bounds = np.linspace(0, outputs, count + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in pairwise(bounds)]


@dataclass(frozen=True, slots=True, eq=False)
class NormalEquations:
    """Quadratic form of one consumer's squared error, E ||y - W^T xh - b||^2 with the best b for each W.

    = tr(W^T H W) - 2 tr(W^T G) + tr Cov y, with H = Cov xh, G = C W0 + beta D and E y = W0^T mu0 + b0 + beta E r.
    That the bias is free is the same as centring: moments about zero with a column of ones give the same W and b.
    With a fixed bias, H = E xh xh^T and G = E xh (y - b0)^T.

    Attributes:
        gram: H, (d', d').
        target: G, (d', m).
        mean: mu, (d',); zero with a fixed bias.
        output_mean: mean that W^T xh + b has to have, (m,); with a fixed bias b0 itself.
    """

    gram: Array
    target: Array
    mean: Array
    output_mean: Array

    def restrict(self, rows: Indices) -> NormalEquations:
        """The same with only ``rows`` of the input left."""
        if len(rows) == len(self.gram):
            return self
        return NormalEquations(self.gram[np.ix_(rows, rows)], self.target[rows], self.mean[rows], self.output_mean)

    def bias(self, weight: Array) -> Array:
        """b = E y - W^T mu, (m,)."""
        return np.asarray(self.output_mean - self.mean @ weight)


def normal_equations(consumer: Consumer, moments: Moments | None = None, *, symmetric: bool = False) -> NormalEquations:
    """Normal equations of a consumer on its moments, or on others such as the held-out ones.

    Args:
        symmetric: the targets come from the pruned network's input too, G = H W0, but for their means: what is left to
            learn is fewer numbers, as the dense weights are the answer while no row is gone.
    """
    moments = consumer.moments if moments is None else moments
    dense = np.asarray(consumer.weight, np.float64)
    gram, mean = moments.gram, moments.mean
    same = moments.symmetric or (symmetric and moments.dense_width == moments.width)
    target = np.asarray((gram if same else moments.cross) @ dense)
    output_mean = moments.dense_mean @ dense
    if consumer.prior is not None:
        believed = consumer.prior * np.diagonal(gram).mean()
        gram += believed
        target += believed @ dense
    if consumer.drift:
        target += consumer.drift * moments.drift_cross
        output_mean = output_mean + consumer.drift * moments.drift_mean
    if consumer.free_bias:
        return NormalEquations(gram, target, mean, output_mean + consumer.dense_bias)
    gram += np.outer(mean, mean)
    target += np.outer(mean, output_mean)
    return NormalEquations(gram, target, np.zeros_like(mean), consumer.dense_bias)


def pooled(consumer: Consumer) -> Moments:
    """Moments of all samples, the held-out ones included."""
    if consumer.judge is None:
        return consumer.moments
    together = consumer.moments.copy()
    together.merge(consumer.judge)
    return together


def energy(consumer: Consumer, equations: NormalEquations) -> float:
    """tr(F Cov y) of the dense outputs, or the nearest that is known, see `Consumer`."""
    if consumer.energy is not None:
        return consumer.energy
    if consumer.moments.symmetric and consumer.anchor is None and not consumer.drift:
        return float(np.vdot(consumer.weigh(consumer.anchored), consumer.weigh(equations.target)))
    anchored = consumer.weigh(consumer.anchored)
    return float(np.vdot(anchored, equations.gram @ anchored))


def shrinkage(consumer: Consumer, equations: NormalEquations, kept_rows: Indices, weight: Array) -> Array:
    """sigma / sigma_hat of each output, (m,): how much more it varied in the dense network; 1 where nobody knows.

    Both are taken over the same rows: a few of them, such as the first token of a text, may be most of the variance.

    Args:
        equations: of all rows of the input.
        weight: W_S of the kept rows, (k, m).
    """
    if consumer.sample is not None:
        dense, pruned = consumer.sample
        before, after = np.var(dense @ consumer.weight, axis=0), np.var(pruned[:, kept_rows] @ weight, axis=0)
    elif consumer.moments.symmetric and consumer.anchor is None and not consumer.drift:
        gram = equations.gram
        before = np.einsum("dm,dm->m", consumer.anchored, equations.target)
        after = np.einsum("km,km->m", weight, gram[np.ix_(kept_rows, kept_rows)] @ weight)
    else:
        return np.ones(weight.shape[1])
    return np.asarray(np.sqrt(np.divide(before, after, out=np.ones_like(before), where=after > 0.0)))


def importance(consumer: Consumer, equations: NormalEquations) -> float:
    """alpha, weight of the consumer's loss: 1 / energy unless it is given; 1 for outputs that do not vary."""
    if consumer.alpha is not None:
        return consumer.alpha
    total = energy(consumer, equations)
    return 1.0 / total if total > 0.0 else 1.0


def squared_error(consumer: Consumer, equations: NormalEquations, weight: Array, bias: Array) -> float:
    """Mean squared output error weighted by F of a layer W (d', m), b (m,) on the equations' moments, less tr(F Cov y):

    tr(F W^T H W) - 2 tr(F W^T G) + (E y - W^T mu - b)^T F (E y - W^T mu - b)

    Equations restricted to the rows of W judge a pruned layer; equations of held-out moments judge it fairly.
    """
    weighed, target = consumer.weigh(weight), consumer.weigh(equations.target)
    offset = consumer.weigh(equations.bias(weight) - bias)
    return float(np.vdot(weighed, equations.gram @ weighed - 2.0 * target) + offset @ offset)


def share(error: float, total: float) -> float:
    """Share of the output variance ``total`` lost, from an error that has it taken off, see `squared_error`."""
    return (error + total) / total if total > 0.0 else 0.0
