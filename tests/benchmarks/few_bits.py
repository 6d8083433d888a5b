"""Weights of few bits and of integers, cut before or behind packing: how far the outputs are from the float model's.

    python tests/benchmarks/few_bits.py [--ratio 0.25] [--networks decoder fmnist_resnet fmnist_vit smollm2]
                                        [--rows FILE.jsonl] [--table FILE.md]

The decoder of models/folder.py with random weights, packed by onnxruntime's own tool (nearest level): samples are
sentences of a dozen words; the distance is the relative L2 of the logits on others. The trained networks on
Fashion-MNIST of ../shared/eval, quantised by onnxruntime's own tools (8 bits, a scale for each output, ranges from 256
calibration images), as QDQ and as QOperator: the KL divergence from the float model in nats, and the accuracy, on the
10,000 test images. All are pruned with samples by the fast preset, 512 of them where they are images.

smollm2 of ../shared/eval (fetch_models.py) is packed but for its head, and loses a share of the parameters of its
layers by `spa prune --data` at its default preset, in a process of its own: perplexity on the task's texts; seconds and
memory of the two prunes.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import spa  # noqa: E402
from models import folder as toy  # noqa: E402
from tests.benchmarks.bounded import watched  # noqa: E402
from tests.benchmarks.repair import share_of_layers  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402
from tests.benchmarks.zoo import SHARED, find_tasks  # noqa: E402
from tests.decoding import Decoder  # noqa: E402
from tests.repair.test_packed import SIZES, quantised, samples, texts  # noqa: E402

NETWORKS = ("decoder", "fmnist_resnet", "fmnist_vit")
TEXTS = "smollm2"
FORMS = {"4, symmetric": (4, True), "4, zero points": (4, False), "8, symmetric": (8, True)}
COLUMNS = ("bits", "packed only", "pruned only", "packed, then pruned", "pruned, then packed", "commit")
BLOCK = 32


INTEGERS = ("network", "form", "quantised only", "pruned only", "quantised, pruned by weights",
            "quantised, then pruned and refitted", "pruned, then quantised", "commit")  # fmt: skip
READ = ("network", "bits", "dense", "packed only", "pruned only", "packed, then pruned", "pruned, then packed",
        "float: s, GB", "packed: s, GB", "commit")  # fmt: skip
SAMPLES, RANGES = 512, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=(*NETWORKS, TEXTS))
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)  # of onnxruntime's tool
    rows = Rows(arguments.rows, "network", "form")
    for network in arguments.networks:
        forms = {"decoder": tuple(FORMS), TEXTS: ("4, symmetric",)}.get(network, ("QDQ", "QOperator"))
        for question in rows.left([{"network": network, "form": form} for form in forms]):
            measure = {"decoder": of_decoder, TEXTS: of_texts}.get(network, of_images)
            cells = measure(question["network"], question["form"], arguments.ratio)
            rows.add(question | {"cells": cells, "commit": commit()})
            print(" | ".join([*question.values(), *cells]), flush=True)
    if arguments.table:
        arguments.table.write_text(table(rows, arguments.ratio))


def table(rows: Rows, ratio: float) -> str:
    """All tables, as far as there are rows."""
    packed = [[row["form"], *row["cells"], row["commit"]] for row in rows.all if row["network"] == "decoder"]
    others = [[row["network"], row["form"], *row["cells"], row["commit"]] for row in rows.all]
    whole = [cells for cells in others if cells[0] not in ("decoder", TEXTS)]
    read = [cells for cells in others if cells[0] == TEXTS]
    lines = [f"`python tests/benchmarks/few_bits.py --ratio {ratio}`"]
    for title, columns, cells in (
        ("The decoder of random weights, relative L2 of the logits:", COLUMNS, packed),
        ("Trained networks of integers, KL divergence in nats (accuracy):", INTEGERS, whole),
        ("A trained language model, perplexity:", READ, read),
    ):
        lines += ["", title, "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def of_decoder(_: str, form: str, ratio: float) -> list[str]:
    """The distances of one form of packed weights."""
    bits, symmetric = FORMS[form]
    return [f"{share:.3f}" for share in measured(bits, ratio, symmetric=symmetric)]


# ------------------------------------------------------------------------------------------------------ integers
def of_images(network: str, form: str, ratio: float) -> list[str]:
    """The divergence and the accuracy of each model, in the order of the columns."""
    find_tasks()
    import harness
    import tasks

    task = tasks.TASKS[network]
    images = tasks.calibration(network)
    data, ranges = ({name: array[:count] for name, array in images.items()} for count in (SAMPLES, RANGES))
    options: dict[str, Any] = {"ratio": ratio, "data": data, "preset": "fast"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = folder / "dense.onnx"
        prepared(harness.dense_model(task, SHARED / "eval"), dense)
        last = folder / "last.onnx"
        spa.prune(dense, **options).save(last)
        whole = static(dense, folder / "whole.onnx", form, ranges)
        first, weighed = folder / "first.onnx", folder / "weighed.onnx"
        spa.prune(whole, **options).save(first)
        spa.prune(whole, ratio=ratio, weights=True).save(weighed)
        behind = static(last, folder / "behind.onnx", form, ranges)
        cells = []
        for path in (whole, last, weighed, first, behind):
            scores = harness.evaluate(task, path, reference=dense)
            cells.append(f"{scores['fidelity']['kl']:.4f} ({scores['metrics']['top1']:.4f})")
    return cells


def prepared(source: Path, target: Path) -> None:
    """A model as onnxruntime's tools for integers want it: batch normalisations folded into convolutions."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def static(source: Path, target: Path, form: str, ranges: dict[str, np.ndarray]) -> Path:
    """A model in integers of eight bits, with one scale for each output."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(ranges.values())))
            self.left = [{name: each[at : at + 32] for name, each in ranges.items()} for at in range(0, count, 32)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantization.quantize_static(
        str(source), str(target), Reader(), quant_format=getattr(quantization.QuantFormat, form), per_channel=True,
        weight_type=quantization.QuantType.QInt8, activation_type=quantization.QuantType.QUInt8,
    )  # fmt: skip
    return target


# --------------------------------------------------------------------------------------------------------- texts
def of_texts(network: str, form: str, ratio: float) -> list[str]:
    """The perplexity of each model, in the order of the columns; seconds and memory of both prunes."""
    find_tasks()
    import harness
    import tasks

    bits, symmetric = FORMS[form]
    task = tasks.TASKS[network]
    dense = harness.dense_model(task, SHARED / "eval")
    share = ratio * share_of_layers(dense)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "samples.npz"
        np.savez(data, **tasks.calibration(network))
        packed, behind = folder / "packed.onnx", folder / "behind.onnx"
        pack(dense, packed, bits, symmetric=symmetric)
        last, of_floats = pruned(dense, folder / "last.onnx", share, data)
        pack(last, behind, bits, symmetric=symmetric)
        first, of_packed = pruned(packed, folder / "first.onnx", share, data)
        scores = (harness.evaluate(task, path, threads=1) for path in (dense, packed, last, first, behind))
        return [*(f"{score['metrics']['perplexity']:.2f}" for score in scores), of_floats, of_packed]


def pack(source: Path, target: Path, bits: int, *, symmetric: bool) -> None:
    """By onnxruntime's own tool: the nearest levels, but for the node that makes the scores."""
    model = onnx.load(source)
    scores = {value.name for value in model.graph.output}
    heads = [node.name for node in model.graph.node if scores & {*node.output}]
    onnx.save(quantised(model, bits, BLOCK, symmetric=symmetric, keep=heads), target)


def pruned(source: Path, target: Path, share: float, data: Path) -> tuple[Path, str]:
    """A model less a share of its parameters, and the seconds and gigabytes that it took."""
    command = [sys.executable, "-m", "spa", "prune", source, "--ratio", share, "--data", data, "-o", target]
    watch = watched([str(part) for part in command])
    return target, f"{watch['seconds']:.0f}, {watch['own_mb'] / 1e3:.1f}"


# ------------------------------------------------------------------------------------------------------- few bits
def measured(bits: int, ratio: float, *, symmetric: bool) -> list[float]:
    """The distance of each model from the float one, in the order of the columns."""
    dense = toy.graph_of(SIZES)
    packed = quantised(dense, bits, BLOCK, symmetric=symmetric)
    first, last = (
        ir.to_proto(spa.prune(model, ratio=ratio, data=samples(), preset="fast", align=4).model)
        for model in (packed, dense)
    )
    behind = quantised(last, bits, BLOCK, symmetric=symmetric)
    expected, *outputs = (logits(model) for model in (dense, packed, last, first, behind))
    return [float(np.linalg.norm(each - expected) / np.linalg.norm(expected)) for each in outputs]


def logits(model: onnx.ModelProto) -> np.ndarray:
    """Of texts that no model was fitted on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        decoder = Decoder(path)
        return np.concatenate([decoder.whole(list(row)) for row in texts(96)[80:]])


if __name__ == "__main__":
    main()
