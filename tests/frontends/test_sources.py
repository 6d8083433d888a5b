from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spa import cli
from spa.errors import ModelError, UsageError
from spa.frontends import sources

FACTORY = """
import torch

def net():
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
    return torch.nn.Sequential(*layers), torch.randn(2, 8)

number = 3
"""
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax", "equinox", "transformers", "onnx_graphsurgeon", "olive")


def test_importing_spa_imports_no_framework() -> None:
    program = (
        "import sys, spa, spa.cli, spa.adapters.restore, spa.frontends.sources\n"
        "from spa.frontends import huggingface, jax, keras, torch\n"
        f"assert not set({FRAMEWORKS!r}) & set(sys.modules), set({FRAMEWORKS!r}) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)


@pytest.mark.parametrize(("extra", "module"), [("torch", "torch"), ("huggingface", "huggingface"), ("jax", "jax"),
                                               ("tensorflow", "keras")])  # fmt: skip
def test_a_missing_framework_is_one_line_that_names_the_extra(extra: str, module: str) -> None:
    hidden = ("torch", "transformers", "jax", "jax2onnx", "keras", "tensorflow", "tf2onnx")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        f"from spa.frontends import {module} as frontend\n"
        "from spa.errors import MissingExtra\n"
        "try:\n    frontend.export('somewhere', None)\n"
        "except MissingExtra as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith(f"is not installed: pip install 'spa-onnx[{extra}]'")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("nowhere.keras", "no such file or folder"),
        ("no_such_module:net", "No module named"),
        ("json:no_such_function", "has no attribute"),
        ("json:__doc__", "expected a function"),
    ],
)
def test_sources_that_are_none(source: str, text: str) -> None:
    with pytest.raises((ModelError, UsageError), match=text):
        sources.open_source(source)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without config\.json"):
        sources.open_source(tmp_path)


def test_onnx_files_are_no_framework_s(tmp_path: Path) -> None:
    (tmp_path / "a:b").touch()
    assert not sources.is_framework(tmp_path / "model.onnx")
    assert not sources.is_framework(tmp_path / "a:b")
    assert sources.is_framework("package.module:factory")


def test_factory_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the extra torch is not installed")
    (tmp_path / "my_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    cli.app(["export", "my_net:net", "-o", "dense.onnx"], standalone_mode=False)
    cli.app(["prune", "my_net:net", "--ratio", "0.3", "--weights"], standalone_mode=False)
    assert Path("net.pruned.onnx").stat().st_size < Path("dense.onnx").stat().st_size
    with pytest.raises(UsageError, match="expected a function"):
        cli.app(["export", "my_net:number"], standalone_mode=False)
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        cli.app(["prune", "my_net:net", "--ratio", "0.3", "-o", "folder"], standalone_mode=False)


def test_starting_the_command_loads_no_solver() -> None:
    program = "import sys, spa.cli; assert 'scipy' not in sys.modules and 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--input", "x=1,3"], "--input: this gives ONNX, not "),
        (["--dry-run"], "--output has no effect with --dry-run"),
    ],
)
def test_options_that_hold_for_onnx_alone_are_not_ignored(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "model", tmp_path / "smaller"
    source.mkdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["prune", str(source), "--ratio", "0.3", "--weights", "-o", str(target), *options])
    assert ended.value.code == UsageError.exit_code
    assert f"error: {named}" in capsys.readouterr().err
    assert not target.exists()
