"""README says what is."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.benchmarks.repair import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_session_operators_and_figures_are_what_the_script_writes() -> None:
    command = [sys.executable, "tests/benchmarks/readme.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_of_repairs_is_what_its_rows_make() -> None:
    folder = ROOT / "tests" / "benchmarks"
    rows = [json.loads(line) for line in (folder / "repair.jsonl").read_text().splitlines()]
    assert (folder / "repair.md").read_text() == table(rows)


def test_two_set_up_commands() -> None:
    commands = [line.strip() for line in README.splitlines() if line.startswith("    pip install")]
    assert commands == [
        "pip install -e '.[cpu]' && spa prune models/fashion_resnet.onnx --ratio 0.3",
        "pip install -e '.[cpu,test]' && pytest",
    ]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"cpu", "gpu", "test"} <= set(extras)


def test_linked_files_exist() -> None:
    targets = [part.partition(")")[0] for part in README.split("](")[1:]]
    assert targets
    assert all(target.startswith("https://") or (ROOT / target).is_file() for target in targets)


def test_it_is_read_in_one_go() -> None:
    assert len(README.splitlines()) <= 150
