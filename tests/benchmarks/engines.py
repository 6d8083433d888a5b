"""Two engines that could carry work to workers, ray and dask, beside each other on this machine.

    python tests/benchmarks/engines.py ray [--rows FILE] [--table FILE]       # in an environment with ray[client]
    python tests/benchmarks/engines.py dask [--rows FILE] [--table FILE]      # in one with distributed

What each installs beside numpy; seconds in which an array of 100 MB reaches two workers, and is sent back by both; what
the processes of the engine hold meanwhile; and what becomes of a map when a worker is killed in the middle, whose tasks
read an array that was sent before, and of one task that ends every worker it meets.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402

from tests.benchmarks.rows import Row, Rows, commit  # noqa: E402

NUMBERS = 100_000_000 // 8
TASKS, SECONDS, REPEAT, PATIENCE = 40, 0.2, 5, 120.0
ROOTS = {"ray": "ray[client]", "dask": "distributed"}


class Engine(Protocol):
    """Two workers of one core."""

    def send(self, array: np.ndarray, *, everywhere: bool) -> Any:
        """Lay an array where tasks can read it; where the engine can, on every worker at once."""

    def begin(self, function: Callable[..., Any], *arguments: Any, worker: int | None = None) -> Any:
        """A task, on that worker if one is named and the engine can."""

    def result(self, task: Any, timeout: float) -> Any:
        """What a task gives."""

    def pids(self) -> list[int]:
        """Of the workers."""

    def close(self) -> None:
        """End everything."""


class Ray:
    """https://docs.ray.io"""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self.ray = ray
        ray.init(
            "local", num_cpus=2, object_store_memory=1 << 30, include_dashboard=False, logging_level="ERROR",
            log_to_driver=False,
        )  # fmt: skip

    def send(self, array: np.ndarray, *, everywhere: bool) -> Any:  # noqa: ARG002 - a node has one copy
        return self.ray.put(array)

    def begin(self, function: Callable[..., Any], *arguments: Any, worker: int | None = None) -> Any:  # noqa: ARG002
        return self.ray.remote(function).options(num_cpus=1, max_retries=3).remote(*arguments)

    def result(self, task: Any, timeout: float) -> Any:
        return self.ray.get(task, timeout=timeout)

    def pids(self) -> list[int]:
        tasks = [self.begin(pid_after, 0.5) for _ in range(2)]
        return sorted({self.result(task, PATIENCE) for task in tasks})

    def close(self) -> None:
        self.ray.shutdown()


class Dask:
    """https://distributed.dask.org"""

    def __init__(self) -> None:
        import distributed

        self.cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )
        self.client = distributed.Client(self.cluster)
        self.workers = list(self.client.scheduler_info(n_workers=-1)["workers"])

    def send(self, array: np.ndarray, *, everywhere: bool) -> Any:
        return self.client.scatter(array, broadcast=everywhere, hash=False)

    def begin(self, function: Callable[..., Any], *arguments: Any, worker: int | None = None) -> Any:
        where = None if worker is None else [self.workers[worker]]
        return self.client.submit(function, *arguments, workers=where, pure=False)

    def result(self, task: Any, timeout: float) -> Any:
        return task.result(timeout=timeout)

    def pids(self) -> list[int]:
        return sorted(self.client.run(os.getpid).values())

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


ENGINES: dict[str, Callable[[], Engine]] = {"ray": Ray, "dask": Dask}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = Rows(arguments.rows, "engine")
    row: Row = {"engine": arguments.engine, **installed(ROOTS[arguments.engine])}
    for part in (shipped, killed, ending):
        engine = ENGINES[arguments.engine]()
        try:
            row |= part(engine)
        finally:
            engine.close()
    print(json.dumps(rows.add(row | {"commit": commit()})), flush=True)
    text = table(rows.all)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


# ------------------------------------------------------------------------------------------------------- tasks
def pid_after(seconds: float) -> int:
    """The worker's number."""
    time.sleep(seconds)
    return os.getpid()


def total(array: np.ndarray) -> float:
    """Reads every number."""
    return float(array.sum())


def made(number: int) -> np.ndarray:
    """100 MB."""
    return np.full(NUMBERS, float(number))


def slow(number: int, array: np.ndarray) -> float:
    """Takes some time."""
    time.sleep(SECONDS)
    return number * float(array[0])


def last(_: int) -> None:
    """Ends the worker."""
    os._exit(1)


# ------------------------------------------------------------------------------------------------------- parts
def installed(root: str) -> Row:
    """The version of a distribution, and megabytes of its files and those of all that it needs beside numpy."""
    waiting, sizes = [root], dict[str, int]()
    while waiting:
        name, _, extra = waiting.pop().partition("[")
        name, extras = re.sub(r"[-_.]+", "-", name).lower(), set(extra.rstrip("]").split(",")) - {""}
        if name in {*sizes, "numpy"}:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
        sizes[name] = sum(file.stat().st_size for file in files if file.exists())
        for line in distribution.requires or ():
            needed, _, condition = line.partition(";")
            asked = re.search(r"extra == ['\"]([^'\"]+)", condition)
            if asked is None or asked[1] in extras:
                word = re.match(r"[\w.-]+(\[[\w.,-]+\])?", needed.strip())
                waiting += [word[0]] if word else []
    return {
        "version": importlib.metadata.version(root.partition("[")[0]),
        "installed_mb": round(sum(sizes.values()) / 1e6),
        "packages": len(sizes),
    }


def shipped(engine: Engine) -> Row:
    """Seconds of the ways there and back, and what is held."""
    there, back, more, array = [], [], 0, np.arange(NUMBERS, dtype=np.float64)
    expected = float(array.sum())
    pids = engine.pids()
    before = held(os.getpid())
    for _ in range(REPEAT):
        start = time.perf_counter()
        sent = engine.send(array, everywhere=True)
        tasks = [engine.begin(total, sent, worker=number) for number in range(len(pids))]
        assert [engine.result(task, PATIENCE) for task in tasks] == [expected] * len(pids)
        there.append(time.perf_counter() - start)
        more = more or held(os.getpid()) - before
        del sent, tasks
        time.sleep(0.5)
        start = time.perf_counter()
        tasks = [engine.begin(made, number, worker=number) for number in range(len(pids))]
        arrays = [engine.result(task, PATIENCE) for task in tasks]
        back.append(time.perf_counter() - start)
        assert [float(array[0]) for array in arrays] == [0.0, 1.0]
        del arrays, tasks
        time.sleep(0.5)
    return {
        "there_s": round(statistics.median(there), 3),
        "back_s": round(statistics.median(back), 3),
        "held_mb": round(more / 1e6),
    }


def killed(engine: Engine) -> Row:
    """A map that reads an array which was sent once, while the worker that began it is killed."""
    row: Row = {}
    for everywhere in (True, False):
        pids, array = engine.pids(), np.ones(NUMBERS)
        sent = engine.send(array, everywhere=everywhere)
        tasks = [engine.begin(slow, number, sent) for number in range(TASKS)]
        holds = max(pids, key=lambda pid: held(pid, below=False))
        killer = threading.Timer(TASKS * SECONDS / 5, os.kill, (holds, signal.SIGKILL))
        killer.start()
        start = time.perf_counter()
        try:
            results = [engine.result(task, PATIENCE) for task in tasks]
            said = f"{sum(result == number for number, result in enumerate(results))} of {TASKS} right"
        except Exception as error:  # noqa: BLE001 - what it is, is the answer
            said = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}".rstrip(": ")
        killer.join()
        name = "everywhere" if everywhere else "once"
        row |= {f"killed_{name}": said, f"killed_{name}_s": round(time.perf_counter() - start, 1)}
    return row


def ending(engine: Engine) -> Row:
    """A task that no worker outlives."""
    start = time.perf_counter()
    try:
        engine.result(engine.begin(last, 0), PATIENCE)
        said = "a result"
    except Exception as error:  # noqa: BLE001 - what it is, is the answer
        said = type(error).__name__
    return {"ends_all": said, "ends_all_s": round(time.perf_counter() - start, 1)}


def held(pid: int, *, below: bool = True) -> int:
    """Bytes of a process, and of all below it, memory that several share counted once."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    family, size = [pid], 0
    for member in family:
        family += [child for child, parent in parents.items() if parent == member and below]
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        size += 1024 * sum(int(line.split()[1]) for line in lines.splitlines() if line.startswith("Pss:"))
    return size


# ------------------------------------------------------------------------------------------------------- table
LINES: Sequence[tuple[str, Callable[[Row], str]]] = (
    ("version", lambda row: row["version"]),
    ("installed beside numpy", lambda row: f"{row['installed_mb']} MB, {row['packages']} packages"),
    ("100 MB to two workers that read it, s", lambda row: str(row["there_s"])),
    ("held meanwhile, beside what was before, MB", lambda row: str(row["held_mb"])),
    ("100 MB made by each of two workers and sent back, s", lambda row: str(row["back_s"])),
    (
        "a worker killed, the array on every worker",
        lambda row: f"{row['killed_everywhere']}, {row['killed_everywhere_s']} s",
    ),
    ("a worker killed, the array sent once", lambda row: f"{row['killed_once']}, {row['killed_once_s']} s"),
    ("a task that ends every worker", lambda row: f"{row['ends_all']}, {row['ends_all_s']} s"),
    ("commit", lambda row: row["commit"]),
)  # fmt: skip


def table(rows: list[Row]) -> str:
    """A column for each engine."""
    heads = ["", *(row["engine"] for row in rows)]
    lines = [f"| {name} | {' | '.join(cell(row) for row in rows)} |" for name, cell in LINES]
    body = "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *lines])
    about = f"two workers on this machine, {TASKS} tasks of {SECONDS} s"
    return f"`python tests/benchmarks/engines.py ENGINE`; {about}.\n\n{body}\n"


if __name__ == "__main__":
    main()
