"""Every script of this folder starts as its first lines say, from any folder, and does its smallest case."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.zoo import SHARED

HERE = Path(__file__).parent
PATHS = (path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
SCRIPTS = sorted(path.name for path in PATHS if '__name__ == "__main__"' in path.read_text())
GRAPH = "jax_raw_einsum.jax2onnx_static_op18.onnx"

# script -> arguments of its smallest case, which writes into {folder}; what it needs: folders of shared, and modules;
# what it prints
SMALLEST: dict[str, tuple[list[str], str, str]] = {
    "adjoints.py": ([GRAPH, "--rows", "{folder}/rows.jsonl"], "graphs torch onnx_ad", "1 of 1 graphs"),
    "cluster.py": (
        ["same", "fashion", "--workers", "0", "1", "--samples", "24", "--store", "200"],
        "ray",
        "| fashion | fast | 24 | 1 | True | ",
    ),
    "families.py": (["shufflenet"], "", "| shufflenet | "),
    "depth.py": (["fmnist_resnet", "--cuts", "0.3", "--ways", "widths"], "eval", "| fmnist_resnet | 30% of flops | "),
    "defaults.py": (["--tasks", "nsnet2", "--first"], "eval", "Normalisation and scope"),
    "frameworks.py": (["torch/LSTM/dynamo", "--rows", "{folder}/rows.jsonl"], "torch onnxscript", ""),
    "gradients.py": ([GRAPH, "--rows", "{folder}/rows.jsonl"], "graphs torch", ""),
    "growth.py": (["convolutions", "--sizes", "5", "--repeat", "1"], "", "convolutions | "),
    "held_out.py": (["--count", "1"], "", "1"),
    "plans.py": (["{folder}/rows.jsonl", GRAPH, "--jobs", "1"], "graphs", ""),
    "repair.py": (["fmnist_resnet", "--methods", "l2", "--cuts", "0.5", "--rows", "{folder}/rows.jsonl"], "eval", ""),
    "row_statistics.py": (["fmnist_vit"], "eval", "fmnist_vit"),
    "scale.py": (["--preset", "tiny"], "", "times a copy"),
    "speed.py": (
        ["resnet50", "--peer", sys.executable, "--repeat", "1"],
        "torch torchvision torch_pruning onnxscript",
        "resnet50",
    ),
    "starting.py": (["HEAD", "--rounds", "1", "--only", "import spa"], ".git", "| import spa | compiled | "),
    "verdicts.py": ([GRAPH, "--table", "{folder}/verdicts.md"], "graphs", "1 of 1 graphs: 1 verified"),
    "weighing.py": (["crepe_tiny", "--ratios", "0.2"], "eval", "of latency: as they are "),
    "zoo.py": ([GRAPH], "graphs", GRAPH),
}  # fmt: skip
GRAPHS = ("adjoints.py", "gradients.py", "plans.py")
ROWS = {"frameworks.py": "LSTM", "repair.py": "fmnist_resnet"} | dict.fromkeys(GRAPHS, GRAPH)
"""What the rows of a script hold that it writes."""


def started(script: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SPA_SHARED": str(SHARED), "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize("script", SCRIPTS)
def test_starts(script: str, tmp_path: Path) -> None:
    if script == "gradients.py" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    done = started(script, ["--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert script in done.stdout


def test_no_script_hides_a_package_from_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks beside a script first: statistics.py and coverage.py were taken for what others import."""
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() not in (HERE, HERE.parent)]
    monkeypatch.setattr(sys, "path", elsewhere)
    names = [path.stem for path in HERE.glob("*.py")]
    assert not [name for name in names if name in sys.stdlib_module_names or importlib.util.find_spec(name)]


@pytest.mark.parametrize("script", SMALLEST)  # tests/test_readme.py runs readme.py
def test_smallest_case(script: str, tmp_path: Path) -> None:
    arguments, needs, says = SMALLEST[script]
    for need in needs.split():
        if need == ".git":
            if not (HERE.parents[1] / need).exists():
                pytest.skip("this is no checkout")
            continue
        folder = need in ("eval", "graphs")
        if folder and not (SHARED / need).exists():
            pytest.skip(f"no {SHARED.name}/{need} beside the project: SPA_SHARED names another place")
        if not folder and importlib.util.find_spec(need) is None:
            pytest.skip(f"{need} is not installed")
    done = started(script, [word.format(folder=tmp_path) for word in arguments], tmp_path)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert ROWS.get(script, "") in "".join(path.read_text() for path in tmp_path.glob("rows.jsonl"))


@pytest.mark.parametrize("script", ["defaults.py", "repair.py", "row_statistics.py", "verdicts.py", "zoo.py"])
def test_without_models_it_says_where_they_are_looked_for(script: str, tmp_path: Path) -> None:
    environment = os.environ | {"SPA_SHARED": str(tmp_path), "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1
    assert "set SPA_SHARED" in done.stderr
    assert "Traceback" not in done.stderr
