"""Saving while the process is killed, terminated, or out of disk space."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spa.errors import UsageError
from spa.frontends.files import writing
from spa.frontends.files.onnx_file import load, save
from tests import killing
from tests.small import entries

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("SPA_KILLS", "20"))

layouts = pytest.mark.parametrize("layout", ["inline", "external"])


def outcomes(folder: Path, layout: str, kills: int) -> list[str]:
    command = [sys.executable, "-m", "tests.killing", str(folder), layout, str(kills)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    words = json.loads(done.stdout)
    assert isinstance(words, list)
    return words


@layouts
def test_killed_before_each_step(tmp_path: Path, layout: str) -> None:
    left = outcomes(tmp_path, layout, 0)
    assert left == sorted(left, reverse=True), "first the old model, then the new one, and never anything else"
    assert set(left) == {"old", "new"}
    assert left.count("old") >= 3


@layouts
def test_killed_at_random(tmp_path: Path, layout: str) -> None:
    left = outcomes(tmp_path, layout, KILLS)
    assert len(left) == KILLS
    assert set(left) <= {"old", "new"}


@layouts
def test_terminated(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the middle of writing: the exit code of a terminated process, no temporary files."""
    model = load(killing.write(tmp_path, "new", external=layout == "external"))
    before = entries(tmp_path)

    def terminate(_: object) -> memoryview:
        assert entries(tmp_path) != before
        os.kill(os.getpid(), signal.SIGTERM)
        return memoryview(b"")

    monkeypatch.setattr(writing, "_payload", terminate)
    with pytest.raises(SystemExit) as caught:
        save(model, tmp_path / "target.onnx")
    assert caught.value.code == 128 + signal.SIGTERM
    assert entries(tmp_path) == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@layouts
def test_disk_full(tmp_path: Path, layout: str) -> None:
    """A limit on the size of files stands in for a full disk: writes fail half-way."""
    external, target = layout == "external", tmp_path / "target.onnx"
    save(load(killing.write(tmp_path, "old", external=external)), target)
    model = load(killing.write(tmp_path, "new", external=external))
    before = entries(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, hard))
    try:
        with pytest.raises(UsageError, match=r"^cannot write '.*target.onnx': File too large$"):
            save(model, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert entries(tmp_path) == before
    assert killing.found(target) == "old"
