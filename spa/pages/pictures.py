"""A sweep as a picture: SVG or PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spa.errors import UsageError
from spa.frontends.files import onnx_file
from spa.pages import charts, engine
from spa.pages.colours import LIGHT

ENDINGS = (".svg", ".png")
WIDTH, HEIGHT = 380, 240


def check(path: Path) -> None:
    """Refuse a name that says no form of a picture, before any work.

    Raises:
        UsageError: the name ends in something else.
        MissingExtra: the library that draws is not installed.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{str(path)!r}: expected a name that ends in {' or '.join(ENDINGS)}")
    engine.library()


def sweep_picture(document: Mapping[str, Any]) -> dict[str, Any]:
    """The charts of a sweep side by side."""
    parts = []
    for spec in charts.sweep(document).values():
        part = {**spec, "width": WIDTH, "height": HEIGHT}
        for name in ("$schema", "autosize", "background", "params"):
            part.pop(name)
        parts.append(part)
    return {"$schema": charts.SCHEMA, "hconcat": parts, "background": LIGHT["card"], "padding": 12}


def save(document: Mapping[str, Any], path: Path) -> None:
    """Draw a sweep.

    Raises:
        UsageError: the name ends in something else than .svg or .png.
        MissingExtra: the library that draws is not installed.
        ModelError: the file cannot be written.
    """
    check(path)
    spec = json.loads(json.dumps(sweep_picture(document)))
    if path.suffix.lower() == ".svg":
        onnx_file.save_text(engine.svg(spec), path)
    else:
        onnx_file.save_bytes(engine.png(spec), path)
