"""Code in docs/ and README runs as it stands, links lead somewhere, and the pages build without a complaint."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spa

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "prune",
    "groups",
    "heads",
    "apply",
    "verify",
    "export",
    "normalize",
    "rule",
    "bench",
    "finetune",
    "train",
    "profile",
    "sweep",
)
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FRAMEWORKS = ROOT / "docs" / "howto" / "frameworks.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
NEEDS = re.compile(r"## ([^\n]+)\n(?:(?!\n## ).)*?<!-- needs: ([^\n]+) -->\n```python\n(.*?)```", re.DOTALL)
CODED = [page for page in PAGES if page != FRAMEWORKS and BLOCK.search(page.read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the model that the pages speak of, to run in."""
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "fashion_resnet.onnx", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in CODED])
def test_page_runs_from_top_to_bottom(page: Path, folder: Path) -> None:
    for module in re.findall(r"<!-- needs: (\w+) -->", page.read_text(encoding="utf-8")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    registry = importlib.import_module("spa.notation.operation")._registry if page.name == "operator.md" else {}
    before, namespace = dict(registry), {"__name__": "page"}
    try:
        for code in BLOCK.findall(page.read_text(encoding="utf-8")):
            exec(compile(code, str(page), "exec"), namespace)
    finally:  # an operator of a page is no operator of SPA
        registry.clear()
        registry.update(before)
    assert len(namespace) > 1
    assert list(folder.iterdir())


BLOCKS = NEEDS.findall(FRAMEWORKS.read_text(encoding="utf-8"))


def test_every_framework_has_code_that_runs() -> None:
    assert [title for title, _, _ in BLOCKS] == re.findall(r"^## (.+)$", FRAMEWORKS.read_text(), re.MULTILINE)


@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("needs", "code"), [pytest.param(n, c, id=t) for t, n, c in BLOCKS])
def test_framework(needs: str, code: str) -> None:
    for module in needs.split():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    exec(compile(code, str(FRAMEWORKS), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    named = re.findall(r"`((?:spa|passes|frontends|tests|models)/[\w/]+\.(?:py|md|jsonl|onnx))`", text)
    missing = [link for link in links if link and ":" not in link and not (page.parent / link).exists()]
    assert not missing + [name for name in named if "NAME" not in name and not (ROOT / name).exists()]


def test_every_command_and_option_of_the_pages_exists() -> None:
    help_of = {name: _help(name) for name in COMMANDS}
    for page in PAGES:
        for name, rest in re.findall(r"^\$? *spa (\w+)([^\n#]*)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert name in help_of, (page.name, name)
            for option in re.findall(r"--[a-z-]+", rest):
                assert option in help_of[name], (page.name, name, option)


def _help(command: str) -> str:
    program = [sys.executable, "-m", "spa", command, "--help"]
    return subprocess.run(program, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_the_newest_changes_are_those_of_this_version() -> None:
    assert re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == spa.__version__


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed")
def test_the_pages_build_without_a_complaint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "spa.prune" in (tmp_path / "site" / "api" / "index.html").read_text()
    assert "com.microsoft::FusedGemm" in (tmp_path / "site" / "operators" / "index.html").read_text()
    assert "<code>lamp</code>" in (tmp_path / "site" / "theory" / "index.html").read_text()
