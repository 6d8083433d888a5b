"""How much of a cut arrives as time: nine networks at half their FLOPs, with the widths of the hardware and without.

    python tests/benchmarks/aligned.py [MODEL ...] [--rounds 15] [--table FILE.md]

Each network is pruned by weights alone (`spa prune --ratio 0.5 --of flops`), with `--align auto`, the default, and with
`--align 1`. onnxruntime runs the dense and both pruned models by turns on one thread, batch 1; a round gives a ratio of
processor time, and the median over rounds counts. The exponent is log(time ratio) / log(FLOPs ratio): 1 where all of
the cut arrives. Weights are random, which no time depends on. The graphs are looked for in ../shared/graphs beside the
project.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spa import pipeline  # noqa: E402
from spa.passes.choose.processor import block  # noqa: E402
from tests.benchmarks import zoo  # noqa: E402

GRAPHS = {
    "resnet18": "resnet18.dynamo.onnx",
    "resnet50": "resnet50.dynamo.onnx",
    "efficientnet_lite0": "efficientnet_lite0.ts.onnx",
    "mobilenet_v3_large": "tv_mobilenet_v3_large.dynamo.onnx",
    "densenet121": "densenet121.dynamo.onnx",
    "shufflenet_v2_x1_0": "shufflenet_v2_x1_0.dynamo.onnx",
    "regnetx_002": "timm_regnetx_002.dynamo.onnx",
    "convnext_tiny": "convnext_tiny.dynamo.onnx",
    "vit_b_16": "tv_vit_b_16.dynamo.onnx",
}
RATIO = 0.5
COLUMNS = (
    "model",
    "dense ms",
    "auto: FLOPs x",
    "time x",
    "exponent",
    "align 1: FLOPs x",
    "time x",
    "exponent",
    "notes",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(GRAPHS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows, exponents = [], []
    print(" | ".join(COLUMNS), flush=True)
    for name in arguments.models:
        cells, exponent = measured(name, arguments.rounds)
        rows.append(cells)
        exponents.append(exponent)
        print(" | ".join(cells), flush=True)
    said = f"exponent with `--align auto`: median {statistics.median(exponents):.2f}, least {min(exponents):.2f}"
    print(said)
    if arguments.table:
        arguments.table.write_text(table(rows, said, arguments))


def measured(name: str, rounds: int) -> tuple[list[str], float]:
    """The cells of one network, and its exponent with the default."""
    import onnxruntime

    dense = zoo.filled(zoo.SHARED / "graphs" / GRAPHS[name])
    results = {
        align: pipeline.prune(dense, ratio=RATIO, of="flops", criterion="l2", align=align, verify=False)
        for align in ("auto", 1)
    }
    models = {"dense": results["auto"].dense, **{str(align): result.model for align, result in results.items()}}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = {
        key: onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for key, model in models.items()
    }
    (value,) = sessions["dense"].get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    feed = {value.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    seconds: dict[str, list[float]] = {key: [] for key in sessions}
    for turn in range(rounds + 2):
        for key, session in sessions.items():
            start = time.process_time()
            session.run(None, feed)
            if turn > 1:  # the first two warm up
                seconds[key].append(time.process_time() - start)
    cells, exponent = [name, f"{1e3 * statistics.median(seconds['dense']):.1f}"], 0.0
    for key in ("1", "auto"):
        report = results["auto" if key == "auto" else 1].report
        flops = report.before["flops"] / report.after["flops"]
        faster = statistics.median(d / p for d, p in zip(seconds["dense"], seconds[key], strict=True))
        exponent = float(np.log(faster) / np.log(flops))
        cells[2:2] = [f"{flops:.2f}", f"{faster:.2f}", f"{exponent:.2f}"]
    return [*cells, notes_of(results["auto"])], exponent


def notes_of(result: pipeline.PruneResult) -> str:
    """What the default gave up."""
    return "; ".join(note for note in result.report.notes if "multiple" in note)


def table(rows: list[list[str]], said: str, arguments: argparse.Namespace) -> str:
    import onnxruntime

    channels = block(None, kernels=True)
    where = (
        f"onnxruntime {onnxruntime.__version__} on the processor, one thread, batch 1; blocks of {channels} channels"
    )
    lines = [
        f"`python tests/benchmarks/aligned.py --rounds {arguments.rounds}`",
        "",
        f"{where}; times are processor time, medians over rounds of dense over pruned, by turns.",
        f"{said[0].upper()}{said[1:]}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
