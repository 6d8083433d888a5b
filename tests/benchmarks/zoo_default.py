"""The zoo with no option but the ratio: what is repaired, what falls back to weights and why, what is refused.

    python tests/benchmarks/zoo_default.py [PATTERN ...] [--every 10] [--largest 30] [--rows FILE] [--table FILE]

Graphs of ../shared/graphs are filled with seeded weights and cut by default, in a process of its own each, within a
time; with `--weights` too where that failed. --every takes each so many-th graph by name, --largest leaves out those
of more million parameters. A row says `repaired`, `by weights`, or what the error is.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import zoo
from tests.benchmarks.rows import Rows, answer, commit

Row = dict[str, Any]
TIMEOUT = 1500  # seconds; a repair of more than 600 by its own estimate is left to the weights, and machines are shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--largest", type=float, default=float("inf"), help="million parameters")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no graph after so many")
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*json.loads(arguments.one))))
        return
    if not (zoo.SHARED / "graphs" / "manifest.json").exists():
        sys.exit(f"no zoo at {zoo.SHARED.name}/graphs: set SPA_SHARED to the folder that holds graphs/ and tools/")
    start = time.monotonic()
    rows = Rows(arguments.rows, "graph")
    names = [name for name in sorted(zoo.manifest()) if any(fnmatch.fnmatch(name, p) for p in arguments.patterns)]
    small = [name for name in names[:: arguments.every] if zoo.manifest()[name]["params"] <= 1e6 * arguments.largest]
    for name in small:
        if {"graph": name} in rows or time.monotonic() - start > arguments.seconds:
            continue
        row = {"graph": name, "tree": commit()} | in_process(name, arguments.ratio)
        print(json.dumps(rows.add(row)), flush=True)
    text = table(rows.all, len(small), arguments)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def in_process(name: str, ratio: float) -> Row:
    """The row of a graph, pruned by default; by weights besides where there is no result."""
    row = attempt(name, ratio, False)
    if row["status"] not in ("repaired", "by weights"):
        row["with --weights"] = attempt(name, ratio, True)["status"]
    return row


def attempt(name: str, ratio: float, weights: bool) -> Row:
    row, why = answer(__file__, ["--one", json.dumps([name, ratio, weights])], timeout=TIMEOUT)
    if row is None:
        return {"status": why} if why.startswith("no result") else {"status": "crash", "why": why}
    return dict(row)


def one(name: str, ratio: float, weights: bool) -> Row:
    """One graph, pruned with its checks."""
    from spa import pipeline
    from spa.errors import SpaError

    inputs = {k: v["run_shape"] for k, v in zoo.manifest()[name]["inputs"].items() if v.get("run_shape") is not None}
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        zoo.fill(str(zoo.SHARED / "graphs" / name), str(dense))
        start = time.perf_counter()
        try:
            result = pipeline.prune(dense, ratio=ratio, inputs=inputs, weights=weights)
        except SpaError as error:
            return {"status": type(error).__name__, "why": str(error)[:200]}
        seconds = time.perf_counter() - start
        result.save(Path(folder) / "pruned.onnx")
    notes = [note for note in result.report.notes if note.startswith("weights alone decided")]
    status = "repaired" if result.plan.repair else "by weights"
    return {
        "status": status, "seconds": round(seconds, 1), "verified": bool(result.report.verified),
        "why": notes[0].removeprefix("weights alone decided: ")[:160] if notes else "",
    }  # fmt: skip


def table(rows: list[Row], wanted: int, arguments: argparse.Namespace) -> str:
    statuses = Counter(row["status"] for row in rows)
    seconds = sorted(row["seconds"] for row in rows if "seconds" in row)
    wrong = [row for row in rows if "seconds" not in row]
    refused = [row for row in wrong if row.get("with --weights") == "by weights"]
    middle, most = (seconds[len(seconds) // 2], seconds[-1]) if seconds else (0, 0)
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    verified = sum(bool(row.get("verified")) for row in rows)
    lines = [
        (
            f"`python tests/benchmarks/zoo_default.py --every {arguments.every} --largest {arguments.largest:g}`, "
            f"{arguments.ratio:.0%} of the parameters: {len(rows)} of {wanted} graphs were run."
        ),
        "",
        (
            f"{told}; {verified} verified; {len(refused)} without a result that `--weights` writes. "
            f"Seconds: median {middle}, at most {most}."
        ),
        "",
        "| graph | status | seconds | why | with --weights | commit |",
        "|---|---|--:|---|---|---|",
    ]
    for row in rows:
        why = str(row.get("why", "")).replace("|", "/").replace("\n", " ")
        cells = [row["graph"], row["status"], row.get("seconds", ""), why, row.get("with --weights", ""), row["tree"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
