"""Mutation testing: a small change of the code at a place drawn by chance has to make some test fail.

    python tests/benchmarks/mutants.py cover tests/analysis tests/cut    # which test runs which line; again for others
    python tests/benchmarks/mutants.py run --count 20                    # the next twenty mutants; again for more
    python tests/benchmarks/mutants.py run --part 1/2                    # every other one, beside a run of part 2/2
    python tests/benchmarks/mutants.py run --again --slow 60 --whole     # the survivors, against more tests
    python tests/benchmarks/mutants.py table                             # writes mutants.md; reasons in it stay

cosmic-ray makes the mutants. Places are drawn with a seed, as many in each of the rooms below, one mutation at each. A
mutant runs in a copy of the tree against the tests that run its line, those of its room first, up to the first that
fails. Not drawn: annotations, guards that no right call meets (`strict=True` of zip, `frozen`, `slots`, `eq` of a
dataclass), and comparisons of identity for equality, which differ for nothing here. What was found lies in
`build/mutants`.

One file: a script, from the sample to the table.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "mutants"
ROWS = FOLDER / "rows.jsonl"
ROOMS = {
    "coupling": ["spa/analysis/couple.py", "spa/analysis/matching.py", "spa/analysis/pieces.py"],
    "groups": ["spa/analysis/group.py", "spa/analysis/unit_layers.py", "spa/notation/positions.py"],
    "slicing": ["passes/cut/slicing.py", "passes/cut/masking.py"],
    "selection": ["passes/choose/selection.py", "passes/choose/tracks.py", "passes/choose/candidates.py"],
    "solver": ["passes/secondorder/solver.py", "passes/secondorder/system.py", "passes/secondorder/greedy.py"],
    "verification": [
        "spa/verification.py", "spa/written.py", "passes/cut/verify.py", "passes/cut/difference.py",
        "passes/cut/likeness.py", "passes/cut/structure.py", "passes/cut/rounding.py", "passes/cut/trials.py",
    ],
}  # fmt: skip
EACH = 50
"""Mutants of each room."""

ALIKE = ("Eq_Is", "Is_Eq", "NotEq_IsNot", "IsNot_NotEq")
BROKEN, MISUSED = 99, 4
"""Exit status of a child that could not begin, and of pytest where it finds no such test."""
GUARDS = ("strict", "slots", "frozen", "eq")
SLOW = 8.0
"""Seconds of tests after which no more are added to a mutant's first run, unless told."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change at a place; `occurrence` is cosmic-ray's number of the place among those of the operator."""

    room: str
    file: str
    line: int
    column: int
    operator: str
    occurrence: int

    @property
    def key(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.operator}"


# ------------------------------------------------------------------------------------------------- sampling
def unseen(tree: ast.AST) -> set[tuple[int, int]]:
    """(line, column) of what computes nothing: annotations, and guards such as `strict=True`."""
    hidden: set[tuple[int, int]] = set()
    for node in ast.walk(tree):
        guard = node.value if isinstance(node, ast.keyword) and node.arg in GUARDS else None
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None), guard):
            for inner in ast.walk(part) if isinstance(part, ast.expr) else ():
                if isinstance(inner, ast.expr):
                    for line in range(inner.lineno, (inner.end_lineno or inner.lineno) + 1):
                        first = inner.col_offset if line == inner.lineno else 0
                        last = inner.end_col_offset or 0 if line == inner.end_lineno else 200
                        hidden.update((line, column) for column in range(first, last))
    return hidden


def mutants_of(room: str, file: str) -> list[Mutant]:
    """All mutants of a file."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / file).read_text()
    nodes, hidden, mutants = list(ast_nodes(get_ast(source))), unseen(ast.parse(source)), []
    for name in operator_names():
        if name.endswith(ALIKE) or "Variable" in name:
            continue
        operator = get_operator(name)()
        places: list[tuple[int, int]] = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        mutants += [
            Mutant(room, file, at[0], at[1], name, number) for number, at in enumerate(places) if at not in hidden
        ]
    return mutants


def sample(seed: int) -> list[Mutant]:
    """The mutants that are tried, in a mixed order."""
    draw = random.Random(seed)
    chosen: list[Mutant] = []
    for room, files in ROOMS.items():
        places: dict[tuple[str, int, int], list[Mutant]] = defaultdict(list)
        for file in files:
            for mutant in mutants_of(room, file):
                places[mutant.file, mutant.line, mutant.column].append(mutant)
        drawn = draw.sample(sorted(places), min(EACH, len(places)))
        chosen += [draw.choice(places[place]) for place in drawn]
    draw.shuffle(chosen)
    return chosen


def mutated(mutant: Mutant) -> str | None:
    """The file with the mutation."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code: str | None = mutate_code((ROOT / mutant.file).read_text(), get_operator(mutant.operator)(), mutant.occurrence)
    return code


# ------------------------------------------------------------------------------------------------- coverage
class Contexts:
    """A pytest plugin: coverage by test, and the time that each test takes."""

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_setup(self, item: Any) -> None:
        self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.seconds[report.nodeid] = float("nan")


def cover(tests: Sequence[str]) -> None:
    """Run tests, and add which lines each of them runs to what is known."""
    import coverage
    import pytest

    os.chdir(ROOT)
    files = [str(ROOT / file) for files in ROOMS.values() for file in files]
    recorder = coverage.Coverage(data_file=None, include=files, messages=False)
    plugin = Contexts(recorder)
    recorder.start()
    pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[plugin])
    recorder.stop()
    path = FOLDER / "cover.json"
    known = json.loads(path.read_text()) if path.exists() else {"seconds": {}, "lines": {}}
    again = {name.partition("::")[0] for name in plugin.seconds}  # of these files, only the tests of now that pass
    kept = {name: taken for name, taken in known["seconds"].items() if name.partition("::")[0] not in again}
    known["seconds"] = kept | {name: taken for name, taken in plugin.seconds.items() if taken == taken}
    data = recorder.get_data()
    for file in data.measured_files():
        lines = known["lines"].setdefault(Path(file).relative_to(ROOT).as_posix(), {})
        for line, names in data.contexts_by_lineno(file).items():
            lines[str(line)] = sorted({*lines.get(str(line), ()), *filter(None, names)})
    FOLDER.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known))
    print(f"{len(plugin.seconds)} tests; {sum(map(len, known['lines'].values()))} lines are covered")


def tests_of(mutant: Mutant, known: dict[str, Any], slow: float) -> tuple[list[str], list[str]]:
    """The tests that run a mutant's line, `slow` seconds of them, and the files of tests that run its file.

    Those of the module's own file come first, then those of its room, each fastest first.
    """
    seconds = known["seconds"]
    lines = known["lines"].get(mutant.file, {})
    anywhere = {name for names in lines.values() for name in names}
    near = [name for name in lines.get(str(mutant.line), ()) or anywhere if name in seconds]  # run by an import: any
    files = sorted({name.partition("::")[0] for name in anywhere})
    chosen, total, module = [], 0.0, Path(mutant.file)

    def foreign(name: str) -> int:
        """0: of the file that is named after the module; 1: of its room; 2: of another."""
        test = Path(name.partition("::")[0])
        return 0 if module.stem in test.stem else 1 if module.parent.name == test.parent.name else 2

    for name in sorted(near, key=lambda name: (foreign(name), seconds[name], name)):
        total += seconds[name]
        if total > slow:
            break
        chosen.append(name)
    spent = {file: sum(taken for name, taken in seconds.items() if name.startswith(f"{file}::")) for file in files}
    return chosen, sorted(files, key=lambda file: spent[file])


def batches(tests: Sequence[str], seconds: dict[str, float]) -> list[list[str]]:
    """The tests of the two files that say most for their time, which are soon loaded; then all others."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for name in tests:
        by_file[name.partition("::")[0]].append(name)
    quick = [file for file, names in by_file.items() if sum(seconds[name] for name in names) < SLOW / 4]
    first = set(sorted(quick, key=lambda file: -len(by_file[file]))[:2])
    parts = [[name for name in tests if (name.partition("::")[0] in first) is early] for early in (True, False)]
    return [part for part in parts if part]


# ------------------------------------------------------------------------------------------------ mutation runs
def in_child(tree: Path, listed: Path, said: Path) -> int:
    """Run tests in a process that loads the tree's modules, not ours."""
    os.setsid()
    os.chdir(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = str(tree)
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(tree.parent / "compiled")
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import pytest

    return int(pytest.main(["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", f"@{listed}"]))


def fails(tree: Path, tests: Sequence[str], limit: float) -> str:
    """What tests make of the tree: the first that fails, "timeout", or "" where all pass; in a child of its own."""
    listed, said = tree.parent / "tests.txt", tree.parent / "said.txt"
    listed.write_text("\n".join(tests))
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            code = in_child(tree, listed, said)
        finally:
            os._exit(code)
    start = time.monotonic()
    while time.monotonic() - start < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code in (BROKEN, MISUSED):
                raise RuntimeError(f"tests did not start: {said.read_text(errors='replace')[-500:]}")
            told = said.read_text(errors="replace").splitlines()
            failed = [line for line in told if line.startswith(("FAILED", "ERROR"))]
            return "" if code == 0 else (failed[0].split(" - ")[0] if failed else f"exit {code}")
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


_TIMES = itertools.count(1_000_000_000)


def write(path: Path, code: str) -> None:
    """Write a module with a time that no other version of it has: what is compiled holds for its time and size."""
    path.write_text(code)
    stamp = next(_TIMES)
    os.utime(path, (stamp, stamp))


def try_mutant(mutant: Mutant, tree: Path, known: dict[str, Any], slow: float, *, whole: bool) -> dict[str, Any]:
    """A row: the mutant, its line, and the test that kills it; `whole` tries whole files of tests too."""
    row = asdict(mutant) | {"killed": "", "tests": 0, "seconds": 0.0}
    path, code = tree / mutant.file, mutated(mutant)
    original = path.read_text()
    if code is None or code == original:
        return row | {"killed": "no change"}
    was, now = original.splitlines(), code.splitlines()
    changed = [at for at in range(min(len(was), len(now))) if was[at] != now[at]]
    row |= {"was": was[changed[0]].strip(), "now": now[changed[0]].strip()} if changed else {}
    near, files = tests_of(mutant, known, slow)
    row["tests"], start = len(near), time.monotonic()
    write(path, code)
    try:
        for batch in batches(near, known["seconds"]):
            row["killed"] = row["killed"] or fails(tree, batch, 60 + 8 * sum(known["seconds"][name] for name in batch))
        if not row["killed"] and whole:
            row["killed"] = fails(tree, files, 400)
    finally:
        write(path, original)
    return row | {"seconds": round(time.monotonic() - start, 1)}


def run(count: int, seed: int, part: tuple[int, int], slow: float, *, again: bool, whole: bool) -> None:
    """Try the next mutants of a part of the sample, or those that survived once more."""
    import networkx  # noqa: F401  (what every child needs is loaded once; nothing of the tree is)
    import numpy  # noqa: F401
    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401
    import pytest  # noqa: F401
    import rich.console  # noqa: F401
    import scipy.linalg  # noqa: F401
    import typer  # noqa: F401

    known, rows = json.loads((FOLDER / "cover.json").read_text()), read_rows()
    mine = sample(seed)[part[0] - 1 :: part[1]]
    survived = {key for key, row in rows.items() if not row["killed"]}
    left = [m for m in mine if (m.key in survived if again else m.key not in rows)]
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        for mutant in left[:count]:
            row = try_mutant(mutant, tree, known, slow, whole=whole)
            rows[mutant.key] = row
            outcome = row["killed"] or f"SURVIVES: {row.get('now', '')}"
            print(f"{row['seconds']:6.1f} s  {mutant.key}: {outcome}", flush=True)
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(f"{len(rows)} tried, {sum(not row['killed'] for row in rows.values())} survive")


def copy_tree(folder: Path) -> Path:
    """A copy of the tree as it is, where mutants run."""
    tree = folder / "tree"
    ignore = shutil.ignore_patterns(".git", "build", "__pycache__", ".*_cache", "site")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignore)
    return tree


def read_rows() -> dict[str, dict[str, Any]]:
    """What was tried last of each mutant; runs of parts beside one another add lines to one file."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    return {f"{row['file']}:{row['line']}:{row['column']} {row['operator']}": row for row in rows}


# ----------------------------------------------------------------------------------------------------- table
def lines(rows: Sequence[dict[str, Any]], reasons: dict[str, str]) -> Iterator[str]:
    """The table: what was killed in each room, and why what survives is equivalent."""
    told = ["git", "describe", "--always", "--dirty= and the tests of now", "--abbrev=7", "--exclude=*"]
    commit = subprocess.run(told, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    yield f"Mutants of commit {commit}; `python tests/benchmarks/mutants.py table` writes this page."
    yield ""
    yield "| room | mutants | killed | share |"
    yield "|---|---|---|---|"
    for room in [*ROOMS, "all"]:
        mine = [row for row in rows if room in ("all", row["room"])]
        killed = sum(bool(row["killed"]) for row in mine)
        yield f"| {room} | {len(mine)} | {killed} | {killed / max(1, len(mine)):.1%} |"
    yield ""
    yield "## Survivors"
    yield ""
    yield "| place | was | became | why no test can tell, or none does |"
    yield "|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (row["file"], row["line"])):
        if not row["killed"]:
            was, now = (row.get(word, "").replace("|", "\\|") for word in ("was", "now"))
            yield f"| {row['file']}:{row['line']} | `{was}` | `{now}` | {reasons.get(f'{was} -> {now}', '')} |"


def table() -> None:
    """Write mutants.md; reasons that it gives already are kept."""
    path, reasons = Path(__file__).with_suffix(".md"), {}
    for line in path.read_text().splitlines() if path.exists() else ():
        cells = [cell.strip() for cell in line.replace("\\|", "\0").split("|")]
        if len(cells) == 6 and cells[2].startswith("`"):
            was, now, reason = (cell.replace("\0", "\\|") for cell in cells[2:5])
            reasons[f"{was[1:-1]} -> {now[1:-1]}"] = reason
    path.write_text("\n".join(lines(list(read_rows().values()), reasons)) + "\n")
    print(path.name)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="mutants.py", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    covering = commands.add_parser("cover", help="which test runs which line")
    covering.add_argument("tests", nargs="+", help="files and folders of tests")
    running = commands.add_parser("run", help="try mutants")
    running.add_argument("--count", type=int, default=300, help="at most as many")
    running.add_argument("--seed", type=int, default=0, help="of the sample")
    running.add_argument("--part", default="1/1", help="such as 2/3: every third mutant, from the second on")
    running.add_argument("--slow", type=float, default=SLOW, help="seconds of tests for each, the fastest first")
    running.add_argument("--again", action="store_true", help="those that survived, with the tests of now")
    running.add_argument(
        "--whole", action="store_true", help="besides, whole files of tests that run the mutant's file"
    )
    commands.add_parser("table", help="write mutants.md")
    arguments = parser.parse_args()
    if arguments.command == "cover":
        cover(arguments.tests)
    elif arguments.command == "run":
        part, _, of = arguments.part.partition("/")
        parts = int(part), int(of)
        run(arguments.count, arguments.seed, parts, arguments.slow, again=arguments.again, whole=arguments.whole)
    else:
        table()


if __name__ == "__main__":
    main()
