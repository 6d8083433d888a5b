"""Experts chosen by what is lost without each, by REAP and by how often they are chosen, in two mixtures of eight.

    python tests/benchmarks/experts.py [--steps N] [--table FILE.md]          needs torch for the trained one

The trained one is the language model of models/mixture.py, whose expert 3 is planted: seldom chosen, extreme outputs. A
quarter of its experts goes; what counts is the loss on fresh texts, in nats a token. `no repair` cuts by the same plan
and refits nothing. The other is the mixture of tests/repair/test_experts.py with random weights, as it is and with an
outlier; a fifth of its parameters goes, in whole experts, and what is lost is the share of the variance of its outputs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import spa  # noqa: E402
from models import mixture  # noqa: E402
from spa import runtime  # noqa: E402
from tests.benchmarks.rows import commit  # noqa: E402
from tests.repair.test_experts import built, chosen, lost, routed, samples  # noqa: E402

COLUMNS = ("mixture", "way", "experts gone", "planted one", "loss", "rise", "commit")
WAYS: dict[str, dict[str, Any]] = {
    "spa": {},
    "REAP": {"criterion": "reap"},
    "REAP, outliers protected": {"criterion": "reap", "protect": "outliers"},
    "frequency": {"criterion": "frequency"},
    "frequency, outliers protected": {"criterion": "frequency", "protect": "outliers"},
    "l2": {"weights": True},
}
SHARE = 0.25
EXPERTS: dict[str, Any] = {"only": "experts", "include": "experts", "of": "channels", "align": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=mixture.STEPS)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    print(" | ".join(COLUMNS), flush=True)
    rows = []
    for row in (*of_trained(arguments.steps), *of_random()):
        rows.append([*row, commit()])
        print(" | ".join(rows[-1]), flush=True)
    if arguments.table:
        head = ["`python tests/benchmarks/experts.py`", "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
        arguments.table.write_text("\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n")


# ------------------------------------------------------------------------------------------------- the trained one
def of_trained(steps: int) -> Iterator[list[str]]:
    """A row for each way to choose, and for the plan of ours without repair."""
    dense = mixture.exported(mixture.trained(steps=steps))
    data, fresh = {"ids": mixture.texts(1024, 7)[:, :-1]}, mixture.texts(1024, 8)
    before = loss_of(ir.from_proto(dense), fresh)
    yield ["trained", "dense", "", "", f"{before:.4f}", ""]
    for way, options in WAYS.items():
        given: dict[str, Any] = {} if options.get("weights") else {"data": data}
        result = spa.prune(dense, ratio=SHARE, **EXPERTS, **given, **options)
        (gone,) = result.plan.removed.values()
        yield trained_row(way, gone, loss_of(result.model, fresh), before)
        if way == "spa":
            yield trained_row("spa, no repair", gone, loss_of(spa.apply_plan(dense, result.plan).model, fresh), before)


def trained_row(way: str, gone: tuple[int, ...], loss: float, before: float) -> list[str]:
    kept = "lost" if mixture.OUTLIER in gone else "kept"
    return ["trained", way, ", ".join(map(str, gone)), kept, f"{loss:.4f}", f"{loss / before - 1:+.1%}"]


def loss_of(model: ir.Model, ids: np.ndarray) -> float:
    session = runtime.session(model, optimize=True)
    logits = [runtime.run(session, {"ids": part[:, :-1]})["logits"] for part in np.split(ids, 8)]
    return mixture.loss(np.concatenate(logits), ids)


# -------------------------------------------------------------------------------------------------- the random one
def of_random() -> Iterator[list[str]]:
    """A row for each way, without and with an outlier."""
    for outlier in (False, True):
        for way, gone in ways(outlier=outlier).items():
            kept = ("lost" if 3 in gone else "kept") if outlier else ""
            name = "random, with an outlier" if outlier else "random"
            share = f"{lost(gone, outlier=outlier):.3f}"
            yield [name, way, ", ".join(map(str, sorted(gone))), kept, share, ""]


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
