from __future__ import annotations

import sys

import pytest

import spa
from spa.cli import main
from spa.errors import MissingExtra


def test_says_which_extra_brings_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("torch_module", "finetune"):
        with pytest.raises(MissingExtra, match=r"spa-onnx\[torch\]"):
            getattr(spa, name)


def test_the_options_are_there_without_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "--help"])
    assert stopped.value.code == 0
    assert "--learning-rate" in capsys.readouterr().out
