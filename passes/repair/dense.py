"""Statistics of the dense network for groups in turn, so that those of one need not wait for those of all.

Where the weights and the moments of all fit into memory, the network runs as a whole. Else it runs once, stage by
stage: what a layer reads is there when its stage has run, and the moments of a group wait until those of all its
readers are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from spa.passes.layers.problems import Key, Problem, Statistics
from spa.passes.layers.split import Split
from spa.passes.layers.statistics import collect
from spa.passes.repair.stages import cut
from spa.passes.repair.store import Shelf
from spa.passes.repair.streaming import Stream

if TYPE_CHECKING:
    from spa.passes.repair.journal import Journal
    from spa.passes.repair.session import Session

STATE = "gathering"
"""In a journal: the stream and what waits."""

Items = Sequence[Sequence[Problem]]
"""For each group the problems of its readers."""

Part = tuple[list[int], Mapping[Key, Statistics]]
"""Numbers of items, and the statistics of their problems."""


def in_turn(session: Session, items: Items, *, most: int | None = None) -> Iterator[Part]:
    """Items, some at a time, about in their order, with their statistics.

    Args:
        most: batches that are looked at; None: all that fits see.
    """
    parts = list(fitting(items, session.memory.moments))
    if session.twins is None and not (len(parts) < 2 and session.memory.holds(session.network.model)):
        gathering = Gathering(session, items, session.split.thinned(most), session.journal).run()
        while True:
            with session.step("statistics"):
                complete = next(gathering, None)
            if complete is None:
                return
            yield complete
    for part in parts:
        with session.step("statistics"):
            statistics = session.dense_statistics([problem for number in part for problem in items[number]], most=most)
        yield part, statistics


def fitting(items: Items, moments_nbytes: int) -> Iterator[list[int]]:
    """Numbers of items whose moments fit into memory together."""
    part: list[int] = []
    sizes: dict[Key, int] = {}
    for number, problems in enumerate(items):
        mine = {problem.key: moments_of(problem) for problem in problems}
        if part and sum((sizes | mine).values()) > moments_nbytes:
            yield part
            part, sizes = [], {}
        part.append(number)
        sizes |= mine
    if part:
        yield part


def moments_nbytes(problems: Iterable[Problem]) -> int:
    """Bytes of the moments of some problems, of which those with one key share theirs."""
    return sum({problem.key: moments_of(problem) for problem in problems}.values())


def moments_of(problem: Problem) -> int:
    """Bytes of the moments of a problem, of those that are fitted and those held out."""
    return 16 * problem.layer.block_count * problem.width**2


class Gathering:
    """One run of the dense network, stage by stage, on the batches that fits see.

    Attributes:
        waiting: moments of what is there, until all items that need them are done.
        done: numbers of the items that are.
    """

    def __init__(self, session: Session, items: Items, split: Split, journal: Journal | None = None) -> None:
        self.session, self.split, self.journal = session, split, journal
        self.needs = [{problem.key for problem in problems} for problems in items]
        self.problems = list(chain.from_iterable(items))
        self.users = Counter(key for keys in self.needs for key in keys)
        self.waiting: dict[Key, Statistics] = {}
        self.done: set[int] = set()
        self.place = {number: at for at, number in enumerate(split.seen)}

    def run(self) -> Iterator[Part]:
        """Items as they are complete."""
        session, model = self.session, self.session.network.model
        stages = cut(model, [problem.data for problem in self.problems], ())
        batches = [session.batches[number] for number in self.split.seen]
        shelf = Shelf(session.memory.kept)
        with Stream(stages, batches, memory=session.memory, threads=session.threads) as dense:
            self.go_on(dense)
            for number in range(dense.done, len(stages)):
                if len(self.done) == len(self.needs):
                    break
                session.progress("statistics", number / len(stages))
                there = set(dense.advance())
                new = self.collect([problem for problem in self.problems if problem.data in there], dense)
                dense.forget()
                part = self.complete(last=number + 1 == len(stages))
                if part:
                    yield part, {key: self.waiting[key] for at in part for key in self.needs[at]}
                    self.forget(part)
                for key in new & self.waiting.keys():
                    self.waiting[key].lay(shelf.keep)
                if self.journal is not None:
                    self.journal.save()
        if self.journal is not None:
            self.journal.state.pop(STATE, None)

    def go_on(self, dense: Stream) -> None:
        """From where an earlier run was, if there was one; from now on the journal knows where this one is."""
        if self.journal is None:
            return
        state = self.journal.state.get(STATE)
        if state is not None:
            dense.restore(state["dense"])
            self.waiting, self.done = state["waiting"], set(state["done"])
            self.users.subtract(key for number in self.done for key in self.needs[number])
        self.journal.state[STATE] = lambda: {
            "dense": dense.state(), "waiting": dict(self.waiting), "done": set(self.done)
        }  # fmt: skip

    def collect(self, problems: Sequence[Problem], dense: Stream) -> set[Key]:
        """Moments of what some layers read, which is there now; their keys."""
        session, place = self.session, self.place

        def fetch(value: ir.Value, number: int) -> np.ndarray:
            array: np.ndarray = dense.value(value, place[number])
            return array

        balance = session.balance(session.batches[0])
        statistics = collect(problems, self.split, fetch, weigh=session.weigh, balance=balance, threads=session.threads)
        self.waiting |= statistics
        return set(statistics)

    def complete(self, *, last: bool) -> list[int]:
        """Numbers of the items that are complete now; one without problems goes along with the next that has some."""
        ready: list[int] = []
        beside: list[int] = []
        for number, keys in enumerate(self.needs):
            if number in self.done:
                continue
            if not keys:
                beside.append(number)
                continue
            if keys <= self.waiting.keys():
                ready += [*beside, number]
            beside = []
        return [*ready, *beside] if last else ready

    def forget(self, part: Sequence[int]) -> None:
        """Let go of the moments that only items in this part needed."""
        self.done.update(part)
        self.users.subtract(key for number in part for key in self.needs[number])
        self.waiting = {key: statistics for key, statistics in self.waiting.items() if self.users[key] > 0}
