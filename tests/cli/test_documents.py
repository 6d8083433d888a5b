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
    found = json.loads(text)
    jsonschema.validate(found, document.schema(), cls=jsonschema.Draft202012Validator)
    assert (found["kind"], found["version"]) == (kind, spa.__version__)
    return found


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(document.schema())


@pytest.mark.parametrize("kind", ["result", "verdict", "inventory", "timing", "error"])
def test_the_schema_refuses_what_lacks_everything(kind: str) -> None:
    empty = {"format": document.FORMAT, "kind": kind, "version": "1", "paths": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(empty, document.schema())


def test_a_result(here: Path, run: Callable[..., Ran]) -> None:
    plan = ["--save-plan", "plan.json"]
    found = valid(run("prune", "model.onnx", "--ratio", "40%", "--of", "flops", "--json", *plan).out, "result")
    assert found["paths"] == {"source": "model.onnx", "output": "model.pruned.onnx", "plan": "plan.json"}
    assert (found["options"]["ratio"], found["options"]["of"]) == (0.4, "flops")
    saved = json.loads((here / "plan.json").read_text())
    assert found["removed"] == {entry["group"]: entry["removed"] for entry in saved["groups"]}
    assert {row["name"]: row["removed"] for row in found["groups"] if row["removed"]} == {
        name: len(units) for name, units in found["removed"].items()
    }
    for name, key in (("model.onnx", "before"), ("model.pruned.onnx", "after")):
        stored = {tensor.name: list(tensor.dims) for tensor in onnx.load(name).graph.initializer}
        told = {tensor["name"]: tensor[key] for layer in found["widths"] for tensor in layer["tensors"]}
        assert told == {tensor: shape for tensor, shape in stored.items() if tensor in told}
        assert {tensor for tensor, shape in stored.items() if len(shape) > 1} <= set(told)


@pytest.mark.usefixtures("here")
def test_a_result_of_a_plan_and_the_verdict_on_it(run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--weights", "--ratio", 0.4, "--save-plan", "plan.json")
    found = valid(run("apply", "model.onnx", "plan.json", "-o", "again.onnx", "--json").out, "result")
    assert found["options"]["ratio"] == 0.4
    found = valid(run("verify", "model.onnx", "again.onnx", "--plan", "plan.json", "--json").out, "verdict")
    assert found["verified"] is True
    assert found["paths"] == {"dense": "model.onnx", "pruned": "again.onnx", "plan": "plan.json"}


def test_a_result_with_samples(here: Path, run: Callable[..., Ran]) -> None:
    np.savez(here / "data.npz", x=np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32))
    options = ["--data", here / "data.npz", "--preset", "fast"]
    found = valid(run("prune", "model.onnx", "--ratio", 0.4, *options, "--json").out, "result")
    assert (found["options"]["data"], found["options"]["preset"]) == ("data.npz", "fast")
    assert found["layers"]


@pytest.mark.usefixtures("here")
def test_a_dry_run(run: Callable[..., Ran]) -> None:
    found = valid(run("prune", "model.onnx", "--ratio", 0.4, "--dry-run", "--json").out, "result")
    assert found["paths"]["output"] is None
    assert found["removed"]


def test_an_inventory(here: Path, run: Callable[..., Ran]) -> None:
    onnx.save(models.layer_normed(), here / "model.onnx")
    found = valid(run("groups", "model.onnx", "--json").out, "inventory")
    assert [row["off"] is None for row in found["groups"]] == [False, True, False]


# ---------------------------------------------------------------------------------------------------- provenance
def properties(path: Path | str) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.usefixtures("here")
def test_a_timing(run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--ratio", "40%", "--weights", "-o", "small.onnx")
    short = ["--seconds", "0.1", "--threads", "1", "--json"]
    found = valid(run("bench", "model.onnx", "small.onnx", *short).out, "timing")
    assert found["paths"] == {"model_1": "model.onnx", "model_2": "small.onnx"}
    assert [row["name"] for row in found["rows"]] == ["model.onnx", "small.onnx"]
    assert found["rows"][1]["params"] < found["rows"][0]["params"]
    assert found["comparison"]["interval"][0] <= found["comparison"]["ratio"] <= found["comparison"]["interval"][1]
    assert valid(run("bench", "model.onnx", *short).out, "timing")["comparison"] is None


@pytest.mark.usefixtures("here")
def test_a_time_that_could_not_be_taken_is_null() -> None:
    found = spa.bench(["model.onnx"], seconds=0.0)
    rows = [replace(row, load_seconds=float("nan"), flops=None) for row in found.rows]
    report = document.of_timing(replace(found, rows=rows), {})
    assert valid(document.text(report), "timing")["rows"][0]["load_seconds"] is None


def test_a_model_says_where_it_comes_from(here: Path, run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--ratio", 0.4, "--save-plan", "plan.json")
    found = properties("model.pruned.onnx")
    assert found["spa.version"] == spa.__version__
    assert json.loads(found["spa.options"])["ratio"] == 0.4
    assert found["spa.plan"] == hashlib.sha256((here / "plan.json").read_bytes()).hexdigest()
    assert found["spa.dense"] == hashlib.sha256((here / "model.onnx").read_bytes()).hexdigest()


def test_what_came_from_memory_has_no_digest_and_loses_an_old_one() -> None:
    model = models.residual_cnn()
    entry = model.metadata_props.add()
    entry.key, entry.value = "spa.dense", "old"
    entry = model.metadata_props.add()
    entry.key, entry.value = "author", "somebody"
    result = spa.prune(model, ratio=0.3, data_free=False, criterion="l1")
    found = {entry.key: entry.value for entry in result.to_proto().metadata_props}
    assert "spa.dense" not in found
    assert found["author"] == "somebody"
    assert json.loads(found["spa.options"])["criterion"] == "l1"


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
