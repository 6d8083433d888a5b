"""`spa heads`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import onnx
import pytest

from models import folder as toy
from spa import document
from tests.cli.conftest import Ran
from tests.models import build


def test_the_command(tmp_path: Path, run: Callable[..., Ran]) -> None:
    decoder = toy.build(tmp_path / "dense", toy.Sizes(layers=2, heads=4, kv_heads=2))
    ran = run("heads", decoder)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].split()[:2] == ["attention", "head"]
    assert "attention to what followed the same token before" in ran.out
    parsed = json.loads(run("heads", decoder, "--json").out)
    jsonschema.validate(parsed, document.schema(), cls=jsonschema.Draft202012Validator)
    assert len(parsed["heads"]) == 8


def test_the_page(tmp_path: Path, run: Callable[..., Ran]) -> None:
    pytest.importorskip("jinja2", reason="the extra report is not installed")
    decoder = toy.build(tmp_path / "dense", toy.Sizes(layers=2, heads=4, kv_heads=2))
    page = tmp_path / "heads.html"
    assert run("heads", decoder, "--report", page).code == 0
    assert "Looking up by attention and head" in page.read_text()


def test_the_command_says_what_is_wrong(tmp_path: Path, run: Callable[..., Ran]) -> None:
    onnx.save(build("(float[N,6] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": [6, 4]}), tmp_path / "plain.onnx")
    ran = run("heads", tmp_path / "plain.onnx")
    assert ran.code == 2
    assert ran.err.startswith("error: no attention was found")
