"""Gradients of graphs beside those of onnx-ad, an implementation of another kind: it writes the derivative as a graph.

    python tests/benchmarks/adjoints.py [PATTERN ...] [--largest 8e6] [--rows FILE.jsonl] [--table FILE.md]

Graphs of the zoo in single precision with at most so many parameters. The loss is the sum of all outputs times fixed
random numbers. onnx-ad makes the graph of the gradients, for initializers that are listed as inputs, and onnxruntime
runs it. A row: the largest difference of a gradient, relative to the largest number of that gradient (of one next to
zero, to a thousandth of the largest of all), in how many parameters. Where onnx-ad has no rule for an operator, or
onnxruntime does not run what it wrote, the row says so. Needs torch and onnx-ad. Rows that FILE.jsonl has are not
measured again. The graphs are looked for in ../shared beside the project; `SPA_SHARED` names another place.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from spa import runtime  # noqa: E402
from spa.errors import SpaError  # noqa: E402
from spa.frontends.files import onnx_file  # noqa: E402
from tests.benchmarks import zoo  # noqa: E402
from tests.benchmarks.gradients import reference  # noqa: E402
from tests.benchmarks.rows import Row, Rows, answer, commit  # noqa: E402

CLOSE = 1e-5
PREFIX = "adjoint/"
SECONDS = 240
Feeds = Mapping[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--largest", type=float, default=8e6, help="parameters")
    parser.add_argument("--rows", type=Path, default=Path("adjoints.jsonl"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(row_of(arguments.one)))
        return
    entries = zoo.manifest()
    names = [
        name
        for name in sorted(entries)
        if any(fnmatch.fnmatch(name, p) for p in arguments.patterns) and entries[name]["params"] <= arguments.largest
    ]
    known = Rows(arguments.rows, "graph")
    for question in known.left({"graph": name} for name in names):
        row, why = answer(__file__, ["--one", question["graph"]], timeout=SECONDS)  # onnxruntime may fail hard
        known.add((row or question | {"said": why}) | {"commit": commit()})
        print(" | ".join(cells(known.all[-1])), flush=True)
    rows = [row for name in names if (row := known.get({"graph": name})) is not None]
    print(summary(rows))
    if arguments.table:
        arguments.table.write_text(table(rows, arguments))


def row_of(name: str) -> Row:
    """A graph's gradients by both."""
    import torch

    torch.set_num_threads(1)
    proto = zoo.filled(zoo.SHARED / "graphs" / name)
    model = onnx_file.load(proto)
    if any(value.dtype in zoo.HALF for value in model.graph.initializers.values()):
        return {"graph": name, "said": "half precision"}
    try:
        feeds, outputs = reference(model, zoo.manifest()[name])
    except SpaError as error:
        return {"graph": name, "said": f"onnxruntime: {str(error)[:100]}"}
    seeds = {
        output: np.asarray(np.random.default_rng(0).standard_normal(array.shape), np.float32)
        for output, array in outputs.items()
        if isinstance(array, np.ndarray) and array.dtype == np.float32
    }
    row: Row = {"graph": name}
    for precision in ("single", "double"):
        own = by_torch(model, feeds, seeds, precision)
        try:
            theirs = by_onnx_ad(proto, sorted(own), feeds, seeds, precision)
        except Exception as error:  # noqa: BLE001 (whatever another package says is the row)
            return row | {"said": f"onnx-ad: {type(error).__name__}: {' '.join(str(error).split())[:120]}"}
        row |= {precision: difference(own, theirs), "parameters": len(theirs)}
        if row[precision] <= CLOSE:
            break
    return row


def by_torch(model: ir.Model, feeds: Feeds, seeds: Feeds, precision: str) -> dict[str, np.ndarray]:
    """The gradient of each parameter that it reaches."""
    import torch

    from spa.gradients.module import torch_module

    module = torch_module(model)
    if precision == "double":
        module.double()
        feeds, seeds = widened(feeds), widened(seeds)
    made = module.outputs(feeds)
    torch.stack([(made[output] * torch.from_numpy(seed)).sum() for output, seed in seeds.items()]).sum().backward()
    return {key: p.grad.numpy() for key, p in module.named_parameters() if p.grad is not None}


def widened(arrays: Feeds) -> dict[str, np.ndarray]:
    """In double precision, where they are in single."""
    return {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in arrays.items()}


def by_onnx_ad(
    dense: onnx.ModelProto, names: list[str], feeds: Feeds, seeds: Feeds, precision: str
) -> dict[str, np.ndarray]:
    """Gradients of initializers of these names."""
    import onnx_ad

    model = onnx.ModelProto()
    model.CopyFrom(dense)
    if precision == "double":
        widen(model.graph)
        feeds, seeds = widened(feeds), widened(seeds)
    for value in model.graph.input:  # onnx-ad needs the shapes of what it differentiates
        sizes = feeds[value.name].shape if value.name in feeds else ()
        for size, dim in zip(sizes, value.type.tensor_type.shape.dim, strict=False):
            dim.dim_value = size
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in set(names)}
    taken = {value.name for value in model.graph.input}
    for tensor in stored.values():
        if tensor.name not in taken:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            model.graph.input.append(value)
    weights = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in stored.items()}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in stored]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    adjoint = onnx_ad.reverse(model, inputs=sorted(stored), outputs=sorted(seeds), prefix=PREFIX, layout="onnx")
    fed = dict(feeds) | weights | {PREFIX + output: seed[..., None] for output, seed in seeds.items()}
    if precision == "double":
        evaluator = ReferenceEvaluator(adjoint)
        results = dict(zip(evaluator.output_names, evaluator.run(None, fed), strict=True))
    else:
        results = runtime.run(runtime.session(ir.from_proto(adjoint), optimize=False), fed)
    return {name: np.asarray(results[PREFIX + name])[..., 0] for name in stored if PREFIX + name in results}


def widen(graph: onnx.GraphProto) -> None:
    """Make single precision double, in stored tensors, types, constants and casts."""
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    del graph.value_info[:]
    constants = [attribute.t for node in graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in [*graph.initializer, *constants]:
        if tensor.data_type == single:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = double
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type in ("Cast", "RandomNormalLike", "EyeLike") and attribute.i == single:
                attribute.i = double


def difference(own: Feeds, theirs: Feeds) -> float:
    """The largest, relative to the largest number of the gradient."""
    sizes = {name: float(np.abs(array).max(initial=0.0)) for name, array in own.items()}
    least = 1e-3 * max(sizes.values(), default=1.0) or 1.0
    return max(
        (float(np.abs(own[name] - array).max(initial=0.0)) / max(sizes[name], least) for name, array in theirs.items()),
        default=0.0,
    )


def cells(row: Row) -> list[str]:
    numbers = [f"{row[precision]:.1e}" if precision in row else "" for precision in ("single", "double")]
    numbers[0] = numbers[0] or row.get("said", "").replace("|", "/")
    return [row["graph"], *numbers, str(row.get("parameters", "")), row["commit"]]


def summary(rows: list[Row]) -> str:
    compared = [min(row["single"], row.get("double", row["single"])) for row in rows if "single" in row]
    close = sum(value <= CLOSE for value in compared)
    return f"{close} of {len(compared)} graphs that onnx-ad and onnxruntime give gradients of agree to {CLOSE:g}"


def table(rows: list[Row], arguments: argparse.Namespace) -> str:
    command = f"`python tests/benchmarks/adjoints.py --largest {arguments.largest:g}`"
    head = "| graph | difference | in double | parameters | commit |\n|---|--:|--:|--:|---|\n"
    said = (
        "Quantised models differ as they should: a gradient passes our rounding straight through, and theirs is zero."
    )
    return f"{command}\n\n{summary(rows)}\n\n{said}\n\n{head}" + "".join(
        f"| {' | '.join(cells(row))} |\n" for row in rows
    )


if __name__ == "__main__":
    main()
