"""Experts chosen by what is lost without each, by REAP and by how often they are chosen: a toy mixture of eight.

    python tests/benchmarks/experts.py [--table FILE.md]

The mixture of tests/repair/test_experts.py with random weights, as it is and with an outlier that is seldom chosen; a
fifth of its parameters goes, in whole experts. What is lost is the share of the variance of its outputs on other
samples, with the router's scores of those that are gone at minus infinity: nothing is refitted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.benchmarks.rows import commit  # noqa: E402
from tests.repair.test_experts import built, chosen, lost, routed, samples  # noqa: E402

COLUMNS = ("mixture", "way", "experts gone", "lost", "commit")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    print(" | ".join(COLUMNS), flush=True)
    rows = []
    for outlier in (False, True):
        for way, gone in ways(outlier=outlier).items():
            shown = ", ".join(map(str, sorted(gone)))
            name = "with an outlier, expert 3" if outlier else "as it is"
            rows.append([name, way, shown, f"{lost(gone, outlier=outlier):.3f}", commit()])
            print(" | ".join(rows[-1]), flush=True)
    if arguments.table:
        head = ["`python tests/benchmarks/experts.py`", "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
        arguments.table.write_text("\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n")


def ways(*, outlier: bool) -> dict[str, list[int]]:
    """The experts that go, by each way."""
    counts, saliency = routed(built(outlier=outlier).stored, samples(1))
    ours, _ = chosen(outlier=outlier)
    return {
        "spa": ours,
        "REAP": np.argsort(saliency)[: len(ours)].tolist(),
        "frequency": np.argsort(counts)[: len(ours)].tolist(),
    }


if __name__ == "__main__":
    main()
