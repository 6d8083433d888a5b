"""Does the default do harm? Small networks of features, tables and tokens, cut by default and by weights alone.

    python tests/benchmarks/small.py [NAME ...] [--seeds 0 1] [--cuts 0.3 0.5] [--models FOLDER] [--rows FILE]
                                     [--table FILE]

Needs torch and scikit-learn, to train the networks of models/trained.py; with --models they are kept there.  Each is
cut by a share of its parameters with no option but the ratio, with `--weights`, and with `--data builtin` (the repair
stands whether or not it should), and compared with the dense one on test samples that no prune has seen: its score, and
the relative L2 of its outputs.  `harm` is where the default is further from the dense network than weights alone are,
and scores less.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models import trained, training
from tests.benchmarks.rows import Rows, commit

METHODS: dict[str, dict[str, Any]] = {"default": {}, "weights": {"weights": True}, "builtin": {"data": "builtin"}}
NOISE = 1.02
"""Distances that differ by less than that factor are alike."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--cuts", nargs="*", type=float, default=[0.3, 0.5])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--models", type=Path, default=Path(tempfile.mkdtemp()))
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    arguments.models.mkdir(exist_ok=True)
    rows = Rows(arguments.rows, "network", "seed", "cut")
    for name in arguments.names or list(trained.NETWORKS):
        for seed in arguments.seeds:
            left = rows.left({"network": name, "seed": seed, "cut": cut} for cut in arguments.cuts)
            network = kept(name, seed, arguments.models) if left else None
            for question in left:
                assert network is not None
                row = measured(name, seed, network, question["cut"], arguments.methods)
                print(json.dumps(rows.add(row)), flush=True)
    text = table(rows.all)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def kept(name: str, seed: int, folder: Path) -> training.Trained:
    """A trained network: from the folder, where it is there."""
    model, data = folder / f"{name}-{seed}.onnx", folder / f"{name}-{seed}.npz"
    if not (model.exists() and data.exists()):
        made = trained.NETWORKS[name](seed)
        onnx.save(made.model, model)
        kept_too = {
            "targets": made.targets,
            "score": np.array(made.score.__name__),
            "one_by_one": np.array(made.one_by_one),
        }
        np.savez(data, **(made.test | kept_too))  # type: ignore[arg-type]
    with np.load(data) as stored:
        test = {key: stored[key] for key in stored.files if key not in ("targets", "score", "one_by_one")}
        score = getattr(training, str(stored["score"]))
        return training.Trained(onnx.load(model), test, stored["targets"], score, bool(stored["one_by_one"]))


def outputs(model: onnx.ModelProto, network: training.Trained) -> np.ndarray:
    """Of all test samples."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    if not network.one_by_one:
        return np.asarray(session.run(None, network.test)[0])
    count = len(network.targets)
    feeds = ({name: array[at : at + 1] for name, array in network.test.items()} for at in range(count))
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def measured(name: str, seed: int, network: training.Trained, cut: float, methods: list[str]) -> dict[str, Any]:
    """One network, cut by each method."""
    from spa import pipeline

    dense = outputs(network.model, network)
    row: dict[str, Any] = {"network": name, "seed": seed, "cut": cut, "score": network.score.__name__,
                           "dense": round(network.score(dense, network.targets), 4), "tree": commit()}  # fmt: skip
    for method in methods:
        start = time.perf_counter()
        result = pipeline.prune(network.model, ratio=cut, **METHODS[method])
        seconds = time.perf_counter() - start
        pruned = outputs(result.to_proto(), network)
        off = float(np.linalg.norm(pruned - dense) / np.linalg.norm(dense - dense.mean(0)))
        row[method] = {
            "score": round(network.score(pruned, network.targets), 4), "distance": round(off, 5),
            "seconds": round(seconds, 1), "repaired": bool(result.plan.repair),
            "said": round(max((f["relative_l2"] for f in result.report.outputs.values()), default=float("nan")), 5),
            "notes": list(result.report.notes)[:1],
        }  # fmt: skip
    return row


def harm(row: dict[str, Any]) -> bool:
    """Whether the default is further off than weights alone, and scores less."""
    ours, theirs = row["default"], row["weights"]
    return bool(ours["distance"] > NOISE * theirs["distance"] and ours["score"] < theirs["score"])


def table(rows: list[dict[str, Any]]) -> str:
    methods = [method for method in METHODS if any(method in row for row in rows)]
    lines = [f"| network (score; dense) | cut | {' | '.join(methods)} | |", "|---|--:|" + "---|" * (len(methods) + 1)]
    for row in rows:
        cells = []
        for method in methods:
            result = row[method]
            by = "" if method == "weights" else ", repaired" if result["repaired"] else ", by weights"
            cells.append(f"{result['score']:.4g}; {result['distance']:.3g}{by}")
        bad = "harm" if {"default", "weights"} <= set(methods) and harm(row) else ""
        lines.append(
            f"| {row['network']} {row['seed']} ({row['score']}; {row['dense']:.4g}) | {row['cut']:.0%} | "
            f"{' | '.join(cells)} | {bad} |"
        )
    said = ""
    if {"default", "weights"} <= set(methods):
        further = [row for row in rows if row["default"]["distance"] > NOISE * row["weights"]["distance"]]
        ratios = [row["default"]["distance"] / max(row["weights"]["distance"], 1e-9) for row in rows]
        less = [row["weights"]["score"] - row["default"]["score"] for row in rows]
        said = (
            f"\nOf {len(rows)} rows, {sum(map(harm, rows))} are harmed, and {len(further)} are further from the dense "
            f"network than weights alone. Distance of the default over that of weights: "
            f"{np.exp(np.mean(np.log(np.maximum(ratios, 1e-9)))):.2f} (geometric mean), {max(ratios):.2f} at most. "
            f"In {sum(gap > 0 for gap in less)} the default scores less than weights, by {max(less):.3f} at most.\n"
        )
    commits = ", ".join(sorted({row["tree"] for row in rows}))
    head = (
        f"`python tests/benchmarks/small.py`; commits: {commits}. Each cell: the score, and the relative L2 of the "
        "outputs on test samples.\n\n"
    )
    return head + "\n".join(lines) + "\n" + said


if __name__ == "__main__":
    main()
