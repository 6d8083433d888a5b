"""A decoder larger than memory likes: time against a plain copy of the file, and peak memory.

    python tests/benchmarks/scale.py [--preset 7b] [--ratio 0.3] [--folder DIR] [--table FILE.md]

The model comes from models/decoder.py (seeded weights, float16, external data). The copy is `shutil.copyfile`
of model and data followed by fsync, just as a pruned model is written. Memory is read off /proc while the pruner, a
process of its own, runs: what it needs (anonymous pages), and pages of the mapped weights that happen to be in memory,
which the kernel takes back when anything else wants them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # run as a script: the project's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.decoder import PRESETS, build

POLL = 0.02  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="7b")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder otherwise")
    parser.add_argument("--table", type=Path, help="write what is printed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        lines = measured(Path(name), arguments.preset, arguments.ratio)
    if arguments.table:
        command = f"`python tests/benchmarks/scale.py --preset {arguments.preset} --ratio {arguments.ratio}`"
        arguments.table.write_text("\n".join([command, "", *(f"- {line}" for line in lines)]) + "\n")


def measured(folder: Path, preset: str, ratio: float) -> list[str]:
    path = build(PRESETS[preset], folder / "dense")
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    copying = timed(lambda: copy(path.parent, folder / "copy"))
    shutil.rmtree(folder / "copy")
    command = [sys.executable, "-m", "spa", "prune", str(path), "--ratio", str(ratio), "--no-verify"]
    peaks = {"RssAnon": 0, "RssFile": 0}
    pruning = timed(lambda: watched([*command, "-o", str(folder / "pruned.onnx")], peaks))
    after = sum(file.stat().st_size for file in folder.glob("pruned.onnx*"))
    anonymous, mapped = (peaks[name] / 2**20 for name in ("RssAnon", "RssFile"))
    lines = [
        f"model {size / 2**30:.2f} GiB, pruned {after / 2**30:.2f} GiB, {os.cpu_count()} processors",
        f"copy {copying:.1f} s, spa prune {pruning:.1f} s: {pruning / copying:.2f} times a copy",
        f"peak memory {anonymous:.2f} GiB of its own; at most {mapped:.2f} GiB of mapped files besides",
    ]
    for line in lines:
        print(line, flush=True)
    return lines


def watched(command: list[str], peaks: dict[str, int]) -> None:
    """Run a command; the largest value of each memory count of its process, in KiB."""
    process = subprocess.Popen(command)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]))
        time.sleep(POLL)
    if process.returncode:
        sys.exit(f"spa prune ended with {process.returncode}")


def timed(action: Callable[[], None]) -> float:
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
