"""Run a pruned model beside the masked dense one, and compare their outputs.

`compare` runs a pruned
model and the dense one whose removed units are read as zero (`spa.passes.cut.masking`), one after the other, on the
same inputs (`spa.passes.cut.trials`), and judges each slice of each output (`spa.passes.cut.difference`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.errors import DataError, ModelError, VerificationError
from spa.passes.cut.boundary import UNCHANGED, Boundary
from spa.passes.cut.difference import Outputs, largest_gap, relative_l2, same_form, tells
from spa.passes.cut.graphs import seeded
from spa.passes.cut.rounding import shaken, tolerances
from spa.passes.cut.trials import Inputs, NoTrial, Trial
from spa.shapes import infer_shapes

SHAKES = 2
MOST_SHAKES = 8
"""Tries where rounding takes steps: two see a step of a quantised output in less than half of its slices."""


DOES_NOT_LOAD = "the dense model does not load"
"""Why nothing was compared, whatever inputs it were given."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same inputs.

    Attributes:
        difference: the largest difference of an output relative to its largest value; None: not compared.
        channel: the largest difference of a slice of an output relative to the slice's own largest value, or to what
            stands for that where rounding is larger (`spa.passes.cut.difference`).
        place: that slice, the one that is farthest off for what it may be off by.
        limit: what it may be off by.
        limits: the same for each output.
        missing: what was not compared, and why; empty: everything was.
        notes: what a user should know besides.
        moved: the distance of each output of numbers over all runs, relative L2.
        fed: the digest of the inputs.
    """

    difference: float | None
    channel: float | None = None
    place: str = ""
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    moved: Mapping[str, float] = field(default_factory=dict)
    fed: str = ""
    limit: float = 0.0
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether nothing but rounding separates the two, as far as they were compared."""
        return self.channel is None or self.channel <= self.limit


def compare(
    reference: ir.Model,
    pruned: ir.Model,
    *,
    inputs: Inputs,
    limits: Mapping[str, float] | None = None,
    watched: Collection[str] | None = None,
    exact: bool = True,
    boundary: Boundary = UNCHANGED,
) -> Comparison:
    """Run both models, one after the other, on inputs that the reference runs on.

    Args:
        limits: the share of its own size that a slice may be off by, by output; by default `tolerances`.
        watched: the outputs that the cut reaches, and that have to say something; by default all.
        exact: whether nothing but rounding may separate the two; else the distance is measured, and outputs whose sizes
            the data decide may have others.
        boundary: the inputs and outputs that the cut makes smaller; inputs are those of the reference.

    Raises:
        UsageError: a feed does not fit its input.
        VerificationError: the pruned model does not load or run where the reference does, or the other way round; or an
            output's shape or type differs.
    """
    limits = tolerances(reference, infer_shapes(reference).dtypes) if limits is None else limits
    ran = run_both(reference, pruned, inputs=inputs, boundary=boundary)
    if isinstance(ran, str):
        return Comparison(None, missing=(ran,))
    trials, results = ran
    expected = [trial.outputs for trial in trials]
    missing = tuple(_untold(trials, watched))
    if not any(tells(value) for outputs in expected for value in outputs.values()):
        return Comparison(None, missing=missing)
    if not exact:
        return _distance(trials, results, limits, missing)
    try:
        gap = largest_gap(expected, results, (), limits=limits)
    except VerificationError:
        if not _sizes_depend_on_rounding(reference, trials, boundary):
            raise
        return Comparison(None, missing=("the sizes of outputs depend on rounding, on the inputs tried",))
    if gap.within:
        return Comparison(gap.whole, gap.channel, gap.place, missing, limit=gap.limit)
    return _beside_rounding(reference, trials, results, limits, missing, boundary)


def run_both(
    reference: ir.Model, pruned: ir.Model, *, inputs: Inputs, boundary: Boundary = UNCHANGED
) -> tuple[list[Trial], list[Outputs]] | str:
    """Run both models, one after the other: the reference's trials, and what the pruned one gives; or why it does not.

    Args:
        boundary: the inputs and outputs that the cut makes smaller: outputs of the trials are as the pruned model's.

    Raises:
        UsageError: a feed does not fit its input.
        VerificationError: the pruned model does not load or run where the reference does, or the other way round.
    """
    reference, pruned = seeded(reference), seeded(pruned)
    trials = _reference_trials(reference, pruned, inputs, boundary)
    if isinstance(trials, str):
        return trials
    results = _outputs(pruned, [boundary.cut(trial.feeds) for trial in trials], "the pruned model")
    return [replace(trial, outputs=boundary.cut(trial.outputs)) for trial in trials], results


def _distance(
    trials: Sequence[Trial], results: Sequence[Outputs], limits: Mapping[str, float], missing: tuple[str, ...]
) -> Comparison:
    """How far two models are apart that need not agree, in the outputs that have the same shapes."""
    expected = [trial.outputs for trial in trials]
    names = [
        name for name in expected[0] if all(same_form(a[name], b[name]) for a, b in zip(expected, results, strict=True))
    ]
    left, right = ([{name: outputs[name] for name in names} for outputs in each] for each in (expected, results))
    others = [name for name in expected[0] if name not in names]
    missing += tuple(f"output {name!r} has another size than the dense model's, on the inputs tried" for name in others)
    gap = largest_gap(left, right, (), limits=limits)
    moved, fed = relative_l2(left, right), _fed_digest(trials)
    return Comparison(gap.whole, gap.channel, gap.place, missing, moved=moved, fed=fed, limit=gap.limit, limits=limits)


def _fed_digest(trials: Sequence[Trial]) -> str:
    """SHA-256 of the inputs of all trials."""
    hashed = hashlib.sha256()
    for name, array in (item for trial in trials for item in sorted(trial.feeds.items())):
        hashed.update(f"{name} {array.dtype} {array.shape}\n".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{hashed.hexdigest()}"


def _beside_rounding(
    reference: ir.Model,
    trials: Sequence[Trial],
    results: Sequence[Outputs],
    limits: Mapping[str, float],
    missing: tuple[str, ...],
    boundary: Boundary,
) -> Comparison:
    """The comparison with what rounding does to each slice of the reference."""
    expected = [trial.outputs for trial in trials]
    plain = largest_gap(expected, results, (), limits=limits)
    try:
        moved = [_shaken_outputs(reference, trials, seed, boundary) for seed in range(SHAKES)]
        gap = largest_gap(expected, results, moved, limits=limits)
        if not gap.within and not all(largest_gap(expected, each, (), limits=limits).within for each in moved):
            moved += [_shaken_outputs(reference, trials, seed, boundary) for seed in range(SHAKES, MOST_SHAKES)]
            gap = largest_gap(expected, results, moved, limits=limits)
    except VerificationError:
        reason = "rounding decides whether the model runs, on the inputs tried"
        return Comparison(None, missing=(reason,))
    notes: tuple[str, ...] = ()
    if gap.within:
        size = f"{plain.place} differs by {plain.channel:.1e} of its own size"
        notes = (f"this model amplifies rounding: {size}, which weights that are off by a rounding error do as well",)
    return Comparison(gap.whole, gap.channel, gap.place, missing, notes, limit=gap.limit)


def _reference_trials(reference: ir.Model, pruned: ir.Model, inputs: Inputs, boundary: Boundary) -> list[Trial] | str:
    """Inputs that the reference runs on, with its outputs; or why there are none."""
    try:
        return inputs.trials(partial(runtime.run, _session(reference)))
    except ModelError as error:
        if _loads(pruned):
            raise VerificationError(f"the reference does not load: {error}") from error
        return f"{DOES_NOT_LOAD}: {error}"
    except NoTrial as error:
        reason, feeds = str(error), error.feeds
    if feeds is not None and _runs(pruned, boundary.cut(feeds)):
        raise VerificationError(f"the reference does not run where the pruned model does: {reason}")
    return reason


def _outputs(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]], what: str) -> list[Outputs]:
    """What a model gives on some inputs; its session ends with that."""
    try:
        session = _session(model)
        return [runtime.run(session, each) for each in feeds]
    except ModelError as error:
        raise VerificationError(f"{what} does not load: {error}") from error
    except DataError as error:
        raise VerificationError(f"{what} does not run: {error}") from error


def _shaken_outputs(
    reference: ir.Model, trials: Sequence[Trial], seed: int, boundary: Boundary
) -> list[dict[str, Any]]:
    feeds, moved = [trial.feeds for trial in trials], shaken(seeded(reference), seed)
    return [boundary.cut(outputs) for outputs in _outputs(moved, feeds, "the reference")]


def _sizes_depend_on_rounding(reference: ir.Model, trials: Sequence[Trial], boundary: Boundary) -> bool:
    expected = [trial.outputs for trial in trials]
    try:
        for seed in range(SHAKES):
            largest_gap(
                expected, _shaken_outputs(reference, trials, seed, boundary), (), limits=dict.fromkeys(expected[0], 1.0)
            )
    except VerificationError:
        return True
    return False


def _untold(trials: Sequence[Trial], watched: Collection[str] | None) -> list[str]:
    """What the outputs of the reference do not say: nothing can be seen of a cut in them."""
    names = [name for name in trials[0].outputs if watched is None or name in watched]
    mute = [name for name in names if not any(tells(trial.outputs[name]) for trial in trials)]
    reasons = [f"output {name!r} is empty, or gives no finite numbers, on the inputs tried" for name in mute]
    if trials[0].fixed or not trials[0].feeds or len(trials) < 2:
        return reasons
    same = [name for name in names if name not in mute and _same(*(trial.outputs[name] for trial in trials[:2]))]
    floats = [name for name in same if getattr(trials[0].outputs[name], "dtype", np.dtype(int)).kind == "f"]
    silent = floats if len(same) < len(names) - len(mute) else same
    return [*reasons, *(f"output {name!r} is the same on all inputs tried" for name in silent)]


def _same(left: object, right: object) -> bool:
    if not isinstance(left, np.ndarray) or not isinstance(right, np.ndarray):
        return False
    return left.shape == right.shape and bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))


def _session(model: ir.Model) -> Any:
    """A session that runs every node as it is written, and copies no weight."""
    return runtime.session(model, optimize=False, prepack=False, spill=True)


def _loads(model: ir.Model) -> bool:
    try:
        return bool(_session(model))
    except ModelError:
        return False


def _runs(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> bool:
    try:
        return bool(runtime.run(_session(model), feeds))
    except (ModelError, DataError):
        return False


def find_culprit(names: Sequence[str], fails: Callable[[Sequence[str]], bool]) -> list[str]:
    """The smallest part of a plan found by halving that still fails; one culprit takes O(log n) calls of `fails`."""
    suspects = list(names)
    while len(suspects) > 1:
        half = len(suspects) // 2
        if fails(suspects[:half]):
            suspects = suspects[:half]
        elif fails(suspects[half:]):
            suspects = suspects[half:]
        else:
            break  # it takes several together
    return suspects
