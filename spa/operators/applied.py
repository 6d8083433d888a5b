"""The rules that nodes of each operator get, as text: what `spa rule` prints and README's table shows.

`applied.txt` holds an operator's name and, indented, the rules that the rows of `tests/rows` get, one for each way in
which its axes may be written; `tests/benchmarks/applied.py` writes it, and a test holds it to what the rules say.
"""

from __future__ import annotations

from importlib import resources

REFUSED = "refused: "
"""What begins the line of an operator without rules, before the reason."""


def applied() -> dict[str, list[str]]:
    """Operator, with its domain where that is not onnx's own -> rules."""
    rules: dict[str, list[str]] = {}
    name = ""
    for line in resources.files("spa.operators").joinpath("applied.txt").read_text("utf-8").splitlines():
        if line.startswith(" "):
            rules[name].append(line.strip())
        else:
            name = line
            rules[name] = []
    return rules
