"""Streamed first and second moments of the input of one mixing layer, in the dense and in the pruned network.

One file: one class, the sums and what is read off them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from spa.errors import DataError
from spa.passes.secondorder.linalg import Array

Rows = npt.NDArray[np.floating[Any]]

MIN_CHUNK, MAX_CHUNK = 256, 2048

_ARRAYS = ("_mean", "_gram", "_dense_mean", "_cross", "_drift_mean", "_drift_cross")


class Moments:
    """Weighted moments of rows xh (pruned network), with x (dense network) and, on request, with a drift r.

    With weights omega >= 0 and E z = sum omega z / sum omega, over all the rows seen:

        mu = E xh    mu0 = E x    H = E (xh - mu)(xh - mu)^T    C = E (xh - mu)(x - mu0)^T    D = E (xh - mu)(r - E r)^T

    Rows are gathered into chunks of about ``width`` rows. A chunk is centred about its own mean, which is taken in
    float64, multiplied in ``precision``, and added in float64 by the pairwise update of Chan, Golub and LeVeque (1979;
    Pebay 2008 for co-moments): joining a and b, the sum of squares gains (n_a n_b / (n_a + n_b)) delta delta^T, delta =
    mu_b - mu_a. That term is one more row of the centred chunk, so it costs nothing. No large mean is ever subtracted
    from a large product, the data are read once, and memory stays O(d^2), however many rows there are.

    Args:
        width: d', width of the rows of the pruned network.
        dense_width: d, width of the rows of the dense network; None: there is one network only, x is xh and C is H,
            which is stored once (symmetric calibration).
        drift_width: m, width of r, the difference that the output of the layer should make up for; 0: none.
        precision: of the products inside a chunk.
        name: what error messages call the input.
    """

    __slots__ = (
        "_buffers", "_count", "_cross", "_dense_mean", "_drift_cross", "_drift_mean", "_filled", "_gram", "_mean",
        "_squared_weight", "_weight", "dense_width", "drift_width", "name", "precision", "width",
    )  # fmt: skip

    def __init__(
        self,
        width: int,
        *,
        dense_width: int | None = None,
        drift_width: int = 0,
        precision: npt.DTypeLike = np.float32,
        name: str = "input",
    ) -> None:
        self.width, self.dense_width, self.drift_width = width, dense_width, drift_width
        self.precision = np.dtype(precision)
        self.name = name
        self._count = 0
        self._weight = self._squared_weight = 0.0
        self._mean = np.zeros(width)
        self._gram = np.zeros((width, width))
        self._dense_mean = np.zeros(dense_width or 0)
        self._cross = np.zeros((width, dense_width or 0))
        self._drift_mean = np.zeros(drift_width)
        self._drift_cross = np.zeros((width, drift_width))
        self._buffers: tuple[Rows, Rows, Rows, Rows] | None = None
        self._filled = 0

    @property
    def symmetric(self) -> bool:
        """Whether one network's rows stand for both."""
        return self.dense_width is None

    def update(
        self,
        rows: npt.ArrayLike,
        dense: npt.ArrayLike | None = None,
        *,
        drift: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Add rows.

        Args:
            rows: xh, (N, d').
            dense: x, (N, d), the same samples and positions; only if ``dense_width`` was given.
            drift: r, (N, m); only if ``drift_width`` was given.
            weights: omega, (N,), for instance an attention mask; rows of weight zero are not even looked at.

        Raises:
            DataError: a shape that does not fit, a NaN or infinite value, a negative weight.
        """
        parts = [self._checked(rows, self.width, "rows")]
        for values, width, what in (
            (dense, self.dense_width or 0, "dense rows"),
            (drift, self.drift_width, "drift rows"),
        ):
            if (values is None) != (width == 0):
                given = "none were given" if values is None else "none are expected"
                raise DataError(f"calibration of {self.name!r}: {what} of width {width}: {given}")
            parts.append(np.zeros((len(parts[0]), 0)) if values is None else self._checked(values, width, what))
        omega = np.ones(len(parts[0])) if weights is None else np.asarray(weights, np.float64)
        lengths = [len(part) for part in parts]
        if omega.shape != (lengths[0],) or len(set(lengths)) > 1:
            raise DataError(
                f"calibration of {self.name!r}: {lengths} rows (pruned, dense, drift), weights of shape {omega.shape} "
                "do not match; one row of each and one weight are needed for each position"
            )
        if not np.all(omega >= 0.0) or np.any(np.isinf(omega)):
            raise DataError(f"calibration of {self.name!r}: weights of rows must be finite and not negative")
        if not np.all(omega):
            live = np.flatnonzero(omega)
            parts, omega = [part[live] for part in parts], omega[live]
        for part, what in zip(parts, ("rows", "dense rows", "drift rows"), strict=True):
            # A sum is finite only if every term is, and costs one pass without a temporary array.
            if not np.isfinite(part.sum(dtype=np.float64)):
                raise DataError(f"calibration of {self.name!r}: {what} hold NaN or infinite values; check the samples")
        self._buffer((parts[0], parts[1], parts[2], omega[:, None]))

    def merge(self, other: Moments) -> None:
        """Add all that ``other`` has seen; afterwards both are as usable as before."""
        shape = (self.width, self.dense_width, self.drift_width)
        theirs = (other.width, other.dense_width, other.drift_width)
        if shape != theirs:
            raise ValueError(f"moments of widths {shape} cannot take in those of widths {theirs}")
        self._flush()
        other._flush()
        if not other._count:
            return
        total = self._weight + other._weight
        share = other._weight / total
        step, dense_step = other._mean - self._mean, other._dense_mean - self._dense_mean
        drift_step = other._drift_mean - self._drift_mean
        between = (self._weight * share) * step
        for sums, more, moved in (
            (self._gram, other._gram, step),
            (self._cross, other._cross, dense_step),
            (self._drift_cross, other._drift_cross, drift_step),
        ):
            gained = np.outer(between, moved)
            gained += more
            sums += gained
        self._mean += share * step
        self._dense_mean += share * dense_step
        self._drift_mean += share * drift_step
        self._weight = total
        self._squared_weight += other._squared_weight
        self._count += other._count

    def settle(self) -> None:
        """Take in what is still gathered; from then on reading changes nothing, and threads may share the moments."""
        self._flush()

    def lay(self, keep: Callable[[Array], Array]) -> None:
        """Let the matrices lie where `keep` puts them, once nothing is to be added any more."""
        self._flush()
        self._gram, self._cross, self._drift_cross = (
            keep(matrix) for matrix in (self._gram, self._cross, self._drift_cross)
        )

    def copy(self) -> Moments:
        """Moments of their own with the same content."""
        twin = Moments(
            self.width,
            dense_width=self.dense_width,
            drift_width=self.drift_width,
            precision=self.precision,
            name=self.name,
        )
        self._flush()
        if self._count:
            twin._count, twin._weight, twin._squared_weight = self._count, self._weight, self._squared_weight
            for name in _ARRAYS:
                setattr(twin, name, getattr(self, name).copy())
        return twin

    def plus(self, other: Moments) -> Moments:
        """Moments of all that both have seen, which stay as they are."""
        first, second = (self, other) if self.count else (other, self)
        both = first.copy()
        both.merge(second)
        return both

    def taking(self, other: Moments) -> Moments:
        """As `plus`, in the memory of these where it may be written to; they are not to be used any more."""
        if not self.count or not all(getattr(self, name).flags.writeable for name in _ARRAYS):
            return self.plus(other)
        self.merge(other)
        return self

    def with_drift(self, change: Callable[[Array], Array]) -> Moments:
        """The same moments with another drift: rows (n, m) of it changed into rows (n, k); nothing may be added."""
        self._flush()
        twin = Moments.__new__(Moments)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._drift_mean, twin._drift_cross = change(self._drift_mean[None])[0], change(self._drift_cross)
        twin.drift_width = twin._drift_mean.size
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Of moments that have seen no rows a pickle holds no sums."""
        if self.count:
            return super().__reduce_ex__(protocol)
        empty = partial(
            Moments, self.width, dense_width=self.dense_width, drift_width=self.drift_width, precision=self.precision,
            name=self.name,
        )  # fmt: skip
        return empty, ()

    @classmethod
    def within(cls, parts: Sequence[Moments]) -> Moments:
        """Moments of several inputs of one weight, each about its own mean: H, C and D added up, and means of zero.

        What a weight has to do for all of them where each has a bias of its own. Of inputs in one network only, the
        rows stand for those of both.
        """
        width = parts[0].width
        dense_width = None if all(part.symmetric for part in parts) else width
        drift_width = max(part.drift_width for part in parts)
        made = cls(width, dense_width=dense_width, drift_width=drift_width, name=parts[0].name)
        for part in parts:
            part._flush()
            made._gram += part._gram
            if dense_width is not None:
                made._cross += part._gram if part.symmetric else part._cross
            if part.drift_width:
                made._drift_cross += part._drift_cross
            made._weight += part._weight
            made._squared_weight += part._squared_weight
            made._count += part._count
        return made

    @property
    def nbytes(self) -> int:
        """Of the sums."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    @property
    def count(self) -> int:
        """Number of rows of positive weight."""
        return self._count + self._filled

    @property
    def weight(self) -> float:
        """Sum of the weights of all rows."""
        self._flush()
        return self._weight

    @property
    def effective_count(self) -> float:
        """(sum omega)^2 / sum omega^2 (Kish 1965): how many equally weighted rows would say as much."""
        self._flush()
        return self._weight**2 / self._squared_weight if self._count else 0.0

    @property
    def mean(self) -> Array:
        """mu, (d',)."""
        self._flush()
        return self._mean.copy()

    @property
    def dense_mean(self) -> Array:
        """mu0, (d,)."""
        self._flush()
        return (self._mean if self.symmetric else self._dense_mean).copy()

    @property
    def drift_mean(self) -> Array:
        """E r, (m,)."""
        self._flush()
        return self._drift_mean.copy()

    @property
    def variance(self) -> Array:
        """Diagonal of H, (d',)."""
        self._require_rows()
        return np.diagonal(self._gram) / self._weight

    @property
    def gram(self) -> Array:
        """H, (d', d'), a new array."""
        return self._normalised("_gram")

    @property
    def cross(self) -> Array:
        """C, (d', d), a new array."""
        return self._normalised("_gram" if self.symmetric else "_cross")

    @property
    def drift_cross(self) -> Array:
        """D, (d', m), a new array."""
        return self._normalised("_drift_cross")

    def _normalised(self, name: str) -> Array:
        self._require_rows()
        total: Array = getattr(self, name)
        return total / self._weight

    def _require_rows(self) -> None:
        self._flush()
        if not self._count:
            raise DataError(
                f"calibration of {self.name!r}: no rows were seen; at least one of positive weight is needed"
            )
        if not np.all(np.isfinite(np.diagonal(self._gram))):
            raise DataError(f"calibration of {self.name!r}: the values are too large to square; check the samples")

    def _checked(self, values: npt.ArrayLike, width: int, what: str) -> Rows:
        array = np.asarray(values)
        if array.ndim != 2 or array.shape[1] != width:
            raise DataError(f"calibration of {self.name!r}: {what} of shape (N, {width}) expected, found {array.shape}")
        return array

    @np.errstate(over="ignore")
    def _buffer(self, parts: tuple[Rows, Rows, Rows, Array]) -> None:
        """Copy rows into the chunk under construction; absorb it each time it is full."""
        chunk = min(max(self.width, MIN_CHUNK), MAX_CHUNK)
        total, start = len(parts[0]), 0
        while start < total:
            if self._buffers is None:
                widths = (self.width, self.dense_width or 0, self.drift_width)
                rows, dense, drift = (np.empty((chunk, width), self.precision) for width in widths)
                self._buffers = (rows, dense, drift, np.empty((chunk, 1)))
            stop = min(total, start + chunk - self._filled)
            end = self._filled + stop - start
            for buffer, part in zip(self._buffers, parts, strict=True):
                buffer[self._filled : end] = part[start:stop]
            start, self._filled = stop, end
            if end == chunk:
                self._absorb(self._buffers)
                self._filled = 0

    def _flush(self) -> None:
        if self._buffers is not None:
            rows, dense, drift, weights = (buffer[: self._filled] for buffer in self._buffers)
            self._buffers, self._filled = None, 0
            if len(rows):
                self._absorb((rows, dense, drift, weights))

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is reported by _require_rows
    def _absorb(self, parts: tuple[Rows, Rows, Rows, Rows]) -> None:
        omega = np.asarray(parts[3][:, 0], np.float64)
        weight = float(omega.sum())
        total = self._weight + weight
        between = np.sqrt(self._weight * weight / total)
        even = bool(np.all(omega == 1.0))
        centred = []
        for part, mean in zip(parts[:3], (self._mean, self._dense_mean, self._drift_mean), strict=True):
            chunk_mean = part.mean(axis=0, dtype=np.float64) if even else omega @ part.astype(np.float64) / weight
            step = chunk_mean - mean
            # The mean is rounded before it is taken off: what that adds to a product is the square of the rounding.
            deviations = np.empty((len(part) + 1, part.shape[1]), self.precision)
            np.subtract(part, chunk_mean.astype(self.precision), out=deviations[:-1])
            if not even:
                deviations[:-1] *= np.sqrt(omega)[:, None].astype(self.precision)
            deviations[-1] = between * step
            centred.append(deviations)
            mean += (weight / total) * step
        rows, dense, drift = centred
        self._gram += rows.T @ rows
        if not self.symmetric:
            self._cross += rows.T @ dense
        if self.drift_width:
            self._drift_cross += rows.T @ drift
        self._weight = total
        self._squared_weight += float(omega @ omega)
        self._count += len(omega)


def is_held_out(sample: int, *, every: int = 6) -> bool:
    """Whether calibration sample number ``sample`` belongs to the held-out moments: the last of every six (17 %).

    Split by samples, never by rows: positions of one image or tokens of one text resemble each other, and a loss
    measured on neighbours of the rows that were fitted shows no overfit.
    """
    return sample % every == every - 1
