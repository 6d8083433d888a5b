"""What a command loads: a cut by weights alone needs no room of a repair, of samples, of times or of training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests import models

ROOMS = ("repair", "samples", "secondorder", "layers", "latency")
CODE = """
import json, sys
from spa.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(json.dumps(sorted(sys.modules)))
"""


def loaded(folder: Path, *words: str) -> set[str]:
    """The modules in a process that ran `spa` with some words."""
    done = subprocess.run([sys.executable, "-c", CODE, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(models.residual_cnn(), tmp_path / "net.onnx")
    return tmp_path


def of_rooms(names: set[str], *rooms: str) -> set[str]:
    starts = tuple(f"spa.passes.{room}" for room in rooms)
    return {name for name in names if name.startswith(starts)}


def test_a_cut_by_weights_loads_no_room_of_a_repair(folder: Path) -> None:
    names = loaded(folder, "prune", "net.onnx", "--ratio", "30%", "--weights", "--no-verify", "-q")
    assert not of_rooms(names, *ROOMS)
    assert "spa.passes.cut.slicing" in names
    unneeded = {"spa.sampled", "spa.gradual", "spa.learning", "spa.latency", "spa.timing", "spa.pages", "spa.adapters"}
    assert not names & (unneeded | {"onnxruntime", "torch", "scipy", "jinja2"})


def test_verification_of_it_loads_what_tells_how_far_outputs_moved_and_no_more(folder: Path) -> None:
    names = loaded(folder, "prune", "net.onnx", "--ratio", "30%", "--weights", "-q")
    assert "onnxruntime" in names
    assert not of_rooms(names, "samples", "secondorder", "latency")
    parts = {name.rpartition(".")[2] for name in of_rooms(names, "repair", "layers")}
    assert "moved" in parts
    assert parts <= {"repair", "moved", "difference", "kinds", "layers", "finding", "consumers", "window"}


def test_samples_load_them(folder: Path) -> None:
    """The rooms are looked for by the names that they have."""
    names = loaded(
        folder, *["prune", "net.onnx", "--ratio", "30%", "--data-free", "--preset", "fast", "--no-verify", "-q"]
    )
    for room in ROOMS[:-1]:
        assert of_rooms(names, room), room
    assert "spa.sampled" in names


def test_garbage_is_collected_once_all_is_loaded() -> None:
    code = "import gc{}; import spa.cli; print(gc.isenabled())"
    said = [
        subprocess.run([sys.executable, "-c", code.format(more)], capture_output=True, text=True, check=True).stdout
        for more in ("", "; gc.disable()")
    ]
    assert said == ["True\n", "False\n"]
