"""SPA against Torch-Pruning on the same models: coupling, the whole prune in memory, and peak memory.

    python -m venv ../peer && ../peer/bin/pip install torch torchvision torch-pruning onnx onnxscript
    python tests/benchmarks/speed.py --peer ../peer/bin/python [MODEL ...] [--repeat 7] [--exports FOLDER]
        [--table FILE.md]

The peer's interpreter makes torchvision models with random weights and exports each once (`torch.onnx.export`,
which folds most BatchNormalization into Conv); SPA prunes that file.  Two processes, one a side, take turns
repetition by repetition and are asked for processor seconds on one thread; the medians are compared.

(a) coupling and groups: `couple` and `find_groups` against `build_dependency` and all of `get_all_groups`.
(b) the whole prune, in memory, half the channels, L2 of the weights: couple, groups, cost, score, select, slice
    against `BasePruner(..., MagnitudeImportance(p=2))` and `step`, the classifier left out.
Torch-Pruning learns shapes from a forward pass inside both; SPA's shape inference and normalising are not in (a)
and (b) and are shown beside them, and "(b) all" is (b) with them.  Loading and exporting are in no number.

Memory is the peak resident size of `spa prune --no-verify`, a process of its own, mapped file pages included;
relative to the model file after the size of the same process without a prune is taken off.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = {"resnet50": "fc", "convnext_tiny": "classifier.2", "densenet121": "classifier", "vit_b_16": "heads.head"}
"""torchvision's name -> its classifier, which Torch-Pruning is told to leave alone."""
RATIO = 0.5
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--peer", help="a Python with torch, torchvision, torch-pruning, onnx and onnxscript")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--exports", type=Path, help="keep the exported models here, and use those that are there")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(WORKERS[arguments.worker]())
        return
    if not arguments.peer:
        parser.error("--peer is missing")
    with tempfile.TemporaryDirectory() as folder:
        exports = arguments.exports or Path(folder)
        exports.mkdir(exist_ok=True)
        ours, peer = Worker(sys.executable, "spa"), Worker(arguments.peer, "torch-pruning")
        versions = f"{ours.ask('version')} | {peer.ask('version')}"
        print(versions, " | ".join(COLUMNS), sep="\n")
        rows = []
        for model in arguments.models:
            rows.append(compare(ours, peer, model, exports / f"{model}.onnx", arguments.repeat))
            print(" | ".join(rows[-1]), flush=True)
    if arguments.table:
        arguments.table.write_text(table(rows, versions, arguments))


def compare(ours: Worker, peer: Worker, model: str, path: Path, repeat: int) -> list[str]:
    """The cells of one model."""
    peer.ask("open", model)
    if not path.exists():
        peer.ask("export", str(path))
    ours.ask("open", str(path))
    mine: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(repeat):
        mine.append(ours.ask("run"))
        theirs.append(peer.ask("run"))
    spa = {name: statistics.median(run[name] for run in mine) for name in mine[0]}
    tp = {name: statistics.median(run[name] for run in theirs) for name in theirs[0]}
    coupled = spa["couple"] + spa["groups"]
    pruned = coupled + sum(spa[step] for step in ("cost", "score", "select", "slice"))
    everything = pruned + spa["normalise"] + spa["shapes"]
    memory = peak_memory(path)
    milliseconds = (spa["normalise"], spa["shapes"], spa["couple"], spa["groups"], tp["groups"])
    return [
        model, f"{int(spa['nodes'])}", *(f"{1e3 * seconds:.1f}" for seconds in milliseconds),
        times(tp["groups"], coupled),
        f"{1e3 * pruned:.0f}", f"{1e3 * tp['prune']:.0f}", times(tp["prune"], pruned), times(tp["prune"], everything),
        "yes" if tp["runs"] else "no", memory,
    ]  # fmt: skip


def times(theirs: float, ours: float) -> str:
    return f"{theirs / ours:.1f}"


def peak_memory(model: Path) -> str:
    """Peak memory of a whole `spa prune`, relative to the model file, and the megabytes it is made of."""
    nbytes = sum(file.stat().st_size for file in model.parent.glob(f"{model.name}*"))
    with tempfile.TemporaryDirectory() as folder:
        options = ["--ratio", str(RATIO), "--of", "channels", "--no-verify", "-o", str(Path(folder) / "pruned.onnx")]
        whole = resident("import spa.cli; spa.cli.main()", "prune", str(model), *options)
    idle = resident("import spa.cli; spa.cli.onnx_file.load")
    return f"{(whole - idle) / nbytes:.2f} ({whole / 1e6:.0f} - {idle / 1e6:.0f} of {nbytes / 1e6:.0f} MB)"


def resident(code: str, *arguments: str) -> int:
    """The peak resident bytes of a process of ours."""
    report = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    wrapped = f"import atexit\natexit.register(lambda: exec({report!r}))\n{code}"
    done = subprocess.run([sys.executable, "-c", wrapped, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return int(done.stdout.split()[-1]) * 1024


# -------------------------------------------------------------------------------------------------- processes
class Worker:
    """A process of one side that answers questions, one at a time."""

    def __init__(self, python: str, side: str) -> None:
        command = [python, __file__, "--worker", side]
        environment = {**os.environ, **ONE_THREAD}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, *question: str):
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"the worker ended at {question}")
        return json.loads(answer)


def serve(side) -> None:
    """Answer until the questions end; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(side, name)(*arguments)), file=answers, flush=True)


class Stopwatch:
    """Processor seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        gc.collect()
        self.start = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = now - self.start
        self.start = now


class Spa:
    def version(self) -> str:
        from importlib.metadata import version

        return f"spa-onnx {version('spa-onnx')}, onnx-ir {version('onnx-ir')}, Python {sys.version.split()[0]}"

    def open(self, path: str) -> None:
        from spa.frontends.files import onnx_file

        self.loaded = onnx_file.load(path)

    def run(self) -> dict[str, float]:
        from spa.analysis.cost import measure
        from spa.analysis.couple import couple
        from spa.analysis.group import find_groups
        from spa.passes.choose.budget import Budget
        from spa.passes.choose.importance import score_groups
        from spa.passes.choose.selection import select
        from spa.passes.cut.slicing import slice_model
        from spa.passes.normalize.normalize import normalize
        from spa.shapes import infer_shapes

        watch = Stopwatch()
        model = normalize(self.loaded)
        watch.lap("normalise")
        shapes = infer_shapes(model)
        watch.lap("shapes")
        coupling = couple(model, shapes)
        watch.lap("couple")
        groups = find_groups(coupling)
        watch.lap("groups")
        cost = measure(coupling)
        watch.lap("cost")
        scores = score_groups(groups)
        watch.lap("score")
        plan = select(groups, scores, cost, Budget(ratio=RATIO, of="channels")).plan
        watch.lap("select")
        slice_model(model, coupling, shapes, plan.masks(groups))
        watch.lap("slice")
        return {**watch.seconds, "nodes": len(model.graph)}


class TorchPruning:
    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)

    def version(self) -> str:
        from importlib.metadata import version

        return ", ".join(f"{name} {version(name)}" for name in ("torch-pruning", "torch", "torchvision"))

    def open(self, name: str) -> None:
        import torch
        import torchvision

        self.name = name
        self.model = getattr(torchvision.models, name)(weights=None).eval()
        self.sample = torch.randn(1, 3, 224, 224)

    def export(self, path: str) -> None:
        import torch

        torch.onnx.export(self.model, (self.sample,), path, dynamo=True, external_data=False, verbose=False)

    def run(self) -> dict[str, float]:
        import copy

        import torch_pruning as tp

        model = copy.deepcopy(self.model)
        classifier = [model.get_submodule(MODELS[self.name])]
        watch = Stopwatch()
        graph = tp.DependencyGraph().build_dependency(model, self.sample)
        for _ in graph.get_all_groups(ignored_layers=classifier):
            pass
        watch.lap("groups")
        del graph
        model = copy.deepcopy(self.model)
        classifier = [model.get_submodule(MODELS[self.name])]
        importance = tp.importance.MagnitudeImportance(p=2)
        before = Stopwatch()
        tp.pruner.BasePruner(model, self.sample, importance, pruning_ratio=RATIO, ignored_layers=classifier).step()
        before.lap("prune")
        return {**watch.seconds, **before.seconds, "runs": self.runs(model)}

    def runs(self, model) -> bool:
        import torch

        try:
            with torch.no_grad():
                model(self.sample)
        except (RuntimeError, ValueError, AssertionError):
            return False
        return True


WORKERS = {"spa": Spa, "torch-pruning": TorchPruning}

# ------------------------------------------------------------------------------------------------- printing
COLUMNS = (
    "model",
    "nodes",
    "normalise ms",
    "shapes ms",
    "couple ms",
    "groups ms",
    "TP (a) ms",
    "(a) times faster",
    "SPA (b) ms",
    "TP (b) ms",
    "(b) times faster",
    "(b) all times faster",
    "TP's result runs",
    "SPA's peak memory / file",
)


def table(rows: list[list[str]], versions: str, arguments: argparse.Namespace) -> str:
    command = f"python tests/benchmarks/speed.py --peer PYTHON --repeat {arguments.repeat} {' '.join(arguments.models)}"
    head = (
        f"`{command}`\n\n{versions.replace(' | ', '; ')}; processor time, one thread, medians of alternating runs.\n\n"
    )
    head += f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
