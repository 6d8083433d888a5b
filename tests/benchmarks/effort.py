"""How well the time of a repair is foretold: expected and measured seconds of models, and of each step.

    python tests/benchmarks/effort.py [MODEL.onnx | TASK ...] [--cut 0.3] [--table FILE]

A model is a file or a task of ../shared/eval; without any, all tasks whose models are there.  Each is repaired with
samples of the tool's own, in a process of its own, alone on the machine; seconds are from the samples on, as what is
printed before a repair is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.rows import commit
from tests.benchmarks.zoo import SHARED, find_tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--cut", type=float, default=0.3)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one, arguments.cut)))
        return
    rows = []
    for name in arguments.models or tasks_at_hand():
        command = [sys.executable, __file__, "--one", str(path_of(name)), "--cut", str(arguments.cut)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            print(f"{name}: {(ran.stderr.strip().splitlines() or ['no output'])[-1]}", flush=True)
            continue
        rows.append({"model": Path(name).stem, **json.loads(ran.stdout.strip().splitlines()[-1])})
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def path_of(name: str) -> Path:
    """The file of a model."""
    if Path(name).exists():
        return Path(name)
    find_tasks()
    import harness
    import tasks

    return Path(harness.dense_model(tasks.TASKS[name], SHARED / "eval"))


def tasks_at_hand() -> list[str]:
    """Tasks of ../shared/eval whose models are there, each model once."""
    find_tasks()
    import harness
    import tasks

    places = [SHARED / "eval" / "models", Path(harness.CACHE)]
    by_model = {
        task.model: name for name, task in tasks.TASKS.items() if any((p / task.model).exists() for p in places)
    }
    return list(by_model.values())


def measured(path: Path, cut: float) -> dict[str, object]:
    """Expected and measured seconds of one model."""
    from spa import pipeline
    from spa.passes.samples.datafree import MOST_SAMPLES, Recipe
    from spa.passes.samples.effort import effort
    from spa.passes.samples.values import SHIPPED
    from spa.presets import PRESETS

    preset = PRESETS["default"]
    dense = pipeline.load_normal(path)
    start = time.perf_counter()
    recipe = Recipe.of(dense)
    samples = recipe.samples(SHIPPED, most=MOST_SAMPLES, widest=preset.widest)
    made = time.perf_counter() - start
    parts = effort(recipe, samples, widest=preset.widest, probes=preset.probes, probe_flops=preset.probe_flops)
    start = time.perf_counter()
    result = pipeline.prune(dense, ratio=cut, data="builtin", verify=False)
    seconds = time.perf_counter() - start
    steps = {name: round(value, 1) for name, value in result.report.seconds.items() if value >= 0.05}
    rest = sum(result.report.seconds.get(name, 0.0) for name in ("normalise", "samples", "slice", "couple"))
    return {
        "expected": round(sum(parts.values()), 1), "repair": round(seconds - rest, 1), "whole": round(seconds, 1),
        "samples": len(samples), "making": round(made, 1), "parts": {k: round(v, 1) for k, v in parts.items()},
        "steps": steps, "params": result.report.before["params"], "tree": commit(),
    }  # fmt: skip


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "`python tests/benchmarks/effort.py`: seconds of a repair with samples of our own, as foretold and measured.\n",
        "| model | parameters | samples | expected | measured | expected / measured | whole prune | commit |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        ratio = float(str(row["expected"])) / max(float(str(row["repair"])), 1e-3)
        lines.append(
            f"| {row['model']} | {float(str(row['params'])) / 1e6:.2f} M | {row['samples']} | {row['expected']} | "
            f"{row['repair']} | {ratio:.2f} | {row['whole']} | {row['tree']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
