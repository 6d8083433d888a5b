"""Pages, pictures and notebooks: what they hold, without a browser."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa
from spa import document
from spa.errors import MissingExtra, UsageError
from spa.pages import charts, engine, page
from spa.pages.words import percent, quantity, ranges, shape
from tests import models

pytest.importorskip("jinja2", reason="needs the extra report")
pytest.importorskip("vl_convert", reason="needs the extra report")

SECTIONS = {
    "result": ["summary", "widths", "losses", "layers", "outputs", "stays", "plan", "repeat"],
    "sweep": ["summary", "charts", "points", "time", "repeat"],
    "timing": ["time", "models", "repeat"],
    "training": ["summary", "history", "repeat"],
}


def samples(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


def size(path: str) -> int:
    return Path(path).stat().st_size


@dataclass(frozen=True)
class Trained:
    """As `spa.gradients.tuning.FinetuneReport`, which needs torch."""

    before: float
    after: float
    epochs: int
    seconds: float
    trained: float
    history: tuple[float, ...]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(models.residual_cnn(), path)
    return path


@pytest.fixture(scope="module")
def documents(net: Path) -> dict[str, dict[str, Any]]:
    """One of each kind."""
    result = spa.prune(net, ratio=0.3, data=samples(), preset="default")
    swept = spa.sweep(
        net, ratios=[0.2, 0.4, 0.97], weights=True, seconds=0.1, metric=lambda path: Path(path).stat().st_size
    )
    timed = spa.bench([net, net], names=["a.onnx", "b.onnx"], seconds=0.1)
    trained: Any = Trained(0.2, 0.1, 3, 12.0, 0.9, (0.15, 0.12, 0.1))
    paths: dict[str, Path | None] = {"source": net}
    by_kind = {
        "result": document.of_result(result, paths),
        "sweep": document.of_sweep(swept, paths),
        "timing": document.of_timing(timed, {"model_1": net}),
        "training": document.of_training(trained, paths),
    }
    for data in by_kind.values():
        data["repeat"] = document.repeat(["prune", str(net), "--ratio", "30%"], paths)
    return by_kind


def embedded(text: str, name: str) -> Any:
    (script,) = re.findall(rf'<script type="application/json" id="page-{name}">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(script)


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_page_holds_every_section_its_document_and_nothing_from_elsewhere(
    kind: str, documents: dict[str, dict[str, Any]]
) -> None:
    text = page.html(documents[kind])
    assert re.findall(r'<section id="([\w-]+)">', text) == [
        name for name in SECTIONS[kind] if f'<section id="{name}">' in text
    ]
    assert {f'<section id="{name}">' in text for name in SECTIONS[kind]} == {True}
    assert embedded(text, "document") == json.loads(json.dumps(documents[kind]))
    drawn = embedded(text, "charts")
    assert set(re.findall(r'data-chart="([\w-]+)"', text)) == set(drawn)
    before_scripts = text[: text.index("<script")]
    assert not re.search(r'(?:src|href)="(?!#|data:)', before_scripts)
    assert "spa prune" in unescape(text)
    assert "SHA-256 of source" in text


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_chart_is_one_that_the_library_draws(kind: str, documents: dict[str, dict[str, Any]]) -> None:
    for spec in embedded(page.html(documents[kind]), "charts").values():
        drawn = engine.svg({**spec, "width": 400})
        assert drawn.startswith("<svg")
        assert "var(" not in drawn
        assert "NaN" not in drawn


def test_names_in_a_model_are_text_and_no_markup(documents: dict[str, dict[str, Any]]) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    data = json.loads(json.dumps(documents["result"]))
    data["groups"][0]["name"] = data["frozen"][0]["example"] = evil
    data["notes"] = [evil]
    data["paths"]["source"] = evil
    text = page.html(data)
    assert evil not in text
    assert "<img" not in text[: text.index("<script")]
    assert "&lt;img src=x" in text


def test_the_figures_on_the_page_are_those_of_the_document(documents: dict[str, dict[str, Any]]) -> None:
    data = documents["result"]
    text = unescape(page.html(data))
    for measure, share in data["removed_share"].items():
        assert f"{percent(share)} removed" in text, measure
    for name, units in data["removed"].items():
        assert name in text
        assert ranges(units) in text
    assert data["verdict"] in text
    assert data["repeat"]["sha256"]["source"] in text


def test_a_point_that_was_not_made_is_said_and_not_drawn(documents: dict[str, dict[str, Any]]) -> None:
    data = documents["sweep"]
    assert "cannot be met" in unescape(page.html(data))
    assert len(charts.sweep_rows(data)) == 3  # the dense model and two points
    assert set(charts.sweep(data)) == {"loss", "time", "metric"}


def test_a_sweep_of_times_is_drawn_over_the_time_that_went(documents: dict[str, dict[str, Any]]) -> None:
    data = json.loads(json.dumps(documents["sweep"])) | {"of": "latency"}
    for point, time in zip(data["points"], (0.8, None, None), strict=True):
        point["time"] = time
    rows = charts.sweep_rows(data)
    assert [row["removed"] for row in rows] == [0.0, pytest.approx(0.2)], "what was not timed has no place"
    drawn = charts.sweep(data)
    assert set(drawn) == {"loss", "metric"}
    assert "share of latency removed" in json.dumps(drawn["loss"])
    assert "20.0 %" in unescape(page.html(data))


def test_loss_curves_stop_where_the_plan_says(documents: dict[str, dict[str, Any]]) -> None:
    data = documents["result"]
    assert data["curves"]
    for curve in data["curves"]:
        assert curve["stopped"] == len(data["removed"].get(curve["group"], ()))
        assert curve["stopped"] in curve["removed"]
        assert curve["removed"] == sorted(set(curve["removed"]))
        assert len(curve["removed"]) == len(curve["losses"])


@pytest.mark.parametrize("kind", ["result", "timing", "sweep"])
def test_results_show_themselves_in_notebooks(kind: str, net: Path, documents: dict[str, dict[str, Any]]) -> None:
    made: dict[str, Any] = {
        "result": lambda: spa.prune(net, ratio=0.3, weights=True),
        "timing": lambda: spa.bench([net, net], names=["<a>", "b"], seconds=0.1),
        "sweep": lambda: spa.sweep(net, ratios=[0.3], weights=True, seconds=0),
    }
    text = made[kind]()._repr_html_()
    assert "<table>" in text
    assert text.count("<tr>") == text.count("</tr>") >= 2
    assert "<a>" not in text
    assert documents[kind]["kind"] == kind


def test_a_sweep_is_drawn_into_a_file(net: Path, tmp_path: Path) -> None:
    report = spa.sweep(net, ratios=[0.2, 0.4], weights=True, seconds=0)
    report.save_plot(tmp_path / "sweep.svg")
    report.save_plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.svg").read_text().startswith("<svg")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"expected a name that ends in \.svg or \.png"):
        report.save_plot(tmp_path / "sweep.pdf")


def test_pages_of_other_documents_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kind 'error'"):
        page.html(document.of_error(UsageError("no"), 2))
    with pytest.raises(UsageError, match=r"ends in \.html"):
        page.check(tmp_path / "page.pdf")


@pytest.mark.parametrize("module", ["jinja2", "vl_convert"])
def test_a_missing_library_is_named_with_what_brings_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtra, match=r"spa-onnx\[report\]"):
        page.check(Path("page.html"))


def test_numbers_are_written_as_people_do() -> None:
    assert quantity(1234567) == "1.23 M"
    assert percent(0.305) == "30.5 %"
    assert ranges([5, 1, 2, 3, 9]) == "1–3, 5, 9"
    assert shape([8, 3, 3]) == "8 × 3 × 3"
    assert (quantity(None), percent(None), shape(None), shape([])) == ("–", "–", "–", "scalar")


def test_a_page_of_a_time_says_what_was_asked_and_what_it_came_to(net: Path) -> None:
    profile = spa.profile(net, threads=1, seconds=1)
    result = spa.prune(net, target=0.8 * profile.milliseconds, profile=profile, weights=True, align=1)
    data = document.of_result(result, {"source": net})
    html = unescape(page.html(data))
    latency = result.report.latency
    assert latency is not None
    assert latency.sentence in html
    assert f"{0.8 * profile.milliseconds:g} ms asked for" in html
    assert re.search(r"\d % of the time went", html)
    assert data["latency"]["sentence"] == latency.sentence
