"""Numbers, tables and JSON that a user reads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from rich.console import Console

import spa
from spa import pipeline, report
from spa.analysis.plan import Plan
from spa.notation.operation import registered
from spa.report import FrozenShare, GroupRow, Report, quantity
from tests import models


def shown(show: Callable[[Console], None]) -> str:
    file = io.StringIO()
    show(Console(file=file, width=120, highlight=False))
    return file.getvalue()


def reported(model: onnx.ModelProto, removed: dict[str, list[int]] | None = None) -> Report:
    analysis = pipeline.analyse(pipeline.load_normal(model))
    return pipeline.report_on(analysis, Plan.of(analysis.groups, removed or {}))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (1000, "1 k"), (12345, "12.3 k"), (1234567, "1.23 M"), (5e9, "5 G"),
        (2e12, "2 T"),
    ],
)  # fmt: skip
def test_quantity(number: float, text: str) -> None:
    assert quantity(number) == text


def test_costs_before_and_after() -> None:
    summary = reported(models.gated_mlp(), {"w0:1": [0, 1]})
    assert summary.before == {"params": 144, "bytes": 576, "flops": summary.before["flops"]}
    assert summary.after["params"] == 144 - 2 * (6 + 6 + 6)
    assert summary.removed_share("params") == pytest.approx(0.25)
    assert Report({"flops": 0}, {"flops": 0}, (), ()).removed_share("flops") == 0


def test_what_stays_is_of_the_model_that_came() -> None:
    """A repair adds biases; the one at the output cannot shrink."""
    samples = np.random.default_rng(0).standard_normal((64, 5, 6)).astype(np.float32)
    repaired = spa.prune(models.gated_mlp(), ratio=0.25, data=samples, align=1)
    assert any(name.endswith("/bias") for name in repaired.model.graph.initializers)
    assert not any("/bias" in share.example for share in repaired.report.frozen)


def test_parameters_of_a_group() -> None:
    """Each stored number along its units once, in matrices that hold the units twice too."""
    (row,) = reported(models.gated_mlp()).groups
    assert row == GroupRow("w0:1", "ffn", 8, 0, 144)
    rows = {row.name: row for row in reported(models.packed_attention()).groups}
    heads, inside, values = rows["w:1"], rows["w:1#2"], rows["w:1#3"]
    assert heads.params == 8 * 36 + 36 + 12 * 8
    assert inside.params == 8 * 24 + 24
    assert values.params == 8 * 12 + 12 + 12 * 8
    assert inside.inside == values.inside == ("w:1",)


def test_what_is_frozen_and_why() -> None:
    summary = reported(models.unknown_operator())
    unknown = "the shape of operand 0 is unknown"  # and so is all that follows
    assert [(share.reason, share.params, share.example) for share in summary.frozen] == [(unknown, 42, "c2")]
    analysis = pipeline.analyse(pipeline.load_normal(models.unknown_operator()))
    axes = {entry.reason: entry for entry in report.frozen_axes(analysis.coupling)}
    mystery = axes["no rule for operator com.example::Mystery"]
    assert (mystery.axes, mystery.params) == (1, 5 * 8)
    assert mystery.example.startswith("c1:0 in Mystery ")
    assert set(axes) == {"no rule for operator com.example::Mystery", "graph input", unknown}


def test_tensors_that_cannot_shrink() -> None:
    model = models.build("(float[N,4] x) => (float[N,2] y) { y = Gemm(x, w, b) }", {"w": [4, 2], "b": [2]})
    assert reported(model).frozen == [
        FrozenShare("graph input and graph output", 8, 0.8, "w"),
        FrozenShare("graph output", 2, 0.2, "b"),
    ]


def test_json_of_a_report() -> None:
    parsed = json.loads(reported(models.layer_normed(), {"w1:1": [0, 1, 2]}).to_json())
    assert parsed["removed_share"].keys() == parsed["before"].keys() == {"params", "flops", "bytes"}
    assert [(row["name"], row["removed"], row["off"] is None) for row in parsed["groups"]] == [
        ("w0:1", 0, False),
        ("w1:1", 3, True),
        ("w2:branch", 0, False),
    ]


def test_json_knows_no_infinity() -> None:
    summary = reported(models.gated_mlp())
    summary.difference = float("inf")
    assert json.loads(summary.to_json(), parse_constant=pytest.fail)["difference"] is None


def test_tables_of_a_prune() -> None:
    summary = reported(models.layer_normed(), {"w1:1": [0, 1, 2]})
    summary.status, summary.difference, summary.notes = report.VERIFIED, 1.5e-7, ["[markup] is text"]
    text = shown(lambda console: report.print_report(summary, console))
    lines = [line.split() for line in text.splitlines()]
    assert ["ffn", "1", "12", "3", "25%"] in lines
    assert ["width", "1", "8", "0", "0%", "off", "by", "default,", "see", "--include", "width"] in lines
    assert "verified: valid, same inputs and outputs; differs by 1.5e-07 of the largest output" in text
    assert text.endswith("note: [markup] is text\n")
    assert all(line == line.rstrip() for line in text.splitlines())
    text = shown(lambda console: report.print_report(summary, console, all_groups=True))
    assert ["w1:1", "ffn", "12", "3", "25%"] in [line.split() for line in text.splitlines()]


def test_verdicts() -> None:
    summary = reported(models.layer_normed())
    assert shown(lambda console: report.print_verdict(summary, console)) == ""
    summary.status, summary.exact = report.VERIFIED, False
    assert shown(lambda console: report.print_verdict(summary, console)) == (
        "verified: valid, same inputs and outputs (not exact by construction: units that enter a norm, mean or softmax "
        "were removed)\n"
    )


def test_rules_are_listed_once_and_in_order() -> None:
    rows = report.rule_rows()
    assert [row.family for row in rows] == sorted(row.family for row in rows)
    names = [name for row in rows for name in row.operators]
    assert sorted(names) == sorted(f"{domain}::{name}" if domain else name for domain, name in registered())
    assert all(row.rules for row in rows)


def test_one_operator() -> None:
    (row,) = report.rule_rows("conv")
    assert row.operators == ("Conv",)
    assert {row.operators[0] for row in report.rule_rows("com.microsoft::fusedconv")} == {"com.microsoft::FusedConv"}
    assert report.rule_rows("Nonesuch") == []


def test_rules_as_markdown() -> None:
    lines = report.rules_markdown(report.rule_rows()).splitlines()
    assert lines[:2] == ["| family | operators | rules |", "|---|---|---|"]
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
