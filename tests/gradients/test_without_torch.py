from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

import spa
from spa.cli import main
from spa.errors import MissingExtra
from tests import models


def test_says_which_extra_brings_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("torch_module", "finetune"):
        with pytest.raises(MissingExtra, match=r"spa-onnx\[torch\]"):
            getattr(spa, name)


@pytest.mark.parametrize("name", ["taylor", "synflow", "oracle"])
def test_a_criterion_by_gradients_says_so_in_a_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.chdir(tmp_path)
    onnx.save(models.residual_cnn(), "net.onnx")
    with pytest.raises(SystemExit) as stopped:
        main(f"prune net.onnx --ratio 30% --criterion {name}".split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: PyTorch is not installed: pip install 'spa-onnx[torch]'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_options_are_there_without_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "--help"])
    assert stopped.value.code == 0
    assert "--learning-rate" in capsys.readouterr().out
