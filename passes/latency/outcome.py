"""The result of a budget of time, as data and in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose

from spa.passes.choose.trading import MET
from spa.passes.latency.goal import Round

ELSEWHERE = "this machine is another: run `spa bench` there"
DRY_RUN = "a dry run makes nothing to be timed"


@dataclass(frozen=True, slots=True)
class Latency:
    """What a budget of time came to.

    Attributes:
        device: whose time counts, in words.
        wanted: milliseconds that a run may take, at the dense model's present speed; None: no time was asked for.
        base: milliseconds of the dense model, of which a share is foretold.
        foretold: milliseconds, by the profile.
        dense, pruned: measured by turns, medians in milliseconds; None: not measured.
        interval: in which the ratio of the two lies, with 95 % confidence.
        rounds: plans that were tried, the last one included; of a dry run the result's widths are among them.
        unmeasured: why nothing was measured; empty: it was.
        coarse: why no plan is nearer to what was asked for, as far as steps of widths are the reason.
    """

    device: str
    wanted: float | None
    base: float
    foretold: float
    dense: float | None
    pruned: float | None
    interval: tuple[float, float] | None
    rounds: tuple[Round, ...]
    unmeasured: str = ""
    coarse: str = ""

    @property
    def met(self) -> bool | None:
        """Whether a run takes what was asked for, within 5 %; None: not measured, or nothing was asked for."""
        return None if self.pruned is None or self.wanted is None else abs(self.pruned / self.wanted - 1) <= MET

    @property
    def sentence(self) -> str:
        """The measured times beside each other; or what is foretold, and that it is no more than that."""
        asked = "" if self.wanted is None else f"; asked {self.wanted:.3g} ms{self._missed}"
        if self.dense is None or self.pruned is None or self.interval is None:
            share = self._trial
            tried = "" if share is None else f"a trial of these widths took {share:.3f} of the time; the result was "
            return (
                f"latency: {self.foretold:.3g} of {self.base:.3g} ms foretold ({self.foretold / self.base:.3f} of the "
                f"time){asked}; {self.device}; {tried}not measured, since {self.unmeasured}"
            )
        low, high = self.interval
        tried = "" if self.wanted is None else f"; {len(self.rounds)} round{'s' * (len(self.rounds) != 1)}"
        return (
            f"latency: {self.dense:.3g} ms before, {self.pruned:.3g} ms now, by turns ({self.pruned / self.dense:.3f} "
            f"of the time, 95 %: {low:.3f} to {high:.3f}){asked}; {self.device}{tried}"
        )

    @property
    def _trial(self) -> float | None:
        """The share of the time that a model of the same widths took while the plan was chosen."""
        measured = (r.measured for r in self.rounds if isclose(r.foretold * self.base, self.foretold, rel_tol=1e-6))
        return next((share for share in measured if share is not None), None)

    @property
    def _missed(self) -> str:
        """By how much a time is missed, if it is, and why."""
        assert self.wanted is not None
        time = self.foretold if self._trial is None else self._trial * self.base
        time = time if self.pruned is None else self.pruned
        if abs(time / self.wanted - 1) <= MET:
            return ""
        why = f" ({self.coarse})" if self.coarse and time < self.wanted else ""
        if self.interval is not None and self.interval[1] - self.interval[0] > 2 * MET * self.interval[0]:
            why = " (other work disturbs the times: ask again on an idle machine)"
        return f", {abs(time / self.wanted - 1):.0%} {'less' if time < self.wanted else 'more'} than that{why}"
