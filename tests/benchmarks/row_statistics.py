"""What statistics cost: one pass that collects moments of all that layers read, beside a plain pass over the samples.

    python tests/benchmarks/row_statistics.py [TASK ...] [--table FILE]

For each task: processor seconds of plain forward runs over its calibration samples; of the same runs with the moments
of every layer that reads a group collected. Every repair makes one such pass for its curves, one for the layers whose
bases are turned, and one through both networks. The tasks are looked for in ../shared/eval beside the project;
`SPA_SHARED` names another place for ../shared.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.repair import TWINS
from tests.benchmarks.zoo import SHARED, find_tasks

HEADER = "| task | samples | plain, s | with statistics, s | times plain |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    find_tasks()
    import tasks

    lines = [f"`python tests/benchmarks/row_statistics.py {' '.join(arguments.tasks)}`".replace(" `", "`"), "", HEADER]
    lines += ["|---|--:|--:|--:|--:|"]
    print("\n".join(lines[2:]))
    for task in arguments.tasks or [name for name in tasks.TASKS if name not in TWINS]:
        lines.append(row(task))
        print(lines[-1], flush=True)
    if arguments.table:
        arguments.table.write_text("\n".join(lines) + "\n")


def row(task: str) -> str:
    """The row of one task."""
    import harness
    import tasks

    from spa.passes.layers.workers import one_thread_each
    from spa.passes.repair.network import prepare
    from spa.passes.repair.session import Session
    from spa.passes.samples.checking import check_samples
    from spa.pipeline import load_normal
    from spa.presets import PRESETS

    model = load_normal(harness.dense_model(tasks.TASKS[task], SHARED / "eval"))
    data = check_samples(tasks.calibration(task), model).first(PRESETS["default"].samples)
    network = prepare(model)
    session = Session.of(network, data, PRESETS["default"])
    problems = [session.problem(r.layer) for g in network.groups for r in network.readers[g.name]]
    batches = session.batches
    with one_thread_each():
        session.outputs(batches[:1])  # libraries are loaded by now
        plain = seconds(lambda: session.outputs(batches))
        collected = seconds(lambda: session.dense_statistics(problems))
    return f"| {task} | {len(data)} | {plain:.1f} | {collected:.1f} | {collected / plain:.2f} |"


def seconds(function: Callable[[], Any]) -> float:
    """Processor seconds, of threads and children as well."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    function()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
