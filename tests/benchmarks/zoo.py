"""Every graph of the zoo through the whole pruner, checked by an oracle that knows neither operators nor plans.

    python tests/benchmarks/zoo.py [PATTERN ...] [--ratio 0.5] [--of channels] [--table FILE.md] [--jobs 1]

Each graph is filled with seeded weights, normalised, pruned and compared in a process of its own (time and
peak memory are its own too).  A row: nodes, groups, units, share of parameters and FLOPs removed, seconds
of each step, peak memory relative to the model file, the oracle's largest relative difference, our own
verification's, whether symbolic axes are still symbolic, and what stayed frozen, by share of parameters.
The graphs and the oracle are looked for in ../shared beside the project; `SPA_SHARED` names another place.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SHARED = Path(os.environ.get("SPA_SHARED", Path(__file__).parents[3] / "shared"))
TIMEOUT = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--of", default="channels")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--rows", type=Path, help="write the rows as JSON lines")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.ratio, arguments.of)))
        return
    if not (SHARED / "graphs" / "manifest.json").exists():
        sys.exit(f"no zoo at {SHARED.name}/graphs: set SPA_SHARED to the folder that holds graphs/ and tools/")
    names = sorted(json.loads((SHARED / "graphs" / "manifest.json").read_text()))
    chosen = [n for n in names if any(fnmatch.fnmatch(n, p) or n.startswith(p) for p in arguments.patterns)]
    rows = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(lambda name: in_process(name, arguments), chosen):
            rows.append(row)
            print(line(row), flush=True)
            if arguments.rows:
                arguments.rows.write_text("".join(json.dumps(r) + "\n" for r in rows))
    print(summary(rows))
    if arguments.table:
        arguments.table.write_text(table(rows, arguments))


def in_process(name: str, arguments: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--one", name, "--ratio", str(arguments.ratio), "--of", arguments.of]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"graph": name, "status": f"no result in {TIMEOUT} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"graph": name, "status": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return json.loads(lines[-1])


def one(name: str, ratio: float, of: str) -> dict:
    """The row of one graph."""
    from spa import pipeline
    from spa.errors import SpaError
    from spa.frontends import onnx_file

    entry = json.loads((SHARED / "graphs" / "manifest.json").read_text())[name]
    row: dict = {"graph": name, "params": entry["params"]}
    with tempfile.TemporaryDirectory() as folder:
        dense, normal, pruned = (Path(folder) / f"{part}.onnx" for part in ("dense", "normal", "pruned"))
        fill = [
            sys.executable,
            str(SHARED / "tools" / "skeleton.py"),
            "fill",
            str(SHARED / "graphs" / name),
            str(dense),
        ]
        subprocess.run(fill, check=True, capture_output=True)  # elsewhere: the peak below is the pruner's own
        inputs = {k: v["run_shape"] for k, v in entry["inputs"].items() if v.get("run_shape") is not None}
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        try:
            result = pipeline.prune(dense, ratio=ratio, of=of, inputs=inputs, verify=False)
            row["peak"] = round(
                (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024 / dense.stat().st_size, 2
            )
            report = result.report
            onnx_file.save(result.dense, normal)
            result.save(pruned)
            row["seconds"] = round(time.perf_counter() - start, 2)
            pipeline.verify_plan(result.dense, result.model, result.plan, report, inputs=inputs)
        except SpaError as error:
            return row | {"status": f"{type(error).__name__}: {error}"[:300]}
        row |= facts(result, report) | {"oracle": oracle(normal, pruned, entry)}
    return row


def facts(result, report) -> dict:
    """What a row says of a model that was pruned."""
    kinds: dict[str, list[int]] = {}
    for group in report.groups:
        found = kinds.setdefault(group.kind, [0, 0])
        found[0] += group.removed
        found[1] += group.units
    return {
        "status": "ok",
        "nodes": len(result.dense.graph),
        "groups": sum(group.off is None for group in report.groups),
        "units": sum(group.units for group in report.groups if group.off is None),
        "removed_params": round(report.removed_share("params"), 4),
        "removed_flops": round(report.removed_share("flops"), 4),
        "step_seconds": {step: round(seconds, 3) for step, seconds in report.seconds.items()},
        "difference": report.difference,
        "exact": report.exact,
        "notes": report.notes,
        "kinds": kinds,  # removed and all
        "frozen": [[share.reason, round(share.share, 4)] for share in report.frozen[:4]],
        "symbolic": symbolic(result.dense, result.model),
    }


def symbolic(dense, pruned) -> bool:
    """Whether inputs and outputs kept their axes, symbolic ones included."""
    return all(
        [str(v.shape) for v in side(dense)] == [str(v.shape) for v in side(pruned)]
        for side in (lambda m: m.graph.inputs, lambda m: m.graph.outputs)
    )


def oracle(dense: Path, pruned: Path, entry: dict) -> float | str:
    """The oracle's last word: the largest relative difference, or why it cannot tell."""
    command = [sys.executable, str(SHARED / "tools" / "subnetwork_check.py"), str(dense), str(pruned)]
    for name, facts in entry["inputs"].items():
        if facts.get("run_shape") is not None:
            command += ["--set", f"{name}={','.join(map(str, facts['run_shape']))}"]
        if facts.get("values"):
            command += ["--feed", f"{name}={facts['values']}"]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"])[-1]
    found = re.search(r"difference (\S+)$", last)
    return float(found[1]) if found else last[:160]


# ------------------------------------------------------------------------------------------------- printing
COLUMNS = (
    "graph",
    "nodes",
    "groups",
    "units",
    "params",
    "flops",
    "seconds",
    "peak",
    "oracle",
    "own check",
    "symbolic",
    "stays",
)


def cells(row: dict) -> list[str]:
    if row.get("status") != "ok":
        return [row["graph"], *[""] * (len(COLUMNS) - 2), row["status"]]
    stays = "; ".join(f"{share:.0%} {reason}" for reason, share in row["frozen"] if share >= 0.01)
    shown = row["oracle"] if isinstance(row["oracle"], str) else f"{row['oracle']:.0e}"
    own = "-" if row["difference"] is None else f"{row['difference']:.0e}"
    numbers = [row["nodes"], row["groups"], row["units"], f"{row['removed_params']:.1%}", f"{row['removed_flops']:.1%}"]
    return [
        row["graph"],
        *map(str, numbers),
        str(row["seconds"]),
        str(row["peak"]),
        shown,
        own,
        "yes" if row["symbolic"] else "NO",
        stays,
    ]


def line(row: dict) -> str:
    return " | ".join(cells(row))


def summary(rows: list[dict]) -> str:
    good = [r for r in rows if r.get("status") == "ok"]
    exact = [r for r in good if isinstance(r["oracle"], float) and r["oracle"] <= 1e-3]
    own = [r for r in good if r["difference"] is not None and r["difference"] <= 1e-3]
    removed = sorted(r["removed_params"] for r in good)
    median = removed[len(removed) // 2] if removed else 0
    return (
        f"{len(rows)} graphs: {len(good)} pruned and valid, {len(exact)} exact by the oracle, "
        f"{len(own)} by our own check; "
        f"median of parameters removed {median:.1%}"
    )


def table(rows: list[dict], arguments: argparse.Namespace) -> str:
    command = (
        f"python tests/benchmarks/zoo.py {' '.join(arguments.patterns)} --ratio {arguments.ratio} --of {arguments.of}"
    )
    head = f"`{command}`\n\n{summary(rows)}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    return head + "".join("| " + " | ".join(cell.replace("|", "/") for cell in cells(row)) + " |\n" for row in rows)


if __name__ == "__main__":
    main()
