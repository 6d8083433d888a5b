"""Repairs on workers of a Ray cluster: whether they are the same, how much faster, and what happens when workers die.

    python tests/benchmarks/cluster.py same [TASK ...] [--workers 0 1 2 4]     # plans and weights; 0: this process
    python tests/benchmarks/cluster.py time [TASK ...] [--repeat 3]            # two workers of one thread against one
    python tests/benchmarks/cluster.py seam COMMIT [TASK ...] [--repeat 5]     # in one process, against a commit before
    python tests/benchmarks/cluster.py killed [TASK ...] [--repeat 20]         # a worker ends at a random moment

With [--preset fast] [--ratio 0.3] [--samples 96] [--rows FILE] [--table FILE]. Workers run on this machine, and share
`--store` megabytes. Each row is a process of its own and notes the commit that it ran on. The tasks are looked for in
../shared/eval beside the project; `SPA_SHARED` names another place for ../shared; `fashion` is the network of models/,
on noise.

One file: four measurements of one thing, and their table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402

from tests.benchmarks.rows import ROOT, Row, Rows, answer, commit  # noqa: E402
from tests.benchmarks.starting import worktree  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

TASKS = ("fmnist_resnet", "lite0", "minilm_sim")
SMALL = "fashion"
TITLES = {
    "same": "Plans and weights of a repair, beside those of this process and of one worker",
    "time": "Seconds of statistics and of curves, two workers of one thread over one, median of the runs; processor "
    "seconds are those of the worker that had the most, which other programs on the machine change little",
    "seam": "Processor seconds of a repair in one process, over those of a commit before the seam",
    "killed": "Repairs in each of which a worker was killed at a random moment",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=TITLES)
    parser.add_argument("tasks", nargs="*", help="of seam the first is a commit")
    parser.add_argument("--workers", nargs="*", type=int, default=[0, 1, 2, 4])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--store", type=int, default=2000, help="megabytes")
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        given = json.loads(arguments.tasks[0])
        measured: Callable[..., Row] = ROW[arguments.what]
        print(json.dumps(measured(**given)))
        return
    before, tasks = (
        ([*arguments.tasks, ""][0], arguments.tasks[1:]) if arguments.what == "seam" else ("", arguments.tasks)
    )
    rows = Rows(arguments.rows, "what", "task", "preset", "samples")
    given = {
        "preset": arguments.preset,
        "ratio": arguments.ratio,
        "samples": arguments.samples,
        "store": arguments.store,
    }
    given |= {"workers": arguments.workers} if arguments.what == "same" else {"repeat": arguments.repeat}
    given |= {"before": before} if before else {}
    for task in tasks or ([SMALL] if arguments.what == "killed" else TASKS):
        question = {"what": arguments.what, "task": task, "preset": arguments.preset, "samples": arguments.samples}
        if question not in rows:
            row, why = answer(__file__, [arguments.what, json.dumps({"task": task, **given}), "--one"])
            print(json.dumps(rows.add(question | (row or {"failed": why}) | {"commit": commit()})), flush=True)
    text = table(rows.all)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


# ------------------------------------------------------------------------------------------------------- tasks
def model_of(task: str) -> Path:
    """The file of a task's network."""
    if task == SMALL:
        return ROOT / "models" / "fashion_resnet.onnx"
    find_tasks()
    import harness
    import tasks

    return Path(harness.dense_model(tasks.TASKS[task], SHARED / "eval"))


def samples_of(task: str, count: int) -> dict[str, np.ndarray]:
    """So many calibration samples."""
    if task == SMALL:
        return {"image": np.random.default_rng(0).standard_normal((count, 1, 28, 28)).astype(np.float32)}
    find_tasks()
    import tasks

    return {name: array[:count] for name, array in tasks.calibration(task).items()}


@contextmanager
def workers(count: int, store: int) -> Iterator[str | None]:
    """So many on this machine, and the place that they are called by; 0: none."""
    if not count:
        yield None
        return
    from spa import onray

    ray = onray._ray()
    ray.init(
        "local", num_cpus=count, object_store_memory=store << 20, include_dashboard=False, logging_level="ERROR",
        log_to_driver=False,
    )  # fmt: skip
    try:
        yield "ray"
    finally:
        ray.shutdown()


def repaired(task: str, on: str | None, preset: str, ratio: float, samples: int) -> Any:
    """A repair, without checks."""
    import spa

    given: dict[str, Any] = {"ratio": ratio, "of": "flops", "preset": preset, "verify": False}
    return spa.prune(model_of(task), data=samples_of(task, samples), on=on, **given)


def weights_of(result: Any) -> dict[str, np.ndarray]:
    """Stored numbers of a result, by name."""
    values = result.model.graph.initializers.items()
    return {name: value.const_value.numpy() for name, value in values if value.const_value is not None}


# -------------------------------------------------------------------------------------------------------- rows
def same(task: str, preset: str, ratio: float, samples: int, store: int, workers: list[int]) -> Row:
    """Repairs with several numbers of workers."""
    results: dict[int, Any] = {}
    taken: dict[int, dict[str, float]] = {}
    for count in workers:
        with globals()["workers"](count, store) as on:
            start = time.perf_counter()
            results[count] = repaired(task, on, preset, ratio, samples)
            taken[count] = {"all": round(time.perf_counter() - start, 1)}
            taken[count] |= {name: round(value, 2) for name, value in results[count].report.seconds.items()}
    first = results[workers[0]]
    remote = [count for count in workers if count]
    weights = weights_of(results[remote[0]])
    return {
        "workers": workers,
        "plans": [results[count].plan.removed == first.plan.removed for count in workers],
        "furthest": [furthest(weights_of(first), weights_of(results[count])) for count in workers],
        "bytes": [
            all(np.array_equal(a, weights_of(results[count])[n]) for n, a in weights.items()) for count in remote
        ],
        "seconds": taken,
    }


def furthest(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> float | None:
    """The largest difference of a weight, over the largest weight of its tensor; None: shapes differ."""
    if {n: a.shape for n, a in expected.items()} != {n: a.shape for n, a in actual.items()}:
        return None
    numbers = [name for name, array in expected.items() if array.dtype.kind == "f" and array.size]
    off = (np.abs(expected[n] - actual[n]).max() / (np.abs(expected[n]).max() or 1.0) for n in numbers)
    return float(max(off))


def timed(task: str, preset: str, ratio: float, samples: int, store: int, repeat: int) -> Row:
    """Statistics and curves with one and with two workers, which have read the network."""
    del ratio
    seconds: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for count in (1, 2):
        with workers(count, store) as on:
            seconds[count] = parts_of(task, str(on), preset, samples, repeat)
    row: Row = {}
    for at, kind in enumerate(("", "_processor")):
        alone, paired = (
            {name: statistics.median(each[at] for each in values) for name, values in seconds[count].items()}
            for count in (1, 2)
        )
        row |= {f"one{kind}": {name: round(value, 2) for name, value in alone.items()}}
        row |= {f"two{kind}": {name: round(value, 2) for name, value in paired.items()}}
        row |= {f"times{kind}": {name: round(value / paired[name], 2) for name, value in alone.items() if paired[name]}}
    return row


def parts_of(task: str, on: str, preset: str, samples: int, repeat: int) -> dict[str, list[tuple[float, float]]]:
    """Of the parts of a repair that go to workers seconds, and processor seconds of the worker that had the most."""
    from dataclasses import replace

    from spa.executing import executing
    from spa.passes.layers.workers import one_thread_each
    from spa.passes.repair.curves import find_curve
    from spa.passes.repair.network import prepare
    from spa.passes.repair.scaling import read
    from spa.passes.repair.session import Session
    from spa.passes.repair.twins import Twins
    from spa.passes.samples.checking import check_samples
    from spa.pipeline import load_normal
    from spa.presets import PRESETS

    model = load_normal(model_of(task))
    seconds: dict[str, list[tuple[float, float]]] = {"first": [], "statistics": [], "curves": []}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        before, start = processor_seconds(), time.perf_counter()
        yield
        taken = time.perf_counter() - start
        time.sleep(0.1)  # results are stored
        busiest = max(value - before.get(pid, 0.0) for pid, value in processor_seconds().items())
        seconds[name].append((taken, busiest))

    with executing(on) as executor, one_thread_each():
        network, data = prepare(model), check_samples(samples_of(task, samples), model)
        session = replace(Session.of(network, data, PRESETS[preset], threads=1), twins=Twins(executor))
        groups = [group for group in network.groups if network.only_layers_read(group)]
        layers = [reader.layer for group in groups for reader in network.readers[group.name]]
        problems = [session.problem(layer) for layer in layers]
        with part("first"):
            session.dense_statistics(problems)  # every worker reads the network
        for _ in range(repeat):
            with part("statistics"):
                known = session.dense_statistics(problems)
            with part("curves"):
                session.each(find_curve, [(group, read(session, group, known), {}) for group in groups], layers)
    return seconds


def processor_seconds() -> dict[int, float]:
    """Of each worker of this process's cluster, by number."""
    seconds = {}
    for pid in workers_of(os.getpid()):
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def seam(task: str, preset: str, ratio: float, samples: int, store: int, repeat: int, before: str) -> Row:
    """Repairs in this process, here and in the tree of a commit, by turns."""
    del store
    code = (
        "import sys, time; sys.path[:0] = [sys.argv[1]]\n"
        "import json, numpy, spa\n"
        "given = json.loads(sys.argv[2]); data = dict(numpy.load(given.pop('data')))\n"
        "start = time.process_time(); spa.prune(data=data, **given); print(json.dumps(time.process_time() - start))"
    )
    with tempfile.TemporaryDirectory() as folder, worktree(before, Path(folder) / "before") as earlier:
        script, data = Path(folder) / "one.py", Path(folder) / "samples.npz"
        script.write_text(code)
        np.savez(data, **samples_of(task, samples))  # type: ignore[arg-type]
        given = {"source": str(model_of(task)), "ratio": ratio, "of": "flops", "preset": preset, "verify": False}
        taken: dict[Path, list[float]] = {ROOT: [], earlier: []}
        for number in range(repeat + 1):
            for tree in (ROOT, earlier) if number % 2 else (earlier, ROOT):
                os.environ["PYTHONPATH"] = str(tree)
                seconds, why = answer(str(script), [str(tree), json.dumps({**given, "data": str(data)})])
                if seconds is None:
                    sys.exit(why)
                taken[tree].append(seconds)
    ours, theirs = taken[ROOT][1:], taken[earlier][1:]
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return {
        "before": before, "ours": round(statistics.median(ours), 2), "theirs": round(statistics.median(theirs), 2),
        "times": round(statistics.median(ratios), 4), "low": round(min(ratios), 4), "high": round(max(ratios), 4),
    }  # fmt: skip


def killed(task: str, preset: str, ratio: float, samples: int, store: int, repeat: int) -> Row:
    """Repairs in which a worker ends at a random moment, beside one in which none does."""
    drawing, right, moments = random.Random(0), 0, []
    with workers(2, store) as on:
        repaired(task, on, preset, ratio, samples)  # workers start
        start = time.perf_counter()
        expected = weights_of(repaired(task, on, preset, ratio, samples))
        whole = time.perf_counter() - start
        for _ in range(repeat):
            moment = drawing.uniform(0.0, whole)
            said: list[str] = []
            killer = threading.Thread(target=kill_one, args=(moment, drawing, said))
            killer.start()
            try:
                weights = weights_of(repaired(task, on, preset, ratio, samples))
                right += weights.keys() == expected.keys() and all(
                    np.array_equal(a, weights[n]) for n, a in expected.items()
                )
            finally:
                killer.join()
            moments.append(f"{moment / whole:.2f} {said[0]}")
            print(f"{len(moments)}: {moments[-1]}, {right} right", file=sys.stderr, flush=True)
    return {"seconds": round(whole, 1), "runs": repeat, "right": right, "moments": moments}


def kill_one(moment: float, drawing: random.Random, said: list[str]) -> None:
    """End one of the workers that this process started, as soon as there is one after a moment."""
    time.sleep(moment)
    while not (there := workers_of(os.getpid())):
        time.sleep(0.01)
    busy = {pid: name for pid, name in there.items() if "IDLE" not in name} or there
    pid = drawing.choice(sorted(busy))
    said.append(there[pid].split("ray::")[1].split()[0])
    os.kill(pid, signal.SIGKILL)


def workers_of(process: int) -> dict[int, str]:
    """Names of the workers of a process's own cluster, by number."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:  # it has ended
                continue
    return {
        pid: name for pid, name in names.items()
        if name.startswith(("ray::IDLE", "ray::_do")) and parents.get(parents[pid]) == process
    }  # fmt: skip


ROW: dict[str, Callable[..., Row]] = {"same": same, "time": timed, "seam": seam, "killed": killed}


# ------------------------------------------------------------------------------------------------------- table
def table(rows: list[Row]) -> str:
    """All rows, by what they measure."""
    parts = ["`python tests/benchmarks/cluster.py WHAT`; workers on one machine.\n"]
    for what, title in TITLES.items():
        lines = [line for row in rows if row["what"] == what for line in cells(row)]
        if lines:
            heads = HEADS[what]
            parts.append(f"\n## {title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n" + "\n".join(lines) + "\n")
    return "".join(parts)


HEADS = {
    "same": (
        "task",
        "preset",
        "samples",
        "workers",
        "plan as first",
        "furthest weight",
        "bytes as one worker",
        "s",
        "commit",
    ),
    "time": (
        "task",
        "preset",
        "samples",
        "part",
        "one worker, s",
        "two, s",
        "times faster",
        "one worker, processor s",
        "two",
        "times",
        "commit",
    ),
    "seam": ("task", "preset", "samples", "before, s", "now, s", "times", "of rounds", "commit"),
    "killed": ("task", "preset", "samples", "runs", "right", "s of one", "commit"),
}


SIDES = ("one", "two", "times")


def cells(row: Row) -> list[str]:
    """The lines of a row."""
    start = [row["task"], row["preset"], str(row["samples"])]
    if "failed" in row:
        return [f"| {' | '.join([*start, row['failed'].replace('|', '/')])} |"]
    lines: list[list[str]] = []
    if row["what"] == "same":
        remote = [count for count in row["workers"] if count]
        for at, count in enumerate(row["workers"]):
            off, alike = row["furthest"][at], row["bytes"][remote.index(count)] if count else "-"
            seconds = row["seconds"][str(count)] if str(count) in row["seconds"] else row["seconds"][count]
            far = "other shapes" if off is None else f"{off:.1e}"
            lines.append([str(count), str(row["plans"][at]), far, str(alike), str(seconds["all"])])
    elif row["what"] == "time":
        lines = [
            [part, *(str(row.get(f"{side}{kind}", {}).get(part, "")) for kind in ("", "_processor") for side in SIDES)]
            for part in row["one"]
        ]
    elif row["what"] == "seam":
        lines = [[str(row["theirs"]), str(row["ours"]), str(row["times"]), f"{row['low']} to {row['high']}"]]
    else:
        lines = [[str(row["runs"]), str(row["right"]), str(row["seconds"])]]
    return [f"| {' | '.join([*start, *line, row['commit']])} |" for line in lines]


if __name__ == "__main__":
    main()
