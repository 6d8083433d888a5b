"""Half of every group of units, out of each family of networks that the project builds, with no help.

    python tests/benchmarks/families.py [NETWORK ...] [--ratio 0.5] [--table FILE.md]

The networks come from models/networks.py and models/decoder.py, so nothing beside the project is needed; a row is what
`spa.prune` reports after its own verification: every output of the pruned model against the dense model in which what
was removed is read as zero.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

if __name__ == "__main__":  # run as a script: the project's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.decoder import PRESETS, build
from models.networks import NETWORKS
from spa import pipeline

COLUMNS = ("network", "params", "params removed", "flops removed", "removed of each kind", "difference", "seconds")


def networks(wanted: Sequence[str]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The networks by name; all where none is asked for."""
    for name, make in NETWORKS.items():
        if name in wanted or not wanted:
            yield name, make()
    if wanted and "decoder" not in wanted:
        return
    with tempfile.TemporaryDirectory() as folder:
        yield "decoder", onnx.load(build(PRESETS["tiny"], Path(folder), dtype="float32"))


def row(name: str, model: onnx.ModelProto, ratio: float) -> list[str]:
    start = time.perf_counter()
    report = pipeline.prune(model, ratio=ratio, of="channels", weights=True).report
    kinds: dict[str, list[int]] = {}
    for group in report.groups:
        if group.off is None:
            counts = kinds.setdefault(group.kind, [0, 0])
            counts[0] += group.removed
            counts[1] += group.units
    shares = [f"{report.removed_share(measure):.1%}" for measure in ("params", "flops")]
    told = ", ".join(f"{kind} {gone} of {every}" for kind, (gone, every) in sorted(kinds.items()) if gone)
    difference = "-" if report.difference is None else f"{report.difference:.0e}"
    return [name, f"{report.before['params']:.0f}", *shares, told, difference, f"{time.perf_counter() - start:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="by default all")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - {*NETWORKS, "decoder"}:
        parser.error(f"there is no network {sorted(unknown)[0]}; there are {', '.join(NETWORKS)}, decoder")
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for name, model in networks(arguments.networks):
        lines.append(f"| {' | '.join(row(name, model, arguments.ratio))} |")
        print(lines[-1], flush=True)
    if arguments.table:
        command = f"`python tests/benchmarks/families.py --ratio {arguments.ratio}`"
        arguments.table.write_text("\n".join([command, "", *lines]) + "\n")


if __name__ == "__main__":
    main()
