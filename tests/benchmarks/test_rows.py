"""Rows that a measurement keeps: what is there is not asked again, and nothing that was written is lost."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.rows import Rows, answer

NAMES = ("task", "cut")


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = Rows(path, *NAMES)
    assert first.add({"task": "a", "cut": 0.3, "loss": 1.0})["loss"] == 1.0
    second = Rows(path, *NAMES)
    assert {"task": "a", "cut": 0.3} in second
    questions = [{"task": "a", "cut": cut} for cut in (0.3, 0.5)]
    assert second.left(questions) == [{"task": "a", "cut": 0.5}]
    second.add({"task": "a", "cut": 0.5, "loss": 2.0})
    assert [row["loss"] for row in Rows(path, *NAMES).all] == [1.0, 2.0]


def test_runs_beside_one_another_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    left, right = Rows(path, *NAMES), Rows(path, *NAMES)
    left.add({"task": "a", "cut": 0.3})
    right.add({"task": "b", "cut": 0.3})
    assert [row["task"] for row in Rows(path, *NAMES).all] == ["a", "b"]


def test_a_row_takes_the_place_of_one_that_answers_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = Rows(path, *NAMES)
    for loss in (1.0, 2.0):
        rows.add({"task": "a", "cut": {"of": "flops", "ratio": 0.3}, "loss": loss})
        rows.add({"task": "b", "cut": 0.3, "loss": loss})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [2.0, 2.0]
    assert rows.get({"task": "a", "cut": {"ratio": 0.3, "of": "flops"}}) == rows.all[0]
    assert rows.get({"task": "c", "cut": 0.3}) is None


def test_without_a_file_rows_are_kept_in_memory() -> None:
    rows = Rows(None, *NAMES)
    rows.add({"task": "a", "cut": 0.3})
    assert rows.all == [{"task": "a", "cut": 0.3}]


def test_an_answer_comes_of_a_process_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, time\nprint('so far')\nprint('[' + sys.argv[1] + ']')")
    assert answer(str(script), ["3"]) == ([3], "")
    script.write_text("raise ValueError('no such task')")
    assert answer(str(script), []) == (None, "ValueError: no such task")
    script.write_text("")
    assert answer(str(script), []) == (None, "no output")
    script.write_text("import time\ntime.sleep(60)")
    assert answer(str(script), [], timeout=0.5) == (None, "no result in 0.5 s")
