"""Cuts of many groups, measured abreast: the dense network runs once, and each cut beside it from where it differs.

Behind what was refitted a cut network has the weights of the dense one. So it waits there for the others, and every
part of the network is loaded once for all of them: a network of twice the groups takes twice the loads, not four times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spa.analysis.group import Group
from spa.analysis.reading import reads
from spa.executor import Threads
from spa.passes.layers.problems import Key, Statistics
from spa.passes.repair.pieces import Sessions
from spa.passes.repair.probe import Probe
from spa.passes.repair.streaming import Stream

LEAST_NBYTES = 1 << 16
"""Of the values of a batch that wait in memory for a trial at least: a file for less takes longer than the run."""


@dataclass(slots=True, eq=False)
class Trial:
    """A cut of a group that is measured.

    Attributes:
        count: of the units that go.
        stream: the network without them, as far as it has run.
        weights: stored tensors, by name, that differ from the dense network's and have not been read by all.
    """

    group: str
    count: int
    stream: Stream
    weights: dict[str, np.ndarray]


class Abreast:
    """Cuts that are measured in one run of the dense network, in which groups come in graph order.

    Args:
        most: cuts that there may be at once, which share what of their values may wait in memory.

    Attributes:
        found: what the outputs lose, by group and count of units that go.
        dense: the dense network; it is one stage ahead of the trials, and keeps what that stage reads.
    """

    def __init__(self, probe: Probe, most: int) -> None:
        session = probe.session
        self.probe, self.session, self.stages = probe, session, probe.stages
        self.found: dict[tuple[str, int], float] = {}
        self.trials: list[Trial] = []
        self.dense = Stream(self.stages, probe.batches, memory=session.memory, threads=session.threads)
        self.waiting = max(session.memory.kept // max(most, 1), LEAST_NBYTES * len(probe.batches))
        self.threads = probe.threads
        self.sessions = Sessions(session.memory.weights, max(1, Threads(session.threads).at_once(0) // self.at_once))
        self.last_read = {
            str(value.name): stage for stage, nodes in enumerate(self.stages.nodes) for n in nodes for value in reads(n)
        }

    @property
    def at_once(self) -> int:
        """How many trials run at once."""
        return self.threads.at_once(0)

    def start(self, group: Group, cuts: Sequence[np.ndarray], statistics: Mapping[Key, Statistics]) -> None:
        """Begin to measure a group with some units gone, for each of several cuts."""
        drafts = self.probe.drafts(group, cuts, statistics)
        apart = [draft.sliced is not None for draft in drafts]
        first = self.probe.first_to_differ(drafts) if drafts else 0
        if any(apart) or first < self.dense.done - 1:
            for units, off in zip(cuts, self.probe.measured(drafts), strict=True):
                self.found[group.name, len(units)] = self.session.lost(off)
            return
        self.reach(min(first, len(self.stages) - 1))
        new = [
            self.trial(group.name, len(units), dict(draft.weights)) for units, draft in zip(cuts, drafts, strict=True)
        ]
        self.advance(new)
        self.trials += new

    def trial(self, group: str, count: int, weights: dict[str, np.ndarray]) -> Trial:
        """A trial that is where the dense network was a stage ago."""
        stream = Stream(
            self.stages, self.probe.batches, base=self.dense, weights=weights, memory=self.session.memory,
            waiting=self.waiting, sessions=self.sessions,
        )  # fmt: skip
        stream.done = max(self.dense.done - 1, 0)
        return Trial(group, count, stream, weights)

    def reach(self, stage: int) -> None:
        """Run the dense network and all trials until it has run a stage."""
        while self.dense.done <= stage:
            for trial in self.trials:
                trial.stream.forget()
            self.dense.forget()
            self.sessions.close()
            self.dense.advance()
            self.advance(self.trials)

    def advance(self, trials: Sequence[Trial]) -> None:
        """Run a stage of some trials; what is there in the end is measured."""
        last = self.dense.done == len(self.stages)

        def run(trial: Trial) -> None:
            trial.stream.advance()
            for name in [name for name in trial.weights if self.last_read.get(name, -1) < trial.stream.done]:
                del trial.weights[name]
            if last:
                off = self.probe.off(trial.stream, self.dense)
                self.found[trial.group, trial.count] = self.session.lost(off)
                trial.stream.close()

        self.threads.map(run, trials)

    def finish(self) -> dict[tuple[str, int], float]:
        """Run to the end; what the outputs lose, by group and count of units that go."""
        journal = self.session.journal
        for stage in range(self.dense.done, len(self.stages)) if self.trials else ():
            self.session.progress("measure", stage / len(self.stages))
            self.reach(stage)
            if journal is not None and stage + 1 < len(self.stages):
                journal.save()
        self.close()
        return self.found

    def close(self) -> None:
        """Forget what waits to be read."""
        for trial in self.trials:
            trial.stream.close()
        self.trials = []
        self.sessions.close()
        self.dense.close()

    def state(self) -> dict[str, Any]:
        """Where the trials are, as `restore` takes it."""
        trials = [(trial.group, trial.count, dict(trial.weights), trial.stream.state()) for trial in self.trials]
        return {"dense": self.dense.state(), "trials": trials, "found": dict(self.found)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where others over the same stages were."""
        self.dense.restore(state["dense"])
        self.found = dict(state["found"])
        self.trials = []
        for group, count, weights, stream in state["trials"]:
            self.trials.append(self.trial(group, count, dict(weights)))
            self.trials[-1].stream.restore(stream)
