"""Peak memory of verification: `spa prune` that checks its result, and `spa verify` of the files, over three sizes.

    python tests/benchmarks/verification.py [--sizes 0.3 0.8 1.6] [--folder DIR] [--table FILE.md]

The model is a stack of residual blocks of two matrices each (float32, external data). Each command is a process of its
own; the peak is its largest resident size, pages of mapped files included, as the kernel counts it (VmHWM).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks.rows import commit  # noqa: E402

WIDTH, HIDDEN = 2048, 8192
BLOCK_NBYTES = 2 * WIDTH * HIDDEN * 4
GB = 1e9
BASE = (
    "In GB. Base: the same command on a model of a megabyte, that is the interpreter and its libraries. Times the "
    "model: all of the peak, base included."
)

_PEAK = """
import sys
from pathlib import Path
from spa.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    code = stopped.code
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(f"peak {int(status['VmHWM'].split()[0]) * 1024}", file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.3, 0.8, 1.6], help="in GB")
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder otherwise")
    parser.add_argument("--table", type=Path, help="write what is printed")
    arguments = parser.parse_args()
    lines = [
        f"`python tests/benchmarks/verification.py --sizes {' '.join(map(str, arguments.sizes))}`", "",
        BASE, "",
        "| commit | model | base | prune --no-verify | prune | times the model | verify | times the model |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        base = peaks(Path(name), 1, width=128)[-1][-1]
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            lines.append(row(Path(name), max(1, round(size * GB / BLOCK_NBYTES)), base))
        print(lines[-1], flush=True)
    if arguments.table:
        arguments.table.write_text("\n".join(lines) + "\n")


def row(folder: Path, blocks: int, base: int) -> str:
    size, (alone, with_check, verify) = peaks(folder, blocks)
    figures = [
        f"{size / GB:.2f}", f"{base / GB:.2f}", f"{alone / GB:.2f}", f"{with_check / GB:.2f}",
        f"{with_check / size:.2f}", f"{verify / GB:.2f}", f"{verify / size:.2f}",
    ]  # fmt: skip
    return f"| {commit()} | {' | '.join(figures)} |"


def peaks(folder: Path, blocks: int, *, width: int = WIDTH) -> tuple[int, list[int]]:
    """The size of a model in bytes, and the peaks of a prune without a check, of one with it, and of a verification."""
    dense, pruned, plan = folder / "dense.onnx", folder / "pruned.onnx", folder / "plan.json"
    build(dense, blocks, width=width)
    size = sum(file.stat().st_size for file in folder.iterdir())
    prune = ["prune", str(dense), "--ratio", "0.3", "--weights", "-o", str(pruned), "--save-plan", str(plan)]
    check = ["verify", str(dense), str(pruned), "--plan", str(plan)]
    return size, [peak(words) for words in ([*prune, "--no-verify"], prune, check)]


def peak(words: list[str]) -> int:
    """The largest resident size of a command, in bytes."""
    done = subprocess.run([sys.executable, "-c", _PEAK, *words], capture_output=True, text=True)
    if done.returncode or ("verified: " not in done.stdout and "--no-verify" not in words):
        sys.exit(f"spa {' '.join(words)}: {done.stdout}{done.stderr}")
    return int(done.stderr.rpartition("peak ")[2])


def build(path: Path, blocks: int, *, width: int = WIDTH) -> None:
    """Write the model, a matrix at a time."""
    hidden = width * HIDDEN // WIDTH
    rng = np.random.default_rng(0)
    nodes, stored, at = [], [], 0
    with (path.parent / "dense.data").open("wb") as file:
        for number in range(blocks):
            value = "x" if not number else f"z{number - 1}"
            result = "y" if number == blocks - 1 else f"z{number}"
            for name, shape in ((f"up{number}", (width, hidden)), (f"down{number}", (hidden, width))):
                array = rng.standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5)
                file.write(array.tobytes())
                tensor = TensorProto(
                    name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
                )
                for key, text in (("location", "dense.data"), ("offset", at), ("length", array.nbytes)):
                    tensor.external_data.add(key=key, value=str(text))
                stored.append(tensor)
                at += array.nbytes
            nodes += [
                helper.make_node("MatMul", [value, f"up{number}"], [f"a{number}"]),
                helper.make_node("Relu", [f"a{number}"], [f"r{number}"]),
                helper.make_node("MatMul", [f"r{number}", f"down{number}"], [f"b{number}"]),
                helper.make_node("Add", [value, f"b{number}"], [result]),
            ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


if __name__ == "__main__":
    main()
