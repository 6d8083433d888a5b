"""Search for a better allocation: groups trade what they lose, and the outputs say which trades are worth it.

Curves are measured one group at a time and added up; what several groups lose together is another number. So factors
are put before the curves, some at a time and at random, and the allocation is made anew: it meets the budget whatever
the factors are. Each plan is judged by the outputs on samples held out, with readers refitted from what the dense
network reads, once for each cut of a layer. The steps of the factors get smaller where none of them helps (an evolution
strategy from coarse to fine, as Tyr-the-Pruner has it: Li et al. 2025, arXiv 2503.09657, section 3.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from spa.analysis.plan import Plan
from spa.errors import BudgetError, UsageError
from spa.passes.choose.allocation import Curve
from spa.passes.layers.consumers import Layer
from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.repair.dense import moments_nbytes
from spa.passes.repair.draft import Draft
from spa.passes.repair.fitting import Refitted, cut_only, first_uses, refitted
from spa.passes.repair.gates import gate_of
from spa.passes.repair.pieces import Batch
from spa.passes.repair.session import Session
from spa.passes.repair.sliced import Sliced

COARSE, FINE = 1.0, 0.1
"""The standard deviation of a factor's logarithm, at first and in the end."""

AT_ONCE = 8
"""One group in so many gets another factor at a time, and at least one."""

PATIENCE, AGAIN = 12.0, 0.1
"""Plans in a row that are no better, after which steps are halved; one that was tried before counts so much."""

KEPT_NBYTES = 1 << 30
"""Of refitted weights that are kept; with more, all are dropped and made again."""


@dataclass(frozen=True, slots=True)
class Limit:
    """When a search ends, if its steps have not become fine before.

    Attributes:
        seconds, plans: that it may take, and that it may try; None: any number.
    """

    seconds: float | None = None
    plans: int | None = None


@dataclass(slots=True, eq=False)
class Search:
    """A search from one plan on.

    Attributes:
        curves: of every group that may go, by name.
        allocate: the plan for some curves.
        tried: the losses of plans, by how many units of each group go.
        weights: refitted ones, by layer and what goes.
    """

    session: Session
    curves: Mapping[str, Curve]
    allocate: Callable[[Mapping[str, Curve]], Plan]
    limit: Limit
    tried: dict[tuple[tuple[str, int], ...], float] = field(default_factory=dict)
    weights: dict[tuple[Layer, bytes], Refitted] = field(default_factory=dict)
    _statistics: Mapping[Key, Statistics] = field(default_factory=dict)
    _batches: Sequence[Batch] = ()
    _dense: Sequence[Sequence[np.ndarray]] = ()

    def run(self, plan: Plan) -> Plan:
        """The best plan that was found; that from which it starts, where none is better.

        Raises:
            UsageError: moments of all layers at once do not fit into memory.
        """
        session = self.session
        self._statistics = session.dense_statistics(self._problems())
        numbers = session.split.judges
        self._batches = [session.batches[number] for number in numbers]
        self._dense = session.outputs(self._batches)
        names, random = sorted(self.curves), np.random.default_rng(0)
        factors, step, stale = dict.fromkeys(names, 0.0), COARSE, 0.0
        best, loss = plan, self.loss(plan)
        start = time.monotonic()
        while step >= FINE and not self._ends(start):
            some = random.choice(names, max(1, len(names) // AT_ONCE), replace=False)
            moved = factors | {str(name): factors[name] + step * float(random.standard_normal()) for name in some}
            candidate, known = self._plan(moved), len(self.tried)
            lost = np.inf if candidate is None else self.loss(candidate)
            stale += 1 if len(self.tried) > known else AGAIN
            if candidate is not None and lost < loss:
                best, loss, factors, stale = candidate, lost, moved, 0.0
            if stale >= PATIENCE:
                step, stale = step / 2, 0.0
            session.progress("search", self._share(start, step))
        return best

    def loss(self, plan: Plan) -> float:
        """What the outputs lose on samples held out when a plan goes."""
        counts = tuple(sorted((name, len(units)) for name, units in plan.removed.items()))
        if counts not in self.tried:
            session = self.session
            outputs = session.outputs(self._batches, self.draft(plan))
            numbers = range(len(session.network.compared))
            off = [session.difference(at, self._dense[at], outputs[at], self._batches) for at in numbers]
            lost = session.lost(off)
            self.tried[counts] = lost if np.isfinite(lost) else np.inf
        return self.tried[counts]

    def draft(self, plan: Plan) -> Draft:
        """The network without a plan's units, readers refitted from what they read in the dense network."""
        network = self.session.network
        removed = {name: np.array(units) for name, units in plan.removed.items() if units}
        groups = [group for group in network.groups if group.name in removed]
        draft = Draft({gate_of(group.branch): np.zeros(()) for group in groups if group.branch is not None})
        apart = {g.name: removed[g.name] for g in groups if g.branch is None and not network.only_layers_read(g)}
        if apart:
            draft.sliced = Sliced.of(network, apart)
        gone: dict[Layer, np.ndarray] = {}
        for group in groups:
            for reader in network.readers[group.name]:
                mask = gone.setdefault(reader.layer, np.zeros((reader.layer.block_count, reader.layer.width), bool))
                mask |= np.isin(reader.units, removed[group.name])
        for layer in first_uses(network, gone):
            self._refitted(layer, gone[layer], draft).put(draft)
        return draft

    def _refitted(self, layer: Layer, gone: np.ndarray, draft: Draft) -> Refitted:
        known = layer, gone.tobytes()
        if known not in self.weights:
            if sum(refit.matrix.nbytes for refit in self.weights.values()) > KEPT_NBYTES:
                self.weights.clear()
            fits = self.session.network.uses[layer] and self._statistics[self.session.problem(layer).key].seen
            self.weights[known] = (
                refitted(self.session, layer, gone, self._statistics, pool=False)
                if fits
                else cut_only(self.session, [layer], gone, self._statistics, draft)
            )
        return self.weights[known]

    def _problems(self) -> list[Problem]:
        network = self.session.network
        layers = dict.fromkeys(
            use
            for name in self.curves
            for reader in network.readers[name]
            for use in (reader.layer, *network.uses[reader.layer])
        )
        problems = [self.session.problem(layer) for layer in layers]
        nbytes, most = moments_nbytes(problems), self.session.memory.moments
        if nbytes > most:
            raise UsageError(
                f"search: moments of all layers at once take {nbytes / 1e9:.1f} GB, and at most "
                f"{most / 1e9:.1f} are kept: leave search out"
            )
        return problems

    def _plan(self, factors: Mapping[str, float]) -> Plan | None:
        """The plan for curves times factors, whose logarithms these are; None: not enough goes."""
        try:
            return self.allocate({name: scaled(curve, np.exp(factors[name])) for name, curve in self.curves.items()})
        except BudgetError:
            return None

    def _ends(self, start: float) -> bool:
        seconds, plans = self.limit.seconds, self.limit.plans
        late = seconds is not None and time.monotonic() - start >= seconds
        return late or (plans is not None and len(self.tried) >= plans)

    def _share(self, start: float, step: float) -> float:
        """How much of the search is done, by what ends it first."""
        done = [np.log(COARSE / step) / np.log(COARSE / FINE)]
        if self.limit.seconds is not None:
            done.append((time.monotonic() - start) / self.limit.seconds)
        if self.limit.plans is not None:
            done.append(len(self.tried) / self.limit.plans)
        return float(min(1.0, max(done)))


def scaled(curve: Curve, factor: float) -> Curve:
    """A curve whose expected losses are so many times those of another."""
    scale = curve.scale
    return replace(curve, scale=replace(scale, measured=tuple(float(factor) * loss for loss in scale.measured)))
