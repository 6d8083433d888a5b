"""Meet a budget of time: which device counts, what a run may take on it, and how long the result takes, measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import ondevice, runtime
from spa.analysis.plan import Plan
from spa.clock import Clock
from spa.device import DeviceOptions
from spa.errors import UsageError
from spa.options import PruneOptions
from spa.passes.latency.goal import ROUNDS, Goal
from spa.passes.latency.outcome import DRY_RUN, ELSEWHERE, Latency
from spa.presets import Progress
from spa.profiling import profile
from spa.record import Profile
from spa.steps import Normal, Source, analyse, cut
from spa.timing import feeds_of
from spa.turns import ratio_of, undisturbed

SECONDS = 2.0
"""That a plan's widths run beside the dense model, about; several times so long where other work disturbs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDevice(DeviceOptions):
    """The options with what they come to on the device, for the steps of one run."""

    goal: Goal | None = None

    def apart(self) -> DeviceOptions:
        """The same budget of time, its rounds not kept."""
        return AskedDevice(goal=None if self.goal is None else replace(self.goal, rounds=[]))


def profiled(source: Source | Normal, options: PruneOptions, progress: Progress | None = None) -> DeviceOptions:
    """The options of the device with its profile, which is made where none was given: for several prunes of a model."""
    device = options.device
    if device.profile is not None:
        return device
    measured = profile(
        source, threads=device.threads, provider=device.provider, inputs=options.run.inputs, feeds=options.run.feeds,
        progress=progress,
    )  # fmt: skip
    return replace(device, profile=measured)


class Timekeeper:
    """The goal of a prune with a budget of time, and the measuring of it."""

    def __init__(self, dense: ir.Model, options: PruneOptions, clock: Clock, *, asked: bool = True) -> None:
        """Profile the device, where no profile was given, and find out what share of the time may stay.

        Args:
            asked: a time was asked for, and is met by measuring; else the share was searched for by what is lost.

        Raises:
            ModelError, UsageError: a profile cannot be read, or was made for another model; threads or provider do not
                fit to it; the dense model takes no longer than the target.
        """
        self.dense, self.options, self.clock = dense.clone(), options, clock
        device = options.device
        if device.profile is None:
            with clock.step("profile"):
                device = profiled(Normal(self.dense), options, clock.share)
        given = device.timed
        assert given is not None
        _check_agrees(given, options)
        self.profile = given
        self.here = is_here(given)
        self.milliseconds = given.milliseconds
        wanted, said = 1 - options.budget.ratio, f"ratio {options.budget.ratio:g} of latency"
        if device.target is not None:
            self.milliseconds = self._dense_now() if self.here else given.milliseconds
            wanted, said = device.target / self.milliseconds, f"target {device.target:g} ms"
            if wanted >= 1:
                raise UsageError(
                    f"target {device.target:g} ms: the dense model takes {self.milliseconds:.3g} ms on "
                    f"{given.device.in_words}, so nothing has to go"
                )
        self.asked = asked
        self.goal = Goal(given, wanted, said, self.measure if self.here and asked else None)

    @property
    def solved(self) -> PruneOptions:
        """The options with the share of time that is to go."""
        return replace(
            self.options,
            budget=replace(self.options.budget, ratio=1 - self.goal.wanted),
            device=AskedDevice(goal=self.goal),
        )

    def measure(self, plan: Plan) -> tuple[float, float]:
        """The share of the dense model's time that the widths of a plan take, and half the interval of it."""
        self.clock.share("time these widths", len(self.goal.rounds) / ROUNDS)
        model = self.dense.clone()
        analysis = analyse(model, inputs=self.options.run.inputs)
        cut(analysis, plan)
        ratio, (low, high) = ratio_of(self._times(model))
        return ratio, (high - low) / 2

    def report(self, plan: Plan, model: ir.Model | None) -> Latency:
        """What the result takes, measured now where the device is here.

        Args:
            model: the result; None: of a dry run there is none.
        """
        analysis = analyse(self.dense.clone(), inputs=self.options.run.inputs)
        bound = self.goal.bound(analysis.groups, analysis.coupling, analysis.cost)
        target, base = self.options.device.target, self.milliseconds
        dense = pruned = interval = None
        unmeasured = DRY_RUN if model is None else "" if self.here else ELSEWHERE
        if model is not None and self.here:
            times = 1e3 * self._times(model)
            dense = float(np.median(times[:, 0]))
            ratio, interval = ratio_of(times)
            pruned = ratio * dense
            base = dense if target is None else base
        wanted = self.goal.wanted * base if target is None else target
        foretold = bound.foretold(plan)
        coarse = bound.coarsest(plan, foretold if pruned is None else pruned / base)
        return Latency(
            self.profile.device.in_words, wanted if self.asked else None, base, foretold * base, dense, pruned,
            interval, tuple(self.goal.rounds), unmeasured, coarse,
        )  # fmt: skip

    def _dense_now(self) -> float:
        return 1e3 * float(np.median(self._times()[:, 0]))

    def _times(self, *others: ir.Model) -> np.ndarray:
        """(rounds, models) seconds of the dense model and others, by turns, on a machine that does nothing else."""
        device = self.profile.device
        providers = list(dict.fromkeys([device.provider, runtime.CPU]))
        sessions = [
            runtime.session(model, optimize=True, providers=providers, threads=device.threads, spin=True)
            for model in (self.dense, *others)
        ]
        feeds = dict(feeds_of(self.dense, self.profile.model["inputs"], self.options.run.feeds))
        clock = ondevice.clock_of(device.provider, device.threads)
        fast = 1e-3 * self.profile.milliseconds
        return undisturbed(sessions, [ondevice.fed(each, feeds) for each in sessions], SECONDS, clock, fast=fast)


def runs_on(device: DeviceOptions) -> dict[str, Any]:
    """The threads and the provider with which results are timed: of a profile that was made here, else as asked for.

    Raises:
        ModelError: the profile cannot be read.
    """
    given = device.timed
    on = device if given is None or not is_here(given) else given.device
    return {"threads": on.threads, "provider": on.provider}


def is_here(profile: Profile) -> bool:
    """Whether a profile was made on a machine like this one, whose provider works here."""
    device = profile.device
    if not runtime.available() or not runtime.works(device.provider):
        return False
    mine = ondevice.device(device.provider, device.threads)
    same = (mine["processor"], mine["machine"], mine["onnxruntime"])
    return same == (device.processor, device.machine, device.onnxruntime) and device.threads <= mine["cores"]


def _check_agrees(profile: Profile, options: PruneOptions) -> None:
    """Refuse threads or a provider other than those of the profile."""
    device = profile.device
    for name, wanted, used in (
        ("threads", options.device.threads, device.threads),
        ("provider", options.device.provider, device.provider),
    ):
        if wanted is not None and wanted != used:
            raise UsageError(
                f"{name} {wanted}: the profile was made with {used}; leave it out, or make another profile"
            )
