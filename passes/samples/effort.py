"""How long a repair will take, from the FLOPs of the model, the widths of its layers and how fast this machine is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from spa import runtime
from spa.analysis.cost import measure
from spa.analysis.group import find_groups
from spa.executor import Threads
from spa.passes.layers.problems import Problem
from spa.passes.layers.statistics import enough_rows
from spa.passes.layers.workers import one_thread_each
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.datafree import Recipe

RUNS = 6.0
"""How often each sample goes through the model: statistics, both networks side by side, the turning of bases."""

GRAMS, SOLVES = 4.0, 100.0
"""Products of all rows with themselves, for each layer; and products of its width cubed for all that is solved: the
units that go, several dampings, levels that are measured. One core does most of that."""

LOADS, LOADED = 20.0, 1.0
"""Loads of a whole model, part by part: of a repair, and for each group that is measured. 19 to 73 were seen."""

SIDE = 512
"""Of the matrices by whose product the machine is measured."""

LEAST_RUNS, MOST_RUNS, TIMED = 2, 16, 0.1
"""Of what is timed: runs, and seconds after which so many do."""

RUN_FLOPS, PRODUCT_FLOPS = 4e10, 8e10
"""A second, of a network and of a product of large matrices, on two cores."""

LEAST_SAMPLES, LEAST_SHARE = 64, 0.1
"""Of samples, and of the probes that a preset asks for: with fewer a repair is not worth its time."""

BEHIND = 0.5
"""Of a network lies behind a group, as a mean: that much is run where a group is measured."""

PROBED = 6.0
"""Runs of each probing sample for each group, of which half the network is run."""


def effort(
    recipe: Recipe,
    samples: Calibration,
    *,
    widest: int,
    probes: int,
    probe_flops: float,
    nominal: bool = False,
) -> dict[str, float]:
    """Seconds that a repair of a model on samples will take, within a factor of two or so.

    By part: runs of the model, texts that it writes, probes, Gram matrices, solves, and loads of parts of the model.

    Args:
        widest, probes, probe_flops: as of a preset (`spa.presets.Preset`).
        nominal: on two cores of 2026 instead of this machine: what is left out for time must not depend on it.
    """
    size = min(2 if input_.open else input_.shape[0] for input_ in recipe.inputs)
    groups = find_groups(recipe.coupling)
    removable = {leaf for group in groups for leaf in group.leaves}
    groups = [group for group in groups if group.off is None]
    flops = measure(recipe.coupling).of("flops") / size
    seconds, rate, load = flops / RUN_FLOPS, PRODUCT_FLOPS, 0.0
    if not nominal:
        few = samples.first(max(2, samples.batch_size or 0)).batches(samples.batch_size or 2)[0]
        seconds = _timed(lambda: recipe.whole(few)) / max(1, samples.count(few))
        square = np.random.default_rng(0).standard_normal((SIDE, SIDE))
        with one_thread_each():  # as problems are solved; a BLAS with threads of its own waits for busy cores
            rate = Threads().at_once(0) * 2 * SIDE**3 / _timed(lambda: square @ square)
        load = _timed(lambda: runtime.session(recipe.model, optimize=True))
    seen: dict[object, float] = {}
    solved = 0.0
    for layer in recipe.layers:
        problem = Problem.of(layer, widest=widest, removable=removable)
        if problem.data not in recipe.shapes.of:
            continue
        rows = problem.row_count(recipe.shapes.of[problem.data]) / size * len(samples)
        rows = min(rows, enough_rows(problem.width))
        seen[problem.key] = rows * layer.block_count * float(problem.width) ** 2
        solved += layer.block_count * float(problem.width) ** 3
    grams = 2 * sum(seen.values())
    probing = min(BEHIND * probe_flops / max(flops, 1.0), PROBED * probes * len(groups)) * seconds
    return {
        "runs": RUNS * len(samples) * seconds,
        "texts": (recipe.writer.runs if recipe.writer else 0.0) * len(samples) * seconds,
        "probes": probing,
        "grams": GRAMS * grams / rate,
        "solves": SOLVES * solved / rate,
        "loads": (LOADS + LOADED * len(groups)) * load,
    }


def thinned(parts: Mapping[str, float], samples: int, target: float) -> tuple[int, float]:
    """(samples, share of the probes) with which a repair takes about so many seconds, or as near as is reasonable.

    Args:
        parts: as `effort` gives them, of that many samples.
    """
    shrinking = sum(parts.values()) - parts["solves"]
    share = min(1.0, max(target - parts["solves"], 0.0) / max(shrinking, 1e-9))
    return max(min(samples, LEAST_SAMPLES), int(share * samples)), max(share, LEAST_SHARE)


def _timed(work: Callable[[], object]) -> float:
    """Seconds of the fastest run, behind one that warms up: other work beside this can slow one of them tenfold."""
    work()
    seconds: list[float] = []
    while len(seconds) < LEAST_RUNS or (sum(seconds) < TIMED and len(seconds) < MOST_RUNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
