"""Fewer outputs that say as much of errors summed over all: random mixtures of them.

Which damping is best is a matter of sums over all outputs. With S (m, k) of random signs over sqrt(k), the square of
errors E S is that of E as a mean, with a relative standard deviation of sqrt(2 / k) at most (Achlioptas 2003), and what
is compared has the same S. Weights are never mixed: each output has its own in the end.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spa.passes.secondorder.linalg import Array
from spa.passes.secondorder.problem import Consumer

LARGE, MIXED = 1 << 21, 256
"""Weights of a consumer of which outputs are mixed, if there are more than twice as many as mixtures: 9 % is the
standard deviation of a sum at most.
"""

_AT_ONCE = 1 << 13
"""Outputs whose signs are in memory at once."""


def mixed(consumer: Consumer) -> Consumer:
    """A consumer with mixtures in the place of its outputs, where it has many; else itself."""
    outputs = consumer.weight.shape[1]
    known = consumer.energy is None or consumer.sample is not None
    if consumer.weight.size <= LARGE or outputs <= 2 * MIXED or consumer.output_weight is not None or not known:
        return consumer
    drift = bool(consumer.drift)
    weight = _mixtures(consumer.weight)
    energy = None
    if consumer.energy is not None and consumer.sample is not None:
        energy = float(np.sum(np.var(consumer.sample[0] @ weight, axis=0)))
    return replace(
        consumer,
        weight=weight,
        bias=None if consumer.bias is None else _mixtures(consumer.bias[None])[0],
        anchor=None if consumer.anchor is None else _mixtures(consumer.anchor),
        moments=consumer.moments.with_drift(_mixtures) if drift else consumer.moments,
        held_out=consumer.held_out.with_drift(_mixtures) if drift and consumer.held_out else consumer.held_out,
        energy=energy,
    )


def _mixtures(rows: Array) -> Array:
    """(n, MIXED) of rows (n, m)."""
    signs = np.random.default_rng(0)
    mixtures = np.zeros((len(rows), MIXED))
    for start in range(0, rows.shape[1], _AT_ONCE):
        some = np.asarray(rows[:, start : start + _AT_ONCE], np.float64)
        mixtures += some @ (2.0 * signs.integers(0, 2, (some.shape[1], MIXED)) - 1.0)
    return np.asarray(mixtures / np.sqrt(MIXED))
