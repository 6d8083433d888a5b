"""Second-order pruning without fine-tuning: choose the units that go, and refit the layers that read the others.

    fit, held_out = Moments(d), Moments(d)                     one pair for each distinct input of a mixing layer
    (held_out if is_held_out(sample) else fit).update(rows)    stream the rows of every calibration sample
    consumer = Consumer(fit, weight, unit_of_row, bias=bias, held_out=held_out)
    removal = remove_units([consumer], units=n, remove=k)      which units go, with the loss of every smaller cut
    layer = refit(consumer, consumer.kept_rows(removal.kept))  new weight and bias on the rows that stay

No module here knows a graph: rows and weights are plain arrays.
"""

from __future__ import annotations

from spa.passes.secondorder.baselines import BASELINES, WAYS, Baseline, prune
from spa.passes.secondorder.damping import DAMPINGS
from spa.passes.secondorder.experts import Routed, far_out
from spa.passes.secondorder.greedy import Removal, remove_units
from spa.passes.secondorder.moments import Moments, is_held_out
from spa.passes.secondorder.problem import Consumer, columns_of
from spa.passes.secondorder.solver import Refit, refit

__all__ = [
    "BASELINES",
    "DAMPINGS",
    "WAYS",
    "Baseline",
    "Consumer",
    "Moments",
    "Refit",
    "Removal",
    "Routed",
    "columns_of",
    "far_out",
    "is_held_out",
    "prune",
    "refit",
    "remove_units",
]
