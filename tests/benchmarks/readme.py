"""What README and docs/ show and did not make up: a session, figures of tables, pictures.

    python tests/benchmarks/readme.py [--check]

Runs the session's commands in a folder that holds a copy of models/, and writes their output, and rows of speed.md,
defaults.md and repair.md, between the markers of README.md and docs/results.md, and the pictures into docs/pictures.
With --check nothing is written: the exit status is 1 where a file says something else; the difference that verification
measures depends on the machine's rounding and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
if __name__ == "__main__":  # run as a script: the project's root is not on the path
    sys.path.insert(0, str(ROOT))

from tests.benchmarks.pictures import PICTURES  # noqa: E402

SESSION = (
    "spa prune models/fashion_resnet.onnx --ratio 0.3 --weights --align 8 --save-plan plan.json",
    "spa verify models/fashion_resnet.onnx models/fashion_resnet.pruned.onnx --plan plan.json",
)
DIFFERENCE = re.compile(r"(differs by |largest output \(|relative L2 |KL )[^\s,]+")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}  # this working copy, whatever is installed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    made = {ROOT / name: filled((ROOT / name).read_text(), name) for name in SECTIONS}
    made |= {ROOT / "docs" / "pictures" / name: make() for name, make in PICTURES.items()}
    if arguments.check:
        odd = [
            path for path, new in made.items() if not path.exists() or comparable(path.read_text()) != comparable(new)
        ]
        if odd:
            sys.exit(f"{odd[0].relative_to(ROOT)} is not what tests/benchmarks/readme.py writes")
        return
    for path, new in made.items():
        path.write_text(new)


def filled(text: str, name: str) -> str:
    """A page with new content between its markers."""
    for marker, make in SECTIONS[name].items():
        start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->\n"
        head, _, rest = text.partition(start)
        _, closing, tail = rest.partition(end)
        if not closing:
            sys.exit(f"{name} has no {start.strip()} ... {end.strip()}")
        text = f"{head}{start}{make()}\n{end}{tail}"
    return text


def comparable(text: str) -> str:
    return DIFFERENCE.sub(r"\1...", text)


def session() -> str:
    """The commands and what they print, stdout and stderr, as on a terminal."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "models", Path(folder) / "models", ignore=shutil.ignore_patterns("*.py*", "*.md"))
        text = ""
        for command in SESSION:
            arguments = [sys.executable, "-m", "spa", *command.split()[1:]]
            done = subprocess.run(
                arguments, cwd=folder, check=True, text=True, stdout=-1, stderr=subprocess.STDOUT, env=ENVIRONMENT
            )
            text += f"$ {command}\n{done.stdout.rstrip()}\n\n"
    return f"```\n{text.rstrip()}\n```"


def speed() -> str:
    """Rows of the table of speed.py: coupling and groups, the whole prune, memory."""
    columns = {
        "model": "model",
        "couple ms": "coupling, ms",
        "groups ms": "groups, ms",
        "(a) times faster": "coupling and groups, times faster",
        "(b) times faster": "whole prune, times faster",
        "(b) all times faster": "with normalising and shapes",
        "SPA's peak memory / file": "peak memory above idle / file",
    }
    header, *rows = cells("speed.md")
    at = [header.index(name) for name in columns]
    lines = [[row[k].partition(" (")[0] for k in at] for row in rows]
    return table(list(columns.values()), lines)


def defaults() -> str:
    """The last round of defaults.py: the best settings, the first guess, chance."""
    header, *rows = cells("defaults.md", after="## Confirmation")
    return table([*header[:-1]], [row[:-1] for row in rows])


def cells(name: str, after: str = "") -> list[list[str]]:
    """The cells of a committed table, its header first."""
    text = (HERE / name).read_text().partition(after)[2] if after else (HERE / name).read_text()
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(header) - 1), *lines[1:]])


def repair() -> str:
    """The table of repair.py."""
    header, *rows = cells("repair.md")
    return table(header, rows)


def by_default() -> str:
    """The table of by_default.py, and what sums it up."""
    header, *rows = cells("by_default.md")
    text = (HERE / "by_default.md").read_text()
    said = [line for line in text.splitlines() if line.startswith("- ")]
    return "\n".join([table(header, rows), "", *said])


def harm() -> str:
    """The table of small.py, and what sums it up."""
    header, *rows = cells("small.md")
    return f"{table(header, rows)}\n\n{(HERE / 'small.md').read_text().rstrip().splitlines()[-1]}"


def summary() -> str:
    """The largest cut of each task that every way was measured at: the task's metric, dense and after each."""
    rows = [json.loads(row) for row in (HERE / "repair.jsonl").read_text().splitlines()]
    rows += [json.loads(row) for row in (HERE / "by_default.jsonl").read_text().splitlines()]
    measured = {
        (row["task"], row["cut"], row["method"]): row for row in rows if row.get("convention", "none") == "none"
    }
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        cuts = {cut for name, cut, _ in measured if name == task}
        whole = [cut for cut in cuts if all((task, cut, method) in measured for method, _ in SUMMARY)]
        if whole:
            shown = [f"{measured[task, max(whole), method][key]:.4g}" for method, key in SUMMARY]
            lines.append([f"{task} ({measured[task, max(whole), 'spa']['metric']})", f"{max(whole):.0%}", *shown])
    return table(["task (metric)", "gone", "dense", "L2 of weights", "OBSPA", "SPA, data", "SPA, default"], lines)


SUMMARY = (("spa", "dense"), ("l2", "pruned"), ("obspa", "pruned"), ("spa", "pruned"), ("default", "pruned"))
SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"session": session, "summary": summary},
    "docs/results.md": {"by_default": by_default, "harm": harm, "repair": repair, "speed": speed, "defaults": defaults},
}

if __name__ == "__main__":
    main()
