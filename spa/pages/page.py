"""A document as one HTML file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from spa.errors import UsageError
from spa.frontends.files import onnx_file
from spa.pages import bench, engine, heads, result, sweep, training
from spa.pages.colours import DARK, LIGHT, variables
from spa.pages.parts import Page

KINDS = {
    "result": result.page,
    "sweep": sweep.page,
    "timing": bench.page,
    "training": training.page,
    "heads": heads.page,
}


def check(path: Path) -> None:
    """Refuse a page that could not be written, before any work.

    Raises:
        UsageError: the name does not end in .html.
        MissingExtra: a library is not installed.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{str(path)!r}: expected a name that ends in .html")
    engine.templates()
    engine.library()


def html(document: Mapping[str, Any]) -> str:
    """The page of a result, a sweep, a bench or a training.

    Args:
        document: as `spa.document` makes it.

    Raises:
        UsageError: of this kind of document there is no page.
        MissingExtra: a library is not installed.
    """
    kind = str(document["kind"])
    if kind not in KINDS:
        raise UsageError(f"there is no page of a document of the kind {kind!r}: expected {', '.join(KINDS)}")
    page: Page = KINDS[kind](document)
    style = _text("style.css").replace("@LIGHT@", variables(LIGHT)).replace("@DARK@", variables(DARK))
    return str(
        engine.templates().get_template("page.html.j2").render(
            document=document, title=page.title, kicker=page.kicker, lead=page.lead,
            sections=[section for section in page.sections if section["parts"]],
            style=style, script=_text("page.js"), bundle=engine.bundle().replace("</script", "<\\/script"),
            data=_embedded(document), charts=_embedded(page.charts), config=_embedded(engine.CONFIG),
        )
    )  # fmt: skip


def write(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page of a document, whole or not at all.

    Raises:
        UsageError: it cannot be written, or there is no page of this kind of document.
        MissingExtra: a library is not installed.
    """
    check(Path(path))
    onnx_file.save_text(html(document), path)


def _text(name: str) -> str:
    return (resources.files("spa.pages") / "templates" / name).read_text(encoding="utf-8")


def _embedded(data: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")
