"""What the pruner would remove from every graph of the zoo, as digests: a change of structure must change none.

    python tests/benchmarks/plans.py BEFORE.jsonl [PATTERN ...] [--jobs 2]
    python tests/benchmarks/plans.py AFTER.jsonl --against BEFORE.jsonl

A row holds the digest of the plan for 30 % of the parameters and for half of every group, or the error in their place.
With `--against`, the graphs whose rows differ are listed, and the exit status is 1 where there are any.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import multiprocessing
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks import zoo  # noqa: E402

BUDGETS = {"params": 0.3, "channels": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--against", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    names = [name for name in sorted(zoo.manifest()) if any(fnmatch.fnmatch(name, p) for p in arguments.patterns)]
    with multiprocessing.get_context("fork").Pool(arguments.jobs, maxtasksperchild=8) as pool:
        rows = dict(zip(names, pool.map(digests, names, chunksize=1), strict=True))
    arguments.rows.write_text("".join(json.dumps({"graph": name, **row}) + "\n" for name, row in rows.items()))
    print(f"{len(rows)} graphs written to {arguments.rows}")
    if arguments.against is not None:
        sys.exit(compare(rows, arguments.against))


def compare(rows: dict[str, dict[str, str]], against: Path) -> int:
    """Print what differs from an earlier file; 1 where anything does."""
    before = {row.pop("graph"): row for row in map(json.loads, against.read_text().splitlines())}
    changed = [name for name, row in rows.items() if before.get(name, row) != row]
    for name in changed:
        print(f"{name}: {before[name]} -> {rows[name]}")
    print(f"{len(changed)} of {len(rows)} graphs have other plans than in {against}")
    return 1 if changed else 0


def digests(name: str) -> dict[str, str]:
    """The digest of a graph's plan by budget, or the error."""
    sys.path.append(str(zoo.SHARED / "tools"))
    return {of: digest(name, of, ratio) for of, ratio in BUDGETS.items()}


def digest(name: str, of: str, ratio: float) -> str:
    """Twelve hexadecimal digits of the plan's SHA-256."""
    from spa import pipeline
    from spa.errors import SpaError

    model = zoo.filled(zoo.SHARED / "graphs" / name)
    entry = zoo.manifest()[name]
    inputs = {key: value["run_shape"] for key, value in entry["inputs"].items() if value.get("run_shape") is not None}
    prune = partial(pipeline.prune, ratio=ratio, of=of, inputs=inputs, verify=False, dry_run=True, weights=True)
    try:
        plan = prune(model).plan
    except SpaError as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return hashlib.sha256(replace(plan, options={}).to_json().encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
