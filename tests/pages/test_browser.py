"""A page in a browser: no error, nothing asked of the net, every section there to see, on wide and narrow screens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spa.pages import page
from tests.pages.test_pages import SECTIONS, documents, net

__all__ = ["documents", "net"]

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next((program for name in BROWSERS if (program := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"needs a browser: {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("kind", SECTIONS)
def test_a_page_opens(
    kind: str, width: int, scheme: str, browser: Any, documents: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    page.write(documents[kind], path)
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True)
    shown = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(path.as_uri())
    shown.wait_for_selector("body[data-drawn]", timeout=60_000)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    for name in SECTIONS[kind]:
        box = shown.locator(f"section#{name}").bounding_box()
        assert box is not None, name
        assert box["width"] > 0.8 * min(width, 1120) - 40
        assert box["height"] > 40
    sizes = shown.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert sizes[0] <= sizes[1]
    charts = shown.evaluate(
        "[...document.querySelectorAll('.chart')].map(c => [c.clientWidth, c.querySelectorAll('svg path').length,"
        " c.querySelector('svg').getBoundingClientRect().width])"
    )
    assert charts
    for wide, marks, drawn in charts:
        assert marks > 3
        assert 0.5 * wide < drawn <= wide + 1
    context.close()
