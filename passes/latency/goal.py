"""A budget of time: solved by what a profile foretells, and corrected by what the chosen widths really take.

Three rounds at most: a plan is chosen, a model of its widths runs beside the dense one, and what the next plan is asked
for is what the last missed, or lies between a plan that was too slow and one that was too fast. Only widths matter for
time, so that no weights are refitted for that. A plan that is nearest may pay dearly for its last per cent, as one that
cuts two more layers for it: where one a little slower is expected to lose far less, that one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from spa.analysis.cost import Cost
from spa.analysis.coupling import Coupling
from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.errors import BudgetError
from spa.passes.choose.tracks import run_length
from spa.passes.choose.trading import MET
from spa.passes.choose.widths import multiples
from spa.passes.latency.bend import Bend
from spa.passes.latency.prediction import LATENCY, Foretold, foretold_units, with_latency
from spa.record import Profile

ROUNDS = 3
CLOSE = 0.015
"""A measured time this near to the one asked for is met."""
SLOWER = (0.01, 0.02, 0.04)
"""Of the time that was asked for: so much slower are plans that may be worth it."""
STEEP = 25
"""A plan that is slower by a per cent is worth it where it loses so many per cent less; of plans that are fine enough
it is about twelve (tests/benchmarks/equal_time.md)."""
_EDGE = 1e-3
"""Of the dense model's time: no less is asked for, and no more."""
_HELD = 3
"""Units named where a time cannot be met."""


@dataclass(frozen=True, slots=True)
class Round:
    """One plan on the way.

    Attributes:
        foretold, measured: shares of the dense model's time; measured is None on another machine.
        within: half the interval in which the measured share lies, with 95 % confidence.
    """

    foretold: float
    measured: float | None = None
    within: float = 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What a run may take, and on what.

    Attributes:
        wanted: the share (0..1) of the dense model's time that may stay.
        asked: the same as the caller said it.
        measure: the share that the widths of a plan take, and half the interval in which it lies; None where the device
            is not here.
        rounds: what was tried.
    """

    profile: Profile
    wanted: float
    asked: str
    measure: Callable[[Plan], tuple[float, float]] | None
    rounds: list[Round] = field(default_factory=list)

    def bound(self, groups: Sequence[Group], coupling: Coupling, cost: Cost) -> BoundGoal:
        """The goal for the groups of one coupled graph.

        Raises:
            ModelError: the profile was made for another model.
        """
        units = foretold_units(self.profile, groups, coupling)
        timed = with_latency(cost, [term for unit in units for term in unit.terms])
        return BoundGoal(self, groups, timed, units, Bend.of(timed, LATENCY, self.profile.variants, groups))


@dataclass(frozen=True, slots=True)
class BoundGoal:
    """A goal with the groups that are to meet it.

    Attributes:
        cost: what the groups free, time included.
        bend: what all units together take, by what each is foretold to.
    """

    goal: Goal
    groups: Sequence[Group]
    cost: Cost
    units: Sequence[Foretold]
    bend: Bend

    @property
    def device(self) -> int:
        """Channels that convolutions of the device compute at once."""
        return self.goal.profile.device.block

    @property
    def steps(self) -> dict[str, int]:
        """By group, so many units go at once."""
        aligned = multiples(self.groups, "auto", device=self.device)
        return {g.name: max(1, m // run_length(g)) for g, m in zip(self.groups, aligned, strict=True)}

    def foretold(self, plan: Plan) -> float:
        """The share of the dense model's time that is left."""
        return self.bend.share(self.cost.of(LATENCY, plan.masks(self.groups)) / self.cost.of(LATENCY))

    def meet(self, choose: Callable[[float], Plan], loss: Callable[[Plan], float] | None = None) -> Plan:
        """The plan whose time is nearest to what is wanted, or one a little slower that loses far less.

        Args:
            choose: the plan by which a share of the time goes that units are foretold to take.
            loss: what a plan is expected to lose; None: nobody knows.

        Raises:
            BudgetError: not that much can go; says what could and what holds it.
        """
        plan = self._nearest(choose)
        return plan if loss is None else self._worth_it(plan, choose, loss)

    def _worth_it(self, plan: Plan, choose: Callable[[float], Plan], loss: Callable[[Plan], float]) -> Plan:
        """The plan, or one a little slower that is expected to lose so much less that it is worth it."""
        goal = self.goal

        def price(of: Plan) -> float:
            return float(loss(of) * self.foretold(of) ** STEEP)

        candidates = [plan]
        for slower in SLOWER:
            asked = self._asked_for((1 + slower) * goal.wanted)
            with suppress(BudgetError):  # it asks for so little that not one step goes
                candidates.append(choose(1 - self.bend.asked(min(asked, 1 - _EDGE))))
        best = min(candidates, key=price)
        if best.removed == plan.removed:
            return plan
        foretold = self.foretold(best)
        measured, within = (None, 0.0) if goal.measure is None else goal.measure(best)
        goal.rounds.append(Round(foretold, measured, within))
        share = foretold if measured is None else measured + within
        return best if share <= (1 + MET) * goal.wanted else plan

    def _nearest(self, choose: Callable[[float], Plan]) -> Plan:
        """The plan whose time is nearest to what is wanted."""
        goal, asked = self.goal, self.goal.wanted
        tried: list[tuple[float, Plan]] = []
        goal.rounds.clear()
        for _ in range(ROUNDS):
            try:
                plan = choose(1 - self.bend.asked(asked))
            except BudgetError as error:
                if tried:
                    break
                raise self._out_of_reach(error) from error
            if plan.removed in [before.removed for _, before in tried]:
                break
            foretold = self.foretold(plan)
            if goal.measure is None:
                goal.rounds.append(Round(foretold))
                return plan
            measured, within = goal.measure(plan)
            goal.rounds.append(Round(foretold, measured, within))
            off = abs(measured / goal.wanted - 1)
            tried.append((off, plan))
            if off <= max(CLOSE, within / goal.wanted):  # nearer, nobody can tell
                break
            asked = min(max(self._asked_for(goal.wanted), _EDGE), 1 - _EDGE)
        return min(tried, key=lambda trial: trial[0])[1]

    def _asked_for(self, wanted: float) -> float:
        """The foretold share to ask for, so that so much is measured, by what was foretold and measured so far."""
        points = [(1.0, 1.0), *((r.foretold, r.measured) for r in self.goal.rounds if r.measured is not None)]
        faster = max((point for point in points if point[1] < wanted), key=lambda point: point[1], default=None)
        slower = min((point for point in points if point[1] >= wanted), key=lambda point: point[1], default=None)
        if faster is not None and slower is not None:
            share = (wanted - faster[1]) / (slower[1] - faster[1])
            return faster[0] + share * (slower[0] - faster[0])
        foretold, measured = min(points, key=lambda point: abs(point[1] - wanted))
        return foretold * wanted / measured

    def coarsest(self, plan: Plan, share: float) -> str:
        """The step that keeps a plan from being nearer to what is wanted: the least by which it would be slower.

        Args:
            share: of the dense model's time, that the plan takes.

        Returns:
            In words; empty where a step back is small enough.
        """
        before, steps, sizes = self.foretold(plan), self.steps, {group.name: group.size for group in self.groups}
        slower = []
        for name, units in plan.removed.items():
            kept, width = sizes[name] - len(units), max(1, min(steps[name], plan.align))
            more = min((kept // width + 1) * width, sizes[name]) - kept
            after = self.foretold(Plan.of(self.groups, {**plan.removed, name: units[more:]}))
            if after > before:
                slower.append((after - before, name, more))
        step, name, more = min(slower, default=(0.0, "", 0))
        if share + step <= (1 + MET) * self.goal.wanted:
            return ""
        return (
            f"no plan is nearer: of the next slower one {more} more units of {name} take {step:.1%} of the dense time"
        )

    def _out_of_reach(self, error: BudgetError) -> BudgetError:
        """How long a run takes at least, where that goes, and what holds it."""
        masks, whole = error.most.masks(self.groups), self.goal.profile.milliseconds
        least = self.foretold(error.most) * whole
        times = {unit.name: Cost({LATENCY: unit.terms}).of(LATENCY, masks) for unit in self.units}
        longest = sorted(times, key=lambda name: -times[name])[:_HELD]
        named = ", ".join(f"{name.removesuffix('_nchwc')} ({times[name]:.3g} ms)" for name in longest)
        return BudgetError(
            f"{self.goal.asked} cannot be met: the floor is about {least:.3g} of {whole:.3g} ms "
            f"({1 - least / whole:.1%} less), most of it in {named}; the rest is held by {error.held}",
            most=error.most, held=error.held,
        )  # fmt: skip
