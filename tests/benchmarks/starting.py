"""Processor seconds of `import spa` and of a small `spa prune --weights`, against another commit, by turns.

    python tests/benchmarks/starting.py COMMIT [--rounds 15] [--only STEP] [--table tests/benchmarks/starting.md]

Both trees run under this Python, one thread, the other one in a worktree that goes again. Compiled modules lie in a
folder of their own, as after the first start; "not compiled" keeps none, as in a container that is thrown away.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STEPS = {
    "import spa": ["-c", "import spa"],
    "import spa.cli": ["-c", "import spa.cli"],
    "spa prune": ["-m", "spa", "prune", "{model}", "--ratio", "0.3", "--no-verify", "-o", "{output}"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", help="what this tree is held against")
    parser.add_argument("--rounds", type=int, default=15, help="of both trees in turn; the first does not count")
    parser.add_argument("--only", choices=STEPS, help="one of the rows")
    parser.add_argument("--table", type=Path, help="where the table goes besides")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, worktree(arguments.commit, Path(folder) / "other") as other:
        rows = [
            compare(step, ROOT, other, Path(folder), arguments.rounds, compiled=compiled)
            for compiled in (True, False)
            for step in ([arguments.only] if arguments.only else STEPS)
        ]
    text = "\n".join(lines(rows, arguments.commit, arguments.rounds))
    print(text)
    if arguments.table:
        arguments.table.write_text(text + "\n")


@contextmanager
def worktree(commit: str, place: Path) -> Iterator[Path]:
    """A commit checked out."""
    subprocess.run(["git", "worktree", "add", "--detach", "-q", str(place), commit], cwd=ROOT, check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, check=True)


def compare(step: str, mine: Path, other: Path, folder: Path, rounds: int, *, compiled: bool) -> list[str]:
    """A row: medians of both trees, and the median of the rounds' ratios."""
    model = folder / "net.onnx"
    if not model.exists():
        code = "import onnx, sys; from tests import models; onnx.save(models.residual_cnn(), sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(model)], cwd=ROOT, env=environment(ROOT, None), check=True)
    pairs: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        trees = [mine, other] if len(pairs) % 2 else [other, mine]
        taken = {tree: seconds(STEPS[step], tree, model, folder / "compiled" if compiled else None) for tree in trees}
        pairs.append((taken[mine], taken[other]))
    ours, theirs = zip(*pairs[1:], strict=True)
    ratio = statistics.median(our / their for our, their in pairs[1:])
    kind = "compiled" if compiled else "not compiled"
    return [step, kind, f"{statistics.median(ours):.3f}", f"{statistics.median(theirs):.3f}", f"{ratio:.3f}"]


def environment(tree: Path, compiled: Path | None) -> dict[str, str]:
    variables = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(tree)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables | (
        {"PYTHONDONTWRITEBYTECODE": "1"} if compiled is None else {"PYTHONPYCACHEPREFIX": str(compiled)}
    )


def seconds(words: list[str], tree: Path, model: Path, compiled: Path | None) -> float:
    """Of the processor, that a process takes."""
    given = [word.format(model=model, output=model.with_suffix(".small.onnx")) for word in words]
    if "prune" in given and (tree / "spa" / "options.py").exists():  # where repair is the default
        given.append("--weights")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *given], cwd=model.parent, env=environment(tree, compiled), capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lines(rows: list[list[str]], commit: str, rounds: int) -> Iterator[str]:
    """The table."""
    head = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    yield f"`python tests/benchmarks/starting.py {commit} --rounds {rounds}`: processor seconds on one thread, medians."
    yield ""
    yield f"| what | modules | {head.stdout.strip()} | {commit} | times as long |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
