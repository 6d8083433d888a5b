"""The presets of a repair, how much work goes into it, and the ways of it: names, read without any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, float], None]

OURS = "spa"
"""The method of this project."""

PUBLISHED = ("magnitude", "l2+refit", "wanda-sp", "activation", "amp", "flap", "obspa", "one-shot-obs")
"""Those that `spa.passes.secondorder.BASELINES` holds."""

OF_EXPERTS = ("reap", "frequency")
"""Those that score whole experts: `spa.passes.secondorder.EXPERTS` holds them."""

METHODS = (OURS, *PUBLISHED, *OF_EXPERTS)
"""Criteria that need samples."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How much work goes into a repair.

    Attributes:
        samples: how many are used at most.
        probes: how many of them the outputs are measured on for the allocation; 0: losses are taken as they are.
        everything: whether layers that read no cut group are refitted too, where what they read has changed.
        swap_rounds: of exchanging removed units for kept ones.
        widest: rows of convolutions that would be longer are channels only.
        drift: the share that a layer makes up for of what the other branch of a residual connection is off by.
        spread: how far outputs get the variance back that a fit takes from them, see `secondorder.solver.widened`.
        probe_flops: what all these measurements may cost.
    """

    samples: int | None
    probes: int
    everything: bool
    swap_rounds: int
    widest: int
    drift: float = 1.0
    spread: float = 0.5
    probe_flops: float = 2e12


PRESETS = {
    "fast": Preset(256, 0, everything=False, swap_rounds=0, widest=600),
    "default": Preset(1024, 32, everything=True, swap_rounds=2, widest=1200),
    "best": Preset(None, 128, everything=True, swap_rounds=4, widest=4608, probe_flops=2e13),
}
