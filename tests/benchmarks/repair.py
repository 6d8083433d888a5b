"""Pruning without fine-tuning, on real pretrained models: ours, without data, and published ways beside it.

    python tests/benchmarks/repair.py [TASK ...] [--methods spa ...] [--cuts 0.2 0.3 0.5] [--rows FILE] [--table FILE]
                                       [--jobs 2]

Every model loses a share of its FLOPs (language models: of the parameters of their layers, embeddings not counted)
and is measured on the task's test samples beside the dense model: the task's metric, its fidelity measure, and the
seconds that pruning took.  All methods see the same calibration samples, which carry no labels and are no test
samples; `l2` sees none, `spa, data-free` makes its own, of their shapes,
`spa, default` is told nothing but the ratio.  Each run is a process of its own, and notes
the commit that it ran on.  With --rows a run that was stopped goes on where it was.  --jobs 2 runs two cells side by
side: sooner done, but their seconds are those of a shared machine, and the table marks them.  The tasks are looked for
in ../shared/eval beside the project; `SPA_SHARED` names another place for ../shared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks.rows import Rows, answer, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402

METHODS = ("l2", "l2+refit", "flap", "obspa", "spa", "spa, data-free")
DEFAULT = "spa, default"
"""Measured where it is asked for."""
CUTS = (0.2, 0.3, 0.5)
LAYERS_ONLY = ("minilm_sim", "minilm_probe", "smollm2", "gemma3")
"""Tasks whose cut is a share of the parameters of the layers: embeddings are most of these models."""
TWINS = {"minilm_probe": "minilm_sim"}
"""Tasks of one model: it is pruned once."""
EXTRA = {"fmnist_resnet": (0.7,), "crepe_full": (0.7,)}
OF_PARAMETERS = (("crepe_full", 0.7),)
"""Cuts of all parameters instead of FLOPs."""
TIMEOUT = 3600


def main(known: Sequence[str] = ()) -> None:
    """The command line.

    Args:
        known: the tasks where none is named; all of the suite by default.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--cuts", nargs="*", type=float)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    find_tasks()
    if arguments.one:
        print(json.dumps(one(*json.loads(arguments.one))))
        return
    import tasks

    rows = Rows(arguments.rows, "task", "cut", "method")
    cells = [
        (task, cut, method)
        for task in arguments.tasks or known or [name for name in tasks.TASKS if name not in TWINS]
        for cut in arguments.cuts or cuts_of(task)
        for method in arguments.methods
        if {"task": task, "cut": cut, "method": method} not in rows
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running = [pool.submit(in_process, *cell, arguments.preset, arguments.jobs) for cell in cells]
        for one_more in as_completed(running):
            for row in one_more.result():
                print(json.dumps(rows.add(row)), flush=True)
    text = table(rows.all)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def in_process(task: str, cut: float, method: str, preset: str, jobs: int) -> list[dict]:
    """The rows of one cut, or one that says why there are none."""
    rows, why = answer(sys.argv[0], ["--one", json.dumps([task, cut, method, preset])], timeout=TIMEOUT)
    if rows is None:
        return [{"task": task, "cut": cut, "method": method, "failed": why}]
    return [{**row, "jobs": jobs} for row in rows]


def one(task: str, cut: float, method: str, preset: str) -> list[dict]:
    """The rows of one pruned model: one for each task that it does."""
    import harness
    import tasks

    from spa import pipeline

    dense = harness.dense_model(tasks.TASKS[task], SHARED / "eval")
    of, ratio = ("params" if (task, cut) in OF_PARAMETERS else "flops"), cut
    if task in LAYERS_ONLY:
        of, ratio = "params", cut * share_of_layers(dense)
    options: dict = {"ratio": ratio, "of": of, "preset": preset}
    if method == "spa, data-free":
        shapes = {name: (1, *array.shape[1:]) for name, array in tasks.calibration(task).items()}
        options |= {"data_free": True, "inputs": shapes}
    elif method == "l2":
        options = {"ratio": ratio, "of": of, "weights": True}
    elif method != DEFAULT:
        options |= {"data": tasks.calibration(task), "criterion": method}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = pipeline.prune(dense, verify=False, **options)
        seconds = time.perf_counter() - start
        pruned = Path(folder) / "pruned.onnx"
        result.save(pruned)
        rows = []
        for name in (task, *(twin for twin, first in TWINS.items() if first == task)):
            row = harness.evaluate(tasks.TASKS[name], pruned, reference=dense)
            metric = next(iter(row["metrics"]))
            fidelity, value = next(iter(row["fidelity"].items()))
            rows.append({
                "task": name, "cut": cut, "method": method, "seconds": round(seconds, 1), "metric": metric,
                "dense": row["reference"]["metrics"][metric], "pruned": row["metrics"][metric],
                "paired_se": row["paired_se"], "fidelity": fidelity, "loss": value,
                "tree": commit(), "steps": result.report.seconds,
                "removed": {m: round(result.report.removed_share(m), 4) for m in ("params", "flops")},
            })  # fmt: skip
    return rows


def share_of_layers(path: Path) -> float:
    """The share of a model's parameters that some group can reach."""
    from spa import pipeline

    analysis = pipeline.analyse(pipeline.load_normal(path))
    tensors = {piece.value.const_value for group in analysis.groups if group.off is None for piece in group.slices}
    return sum(tensor.size for tensor in tensors if tensor is not None) / analysis.cost.of("params")


# -------------------------------------------------------------------------------------------------- printing
def distance(row: dict) -> float:
    """The fidelity loss: KL and relative L2 as they are, one less the cosine."""
    return max(1.0 - row["loss"] if row["fidelity"] == "cosine" else row["loss"], 1e-9)


def table(rows: list[dict]) -> str:
    methods = [method for method in (*METHODS, DEFAULT) if any(row["method"] == method for row in rows)]
    cells: dict[tuple[str, float], dict[str, dict]] = defaultdict(dict)
    for row in rows:
        cells[row["task"], row["cut"]][row["method"]] = row
    lines = [f"| task | cut | {' | '.join(methods)} |", "|---|--:|" + "---|" * len(methods)]
    for (task, cut), runs in sorted(cells.items()):
        dense = next((row for row in runs.values() if "dense" in row), None)
        label = f"{task} ({dense['metric']} {dense['dense']:.4g}; {dense['fidelity']})" if dense else task
        share = f"{cut:.0%} of params" if task in LAYERS_ONLY or (task, cut) in OF_PARAMETERS else f"{cut:.0%}"
        lines.append(f"| {label} | {share} | {' | '.join(cell(runs.get(method)) for method in methods)} |")
    return f"{said(cells)}\n\n" + "\n".join(lines) + "\n\n" + summary(cells)


def said(cells: dict[tuple[str, float], dict[str, dict]]) -> str:
    """The command, how much of what it measures is there, and the commits that rows are of."""
    tasks = {task for task, _ in cells}
    planned = sum(len(cuts_of(task)) for task in tasks) * len(METHODS)
    trees = Counter(row.get("tree", "unknown") for runs in cells.values() for row in runs.values())
    commits = ", ".join(f"{name} ({cells_of})" for name, cells_of in trees.most_common())
    return (
        "`python tests/benchmarks/repair.py --rows tests/benchmarks/repair.jsonl --table tests/benchmarks/repair.md` "
        f"goes on where it was stopped. {trees.total()} of {planned} cells were run; what is empty or not listed was "
        f"not. Commits (cells): {commits}."
    )


def cuts_of(task: str) -> list[float]:
    """The shares that a task's model is cut by."""
    return sorted({*CUTS, *EXTRA.get(task, ())})


def cell(row: dict | None) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return row["failed"].replace("|", "/")
    shared = "*" if row.get("jobs", 1) > 1 else ""
    return f"{row['pruned']:.4g}; {row['loss']:.3g}; {row['seconds']:.0f} s{shared}"


def summary(cells: dict[tuple[str, float], dict[str, dict]]) -> str:
    """The fidelity loss of ours over that of each other method, as geometric means."""
    shared = any(row.get("jobs", 1) > 1 for runs in cells.values() for row in runs.values())
    beside = " (*: beside another cell)" if shared else ""
    lines = [f"Each cell: the metric, the fidelity measure, and the seconds that pruning took{beside}.", ""]
    for method in METHODS:
        pairs = [(runs["spa"], runs[method]) for runs in cells.values() if "spa" in runs and method in runs]
        ratios = [distance(a) / distance(b) for a, b in pairs if "loss" in a and "loss" in b]
        if ratios and method != "spa":
            mean = float(np.exp(np.mean(np.log(ratios))))
            lines.append(f"- fidelity loss of spa over that of {method}: {mean:.2f} (geometric mean of {len(ratios)})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
