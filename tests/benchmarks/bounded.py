"""Memory and seconds of a repair of decoders by depth, and whether one that is killed goes on to the same bytes.

    python tests/benchmarks/bounded.py [--layers 2 4 8] [--width 512] [--ffn 1536] [--vocabulary 8000] [--memory 1GB]
        [--dtype float16] [--samples 16] [--length 128] [--ratio 0.2] [--kill] [--copy-at SECONDS] [--verify]
        [--rows FILE.jsonl] [--table FILE.md]

The decoder comes from models/decoder.py (seeded weights, external data), the samples are random tokens. Memory is read
off /proc while `spa prune`, a process of its own, runs: what it needs (anonymous pages), and pages of mapped files,
which the kernel takes back when anything else wants them. With --kill it runs once more, is killed half-way (SIGKILL),
and goes on; both results are compared byte by byte. With --copy-at it is stopped (SIGSTOP) after so many seconds while
its files are copied, as a kill at that moment would leave them; a second run goes on from the copy. Where a run takes
hours, that costs what was left instead of twice the whole. A line is the longest time between two lines on its stderr.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402

from models.decoder import Decoder, build  # noqa: E402
from tests.benchmarks.rows import Rows, commit  # noqa: E402

POLL = 0.02  # seconds
CELL = ("layers", "width", "ffn", "vocabulary", "dtype", "samples", "length", "memory", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--ffn", type=int, default=1536)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--copy-at", type=float, help="seconds, instead of --kill")
    parser.add_argument("--verify", action="store_true", help="check the results too")
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder otherwise")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = Rows(arguments.rows, *CELL)
    for layers in arguments.layers:
        cell = {name: layers if name == "layers" else getattr(arguments, name) for name in CELL}
        if cell in rows:
            continue
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            row = measured(Path(name), cell, kill=arguments.kill, copy_at=arguments.copy_at, verify=arguments.verify)
        print(json.dumps(rows.add({**cell, **row, "commit": commit()})), flush=True)
    text = table(rows.all)
    print(text)
    if arguments.table:
        arguments.table.write_text(f"`python tests/benchmarks/bounded.py {' '.join(sys.argv[1:])}`\n\n{text}\n")


def measured(folder: Path, cell: dict[str, Any], *, kill: bool, copy_at: float | None, verify: bool) -> dict[str, Any]:
    """What a repair of one decoder takes."""
    head = 64 if cell["width"] % 512 == 0 else 16
    heads = cell["width"] // head
    sizes = Decoder(
        cell["layers"], cell["width"], heads, max(1, heads // 4), cell["ffn"], cell["vocabulary"], cell["length"]
    )
    path = build(sizes, folder / "dense", dtype=cell["dtype"])
    tokens = np.random.default_rng(0).integers(0, cell["vocabulary"], (cell["samples"], cell["length"]))
    np.savez(folder / "samples.npz", input_ids=tokens)
    command = [
        sys.executable, "-m", "spa", "prune", str(path), "--ratio", str(cell["ratio"]), "--memory", cell["memory"],
        "--data", str(folder / "samples.npz"), *([] if verify else ["--no-verify"]),
    ]  # fmt: skip
    results = folder / "first", folder / "second"  # names in them are the same
    for result in results:
        result.mkdir()
    again = [*command, "-o", str(results[1] / "small.onnx")]

    def copied() -> None:
        shutil.copytree(results[0], results[1], dirs_exist_ok=True)

    first = watched([*command, "-o", str(results[0] / "small.onnx")], meanwhile=copied, meanwhile_at=copy_at)
    model = sum(file.stat().st_size for file in path.parent.iterdir())
    row: dict[str, Any] = {"model_mb": round(model / 1e6), **first}
    if copy_at is not None and not any(results[1].iterdir()):
        print(f"it ended before {copy_at:g} s, or had written no state: nothing goes on", flush=True)
    elif kill or copy_at is not None:
        killed_at = watched(again, kill_after=0.5 * first["seconds"])["seconds"] if copy_at is None else copy_at
        second = watched(again)
        row |= {"killed_at": killed_at, "resumed_seconds": second["seconds"], "resumed": second["resumed"]}
        names = sorted(file.name for file in results[0].iterdir())
        there = sorted(file.name for file in results[1].iterdir())  # the state is gone
        same = (filecmp.cmp(results[0] / name, results[1] / name, shallow=False) for name in names)
        row["same_bytes"] = names == there and all(same)
    shutil.rmtree(folder / "dense")
    return row


def watched(
    command: Sequence[str],
    *,
    kill_after: float | None = None,
    meanwhile: Callable[[], None] | None = None,
    meanwhile_at: float | None = None,
) -> dict[str, Any]:
    """Run a command: its seconds, the largest value of each memory count, and the longest silence on its stderr.

    Args:
        command: what runs.
        kill_after: seconds after which it is killed.
        meanwhile: is called once, while the command is stopped, `meanwhile_at` seconds after its start.
        meanwhile_at: None: never.
    """
    peaks, said, start = {"RssAnon": 0, "RssFile": 0}, [time.perf_counter()], time.perf_counter()
    lines: list[str] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(time.perf_counter())
            lines.append(line.rstrip())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        if kill_after is not None and time.perf_counter() - start > kill_after:
            process.kill()
            process.wait()
            break
        if meanwhile is not None and meanwhile_at is not None and time.perf_counter() - start > meanwhile_at:
            process.send_signal(signal.SIGSTOP)
            meanwhile()
            process.send_signal(signal.SIGCONT)
            meanwhile = None
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]))
        time.sleep(POLL)
    listener.join()
    end, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode and kill_after is None:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n" + "\n".join(lines[-20:]))
    silence = max(b - a for a, b in zip(said, [*said[1:], end], strict=True))
    return {
        "seconds": round(end - start, 1), "cpu": round(cpu, 1), "own_mb": round(peaks["RssAnon"] / 1e3 * 1.024),
        "mapped_mb": round(peaks["RssFile"] / 1e3 * 1.024), "silence": round(silence, 1),
        "resumed": any("going on from" in line for line in lines),
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    columns = (
        "commit", "layers x width x ffn", "type", "samples", "--memory", "model", "own", "mapped", "s", "CPU s",
        "silence, s", "killed at, went on for, s", "same bytes",
    )  # fmt: skip
    said = "MB: model, own memory (anonymous pages), mapped files at most. Silence: longest time without a line."
    lines = [said, "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        killed = f"{row['killed_at']}, {row['resumed_seconds']}" if "killed_at" in row else ""
        lines.append(
            f"| {row['commit']} | {row['layers']} x {row['width']} x {row['ffn']} | {row['dtype']} "
            f"| {row['samples']} x {row['length']} | {row['memory']} | {row['model_mb']} | {row['own_mb']} "
            f"| {row['mapped_mb']} | {row['seconds']} | {row['cpu']} | {row['silence']} "
            f"| {killed} | {row.get('same_bytes', '')} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
