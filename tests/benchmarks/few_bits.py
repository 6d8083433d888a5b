"""Weights of few bits, cut before or behind packing: how far the logits of a toy decoder are from the float model's.

    python tests/benchmarks/few_bits.py [--ratio 0.25] [--table FILE.md]

The decoder of models/folder.py with random weights, pruned with samples by the fast preset; packed by onnxruntime's own
tool (nearest level). Samples are sentences of a dozen words; the distance is the relative L2 of the logits on others.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import spa  # noqa: E402
from models import folder as toy  # noqa: E402
from tests.benchmarks.rows import commit  # noqa: E402
from tests.decoding import Decoder  # noqa: E402
from tests.repair.test_packed import SIZES, quantised, samples, texts  # noqa: E402

FORMS = {"4, symmetric": (4, True), "4, zero points": (4, False), "8, symmetric": (8, True)}
COLUMNS = ("bits", "packed only", "pruned only", "packed, then pruned", "pruned, then packed", "commit")
BLOCK = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)  # of onnxruntime's tool
    print(" | ".join(COLUMNS), flush=True)
    rows = []
    for name, (bits, symmetric) in FORMS.items():
        rows.append(
            [name, *(f"{share:.3f}" for share in measured(bits, arguments.ratio, symmetric=symmetric)), commit()]
        )
        print(" | ".join(rows[-1]), flush=True)
    if arguments.table:
        head = [f"`python tests/benchmarks/few_bits.py --ratio {arguments.ratio}`", "", f"| {' | '.join(COLUMNS)} |"]
        lines = [*head, "|" + "---|" * len(COLUMNS), *(f"| {' | '.join(row)} |" for row in rows)]
        arguments.table.write_text("\n".join(lines) + "\n")


def measured(bits: int, ratio: float, *, symmetric: bool) -> list[float]:
    """The distance of each model from the float one, in the order of the columns."""
    dense = toy.graph_of(SIZES)
    packed = quantised(dense, bits, BLOCK, symmetric=symmetric)
    first, last = (
        ir.to_proto(spa.prune(model, ratio=ratio, data=samples(), preset="fast", align=4).model)
        for model in (packed, dense)
    )
    behind = quantised(last, bits, BLOCK, symmetric=symmetric)
    expected, *found = (logits(model) for model in (dense, packed, last, first, behind))
    return [float(np.linalg.norm(each - expected) / np.linalg.norm(expected)) for each in found]


def logits(model: onnx.ModelProto) -> np.ndarray:
    """Of texts that no model was fitted on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        decoder = Decoder(path)
        return np.concatenate([decoder.whole(list(row)) for row in texts(96)[80:]])


if __name__ == "__main__":
    main()
