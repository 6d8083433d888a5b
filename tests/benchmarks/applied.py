"""The rules that the rows of tests/rows get, by operator, as `spa rule` prints them.

    python tests/benchmarks/applied.py

Writes spa/operators/applied.txt: after a change of rules or rows; a test tells when it has to be run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from spa.notation.operation import Refusal, rule_of  # noqa: E402
from spa.operators.applied import REFUSED  # noqa: E402
from tests.rows import ROWS  # noqa: E402
from tests.soundness import Case  # noqa: E402

FILE = ROOT / "spa" / "operators" / "applied.txt"


def text() -> str:
    """The file's content: for each operator a rule for each line of patterns; the reason where it never has one."""
    by_operator: dict[str, dict[str, str]] = {}
    for row in ROWS:
        try:
            said = str(rule_of(Case(row).operation()))
        except Refusal as reason:
            said = f"{REFUSED}{reason}"
        by_operator.setdefault(row.operator, {}).setdefault(said.partition(" | ")[0], said)
    lines = []
    for operator, rules in sorted(by_operator.items()):
        given = [said for said in rules.values() if not said.startswith(REFUSED)]
        lines += [operator, *(f"    {said}" for said in given or rules.values())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    FILE.write_text(text(), "utf-8")
