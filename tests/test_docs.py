"""The pages about frameworks are run as they stand."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"## ([^\n]+)\n(?:(?!\n## ).)*?<!-- needs: ([^\n]+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_page_has_code_that_runs() -> None:
    assert [title for title, _, _ in BLOCKS] == re.findall(r"^## (.+)$", PAGE, re.MULTILINE)


@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.parametrize(("needs", "code"), [pytest.param(n, c, id=t) for t, n, c in BLOCKS])
def test_page(needs: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in needs.split():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "fashion_resnet.onnx", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/frameworks.md", "exec"), {"__name__": "page"})
