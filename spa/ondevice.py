"""Time each part of a model on a device, by a script that needs onnxruntime and numpy and nothing else.

`spa profile MODEL --job job.zip` puts this file into job.zip, as what Python runs, beside small models to be timed::

    python3 job.zip -o device.json        # on the device; then, anywhere: spa prune MODEL --profile device.json

`spa profile` without --job runs the same code on this machine. Each model, a width setting of one network, runs under
onnxruntime's profiler, which says how long every node of the optimised graph takes and the shapes that it works on; and
by turns with that, without the profiler, beside the first, the dense one, which gives the time of the whole. Rounds in
which the machine did something else do not count.

One file: it travels alone to another machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "spa-profile-1"
JOB = "job.json"
CPU = "CPUExecutionProvider"
SECONDS = 30.0
"""That all runs of `spa profile` take by default, about."""
WARM_UP, FEWEST, MOST = 2, 5, 40
"""Runs that do not count, and how many do, of each model: as many as the time allows between the two."""
SHORT = 0.05
"""Seconds of a run before which the same model runs once more, uncounted: its threads are awake then, and its weights
in the cache, as where one model serves alone. A longer run hardly knows the difference."""
DISTURBED = 1.15
AGAIN = 2
"""How often a model is timed again whose rounds were slowed by what else the machine did."""

_Taken = tuple[Any, list[list[dict[str, Any]]]]
"""(rounds, 2) seconds of the dense model and of another, and the events of the nodes of the other in each round."""


def main() -> None:
    """Time the models beside this script and write the profile."""
    parser = argparse.ArgumentParser(description="time the models of this job with onnxruntime")
    parser.add_argument("job", nargs="?", default=sys.argv[0], help="the job (default: the file that runs)")
    parser.add_argument("-o", "--output", default="device.json", help="where the profile goes")
    parser.add_argument("--provider", default=CPU, help="onnxruntime's name of the device (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="inside an operator (default: one a core)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long all runs take, about")
    given = parser.parse_args()

    def say(share: float) -> None:
        sys.stderr.write(f"\r{share:4.0%}")
        sys.stderr.flush()

    try:
        with zipfile.ZipFile(given.job) as archive:
            profile = run_job(archive, given.provider, given.threads or None, given.seconds, say)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        sys.exit(f"error: {given.job} is no job that spa profile --job wrote: {error}")
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    Path(given.output).write_text(dumps(profile))
    whole = profile["variants"][0]["milliseconds"]
    sys.stderr.write(f"\rwrote {given.output}: the dense model takes {whole:.4g} ms\n")


def dumps(profile: dict[str, Any]) -> str:
    """A profile as text, a line for each model and each unit of it."""
    variants = []
    for variant in profile["variants"]:
        units = ",\n   ".join(json.dumps(unit) for unit in variant["units"])
        head = json.dumps({key: value for key, value in variant.items() if key != "units"})
        variants.append(f'{head[:-1]}, "units": [\n   {units}]}}')
    head = json.dumps({key: value for key, value in profile.items() if key != "variants"}, indent=1)
    rest = ",\n  ".join(variants)
    return f'{head[:-2]},\n "variants": [\n  {rest}]\n}}\n'


def run_job(archive: zipfile.ZipFile, provider: str, threads: int | None, seconds: float, say: Any) -> dict[str, Any]:
    """The profile of a job: what it says of the model, the device, and the times of each variant.

    Raises:
        RuntimeError: the provider does not work here, or a model does not run.
    """
    job = json.loads(archive.read(JOB))
    with np.load(io.BytesIO(archive.read("feeds.npz"))) as arrays:
        feeds = {job["feeds"][name]: arrays[name] for name in arrays.files}
    with tempfile.TemporaryDirectory() as folder:

        def opened(number: int) -> str:
            return archive.extract(f"{number}.onnx", folder)

        times = measure(opened, len(job["variants"]), feeds, provider, threads, seconds, say)
    variants = [dict(variant, **timing) for variant, timing in zip(job["variants"], times)]  # noqa: B905 - Python 3.8
    return {"format": FORMAT, "model": job["model"], "device": device(provider, threads), "variants": variants}


def device(provider: str, threads: int | None) -> dict[str, Any]:
    """What a profile holds for: the machine, and how onnxruntime uses it."""
    import onnxruntime

    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": _cores(),
        "block": _block(provider),
        "provider": provider,
        "threads": threads or _cores(),
        "onnxruntime": onnxruntime.__version__,
    }


def measure(
    opened: Any, count: int, feeds: dict[str, Any], provider: str, threads: int | None, seconds: float, say: Any
) -> list[dict[str, Any]]:
    """The times of some models: for each ``milliseconds`` of a run and ``units``, the nodes of the optimised graph.

    Args:
        opened: called with a number below `count`, gives the path of that model; 0 is the dense one.
        seconds: how long all runs take, about; never fewer than a few runs of each.
        say: called with the share that is done.

    Raises:
        RuntimeError: the provider does not work here, or a model does not run.
    """
    clock = clock_of(provider, threads)
    dense = _session(opened(0), provider, threads, None)
    taken: dict[int, _Taken] = {}

    def take(number: int) -> None:
        path = opened(number)
        with tempfile.TemporaryDirectory() as folder:
            sessions = (dense, *(_session(path, provider, threads, p) for p in (None, str(Path(folder) / "times"))))
            taken[number] = _by_turns(sessions, feeds, seconds / count, clock)
        if number:
            Path(path).unlink()
        say(len(taken) / count)

    for number in range(count):
        take(number)
    for _ in range(AGAIN):
        fast = _fast([times for times, _ in taken.values()])
        for number in [number for number, (times, _) in taken.items() if calm(times, fast).sum() < FEWEST]:
            take(number)
    fast = _fast([times for times, _ in taken.values()])
    counted = {number: calm(times, fast, FEWEST) for number, (times, _) in taken.items()}
    base = 1e3 * float(np.median(np.concatenate([taken[number][0][counted[number], 0] for number in taken])))
    timings = []
    for number in range(count):
        times, runs = taken[number]
        kept = counted[number]
        ratio = 1.0 if number == 0 else float(np.median(times[kept, 1] / times[kept, 0]))
        units = _units([run for run, counts in zip(runs, kept) if counts])  # noqa: B905
        timings.append({"milliseconds": base * ratio, "units": units})
    return timings


def calm(times: Any, fast: float | None = None, least: int = 1) -> Any:
    """(rounds,) the rounds of (rounds, models) times in which no model was slowed by what else the machine did.

    A model was slowed where it took `DISTURBED` times as long as in the fastest tenth of its rounds.

    Args:
        fast: what the first model takes on a machine that does nothing else, where that is known.
        least: so many rounds count at least, those that were slowed least.
    """
    usual = np.sort(times, axis=0)[len(times) // 10].astype(float)
    usual[0] = usual[0] if fast is None else min(fast, usual[0])
    slowed = (times / np.where(usual > 0, usual, np.inf)).max(axis=1)  # too short for the clock: never slowed
    return (slowed <= DISTURBED) | (np.argsort(np.argsort(slowed, kind="stable"), kind="stable") < least)


def _fast(times: list[Any]) -> float:
    """What the dense model takes on a machine that does nothing else."""
    return float(np.quantile(np.concatenate([rounds[:, 0] for rounds in times]), 0.1))


def clock_of(provider: str, threads: int | None) -> Any:
    """What measures a run: where one thread of the processor computes, its own time, which no other work disturbs."""
    return time.thread_time if provider == CPU and threads == 1 else time.perf_counter


def _session(path: str, provider: str, threads: int | None, prefix: str | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or one model's threads slow the other
    if threads:
        options.intra_op_num_threads = threads
    if prefix:
        options.enable_profiling = True
        options.profile_file_prefix = prefix
    if provider not in onnxruntime.get_available_providers():
        known = ", ".join(onnxruntime.get_available_providers())
        raise RuntimeError(f"{provider} does not work here; onnxruntime has {known}")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=list(dict.fromkeys([provider, CPU])))
    except Exception as error:
        raise RuntimeError(f"onnxruntime refuses the model: {_one_line(error)}") from error
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} does not work here; onnxruntime used {session.get_providers()[0]}")
    return session


def _run(session: Any, feeds: dict[str, Any], clock: Any = time.perf_counter) -> float:
    start = clock()
    try:
        session.run(None, feeds)
    except Exception as error:
        raise RuntimeError(f"onnxruntime cannot run the model: {_one_line(error)}") from error
    return float(clock() - start)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _units(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The nodes of the optimised graph in the order in which they run: milliseconds as the mean of the faster half."""
    times: dict[str, list[float]] = {}
    first: dict[str, dict[str, Any]] = {}
    for run in runs:
        seen: dict[str, int] = {}
        for event in run:
            name = event["name"][: -len("_kernel_time")]
            seen[name] = seen.get(name, 0) + 1
            key = name if seen[name] == 1 else f"{name}#{seen[name]}"
            times.setdefault(key, []).append(event["dur"] / 1e3)
            first.setdefault(key, event["args"])
    return [
        {
            "name": key,
            "operator": first[key].get("op_name", ""),
            "inputs": _shapes(first[key].get("input_type_shape")),
            "outputs": _shapes(first[key].get("output_type_shape")),
            "milliseconds": round(_faster(durations) * len(durations) / len(runs), 6),
        }
        for key, durations in times.items()
    ]


def _shapes(given: Any) -> list[list[int]]:
    return [list(shape) for entry in (given or ()) for shape in entry.values()]


def _faster(values: list[float]) -> float:
    return float(np.sort(values)[: (len(values) + 1) // 2].mean())


def fed(session: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    """What a session takes of the dense model's inputs: fewer heads of a cache, or none where its attention is gone."""
    arrays = {}
    for value in session.get_inputs():
        kept = tuple(slice(size if isinstance(size, int) else None) for size in value.shape)
        arrays[value.name] = np.ascontiguousarray(feeds[value.name][kept]) if kept else feeds[value.name]
    return arrays


def _by_turns(sessions: tuple[Any, Any, Any], feeds: dict[str, Any], seconds: float, clock: Any) -> _Taken:
    """Times of rounds in which three sessions run by turns, of which the third profiles its nodes."""
    given = [fed(session, feeds) for session in sessions]
    for at in [*range(len(sessions))] * WARM_UP:
        took = _run(sessions[at], given[at])
    again = [_run(session, mine) < SHORT for session, mine in zip(sessions, given)]  # noqa: B905 - Python 3.8
    times: list[list[float]] = []
    start = time.perf_counter()
    while len(times) < FEWEST or (len(times) < MOST and time.perf_counter() - start + 3 * took < seconds):
        taken = [0.0] * len(sessions)
        for step in range(len(sessions)):
            at = (step + len(times)) % len(sessions)
            if again[at]:
                _run(sessions[at], given[at])
            taken[at] = _run(sessions[at], given[at], clock)
        times.append(taken[:2])
    return np.array(times), _runs(sessions[2])[:: -2 if again[2] else -1][: len(times)][::-1]


def _runs(session: Any) -> list[list[dict[str, Any]]]:
    """The events of the nodes of each run that was profiled."""
    path = session.end_profiling()
    events = json.loads(Path(path).read_text())
    Path(path).unlink()
    runs: list[list[dict[str, Any]]] = [[]]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[-1].append(event)
        elif event.get("name") == "model_run":
            runs.append([])
    return [run for run in runs if run]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for key in ("model name", "Hardware", "Model"):
        for line in lines:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _block(provider: str) -> int:
    """Channels that kernels compute at once: 8 on NVIDIA and on x86 without AVX-512, else 16."""
    if provider != CPU:
        return 8
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686", "x86"):
        return 16
    for name in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        try:
            known = __import__(name, fromlist=["x"]).__cpu_features__
        except (ImportError, AttributeError):
            continue
        return 16 if known.get("AVX512F") else 8
    return 16


if __name__ == "__main__":
    main()
