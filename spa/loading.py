"""Measure how long a file takes to load and what memory a run takes, in a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_CHILD = """
import resource, sys, time
import numpy, onnxruntime
path, feeds, threads, *providers = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
if threads != "0":
    options.intra_op_num_threads = int(threads)
arrays = dict(numpy.load(feeds))


def memory():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        now = peak
    return peak, now


before = memory()
start = time.perf_counter()
session = onnxruntime.InferenceSession(path, options, providers=providers)
seconds = time.perf_counter() - start
session.run(None, arrays)
print(seconds, max(after - base for after, base in zip(memory(), before)))
"""


def alone(
    path: Path, feeds: Mapping[str, np.ndarray], providers: Sequence[str], threads: int | None
) -> tuple[float, int]:
    """Seconds of loading and growth of memory in a process that does nothing else; NaN and 0 where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "feeds.npz"
        np.savez(stored, **dict(feeds))  # type: ignore[arg-type]
        command = [sys.executable, "-c", _CHILD, str(path), str(stored), str(threads or 0), *providers]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # inputs of types that numpy does not know by name
        return float("nan"), 0
    seconds, nbytes = done.stdout.split()
    return float(seconds), int(float(nbytes))
