"""The workers of a Ray cluster (https://docs.ray.io): one that is started on this machine, or one that is there.

A task is a function of a module and its item. Tasks whose worker or node is lost run again; what a task gives depends
on its item alone, so that this changes nothing. ray is the extra `ray`, and imported on first use.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from spa.errors import ClusterError, MissingExtra
from spa.executor import WORKING_NBYTES, Executor, Item, Result, Shared, Told, branches, in_pairs
from spa.installed import installed
from spa.rayfaults import ENOUGH, STOPPED, in_one_line, one_line, size_of

RETRIES = 8
"""How often a task runs again whose worker was lost."""

OOM_RETRIES = ("RAY_task_oom_retries", "2")
"""How often one runs again that was stopped because its node ran out of memory; Ray's own number is: for ever."""

REACHED, ANSWERED = 10.0, 120.0
"""Seconds within which a cluster's head is reached, and within which its nodes say what is installed there."""

AHEAD = 2
"""Tasks for each worker that are handed over before results are waited for."""

LARGEST_BRANCH = 4
"""Results of a tree of sums that are joined where they are made, at most, so that their sum alone is sent."""


@contextmanager
def connected(on: str) -> Iterator[Ray]:
    """The workers at a place, until the block ends.

    Args:
        on: ray: one worker for each core of this machine, or the cluster of $RAY_ADDRESS, or of the `ray.init` that
            this process called; ray://HOST:PORT: the cluster whose head is there.

    Raises:
        MissingExtra: ray is not installed.
        ClusterError: the cluster is not there, or has other versions.
    """
    ray = _ray()
    address = os.environ.get("RAY_ADDRESS", "local") if on == "ray" else on
    ours = not ray.is_initialized()
    if ours:
        _start(ray, address)
    elif on != "ray":
        raise ClusterError(
            f"ray runs already in this process, so that {on} cannot be reached: give ray, or ray.shutdown()"
        )
    try:
        cluster = Ray(ray, address)
        with redirect_stdout(cast("Any", _Aside())):
            if address != "local":
                cluster.check()
            with in_one_line(ray.exceptions, address):
                yield cluster
    finally:
        if ours:
            with redirect_stdout(sys.stderr):  # what was not said yet
                ray.shutdown()


class _Aside:
    """Standard output for the thread that makes this; what others print, Ray's, is no result: to standard error."""

    def __init__(self) -> None:
        self.file, self.thread = sys.stdout, threading.current_thread()

    def write(self, text: str) -> int:
        """As a file does."""
        return (self.file if threading.current_thread() is self.thread else sys.stderr).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it asks no host but those of the cluster
    os.environ.setdefault(*OOM_RETRIES)
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a cluster that is lost is not one to be started here
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("work on a cluster needs ray: pip install 'spa-onnx[ray]'") from error
    return ray


def _start(ray: Any, address: str) -> None:
    """Start workers here, or reach a cluster: within bounded time."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=REACHED).close()
        except (OSError, ValueError) as error:
            raise ClusterError(f"no cluster at {address}: {error}; on its head: ray start --head") from error
    # Else the processes on the head that own tasks would start one again for ever whose node has no memory for it.
    there = {"runtime_env": {"env_vars": {OOM_RETRIES[0]: OOM_RETRIES[1]}}}
    given = {"include_dashboard": False} if address == "local" else there
    for again in (True, False):  # a head that is busy may be late once
        try:
            ray.init(address, logging_level="ERROR", **given)
            return
        except Exception as error:
            ray.shutdown()
            if not again:
                raise ClusterError(f"no cluster at {address}: {one_line(error)}") from error


@dataclass(frozen=True, slots=True)
class _Object:
    """A value in the store of every node that asks for it."""

    reference: Any

    def get(self) -> Any:
        return _ray().get(self.reference)


@dataclass(frozen=True, slots=True, eq=False)
class Ray(Executor):
    """An executor on the workers of a cluster.

    Attributes:
        ray: the module.
        address: of the cluster, for messages.
    """

    ray: Any
    address: str
    remote = True

    # ------------------------------------------------------------------------------------------------ work
    def share(self, value: Result) -> Shared[Result]:
        """Lay a value into the object store."""
        return _Object(self.ray.put(value))

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        nbytes: int = 0,
        what: str = "a piece of work",
        told: Told | None = None,
    ) -> list[Result]:
        """As `spa.executor.Executor.map`."""
        task, ahead = self._task(nbytes, what), AHEAD * self.workers()
        results: dict[int, Result] = {}
        waiting: dict[Any, int] = {}

        def take() -> None:
            (done, *_), _ = self._answer(lambda: self.ray.wait(list(waiting), num_returns=1), what, nbytes)
            results[waiting[done]] = self._answer(lambda: self.ray.get(done), what, nbytes)
            del waiting[done]
            if told is not None:
                told(len(results))

        try:
            for number, item in enumerate(items):
                while len(waiting) >= ahead:
                    take()
                waiting[task.remote(function, item)] = number
            while waiting:
                take()
        finally:
            for reference in waiting:
                with suppress(Exception):  # whatever stopped the others is what counts
                    self.ray.cancel(reference)
        return [results[number] for number in range(len(results))]

    def reduce(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        join: Callable[[Result, Result], Result],
        *,
        nbytes: int = 0,
        what: str = "a piece of work",
        told: Told | None = None,
    ) -> Result:
        """As `spa.executor.Executor.reduce`: pairs are joined on workers, and the last result alone comes here.

        How much of the tree is one task depends on the workers; the tree does not.
        """
        most = max(1, min(LARGEST_BRANCH, WORKING_NBYTES // max(nbytes, 1)))
        parts = branches(list(items), self.workers(), most)
        task = self._task(nbytes * len(parts[0]).bit_length(), what)
        sizes = {task.remote(_branch, function, part, join): len(part) for part in parts}
        waiting, done = list(sizes), 0
        last = in_pairs(waiting, partial(task.remote, join))
        try:
            while waiting:  # what has been joined is let go, and its memory with it
                wait = partial(self.ray.wait, waiting, num_returns=1, fetch_local=False)
                (ready, *_), waiting = self._answer(wait, what, nbytes)
                done += sizes.pop(ready)
                del ready, wait
                if told is not None:
                    told(done)
            result: Result = self._answer(lambda: self.ray.get(last), what, nbytes)
        except BaseException:
            for reference in waiting:
                with suppress(Exception):
                    self.ray.cancel(reference)
            raise
        return result

    def on_node(self, name: str, function: Callable[..., Result], *arguments: Any) -> Result:
        """A function on one node, which does nothing else meanwhile for the cluster.

        Args:
            name: of the node, its address, or a resource that it has.

        Raises:
            ClusterError: there is no such node.
        """
        nodes = self._nodes()
        node = next((node for node in nodes if name in _names(node) or name in node["Resources"]), None)
        if node is None:
            names = sorted({word for node in nodes for word in (*_names(node), *node["Resources"]) if ":" not in word})
            raise ClusterError(f"no node {name!r} in the cluster at {self.address}: there are {', '.join(names)}")
        task = self.ray.remote(_do).options(
            num_cpus=node["Resources"].get("CPU", 0),
            scheduling_strategy=self._only(node["NodeID"]),
            max_retries=RETRIES,
        )
        result: Result = self._answer(lambda: self.ray.get(task.remote(function, *arguments)), f"work on {name}", 0)
        return result

    def workers(self) -> int:
        """Cores of all nodes."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    # ------------------------------------------------------------------------------------------------ nodes
    def check(self) -> None:
        """Compare what is installed on every node with what is here.

        Raises:
            ClusterError: something differs, is missing, or a node does not answer; names the first.
        """
        ours = installed()
        task = self.ray.remote(_do)
        asked = [
            (
                node["NodeManagerHostname"],
                node["NodeID"],
                task.options(num_cpus=0, scheduling_strategy=self._only(node["NodeID"])).remote(installed),
            )
            for node in self._nodes()
        ]
        for name, number, reference in asked:
            try:
                theirs = self.ray.get(reference, timeout=ANSWERED)
            except Exception as error:
                if number not in {node["NodeID"] for node in self._nodes()}:
                    continue  # lost meanwhile
                full = isinstance(error, self.ray.exceptions.OutOfMemoryError)
                why = f"{STOPPED}; {ENOUGH}" if full else one_line(error)
                raise ClusterError(f"node {name} does not say what is installed there: {why}") from error
            differs = [
                f"{key} {theirs.get(key)} there, {version} here"
                for key, version in ours.items()
                if theirs.get(key) != version
            ]
            if differs:
                raise ClusterError(
                    f"node {name} would not compute the same: {'; '.join(differs)}: install the same there"
                )

    def _nodes(self) -> list[Any]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _only(self, node: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node, soft=False)

    def _task(self, nbytes: int, what: str) -> Any:
        """What runs a function on a worker: one core, and the memory that it needs, which some node has to offer."""
        largest = max((int(node["Resources"].get("memory", 0)) for node in self._nodes()), default=0)
        if nbytes > largest:
            raise ClusterError(
                f"{what} needs {size_of(nbytes)} of memory, and the largest node of the cluster offers "
                f"{size_of(largest)}: {ENOUGH}"
            )
        return self.ray.remote(_do).options(num_cpus=1, memory=nbytes or None, max_retries=RETRIES)

    def _answer(self, ask: Callable[[], Any], what: str, nbytes: int) -> Any:
        """What ray answers, or what it raises as an error of ours."""
        with in_one_line(self.ray.exceptions, self.address, what, nbytes):
            return ask()


def _do(function: Callable[..., Result], *arguments: Any) -> Result:
    """What every task runs."""
    return function(*arguments)


def _branch(
    function: Callable[[Item], Result], items: Sequence[Item], join: Callable[[Result, Result], Result]
) -> Result:
    """A branch of a tree of sums."""
    return in_pairs(map(function, items), join)


def _names(node: Any) -> set[str]:
    """What a node is called."""
    return {node["NodeManagerHostname"], node["NodeManagerAddress"], node["NodeName"]} - {""}
