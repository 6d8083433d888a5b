"""The documents that commands print with --json, as `spa/schema.json` says, and that pages are drawn from."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from spa.errors import SpaError
from spa.report import FrozenAxes, Report, inventory_json
from spa.result import PruneResult
from spa.version import __version__

if TYPE_CHECKING:
    from spa.attending import HeadsReport
    from spa.gradients.tuning import FinetuneReport
    from spa.points import SweepReport
    from spa.timing import BenchReport

FORMAT = "spa-result-1"


def schema() -> dict[str, Any]:
    """The JSON Schema of all that commands print with --json."""
    contents: dict[str, Any] = json.loads((resources.files("spa") / "schema.json").read_text(encoding="utf-8"))
    return contents


def of_result(result: PruneResult, paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What `spa prune` and `spa apply` did.

    Args:
        paths: of the source, the output and the plan; None where there is none.
    """
    return {
        **_head("result", paths),
        **_report(result.report),
        "options": dict(result.plan.options),
        "removed": {name: list(units) for name, units in result.plan.removed.items()},
        "widths": widths(result.dense, result.model),
    }


def of_verdict(report: Report, paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What `spa verify` found."""
    return _head("verdict", paths) | _report(report)


def of_inventory(report: Report, axes: Sequence[FrozenAxes], paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What `spa groups` lists."""
    inventory: dict[str, Any] = json.loads(inventory_json(report, axes))
    return _head("inventory", paths) | inventory


def of_timing(report: BenchReport, paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What `spa bench` measured."""
    timing: dict[str, Any] = json.loads(report.to_json())
    return _head("timing", paths) | timing


def of_sweep(report: SweepReport, paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What `spa sweep` found."""
    return _head("sweep", paths) | report.data()


def of_training(report: FinetuneReport, paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """How `spa finetune` went."""
    return _head("training", paths) | asdict(report)


def of_heads(report: HeadsReport, paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What `spa heads` saw."""
    loads = [asdict(load) for load in report.experts]
    rows = [asdict(row) for row in report.rows]
    return _head("heads", paths) | {"heads": rows, "experts": loads, "notes": list(report.notes)}


def of_error(error: Exception, exit_code: int) -> dict[str, Any]:
    """Why a command did nothing."""
    kind = type(error).__name__ if isinstance(error, SpaError) else "UsageError"
    return _head("error", {}) | {"error": {"kind": kind, "message": str(error), "exit_code": exit_code}}


def text(document: Mapping[str, Any]) -> str:
    """A document as it is printed."""
    return json.dumps(document, indent=1, allow_nan=False)


LIBRARIES = ("onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy", "scipy", "torch")


def repeat(words: Sequence[str], files: Mapping[str, Path | None]) -> dict[str, Any]:
    """How the same comes out again: the command, what it ran with, and digests of files.

    Args:
        words: of the command, behind `spa`.
        files: by what they are; None, or one that is not there: none.
    """
    versions = {"Python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    digests = {name: _digest(path) for name, path in files.items() if path is not None and path.is_file()}
    return {"command": shlex.join(["spa", *map(str, words)]), "versions": versions, "sha256": digests}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def widths(before: ir.Model, after: ir.Model) -> list[dict[str, Any]]:
    """The layers with matrices of weights, in graph order: their stored tensors' shapes before and after."""
    shapes = {value.name: _shape(value) for graph in after.graphs() for value in graph.initializers.values()}
    layers = []
    for node in ir.traversal.RecursiveGraphIterator(before.graph):
        stored = {v.name: _shape(v) for v in node.inputs if v is not None and v.const_value is not None}
        tensors = [
            {"name": name, "before": shape, "after": shapes.get(name)}
            for name, shape in stored.items()
            if name in shapes
        ]
        if any(len(shape) > 1 for shape in stored.values()):
            name = node.name or str(node.outputs[0].name)
            layers.append({"layer": name, "operator": node.op_type, "tensors": tensors})
    return layers


def _shape(value: ir.Value) -> list[int]:
    assert value.const_value is not None
    return [int(size) for size in value.const_value.shape.numpy()]


def _head(kind: str, paths: Mapping[str, Path | None]) -> dict[str, Any]:
    named = {name: None if path is None else str(path) for name, path in paths.items()}
    return {"format": FORMAT, "kind": kind, "version": __version__, "paths": named}


def _report(report: Report) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(report.to_json())
    return data
