"""Several ratios side by side: what they share, what each says, and that a point is what prune would make."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import spa
from spa.errors import BudgetError, UsageError
from spa.limit import loss_of
from spa.options import PruneOptions
from spa.passes.repair.groundwork import Groundwork
from spa.points import COLUMNS
from spa.ratios import SweepOptions, ratios_of
from spa.sweeping import DENSE
from tests import models


def samples(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(models.residual_cnn(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


# ------------------------------------------------------------------------------------------------ ratios
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1:0.7", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
        ("10%:30%:5%", (0.1, 0.15, 0.2, 0.25, 0.3)),
        ("0.1:0.35", (0.1, 0.2, 0.3, 0.35)),
        ("0.2,50%", (0.2, 0.5)),
        ("0.3", (0.3,)),
        ("0.3:0.33", (0.3, 0.33)),
    ],
)
def test_ratios_are_said_in_several_ways(text: str, expected: tuple[float, ...]) -> None:
    assert ratios_of(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "a", "0.1:", "0.7:0.1", "0.1:0.7:0", "0.1:0.7:0.1:0.2", "0.1;0.2", ":0.5"])
def test_ratios_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected LOW:HIGH"):
        ratios_of(text)


def test_too_many_ratios_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 50"):
        ratios_of("0.1:0.9:0.001")


@pytest.mark.parametrize("given", [(), (0.0, 0.5), (1.0,), (0.3, 0.3), (30,), ("a",)])
def test_ratios_are_shares_each_once(given: tuple[object, ...]) -> None:
    with pytest.raises(UsageError, match="shares between 0 and 1"):
        SweepOptions(ratios=given)  # type: ignore[arg-type] # as a caller might


# ------------------------------------------------------------------------------------------------ a sweep
def test_each_point_says_what_went_and_how_far_the_outputs_moved(net: Path) -> None:
    report = spa.sweep(net, ratios="0.2:0.4", data=samples(), preset="fast", seconds=0.2)
    assert [point.ratio for point in report.points] == pytest.approx([0.2, 0.3, 0.4])
    for point in report.points:
        assert point.removed["params"] >= point.ratio - 1e-9
        assert point.decided_by.startswith("spa, fast")
        assert point.figure("relative_l2") is not None
        assert point.time is not None
        assert point.interval is not None
        assert point.interval[0] <= point.time <= point.interval[1]
        assert point.file is None
    assert report.outputs_on == "samples held out"
    assert report.timing is not None
    assert [row.name for row in report.timing.rows] == [DENSE, "0.2", "0.3", "0.4"]
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert list(rows[0]) == list(COLUMNS)
    assert [float(row["ratio"]) for row in rows] == pytest.approx([0.0, 0.2, 0.3, 0.4])
    assert float(rows[0]["time"]) == 1.0


def test_what_groups_lose_is_found_out_once(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    of = Groundwork.of.__func__  # type: ignore[attr-defined] # of a class method

    def counted(cls, *arguments, **keywords):
        made.append(keywords["ratios"])
        return of(cls, *arguments, **keywords)

    monkeypatch.setattr(Groundwork, "of", classmethod(counted))
    spa.sweep(net, ratios=[0.2, 0.3, 0.4], data=samples(), preset="fast", seconds=0)
    assert made == [(0.2, 0.3, 0.4)]


@pytest.mark.parametrize("given", [{"weights": True}, {"data": samples(), "preset": "fast"}, {}])
def test_a_sweep_of_times_takes_them_as_they_were_asked_for(net: Path, given: dict[str, Any]) -> None:
    """The profile's device times the results too; of what is foretold and measured on the way nothing is lost."""
    profile = spa.profile(net, threads=1, seconds=1)
    report = spa.sweep(net, of="latency", ratios=[0.15, 0.3, 0.9999], profile=profile, seconds=0.2, align=1, **given)
    first, second, last = report.points
    assert report.of == "latency"
    assert report.timing is not None
    assert report.timing.threads == 1
    assert first.milliseconds is not None
    assert second.milliseconds is not None
    assert last.milliseconds is None
    assert last.said.startswith("ratio 0.9999 of latency cannot be met: the floor is about")
    assert [point.ratio for point in report.points] == [0.15, 0.3, 0.9999]
    assert min(first.removed["flops"], second.removed["flops"]) > 0  # which is more, a second of timing need not say
    assert (first.decided_by == "weights") == ("weights" in given)


@pytest.mark.parametrize("keywords", [{"weights": True}, {"data": samples(), "preset": "fast"}])
def test_a_sweep_of_one_ratio_is_a_prune(net: Path, keywords: dict[str, Any], tmp_path: Path) -> None:
    report = spa.sweep(net, ratios=[0.3], seconds=0, keep=tmp_path / "kept", **keywords)
    alone = spa.prune(net, ratio=0.3, **keywords)
    (point,) = report.points
    assert point.removed["params"] == pytest.approx(alone.report.removed_share("params"))
    assert point.file is not None
    kept = onnx.load(point.file)
    expected = alone.to_proto()
    assert {t.name: t.raw_data for t in kept.graph.initializer} == {
        t.name: t.raw_data for t in expected.graph.initializer
    }


def test_points_are_what_each_would_be_by_itself_where_nothing_is_measured_near_its_ratio(
    net: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"data": samples(96), "preset": "fast", "align": 1}
    together = spa.sweep(net, ratios=[0.2, 0.4, 0.6], seconds=0, keep=tmp_path / "kept", **given)
    for point in together.points:
        alone = spa.prune(net, ratio=point.ratio, **given)
        kept = {t.name: t.raw_data for t in onnx.load(str(point.file)).graph.initializer}
        assert kept == {t.name: t.raw_data for t in alone.to_proto().graph.initializer}
        assert point.outputs == alone.report.outputs


def test_a_ratio_that_cannot_be_met_says_why_and_the_others_are_made(net: Path) -> None:
    report = spa.sweep(net, ratios=[0.3, 0.97], weights=True, seconds=0)
    fine, bad = report.points
    assert not fine.said
    assert "cannot be met" in bad.said
    assert len(report.made) == 1


def test_where_no_ratio_can_be_met_the_sweep_fails(net: Path) -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        spa.sweep(net, ratios=[0.96, 0.98], weights=True, seconds=0)


def test_the_metric_is_measured_of_the_dense_model_and_of_each_point(net: Path) -> None:
    report = spa.sweep(net, ratios=[0.3, 0.5], weights=True, seconds=0, metric=lambda path: Path(path).stat().st_size)
    sizes = [report.dense_metric, *(point.metric for point in report.points)]
    assert sizes == sorted(sizes, key=lambda size: -float(size or 0))
    assert len(set(sizes)) == 3


def test_samples_held_out_judge(net: Path) -> None:
    held_out = samples(30)[::-1]
    report = spa.sweep(net, ratios=[0.3], data=samples(), preset="fast", seconds=0, held_out=held_out)
    assert report.outputs_on == "30 samples held out"


def test_weights_alone_are_judged_on_made_up_inputs(net: Path) -> None:
    report = spa.sweep(net, ratios=[0.3], weights=True, seconds=0)
    assert report.outputs_on.endswith("made-up inputs")
    assert report.points[0].figure("relative_l2") is not None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"ratio": 0.3}, "ratio has no effect in a sweep"),
        ({"max_loss": 0.3}, "max_loss has no effect in a sweep"),
        ({"dry_run": True}, "dry_run has no effect in a sweep"),
        ({"lower_is_better": True}, "lower_is_better has no effect without a metric"),
        ({"seconds": -1}, "seconds -1: expected a number of seconds"),
    ],
)
def test_options_in_vain_are_refused(net: Path, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spa.sweep(net, ratios=[0.3], **keywords)
    with pytest.raises(UsageError, match="ratios are missing"):
        spa.sweep(net)


# ------------------------------------------------------------------------------------------------ a limit
def test_as_much_goes_as_the_limit_lets(net: Path) -> None:
    given: dict[str, Any] = {"data": samples(), "preset": "fast", "align": 1}
    (figures,) = spa.prune(net, ratio=0.4, **given).report.outputs.values()
    most = 1.001 * figures["relative_l2"]
    result = spa.prune(net, max_loss=most, distance="relative_l2", **given)
    limit = result.report.limit
    assert limit is not None
    assert limit.loss <= most
    assert limit.measure == "relative L2"
    assert result.report.removed_share("params") >= 0.35
    beyond = [trial for trial in limit.trials if trial.ratio > limit.ratio]
    assert beyond
    assert all(trial.loss is None or trial.loss > most for trial in beyond)
    assert result.report.verified
    assert result.plan.options["ratio"] == limit.ratio
    assert result.plan.options["max_loss"] == most
    assert "largest share within the limit" in result.report.notes[0]
    (figures,) = result.report.outputs.values()
    assert figures["relative_l2"] == pytest.approx(limit.loss)


def test_a_metric_is_limited_by_what_it_falls(net: Path) -> None:
    dense = net.stat().st_size

    def share(path: str) -> float:
        return Path(path).stat().st_size / dense

    result = spa.prune(net, max_loss=0.25, metric=share, weights=True, align=1)
    limit = result.report.limit
    assert limit is not None
    assert limit.metric_before is not None
    assert limit.metric_before == pytest.approx(1.0, abs=0.05)
    assert 0.15 < limit.loss <= 0.25
    assert limit.metric_after == pytest.approx(limit.metric_before - limit.loss)


def test_a_metric_that_falls_as_models_get_better(net: Path) -> None:
    result = spa.prune(
        net, max_loss=0.001, metric=lambda path: -Path(path).stat().st_size / 1e6, lower_is_better=True, weights=True
    )
    assert result.report.limit is not None
    assert result.report.limit.loss <= 0.001


def test_a_limit_that_cannot_be_met_says_the_smallest_loss(net: Path) -> None:
    with pytest.raises(BudgetError, match="cannot be met: the smallest reached is"):
        spa.prune(net, max_loss=1e-9, weights=True)


def test_held_out_samples_judge_the_limit(net: Path) -> None:
    result = spa.prune(net, max_loss=6, distance="relative_l2", weights=True, held_out=samples(25))
    assert result.report.limit is not None
    assert result.report.limit.on == "25 samples held out"
    assert result.report.outputs_on == "samples held out"


def test_a_divergence_of_what_has_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"distance 'kl': no output gives probabilities"):
        loss_of({"y": {"relative_l2": 0.1}}, "kl")
    assert loss_of({"y": {"relative_l2": 0.1}, "z": {"relative_l2": 0.3}}, None) == ("relative_l2", 0.3)
    assert loss_of({"y": {"relative_l2": 0.1, "kl": 0.2}}, None) == ("kl", 0.2)
    with pytest.raises(UsageError, match="no output was compared"):
        loss_of({}, None)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"ratio": 0.3, "max_loss": 0.1}, "ratio and max_loss both say"),
        ({}, "nothing says how much"),
        ({"max_loss": 0}, "max_loss 0: expected a number above 0"),
        ({"ratio": 0.3, "metric": len}, "metric has no effect without max_loss"),
        ({"max_loss": 0.1, "metric": len, "distance": "kl"}, "distance and metric exclude each other"),
        ({"max_loss": 0.1, "lower_is_better": True}, "lower_is_better has no effect without a metric"),
        ({"max_loss": 0.1, "metric": 3}, "expected a function of a path"),
        ({"max_loss": 0.1, "distance": "l2"}, "expected one of kl, relative_l2"),
    ],
)
def test_limits_that_do_not_fit_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneOptions.of(**keywords)
