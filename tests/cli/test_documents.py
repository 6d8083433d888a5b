"""What is printed with --json is what spa/schema.json says, and what it says is true; provenance in the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import spa
from spa import document
from tests import models
from tests.cli.conftest import Ran


def valid(text: str, kind: str) -> Any:
    """The document of a text that the schema admits."""
    parsed = json.loads(text)
    jsonschema.validate(parsed, document.schema(), cls=jsonschema.Draft202012Validator)
    assert (parsed["kind"], parsed["version"]) == (kind, spa.__version__)
    return parsed


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(document.schema())


@pytest.mark.parametrize("kind", ["result", "verdict", "inventory", "timing", "error"])
def test_the_schema_refuses_what_lacks_everything(kind: str) -> None:
    empty = {"format": document.FORMAT, "kind": kind, "version": "1", "paths": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(empty, document.schema())


def test_a_result(workdir: Path, run: Callable[..., Ran]) -> None:
    plan = ["--save-plan", "plan.json"]
    result = valid(run("prune", "model.onnx", "--ratio", "40%", "--of", "flops", "--json", *plan).out, "result")
    assert result["paths"] == {"source": "model.onnx", "output": "model.pruned.onnx", "plan": "plan.json"}
    assert (result["options"]["ratio"], result["options"]["of"]) == (0.4, "flops")
    saved = json.loads((workdir / "plan.json").read_text())
    assert result["removed"] == {entry["group"]: entry["removed"] for entry in saved["groups"]}
    assert {row["name"]: row["removed"] for row in result["groups"] if row["removed"]} == {
        name: len(units) for name, units in result["removed"].items()
    }
    for name, key in (("model.onnx", "before"), ("model.pruned.onnx", "after")):
        stored = {tensor.name: list(tensor.dims) for tensor in onnx.load(name).graph.initializer}
        told = {tensor["name"]: tensor[key] for layer in result["widths"] for tensor in layer["tensors"]}
        assert told == {tensor: shape for tensor, shape in stored.items() if tensor in told}
        assert {tensor for tensor, shape in stored.items() if len(shape) > 1} <= set(told)


@pytest.mark.usefixtures("workdir")
def test_a_result_of_a_plan_and_the_verdict_on_it(run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--weights", "--ratio", 0.4, "--save-plan", "plan.json")
    result = valid(run("apply", "model.onnx", "plan.json", "-o", "again.onnx", "--json").out, "result")
    assert result["options"]["ratio"] == 0.4
    verdict = valid(run("verify", "model.onnx", "again.onnx", "--plan", "plan.json", "--json").out, "verdict")
    assert verdict["verified"] is True
    assert verdict["paths"] == {"dense": "model.onnx", "pruned": "again.onnx", "plan": "plan.json"}


def test_a_result_with_samples(workdir: Path, run: Callable[..., Ran]) -> None:
    np.savez(workdir / "data.npz", x=np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32))
    options = ["--data", workdir / "data.npz", "--preset", "fast"]
    result = valid(run("prune", "model.onnx", "--ratio", 0.4, *options, "--json").out, "result")
    assert (result["options"]["data"], result["options"]["preset"]) == ("data.npz", "fast")
    assert result["layers"]


@pytest.mark.usefixtures("workdir")
def test_a_dry_run(run: Callable[..., Ran]) -> None:
    result = valid(run("prune", "model.onnx", "--ratio", 0.4, "--dry-run", "--json").out, "result")
    assert result["paths"]["output"] is None
    assert result["removed"]


def test_an_inventory(workdir: Path, run: Callable[..., Ran]) -> None:
    onnx.save(models.layer_normed(), workdir / "model.onnx")
    inventory = valid(run("groups", "model.onnx", "--json").out, "inventory")
    assert [row["off"] is None for row in inventory["groups"]] == [False, True, False]


# ---------------------------------------------------------------------------------------------------- provenance
def properties(path: Path | str) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.usefixtures("workdir")
def test_a_timing(run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--ratio", "40%", "--weights", "-o", "small.onnx")
    short = ["--seconds", "0.1", "--threads", "1", "--json"]
    timing = valid(run("bench", "model.onnx", "small.onnx", *short).out, "timing")
    assert timing["paths"] == {"model_1": "model.onnx", "model_2": "small.onnx"}
    assert [row["name"] for row in timing["rows"]] == ["model.onnx", "small.onnx"]
    assert timing["rows"][1]["params"] < timing["rows"][0]["params"]
    assert timing["comparison"]["interval"][0] <= timing["comparison"]["ratio"] <= timing["comparison"]["interval"][1]
    assert valid(run("bench", "model.onnx", *short).out, "timing")["comparison"] is None


@pytest.mark.usefixtures("workdir")
def test_a_time_that_could_not_be_taken_is_null() -> None:
    timing = spa.bench(["model.onnx"], seconds=0.0)
    rows = [replace(row, load_seconds=float("nan"), flops=None) for row in timing.rows]
    report = document.of_timing(replace(timing, rows=rows), {})
    assert valid(document.text(report), "timing")["rows"][0]["load_seconds"] is None


def test_a_model_says_where_it_comes_from(workdir: Path, run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--ratio", 0.4, "--save-plan", "plan.json")
    metadata = properties("model.pruned.onnx")
    assert metadata["spa.version"] == spa.__version__
    assert json.loads(metadata["spa.options"])["ratio"] == 0.4
    assert metadata["spa.plan"] == hashlib.sha256((workdir / "plan.json").read_bytes()).hexdigest()
    assert metadata["spa.dense"] == hashlib.sha256((workdir / "model.onnx").read_bytes()).hexdigest()


def test_what_came_from_memory_has_no_digest_and_loses_an_old_one() -> None:
    model = models.residual_cnn()
    entry = model.metadata_props.add()
    entry.key, entry.value = "spa.dense", "old"
    entry = model.metadata_props.add()
    entry.key, entry.value = "author", "somebody"
    result = spa.prune(model, ratio=0.3, data_free=False, criterion="l1")
    metadata = {entry.key: entry.value for entry in result.to_proto().metadata_props}
    assert "spa.dense" not in metadata
    assert metadata["author"] == "somebody"
    assert json.loads(metadata["spa.options"])["criterion"] == "l1"


def test_to_proto_is_the_model_that_is_saved(tmp_path: Path) -> None:
    result = spa.prune(models.residual_cnn(), ratio=0.3)
    result.save(tmp_path / "small.onnx")
    saved, proto = onnx.load(tmp_path / "small.onnx"), result.to_proto()
    assert isinstance(proto, onnx.ModelProto)
    weights = [
        {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}
        for model in (saved, proto)
    ]
    assert weights[0] == weights[1]
    again = spa.prune(ir.from_proto(proto), ratio=0.1)
    assert again.report.verified
