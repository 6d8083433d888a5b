"""`spa sweep` and `--max-loss` as they are typed: tables, files and documents."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Ran
from tests.cli.test_documents import valid

METRIC = "def size(path):\n    with open(path, 'rb') as file:\n        return len(file.read())\n"


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "own_metric.py").write_text(METRIC)
    np.savez(workdir / "samples.npz", x=np.random.default_rng(0).standard_normal((48, 3, 8, 8)).astype(np.float32))
    return workdir


def test_a_sweep_prints_a_row_for_each_ratio(folder: Path, run: Callable[..., Ran]) -> None:
    ran = run(
        "sweep", "model.onnx", "--ratios", "0.2:0.4", "--data", "samples.npz", "--preset", "fast", "--seconds", "0.2",
        "--metric", "own_metric:size", "--csv", "sweep.csv", "--keep", "kept",
    )  # fmt: skip
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split()[:3] == ["ratio", "params", "flops"]
    assert [line.split()[0] for line in lines[1:5]] == ["dense", "0.2", "0.3", "0.4"]
    assert "outputs on samples held out" in ran.out
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    sizes = [float(row["metric"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    kept = sorted((folder / "kept").iterdir())
    assert [path.name for path in kept] == ["model.params-0.2.onnx", "model.params-0.3.onnx", "model.params-0.4.onnx"]
    for path, row in zip(kept, rows[1:], strict=True):
        onnx.checker.check_model(onnx.load(path), full_check=True)
        assert row["file"] == str(Path("kept") / path.name)
    assert f"wrote {'sweep.csv'}" in ran.out


def test_a_sweep_as_a_document(folder: Path, run: Callable[..., Ran]) -> None:
    ran = run("sweep", "model.onnx", "--ratios", "0.3,0.97", "--weights", "--seconds", "0.1", "--json")
    sweep = valid(ran.out, "sweep")
    assert [point["ratio"] for point in sweep["points"]] == [0.3, 0.97]
    assert "cannot be met" in sweep["points"][1]["said"]
    assert len(sweep["timing"]["rows"]) == 2
    assert sweep["options"]["ratios"] == [0.3, 0.97]
    assert "ratio" not in sweep["options"]
    assert (folder / "model.onnx").exists()


def test_a_sweep_without_times(folder: Path, run: Callable[..., Ran]) -> None:
    ran = run(
        "sweep", folder / "model.onnx", "--ratios", "30%", "--of", "flops", "--weights", "--seconds", "0", "--json"
    )
    sweep = valid(ran.out, "sweep")
    assert sweep["timing"] is None
    assert sweep["points"][0]["time"] is None
    assert sweep["points"][0]["removed"]["flops"] >= 0.3


def test_a_limit_at_the_command_line(folder: Path, run: Callable[..., Ran]) -> None:
    ran = run("prune", "model.onnx", "--max-loss", "5", "--distance", "relative_l2", "--weights", "--json")
    result = valid(ran.out, "result")
    assert result["limit"]["loss"] <= 5
    assert result["limit"]["measure"] == "relative L2"
    assert result["options"]["max_loss"] == 5
    assert result["options"]["ratio"] == result["limit"]["ratio"]
    assert (folder / "model.pruned.onnx").exists()


def test_a_limit_of_a_metric(folder: Path, run: Callable[..., Ran]) -> None:
    ran = run("prune", folder / "model.onnx", "--max-loss", "900", "--metric", "own_metric:size", "--weights")
    assert ran.code == 0
    assert "largest share within the limit" in ran.out
    assert "fall of size" in ran.out


@pytest.mark.usefixtures("folder")
def test_a_limit_and_a_sweep_of_times(run: Callable[..., Ran]) -> None:
    """With samples, with none and by weights alone; where a loss is limited, no time was asked for."""
    assert run("profile", "model.onnx", "--threads", "1", "--seconds", "0.5", "-o", "device.json").code == 0
    of = ["--of", "latency", "--profile", "device.json", "--align", "1"]
    for given in (["--data", "samples.npz", "--preset", "fast"], [], ["--weights"]):
        ran = run("prune", "model.onnx", "--max-loss", "0.9", "--distance", "relative_l2", *of, *given, "-o", "l.onnx")
        assert ran.code == 0
        assert "largest share within the limit: ratio " in ran.out
        (line,) = (line for line in ran.out.splitlines() if line.startswith("latency: "))
        assert "ms before" in line
        assert "asked" not in line
        ran = run("sweep", "model.onnx", "--ratios", "0.1,0.2", "--seconds", "0.1", *of, *given)
        assert ran.code == 0
        assert [line.split()[0] for line in ran.out.splitlines()[1:4]] == ["dense", "0.1", "0.2"]


@pytest.mark.parametrize("command", ["prune", "sweep", "bench"])
def test_a_page_is_written_beside_the_rest(command: str, folder: Path, run: Callable[..., Ran]) -> None:
    for module in ("jinja2", "vl_convert"):
        pytest.importorskip(module, reason="needs the extra report")
    words = {
        "prune": ["--ratio", "30%", "--weights"],
        "sweep": ["--ratios", "0.3", "--weights", "--seconds", "0.1", "--plot", "sweep.svg"],
        "bench": ["--seconds", "0.1"],
    }[command]
    ran = run(command, "model.onnx", *words, "--report", "page.html")
    assert ran.code == 0
    assert "wrote page.html" in ran.out
    assert (folder / "page.html").read_text().startswith("<!doctype html>")
    assert (folder / "sweep.svg").exists() == (command == "sweep")
