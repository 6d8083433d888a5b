"""Every graph of the zoo through the whole pruner, checked by an oracle that knows neither operators nor plans.

    python tests/benchmarks/zoo.py [PATTERN ...] [--ratio 0.5] [--of channels] [--align 1] [--table FILE.md] [--jobs 1]

Each graph is filled with seeded weights, pruned with no help and compared in a process of its own (time and peak
memory are its own too). What a row says: see `COLUMNS`. The graphs, their manifest and the oracle are looked for in
../shared beside the project; `SPA_SHARED` names another place.

One file: a script, with the columns of its table.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.benchmarks.rows import Rows, answer, commit  # noqa: E402

SHARED = Path(os.environ.get("SPA_SHARED", Path(__file__).parents[3] / "shared"))
TIMEOUT = 600
EXACT = 1e-3  # relative: what the oracle may find, in float32
HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
Row = dict[str, Any]


def find_tasks() -> None:
    """Let `import tasks` and `import harness` find those of ../shared/eval, or end and say what is missing."""
    folder = SHARED / "eval"
    if not (folder / "tasks.py").exists():
        sys.exit(f"no tasks at {SHARED.name}/eval: set SPA_SHARED to the folder that holds eval/")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--of", default="channels")
    parser.add_argument("--align", type=int, default=1, help="the multiple that widths keep")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--rows", type=Path, help="keep each row here, and do not measure what is there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.ratio, arguments.of, arguments.align)))
        return
    if not (SHARED / "graphs" / "manifest.json").exists():
        sys.exit(f"no zoo at {SHARED.name}/graphs: set SPA_SHARED to the folder that holds graphs/ and tools/")
    names = sorted(manifest())
    chosen = [n for n in names if any(fnmatch.fnmatch(n, p) or n.startswith(p) for p in arguments.patterns)]
    known = Rows(arguments.rows, "graph")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        left = [question["graph"] for question in known.left({"graph": name} for name in chosen)]
        for row in pool.map(lambda name: in_process(name, arguments), left):
            print(" | ".join(cells(known.add(row))), flush=True)
    rows = [known.known[known.key({"graph": name})] for name in chosen]
    print(summary(rows))
    if arguments.table:
        arguments.table.write_text(table(rows, arguments))


def manifest() -> Mapping[str, Row]:
    """What is known of each graph."""
    graphs: dict[str, Row] = json.loads((SHARED / "graphs" / "manifest.json").read_text())
    return graphs


def in_process(name: str, arguments: argparse.Namespace) -> Row:
    """The row of one graph, or why there is none."""
    words = ["--one", name, "--ratio", str(arguments.ratio), "--of", arguments.of, "--align", str(arguments.align)]
    row, why = answer(__file__, words, timeout=TIMEOUT)
    known = {"graph": name, "family": family(manifest()[name]["ops"]), "commit": commit()}
    return known | ({"status": why} if row is None else row)


def one(name: str, ratio: float, of: str, align: int = 1) -> Row:
    """The row of one graph."""
    from spa import pipeline
    from spa.errors import NothingToPrune, SpaError
    from spa.frontends.files import onnx_file

    entry = manifest()[name]
    row: Row = {"graph": name, "family": family(entry["ops"]), "params": entry["params"]}
    with tempfile.TemporaryDirectory() as folder:
        dense, normal, pruned = (Path(folder) / f"{part}.onnx" for part in ("dense", "normal", "pruned"))
        subprocess.run([sys.executable, "-c", _FILL, str(SHARED / "graphs" / name), str(dense)], check=True)
        inputs = {k: v["run_shape"] for k, v in entry["inputs"].items() if v.get("run_shape") is not None}
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        try:
            result = pipeline.prune(dense, ratio=ratio, of=of, align=align, inputs=inputs, verify=False, weights=True)
            row["peak"] = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)
            report = result.report
            onnx_file.save(result.dense, normal)
            result.save(pruned)
            row["seconds"] = round(time.perf_counter() - start, 2)
            pipeline.verify_plan(result.dense, result.model, result.plan, report, inputs=inputs)
        except SpaError as error:
            word = "nothing to prune" if isinstance(error, NothingToPrune) else type(error).__name__
            return row | {"status": word, "reason": str(error)[:300]}
        row |= facts(result, report) | {"oracle": oracle(normal, pruned, entry)}
    return row


# In a process of its own, so that the peak memory of the row is the pruner's alone.
_FILL = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from tests.benchmarks import zoo
zoo.fill(*sys.argv[1:])
"""


def fill(skeleton: str, target: str) -> None:
    """Write the graph with seeded weights."""
    onnx.save(filled(skeleton), target)


def filled(skeleton: str | Path) -> onnx.ModelProto:
    """The graph with seeded weights."""
    sys.path.append(str(SHARED / "tools"))
    import skeleton as tool

    model: onnx.ModelProto = tool.fill(onnx.load(skeleton))
    for position, tensor in enumerate(tool.tensors(model.graph)):
        spread(tensor, seed=position)
    return model


def spread(tensor: onnx.TensorProto, *, seed: int) -> None:
    """No number twice in a vector (zero biases, scales of one, chance): the oracle goes by what is there."""
    if tensor.data_type != onnx.TensorProto.FLOAT or sum(size > 1 for size in tensor.dims) != 1:
        return
    array = numpy_helper.to_array(tensor).copy()
    if array.ndim == 1 and array.size <= 4:  # scales of a Resize are no parameters
        return
    flat = array.reshape(-1)
    same = bool(np.all(flat == flat[0]))
    again = np.arange(flat.size) if same else np.setdiff1d(np.arange(flat.size), np.unique(flat, return_index=True)[1])
    again = again[np.abs(flat[again]) < 10]  # what hides positions is no weight
    reach = 0.1 if same else 0.01
    noise = np.random.default_rng(seed).permutation(np.linspace(-reach, reach, again.size))
    flat[again] += noise * np.where(flat[again] == 0, 1, np.abs(flat[again]))  # variances stay above zero
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def facts(result: Any, report: Any) -> Row:
    """What a row says of a model that was pruned."""
    kinds: dict[str, list[int]] = {}
    for group in report.groups:
        counts = kinds.setdefault(group.kind, [0, 0])
        counts[0] += group.removed
        counts[1] += group.units
    return {
        "status": "ok",
        "nodes": len(result.dense.graph),
        "groups": sum(group.off is None for group in report.groups),
        "removed_params": round(report.removed_share("params"), 4),
        "removed_flops": round(report.removed_share("flops"), 4),
        "step_seconds": {step: round(seconds, 3) for step, seconds in report.seconds.items()},
        "difference": report.difference,
        "exact": report.exact,
        "notes": report.notes,
        "kinds": kinds,  # removed and all
        "frozen": [[share.reason, round(share.share, 4)] for share in report.frozen[:4]],
        "boundary": boundary(result.dense, result.model),
        "half": any(v.dtype in HALF for v in result.dense.graph.initializers.values()),
    }


def boundary(dense: Any, pruned: Any) -> bool:
    """Whether inputs and outputs kept their names, types and axes, symbolic ones included."""
    return all(
        [(v.name, str(v.type), str(v.shape)) for v in side(dense)]
        == [(v.name, str(v.type), str(v.shape)) for v in side(pruned)]
        for side in (lambda m: [v for v in m.graph.inputs if not v.is_initializer()], lambda m: m.graph.outputs)
    )


def oracle(dense: Path, pruned: Path, entry: Row) -> float | str:
    """The oracle's last word: the largest relative difference, or why it cannot tell."""
    before, after = onnx.load(dense), onnx.load(pruned)
    if in_bodies(before, after):
        return "cannot tell: it looks into no bodies (If, Loop, Scan), where weights were cut"
    if in_integers(before, after):
        return "cannot tell: it zeroes no integer weights, and such were cut"
    command = [sys.executable, str(SHARED / "tools" / "subnetwork_check.py"), str(dense), str(pruned)]
    for name, known in entry["inputs"].items():
        if known.get("run_shape") is not None:
            command += ["--set", f"{name}={','.join(map(str, known['run_shape']))}"]
        if known.get("values"):
            command += ["--feed", f"{name}={known['values']}"]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"])[-1]
    match = re.search(r"difference (\S+)$", last)
    return float(match[1]) if match else last[:160]


def in_bodies(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    """Whether a weight was cut that only a body reads; the oracle would leave it whole."""
    read = {name for node in before.graph.node for name in node.input}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in after.graph.initializer}
    cut = {t.name for t in before.graph.initializer if shapes.get(t.name, tuple(t.dims)) != tuple(t.dims)}
    return not cut <= read


def in_integers(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    """Whether a matrix of integers was cut (quantised weights); the oracle would leave it whole."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in after.graph.initializer}
    return any(
        numpy_helper.to_array(tensor).dtype.kind in "iu"
        and shapes.get(tensor.name, tuple(tensor.dims)) != tuple(tensor.dims)
        for tensor in before.graph.initializer
        if len(tensor.dims) > 1
    )


# ------------------------------------------------------------------------------------------------- families
ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "Softmax")
CONVOLUTION = ("Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger")
PRODUCT = (
    "MatMul", "Gemm", "Einsum", "FusedMatMul", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul",
    "DynamicQuantizeMatMul", "QGemm",
)  # fmt: skip
RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "Scan")


def family(operators: Mapping[str, int]) -> str:
    """What kind of network a graph is, told by how often each operator stands in it.

    transformer: at least two attentions (softmaxes count) and more products of matrices than convolutions;
    convolutional: fewer attentions than that, no recurrence, and a convolution for every three products or more;
    mixed: attention among more convolutions;  recurrent: LSTM, GRU, RNN or Scan;  other: what is left.
    """

    def count(names: Sequence[str]) -> int:
        return sum(number for name, number in operators.items() if name.rpartition(".")[2].rpartition(":")[2] in names)

    attention, convolution, product = count(ATTENTION), count(CONVOLUTION), count(PRODUCT)
    if count(RECURRENT):
        return "recurrent"
    if attention >= 2 or attention > count(("Softmax",)):
        return "transformer" if product > convolution else "mixed"
    return "convolutional" if convolution and 3 * convolution >= product else "other"


# ------------------------------------------------------------------------------------------------- printing
COLUMNS = {
    "graph": "its file in the zoo",
    "family": "see `family` in tests/benchmarks/zoo.py",
    "nodes": "of the normalised graph",
    "groups": "index sets that were cut",
    "units": "removed of all, by kind of group; kinds of which nothing went are left out",
    "params": "share of the parameters that went",
    "flops": "share of the floating-point operations that went",
    "seconds": "from the file to the smaller file, without the checks",
    "peak MB": "growth of the process's peak memory meanwhile, pages of mapped weights included",
    "oracle": "largest relative difference between the pruned model and the dense one whose removed weights are zero, "
    "or why it cannot tell",
    "own check": "the same by the pruner's own verification",
    "stays": "share of the parameters that stay because no axis of theirs can be cut, by reason",
}


def cells(row: Row) -> list[str]:
    if row.get("status") != "ok":
        return [row["graph"], row["family"], *[""] * (len(COLUMNS) - 3), f"{row['status']}: {row.get('reason', '')}"]
    stays = "; ".join(f"{share:.0%} {reason}" for reason, share in row["frozen"] if share >= 0.005)
    shown = row["oracle"] if isinstance(row["oracle"], str) else f"{row['oracle']:.0e}"
    own = "-" if row["difference"] is None else f"{row['difference']:.0e}"
    if not row["exact"]:
        own += " (not exact by construction)"
    if not row["boundary"]:
        own += " INPUTS OR OUTPUTS CHANGED"
    shares = [f"{row['removed_params']:.1%}", f"{row['removed_flops']:.1%}"]
    units = ", ".join(f"{kind} {gone}/{every}" for kind, (gone, every) in row["kinds"].items() if gone)
    numbers = [str(row["nodes"]), str(row["groups"]), units, *shares, str(row["seconds"]), str(row["peak"])]
    return [row["graph"], row["family"], *numbers, shown, own, stays]


def summary(rows: Sequence[Row]) -> str:
    """The figures over all graphs, a line each."""
    good = [r for r in rows if r.get("status") == "ok"]
    nothing = [r for r in rows if r.get("status") == "nothing to prune"]
    failed = [r for r in rows if r.get("status") not in ("ok", "nothing to prune")]
    without = ("amplifies rounding", "by weights alone not exact")
    sure = [r for r in good if not r["half"] and not any(why in note for why in without for note in r["notes"])]
    told = [r for r in sure if isinstance(r["oracle"], float)]
    exact = [r for r in told if r["oracle"] <= EXACT]
    ran = [r for r in sure if r["difference"] is not None]
    own = [r for r in ran if r["difference"] <= EXACT]
    unchanged = sum(r["boundary"] for r in good)
    fate = f"{len(nothing)} with nothing to prune; {len(failed)} failed"
    tale = f"{len(own)} of the {len(ran)} that run by the pruner's own check"
    lines = [
        f"{len(rows)} graphs: {len(good)} pruned and valid, {unchanged} with unchanged inputs and outputs; {fate}",
        f"exact: {len(exact)} of the {len(told)} float32 graphs that the oracle can tell of, {tale}",
    ]
    lines += [
        f"amplifies rounding, so no word on exactness: {r['graph']}: {note}"
        for r in good
        for note in r["notes"]
        if "amplifies rounding" in note
    ]
    lines += [
        f"widths of norms opened, which no cut by weights leaves as they were: {r['graph']}: off by {r['oracle']:.2g}"
        for r in good
        if any("by weights alone not exact" in note for note in r["notes"]) and isinstance(r["oracle"], float)
    ]
    families = defaultdict(list)
    for row in good:
        families[row["family"]].append(row)
    for name, members in sorted(families.items()):
        params, flops = (middle(r[f"removed_{what}"] for r in members) for what in ("params", "flops"))
        lines.append(f"{name}: {len(members)} graphs, median removed {params:.1%} of params, {flops:.1%} of flops")
    lines += [f"{r['status']}: {r['graph']}: {r.get('reason', '')}" for r in (*nothing, *failed)]
    return "\n".join(lines)


def middle(numbers: Iterable[float]) -> float:
    return float(np.median(list(numbers)))


def table(rows: Sequence[Row], arguments: argparse.Namespace) -> str:
    patterns = "" if arguments.patterns == ["*"] else " ".join(arguments.patterns) + " "
    asked = f"--ratio {arguments.ratio} --of {arguments.of} --align {arguments.align}"
    command = f"python tests/benchmarks/zoo.py {patterns}{asked}"
    reasons: dict[str, float] = defaultdict(float)
    for row in rows:
        for reason, share in row.get("frozen", ()):
            reasons[reason] += share / len(rows)
    largest = sorted(reasons.items(), key=lambda item: -item[1])
    commits = ", ".join(sorted({str(row["commit"]) for row in rows if "commit" in row}))
    lines = [f"`{command}`, commit {commits}", "", *(f"- {line}" for line in summary(rows).splitlines())]
    lines += ["", "What stays, mean share of the parameters over all graphs:", ""]
    lines += [f"- {share:.2%} {reason}" for reason, share in largest if share >= 0.0001]
    lines += ["", *(f"- {name}: {what}" for name, what in COLUMNS.items())]
    lines += ["", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
