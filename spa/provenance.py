"""Where a pruned model comes from, written into it: ``onnx.load("small.onnx").metadata_props`` holds

| key | value |
|---|---|
| spa.version | the version of SPA |
| spa.options | what was asked for, as JSON |
| spa.plan | SHA-256 of the plan's JSON, which is that of the file that `--save-plan` writes |
| spa.dense | SHA-256 of the file that was pruned; left out where the model came from memory |
| spa.seen | of the samples given that a repair has seen, four characters each (`spa.passes.samples.seen`) |
"""

from __future__ import annotations

import hashlib
import json

import onnx_ir as ir

from spa.analysis.plan import Plan
from spa.frontends.files import onnx_file
from spa.version import __version__

_CHUNK = 1 << 20


def stamp(model: ir.Model, plan: Plan) -> None:
    """Write the provenance of a model that a plan was applied to into its metadata."""
    properties = model.metadata_props
    properties.pop("spa.dense", None)
    properties["spa.version"] = __version__
    properties["spa.options"] = json.dumps(plan.options, sort_keys=True)
    properties["spa.plan"] = hashlib.sha256(plan.to_json().encode()).hexdigest()
    dense = digest(model)
    if dense is not None:
        properties["spa.dense"] = dense


def digest(model: ir.Model) -> str | None:
    """SHA-256 of the file that a model was read from; None: it came from memory.

    Weights beside the file are not read for it: that would take as long as the pruning.
    """
    path = onnx_file.origin_of(model).path
    if path is None:
        return None
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()
