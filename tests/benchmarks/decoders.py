"""What a repair of large decoders would take on a cluster, on paper: from rates that are measured here on one core.

    python tests/benchmarks/decoders.py [8B 70B] [--repeat 3] [--store 500] [--table FILE]

1,024 texts of 2,048 tokens, 8 nodes of 64 cores and 128 GB, float32; heads and hidden units of MLPs go. Rates are those
of a network of matrix products under onnxruntime, of moments, and of the order of a group's units; all other numbers
follow from sizes, and from the limits that the code has. Needs ray, for the rate of what workers share.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402

from tests.benchmarks.cluster import workers  # noqa: E402
from tests.benchmarks.rows import commit  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", help="of 8B and 70B; both by default")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--store", type=int, default=500, help="megabytes")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rate, names = rates(arguments.store, arguments.repeat), arguments.models or list(DECODERS)
    columns = [on_paper(DECODERS[name], rate) for name in names]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    lines += [f"| {what} | {' | '.join(str(column[what]) for column in columns)} |" for what in columns[0]]
    said = ", ".join(f"{name} {value:.3g}" for name, value in rate.items())
    text = (
        f"`python tests/benchmarks/decoders.py` at {commit()}; measured on one core: {said}.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


@dataclass(frozen=True, slots=True)
class Decoder:
    """Sizes of a decoder, whose weights are float32."""

    layers: int
    hidden: int
    ffn: int
    keys: int
    vocabulary: int = 128_256

    @property
    def weights(self) -> float:
        """Numbers in the matrices of all layers."""
        return self.layers * (2 * self.hidden**2 + 2 * self.hidden * self.keys + 3 * self.hidden * self.ffn)


DECODERS = {"8B": Decoder(32, 4096, 14336, 1024), "70B": Decoder(80, 8192, 28672, 1024)}
TOKENS, NODES, CORES = 1024 * 2048, 8, 64


def on_paper(model: Decoder, rate: dict[str, float]) -> dict[str, Any]:
    """What the parts of a repair would take."""
    from spa.passes.layers.statistics import enough_rows
    from spa.passes.layers.workers import working_nbytes
    from spa.passes.repair.memory import MOMENTS_NBYTES
    from spa.passes.repair.twins import MOST_SHARDS

    widths = (model.hidden, model.ffn)  # of what the last matrices of attention and MLP read
    run = 2 * TOKENS * (model.weights + model.hidden * model.vocabulary)
    gram = model.layers * sum(2 * enough_rows(width) * width**2 for width in widths)
    moments = [16 * width**2 for width in widths]
    assert sum(moments) > MOMENTS_NBYTES  # so that on workers each group has a run of its own, as far as what reads it
    runs = model.layers * len(widths) / 2
    shards = min(MOST_SHARDS, NODES * CORES)
    solves = model.layers * sum(rate["solve s"] * (width / rate["solve width"]) ** 3 for width in widths)
    fit = [max(1, int(128e9 // working_nbytes(width))) for width in widths]  # at once in 128 GB
    return {
        "weights, GB": round(4e-9 * (model.weights + 2 * model.hidden * model.vocabulary)),
        "one run, core hours": round(run / rate["run flops/s"] / 3600),
        "runs of the whole network": runs,
        "statistics, h": round((runs * run / rate["run flops/s"] + gram / rate["gram flops/s"]) / shards / 3600, 1),
        "moments of a layer, GB": round(sum(moments) / 1e9, 1),
        "solve, GB": [round(working_nbytes(width) / 1e9, 1) for width in widths],
        "solves, h": round(solves / NODES / min(CORES, *fit) / 3600, 1),
        "network, GB a node": round(4e-9 * (model.weights + 2 * model.hidden * model.vocabulary)
                                    + model.layers * sum(moments) / NODES / 1e9 * 2),
        "both networks, h": round(2 * run / rate["run flops/s"] / CORES / 3600, 1),
        "values that wait, GB": round(2 * 4e-9 * TOKENS * model.hidden),
    }  # fmt: skip


def rates(store: int, repeat: int) -> dict[str, float]:
    """Of one core: a network of products, moments, a group's order; and of what workers share."""
    from onnx import TensorProto, helper, numpy_helper

    from spa import runtime
    from spa.passes.layers.workers import one_thread_each
    from spa.passes.secondorder import Consumer, Moments, remove_units

    width, rows, solved = 1024, 2048, 768
    generator = np.random.default_rng(0)
    data = generator.standard_normal((rows, width)).astype(np.float32)
    weights = [numpy_helper.from_array(data[:width] / 32, f"w{n}") for n in range(4)]
    nodes = [helper.make_node("MatMul", [f"x{n}" if n else "x", f"w{n}"], [f"x{n + 1}"]) for n in range(4)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "products", [value("x", TensorProto.FLOAT, [rows, width])],
                              [value("x4", TensorProto.FLOAT, [rows, width])], weights)  # fmt: skip
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    session = runtime.session(model, optimize=True, threads=1)
    moments, some = Moments(width), Moments(solved)
    some.update(data[:, :solved] * generator.random(solved))
    consumer = Consumer(some, generator.standard_normal((solved, solved)), np.arange(solved))
    with one_thread_each():
        run = fastest(lambda: runtime.run(session, {"x": data}), repeat)
        gram = fastest(lambda: moments.update(data), repeat)
        solve = fastest(lambda: remove_units([consumer], units=solved, remove=solved - 1, swap_rounds=0), repeat)
    with workers(1, store):
        import ray

        array = np.zeros(100 << 17)  # 100 MB
        share = fastest(lambda: ray.get(ray.put(array)), repeat)
    return {
        "run flops/s": 8 * rows * width**2 / run, "gram flops/s": 2 * rows * width**2 / gram, "solve s": solve,
        "solve width": solved, "share bytes/s": array.nbytes / share,
    }  # fmt: skip


def fastest(work: Callable[[], object], repeat: int) -> float:
    """Seconds of the fastest of some runs."""
    taken = []
    for _ in range(max(repeat, 2)):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


if __name__ == "__main__":
    main()
