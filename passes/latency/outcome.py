"""What a budget of time came to, as data and in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from spa.passes.latency.goal import Round

MET = 0.05
"""Of the time asked for: so far from it a result may be."""


@dataclass(frozen=True, slots=True)
class Latency:
    """What a budget of time came to.

    Attributes:
        device: whose time counts, in words.
        wanted: milliseconds that a run may take, at the dense model's present speed.
        foretold: milliseconds, by the profile.
        dense, pruned: measured by turns, medians in milliseconds; None where the device is not here.
        interval: in which the ratio of the two lies, with 95 % confidence.
        rounds: plans that were tried, the last one included.
    """

    device: str
    wanted: float
    foretold: float
    dense: float | None
    pruned: float | None
    interval: tuple[float, float] | None
    rounds: tuple[Round, ...]

    @property
    def met(self) -> bool | None:
        """Whether a run takes what was asked for, within 5 %; None: not measured."""
        return None if self.pruned is None else abs(self.pruned / self.wanted - 1) <= MET

    @property
    def sentence(self) -> str:
        """The measured times beside each other; or what is foretold, and that it is no more than that."""
        if self.dense is None or self.pruned is None or self.interval is None:
            return (
                f"latency: {self.foretold:.3g} ms foretold, {self.wanted:.3g} ms asked ({self.device}); not measured, "
                "since this machine is another: run `spa bench` there"
            )
        low, high = self.interval
        missed = "" if self.met else f"; {abs(self.pruned / self.wanted - 1):.0%} from what was asked for"
        tried = len(self.rounds)
        return (
            f"latency: {self.dense:.3g} ms before, {self.pruned:.3g} ms now, by turns ({self.pruned / self.dense:.3f} "
            f"of the time, 95 %: {low:.3f} to {high:.3f}); asked {self.wanted:.3g} ms{missed}; {self.device}; "
            f"{tried} round{'s' * (tried != 1)}"
        )
