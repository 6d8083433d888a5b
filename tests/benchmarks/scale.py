"""A decoder larger than memory likes: time against a plain copy of the file, and peak memory.

    python tests/benchmarks/scale.py [--preset 7b] [--ratio 0.3] [--folder DIR]

The model comes from models/decoder.py (seeded weights, float16, external data). The copy is `shutil.copyfile`
of model and data followed by fsync, just as a pruned model is written; both run in processes of their own.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models.decoder import PRESETS, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="7b")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        path = build(PRESETS[arguments.preset], folder / "dense")
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        copying = timed(lambda: copy(path.parent, folder / "copy"))
        shutil.rmtree(folder / "copy")
        command = [sys.executable, "-m", "spa.cli", "prune", str(path), "--ratio", str(arguments.ratio), "--no-verify"]
        pruning = timed(lambda: subprocess.run([*command, "-o", str(folder / "pruned.onnx")], check=True))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        after = sum(file.stat().st_size for file in folder.glob("pruned.onnx*"))
        print(f"model {size / 2**30:.2f} GiB, pruned {after / 2**30:.2f} GiB")
        print(f"copy {copying:.1f} s, spa prune {pruning:.1f} s: {pruning / copying:.2f} times a copy")
        print(f"peak resident memory {peak:.2f} GiB (pages of the mapped file included)")


def timed(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def copy(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
        with (target / file.name).open("rb+") as copied:
            os.fsync(copied.fileno())


if __name__ == "__main__":
    main()
