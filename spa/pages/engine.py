"""The libraries that draw: Vega-Lite by vl-convert, and jinja2 for the text; both come with the extra `report`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from spa.errors import MissingExtra
from spa.pages.colours import fixed

CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": "var(--soft)", "titleColor": "var(--soft)", "gridColor": "var(--line)", "domain": False,
        "tickColor": "var(--line)", "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal",
    },
    "axisY": {"labelLimit": 230},
    "legend": {"labelColor": "var(--soft)", "titleColor": "var(--soft)", "labelFontSize": 11},
    "view": {"stroke": None},
    "title": {"color": "var(--ink)", "anchor": "start", "fontSize": 13},
}  # fmt: skip

VERSION = "6.4"
"""Of Vega-Lite."""


def library() -> Any:
    """vl-convert.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise MissingExtra(_missing("vl-convert-python")) from None
    return vl_convert


def templates() -> Any:
    """jinja2's environment with the templates of the pages.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtra(_missing("jinja2")) from None
    return jinja2.Environment(
        loader=jinja2.PackageLoader("spa.pages"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip


def _missing(name: str) -> str:
    return f"pages and pictures need {name}, which is not installed: pip install 'spa-onnx[report]'"


@cache
def bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    return str(library().javascript_bundle(vl_version=VERSION))


def svg(spec: Mapping[str, Any]) -> str:
    """A chart as SVG, in the colours of a light ground."""
    return str(library().vegalite_to_svg(_fixed(spec), vl_version=VERSION))


def png(spec: Mapping[str, Any]) -> bytes:
    """A chart as PNG, in the colours of a light ground, at twice the size of a screen."""
    return bytes(library().vegalite_to_png(_fixed(spec), vl_version=VERSION, scale=2))


def _fixed(spec: Mapping[str, Any]) -> dict[str, Any]:
    chart: dict[str, Any] = json.loads(fixed(json.dumps({**spec, "config": CONFIG})))
    return chart
