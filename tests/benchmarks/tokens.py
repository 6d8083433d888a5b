"""Tokens a second of a decoder with caches, before and after a cut, side by side.

    python tests/benchmarks/tokens.py [--cuts 0.2 0.3 0.5] [--prompt 64] [--tokens 64] [--repeat 5] [--threads 1]
        [--table FILE.md]

The decoder of models/folder.py with the sizes of SmolLM2-135M and random weights, on which the time does not depend,
cut by weights: how much goes of each layer differs from what samples would say. A prompt goes in at once, then token
after token behind the caches; dense and pruned take turns, and the fastest of each counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import spa  # noqa: E402
from models import folder  # noqa: E402
from tests.benchmarks.repair import share_of_layers  # noqa: E402
from tests.benchmarks.rows import commit  # noqa: E402
from tests.decoding import Decoder  # noqa: E402

SMOLLM2 = folder.Sizes(
    layers=30, width=576, heads=9, kv_heads=3, head_size=64, ffn=1536, length=512, vocabulary=49152
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cuts", type=float, nargs="*", default=[0.2, 0.3, 0.5])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        dense = Path(name) / "dense.onnx"
        onnx.save(folder.graph_of(SMOLLM2), dense, save_as_external_data=True, location="dense.data")
        files = {"dense": dense}
        for cut in arguments.cuts:
            files[f"{cut:.0%} of the layers"] = Path(name) / f"{cut}.onnx"
            small = spa.prune(dense, ratio=cut * share_of_layers(dense), weights=True, verify=False)
            small.save(files[f"{cut:.0%} of the layers"])
        best = measured(files, arguments)
    text = table(best, arguments)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def measured(files: dict[str, Path], arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Tokens a second of each file: of the prompt, and of what is written behind it."""
    decoders = {name: Decoder(path, threads=arguments.threads) for name, path in files.items()}
    prompt = np.random.default_rng(0).integers(0, SMOLLM2.vocabulary, arguments.prompt).tolist()
    best = dict.fromkeys(files, (0.0, 0.0))
    for _ in range(arguments.repeat):
        for name, decoder in decoders.items():
            start = time.perf_counter()
            logits, caches = decoder.step(prompt, decoder.empty())
            between = time.perf_counter()
            for _ in range(arguments.tokens):
                logits, caches = decoder.step([int(logits[-1].argmax())], caches)
            end = time.perf_counter()
            read, wrote = arguments.prompt / (between - start), arguments.tokens / (end - between)
            best[name] = max(best[name][0], read), max(best[name][1], wrote)
    return best


def table(best: dict[str, tuple[float, float]], arguments: argparse.Namespace) -> str:
    """A line for each file."""
    lines = [
        (
            f"`python tests/benchmarks/tokens.py` at {commit()}: a prompt of {arguments.prompt} tokens, then "
            f"{arguments.tokens} one by one, threads: {arguments.threads}, the fastest of {arguments.repeat} turns"
        ),
        "",
        "| | prompt, tokens/s | times | one by one, tokens/s | times |",
        "|---|--:|--:|--:|--:|",
    ]
    first = next(iter(best.values()))
    for name, (read, wrote) in best.items():
        lines.append(f"| {name} | {read:.0f} | {read / first[0]:.2f} | {wrote:.1f} | {wrote / first[1]:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
