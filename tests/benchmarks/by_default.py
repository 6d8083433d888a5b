"""The default, told nothing but the ratio, beside given samples and weights alone: tasks of ../shared/eval.

    python tests/benchmarks/by_default.py [TASK ...] [--methods default data weights] [--cuts 0.2 0.3 0.5]
                                          [--conventions none bytes unit channels] [--rows FILE] [--table FILE]

Every model loses a share of its FLOPs (minilm and smollm2: of the parameters of their layers), as in repair.py.  A row
is measured in a process of its own and notes its commit: the task's metric and fidelity on its test samples, the
seconds of the prune with its checks, and by how much the pruned file is faster than the dense one on one thread
(processor time, medians of runs by turns).  `said` is the relative L2 in the report, `true` the same on the task's
calibration samples, which the default has not seen: the worst output of each.

A convention puts a picture network behind a preprocessing, so that it takes bytes, 0 to 1, or other means and
deviations for each channel; it is told nothing, and measured as the network without it is.
With --rows a run that was stopped goes on where it was.

One file: a script, from a row to its table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.repair import CUTS, LAYERS_ONLY, distance, share_of_layers
from tests.benchmarks.rows import Rows, answer, commit
from tests.benchmarks.zoo import SHARED, find_tasks

METHODS = ("default", "data", "weights")
TIMEOUT = 1500
ROUNDS = 25
SEEN = 48
"""Calibration samples on which said distances are held against true ones."""

PICTURES = {  # task: mean and deviation by which its pictures were standardised, of bytes
    "fmnist_resnet": (73.0, 90.3),
    "fmnist_vit": (73.0, 90.3),
    "lite0": (127.0, 128.0),
    "ocr_rec": (127.5, 127.5),
}
CONVENTIONS = ("none", "bytes", "unit", "channels")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--cuts", nargs="*", type=float, default=CUTS)
    parser.add_argument("--conventions", nargs="*", default=["none"], choices=CONVENTIONS)
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so many")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    find_tasks()
    if arguments.one:
        print(json.dumps(one(*json.loads(arguments.one))))
        return
    start = time.monotonic()
    rows = Rows(arguments.rows, "task", "cut", "method", "convention")
    for task in arguments.tasks or at_hand():
        for convention in arguments.conventions:
            for cut in arguments.cuts:
                for method in arguments.methods:
                    row = {"task": task, "cut": cut, "method": method, "convention": convention}
                    apart = convention != "none" and task not in PICTURES
                    if row in rows or apart or time.monotonic() - start > arguments.seconds:
                        continue
                    print(json.dumps(rows.add(row | in_process(task, cut, method, convention))), flush=True)
    text = table(rows.all)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def at_hand() -> list[str]:
    """Tasks whose models are there."""
    import harness
    import tasks

    places = [SHARED / "eval" / "models", Path(harness.CACHE)]
    return [name for name, task in tasks.TASKS.items() if any((place / task.model).exists() for place in places)]


def in_process(*question: object) -> Row:
    """A row, or why there is none."""
    row, why = answer(__file__, ["--one", json.dumps(question)], timeout=TIMEOUT)
    return {"failed": why, "tree": commit()} if row is None else dict(row)


# ---------------------------------------------------------------------------------------------------- one row
def one(task: str, cut: float, method: str, convention: str) -> Row:
    """One model, pruned one way."""
    import harness
    import tasks

    from spa import pipeline

    dense = harness.dense_model(tasks.TASKS[task], SHARED / "eval")
    samples = tasks.calibration(task)
    options: Row = {"ratio": cut, "of": "flops"}
    if task in LAYERS_ONLY:
        options = {"ratio": cut * share_of_layers(dense), "of": "params"}
    options |= {"data": {"data": samples}, "weights": {"weights": True}}.get(method, {})
    with tempfile.TemporaryDirectory() as folder:
        source, within = dense, Path(folder) / "pruned.onnx"
        if convention != "none":
            source = Path(folder) / "behind.onnx"
            onnx.save(behind(onnx.load(dense), *scaling(task, convention), taken_back=False), source)
        start = time.perf_counter()
        result = pipeline.prune(source, **options)
        seconds = time.perf_counter() - start
        pruned = result.to_proto()
        if convention != "none":
            pruned = behind(pruned, *scaling(task, convention), taken_back=True)
        onnx.save(pruned, within)
        row = harness.evaluate(tasks.TASKS[task], within, reference=dense)
        metric, (fidelity, loss) = next(iter(row["metrics"])), next(iter(row["fidelity"].items()))
        return {
            "metric": metric, "dense": row["reference"]["metrics"][metric], "pruned": row["metrics"][metric],
            "paired_se": row["paired_se"], "fidelity": fidelity, "loss": loss, "seconds": round(seconds, 1),
            "faster": round(faster(dense, within, samples), 3) if convention == "none" else None,
            "repaired": bool(result.plan.repair), "note": next(iter(result.report.notes), ""),
            "said": max((off["relative_l2"] for off in result.report.outputs.values()), default=None),
            "said_on": result.report.outputs_on, "true": true_distance(dense, within, samples),
            "removed": {m: round(result.report.removed_share(m), 4) for m in ("params", "flops")}, "tree": commit(),
        }  # fmt: skip


def scaling(task: str, convention: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of the preprocessing in front, by which inputs are bytes, 0 to 1, or of channels apart."""
    mean, deviation = PICTURES[task]
    if convention == "bytes":
        return [mean], [deviation]
    if convention == "unit":
        return [mean / 255], [deviation / 255]
    gray = task.startswith("fmnist")
    return ([0.35], [0.4]) if gray else ([124.0, 116.0, 104.0], [58.4, 57.1, 57.4])


def behind(model: onnx.ModelProto, mean: list[float], deviation: list[float], *, taken_back: bool) -> onnx.ModelProto:
    """The model behind (x - mean) / deviation, as ../shared/cases/conventions.py puts it; or that taken back."""
    stored = {tensor.name for tensor in model.graph.initializer}
    entry = next(value for value in model.graph.input if value.name not in stored)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == entry.name:
                node.input[place] = f"entry_{taken_back}"
    for name, values in (("front_mean", mean), ("front_deviation", deviation)):
        array = np.array(values, np.float32)
        array = array.reshape(()) if array.size == 1 else array.reshape(-1, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(array, f"{name}_{taken_back}"))
    names = [f"front_mean_{taken_back}", f"front_deviation_{taken_back}"]
    first, second = ("Mul", "Add") if taken_back else ("Sub", "Div")
    front = [
        helper.make_node(first, [entry.name, names[taken_back]], [f"scaled_{taken_back}"]),
        helper.make_node(second, [f"scaled_{taken_back}", names[not taken_back]], [f"entry_{taken_back}"]),
    ]
    for at, node in enumerate(front):
        model.graph.node.insert(at, node)
    return model


def faster(dense: Path, pruned: Path, samples: dict[str, np.ndarray]) -> float:
    """Processor time of the dense file over that of the pruned one, of one sample on one thread, by turns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in (dense, pruned)
    ]
    feed = {name: np.ascontiguousarray(array[:1]) for name, array in samples.items()}
    taken: list[list[float]] = [[], []]
    for turn in range(ROUNDS + 3):
        for number in (0, 1) if turn % 2 else (1, 0):
            start = time.process_time()
            sessions[number].run(None, feed)
            taken[number].append(time.process_time() - start)
    return statistics.median(left / max(right, 1e-9) for left, right in zip(taken[0][3:], taken[1][3:], strict=True))


def true_distance(dense: Path, pruned: Path, samples: dict[str, np.ndarray]) -> float | None:
    """The relative L2 of the worst output on real inputs, as reports define it."""
    from spa import runtime
    from spa.passes.repair.difference import output_difference

    some = {name: array[:SEEN] for name, array in samples.items()}
    feeds = [{name: array[at : at + 8] for name, array in some.items()} for at in range(0, SEEN, 8)]
    feeds = [feed for feed in feeds if all(len(array) for array in feed.values())]
    before, after = (
        [runtime.run(runtime.session(onnx.load(path), optimize=True), feed) for feed in feeds]
        for path in (dense, pruned)
    )
    distances = (
        output_difference([run[name] for run in before], [run[name] for run in after])["relative_l2"]
        for name in before[0]
        if before[0][name].dtype.kind == "f"
    )
    return max(distances, default=None)


# ---------------------------------------------------------------------------------------------------- printing
def table(rows: list[Row]) -> str:
    """Each task and cut, and what sums them up."""
    groups: dict[tuple[str, float, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        groups[row["task"], row["cut"], row["convention"]][row["method"]] = row
    lines = [
        "| task (metric, dense; fidelity) | cut | default | | said / true | `--data` | | `--weights` | | commit |",
        "|---|--:|---|--:|---|---|--:|---|--:|---|",
    ]
    for (task, cut, convention), runs in sorted(groups.items()):
        some = next((row for row in runs.values() if "metric" in row), None)
        label = f"{task} ({some['metric']} {some['dense']:.4g}; {some['fidelity']})" if some else task
        behind_what = "" if convention == "none" else f", {convention}"
        mine = runs.get("default", {})
        told = f"{mine['said']:.2g} / {mine['true']:.2g}" if mine.get("said") and mine.get("true") else ""
        cells = [cell(runs.get(method)) for method in METHODS]
        speeds = [speed(runs.get(method)) for method in METHODS]
        commits = ", ".join(sorted({row["tree"] for row in runs.values() if "tree" in row}))
        lines.append(
            f"| {label}{behind_what} | {cut:.0%} | {cells[0]} | {speeds[0]} | {told} | {cells[1]} | {speeds[1]} | "
            f"{cells[2]} | {speeds[2]} | {commits} |"
        )
    head = (
        "`python tests/benchmarks/by_default.py --rows tests/benchmarks/by_default.jsonl --table "
        "tests/benchmarks/by_default.md`, a share of the FLOPs (minilm, smollm2: of the parameters of the layers). "
        "Each cell: metric; fidelity loss; seconds of the prune with its checks; how much faster the file is on one "
        "thread.\n\n"
    )
    return head + "\n".join(lines) + "\n\n" + summary(groups)


def cell(row: Row | None) -> str:
    """Metric, fidelity loss and seconds."""
    if row is None:
        return ""
    if "failed" in row:
        return str(row["failed"]).replace("|", "/")
    by = "" if row["method"] != "default" or row["repaired"] else ", by weights"
    return f"{row['pruned']:.4g}; {distance(row):.3g}; {row['seconds']:.0f} s{by}"


def speed(row: Row | None) -> str:
    """By how much it is faster."""
    return f"x{row['faster']:.2f}" if row is not None and row.get("faster") else ""


def mean(ratios: list[float]) -> str:
    """A geometric mean, and of how many."""
    return f"{float(np.exp(np.mean(np.log(ratios)))):.2f} (geometric mean of {len(ratios)}; {max(ratios):.2f} at most)"


def summary(groups: dict[tuple[str, float, str], dict[str, Row]]) -> str:
    """What the default loses beside the others, and beside itself in other conventions."""
    lines = []
    plain = {at[:2]: runs for at, runs in groups.items() if at[2] == "none"}
    for method in ("data", "weights"):
        pairs = [(f["default"], f[method]) for f in plain.values() if "default" in f and method in f]
        ratios = [distance(a) / distance(b) for a, b in pairs if "loss" in a and "loss" in b]
        if ratios:
            lines.append(f"- fidelity loss of the default over that of `--{method}`: {mean(ratios)}")
    known = [json.loads(line) for line in (Path(__file__).parent / "repair.jsonl").read_text().splitlines()]
    before = {(row["task"], row["cut"], row["method"]): row for row in known if "loss" in row}
    for method, name in (("spa", "given samples"), ("spa, data-free", "made-up samples as they were")):
        ratios = [
            distance(runs["default"]) / distance(before[*at, method])
            for at, runs in plain.items()
            if "loss" in runs.get("default", {}) and (*at, method) in before
        ]
        if ratios:
            lines.append(f"- over that of {name}, rows of repair.jsonl, at their commits: {mean(ratios)}")
    behind_one = [
        distance(runs["default"]) / distance(plain[at[:2]]["default"])
        for at, runs in groups.items()
        if at[2] != "none" and "loss" in runs.get("default", {}) and "loss" in plain.get(at[:2], {}).get("default", {})
    ]
    if behind_one:
        lines.append(f"- fidelity loss behind a preprocessing over that without: {mean(behind_one)}")
    mine = [runs["default"] for runs in groups.values() if "said" in runs.get("default", {})]
    told = [row["said"] / row["true"] for row in mine if row["said"] and row["true"] and row["repaired"]]
    if told:
        under = sum(ratio < 0.5 for ratio in told)
        lines.append(
            f"- said over true distance: {min(told):.2f} to {max(told):.2f}; below a half in {under} of {len(told)}"
        )
    slow = [row for row in mine if row.get("faster") and row["faster"] < 1.0]
    lines.append(f"- {len(slow)} of {len(mine)} rows of the default are slower than the dense model")
    lines += [f"- of {len(mine)} rows of the default, {sum(not row['repaired'] for row in mine)} fell back to weights"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
