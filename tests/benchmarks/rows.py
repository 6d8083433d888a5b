"""Rows of a measurement that goes on where it was stopped: a line of JSON each, written as soon as it is there.

    rows = Rows(arguments.rows, "task", "cut")            # what tells one row from another; a path, or None: no file
    for question in questions:                            # {"task": "lite0", "cut": 0.5}
        if question not in rows:
            print(json.dumps(rows.add(question | measured(**question))), flush=True)
    print(table(rows.all))

Runs beside one another may share a file: each adds lines. Of rows that answer one question, the last counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).parents[2]


class Rows:
    """The rows in a file, in order, by what they answer."""

    def __init__(self, path: Path | None, *names: str) -> None:
        """Read what is there.

        Args:
            path: None: rows are kept in memory alone.
            names: of the entries that say what a row answers.
        """
        self.path, self.names = path, names
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.known = {self.key(row): row for row in map(json.loads, lines)}

    def key(self, row: Mapping[str, Any]) -> str:
        """What a row answers, whatever else it says."""
        return json.dumps([row.get(name) for name in self.names], sort_keys=True)

    def __contains__(self, question: Mapping[str, Any]) -> bool:
        return self.key(question) in self.known

    def get(self, question: Mapping[str, Any]) -> Row | None:
        """The row that answers a question."""
        return self.known.get(self.key(question))

    def left(self, questions: Iterable[Row]) -> list[Row]:
        """The questions that no row answers."""
        return [question for question in questions if question not in self]

    @property
    def all(self) -> list[Row]:
        """Every row."""
        return list(self.known.values())

    def add(self, row: Row) -> Row:
        """Keep a row: in the place of one that answers the same, else behind the others."""
        replaces = row in self
        self.known[self.key(row)] = row
        if self.path is not None:
            written = self.all if replaces else [row]
            with self.path.open("w" if replaces else "a") as file:
                file.writelines(f"{json.dumps(each)}\n" for each in written)
        return row


def answer(script: str, words: Sequence[str], *, timeout: float | None = None) -> tuple[Any, str]:
    """What a script prints as JSON in its last line, in a process of its own; or None, and why there is nothing."""
    command = [sys.executable, script, *words]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None, f"no result in {timeout:g} s"
    lines = ran.stdout.strip().splitlines()
    if ran.returncode or not lines:
        return None, (ran.stderr.strip().splitlines() or ["no output"])[-1][:200]
    return json.loads(lines[-1]), ""


def commit() -> str:
    """The commit that is measured, with a plus where files differ from it; "no commit" outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return ran.stdout.strip() or "no commit"
