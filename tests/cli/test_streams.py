"""Pipes, quiet, progress, help and completion."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from spa.cli import progress as lines
from tests import models
from tests.cli.conftest import Ran
from tests.small import entries

COMMANDS = ("prune", "apply", "verify", "groups", "export", "normalize", "rule")


def piped(words: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "spa", *words.split()], input=given, capture_output=True)


def test_a_model_through_a_pipe(workdir: Path) -> None:
    done = piped("prune - --ratio 30%", (workdir / "model.onnx").read_bytes())
    assert done.returncode == 0
    small = onnx.load_from_string(done.stdout)
    onnx.checker.check_model(small, full_check=True)
    assert b"verified: " in done.stderr
    assert done.stderr.endswith(b"wrote standard output\n")
    assert entries(workdir) == ["model.onnx"]
    assert piped("normalize - -o -", done.stdout).stderr.endswith(b"wrote standard output\n")
    again = piped("normalize - -o normal.onnx -q", done.stdout)
    assert (again.returncode, again.stdout, again.stderr) == (0, b"", b"")
    assert entries(workdir) == ["model.onnx", "normal.onnx"]


@pytest.mark.parametrize(
    ("words", "given", "answer"),
    [
        ("prune - --ratio 0.3", b"", b"standard input is empty: expected an ONNX model"),
        ("groups -", b"hello, world\n", b"standard input: text, not an ONNX model"),
        ("groups -", models.residual_cnn().SerializeToString()[:-300], b"truncated or damaged"),
        ("apply - - -o out.onnx", b"", b"from standard input"),
        ("verify - - --plan plan.json", b"", b"standard input can be one of"),
        ("prune - --ratio 0.3 --json", b"", b"--json has no effect where the model goes to standard output"),
    ],
)
def test_pipes_that_cannot_be(workdir: Path, words: str, given: bytes, answer: bytes) -> None:
    done = piped(words, given)
    assert done.returncode == 2
    assert answer in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert entries(workdir) == ["model.onnx"]


def test_a_plan_through_a_pipe(workdir: Path, run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--weights", "--ratio", 0.4, "--save-plan", "plan.json")
    done = piped("apply model.onnx - -o again.onnx", (workdir / "plan.json").read_bytes())
    assert done.returncode == 0
    assert (workdir / "again.onnx").read_bytes() == (workdir / "model.pruned.onnx").read_bytes()


@pytest.mark.usefixtures("workdir")
@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_is_quiet(run: Callable[..., Ran], flag: str) -> None:
    assert run("prune", "model.onnx", "--ratio", "30%", "--save-plan", "plan.json", flag) == (0, "", "")
    assert run("verify", "model.onnx", "model.pruned.onnx", "--plan", "plan.json", flag) == (0, "", "")
    assert run("apply", "model.onnx", "plan.json", flag) == (0, "", "")
    ran = run("prune", "model.onnx", "--ratio", "99%", flag)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")


def test_lines_say_where_a_long_command_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "INTERVAL", 0.01)
    said = io.StringIO()
    with lines.progress(Console(file=said)) as step:
        step("curves", 0.25)
        while "curves 25%, 0 s" not in said.getvalue():
            time.sleep(0.01)
        step("save")
        while "save, 0 s" not in said.getvalue():
            time.sleep(0.01)
    after = said.getvalue()
    time.sleep(0.05)
    assert said.getvalue() == after


def test_short_commands_and_quiet_ones_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    with lines.progress(Console(file=said)) as step:
        step("curves", 0.25)
    monkeypatch.setattr(lines, "INTERVAL", 0.01)
    with lines.progress(Console(file=said), quiet=True) as step:
        step("curves", 0.25)
        time.sleep(0.05)
    assert not said.getvalue()


# ---------------------------------------------------------------------------------------------------------- help
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_at_most_five_panels_each_with_an_example(
    run: Callable[..., Ran],
    command: str,
    flag: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    ran = run(command, flag)
    assert (ran.code, ran.err) == (0, "")
    panels = re.findall(r"^╭─ (.*?) ─+╮$", ran.out, re.MULTILINE)
    assert 1 <= len(panels) <= 5
    assert all(", such as " in panel or panel == "Arguments" for panel in panels)
    assert re.search(rf"^ spa {command} ?\S*", ran.out, re.MULTILINE)


def test_help_lists_the_commands_with_a_first_step(run: Callable[..., Ran]) -> None:
    ran = run("-h")
    assert ran.code == 0
    assert "spa prune model.onnx --ratio 30%" in " ".join(ran.out.split())
    assert all(f" {command} " in ran.out for command in COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    words = [sys.executable, "-m", "spa"]
    done = subprocess.run([*words, "--show-completion", shell], capture_output=True, text=True)
    assert (done.returncode, "_SPA_COMPLETE" in done.stdout) == (0, True)


def test_choices_are_completed() -> None:
    asked = {"_SPA_COMPLETE": "complete_bash", "COMP_WORDS": "spa prune net.onnx --of ", "COMP_CWORD": "4"}
    done = subprocess.run([sys.executable, "-m", "spa"], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == ["params", "flops", "bytes", "latency", "channels"]


# ------------------------------------------------------------------------------------------------------- sources
def test_every_command_takes_what_prune_takes(
    workdir: Path,
    run: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A framework's model stands in for all of them: its export is looked up for prune, groups, normalize, verify."""
    from spa.frontends import sources

    seen: list[str] = []

    def export(source: object, **_: object) -> object:
        seen.append(str(source))
        return onnx.load("model.onnx")

    monkeypatch.setattr(sources, "export", export)
    assert run("prune", "package.module:net", "--weights", "--ratio", 0.3, "--save-plan", "plan.json", "-q").code == 0
    assert run("groups", "package.module:net").code == 0
    assert run("normalize", "package.module:net", "-q").code == 0
    assert run("apply", "package.module:net", "plan.json", "-q").code == 0
    assert run("verify", "package.module:net", "net.pruned.onnx", "--plan", "plan.json").code == 0
    assert seen == ["package.module:net"] * 5
    assert entries(workdir) == ["model.onnx", "net.normal.onnx", "net.pruned.onnx", "plan.json"]


def test_logs_of_libraries_do_not_reach_the_user(workdir: Path) -> None:
    program = (
        "import logging, sys\n"
        "from spa import pipeline\n"
        "load = pipeline.load_normal\n"
        "def noisy(*a, **k):\n"
        "    logging.getLogger('onnx_ir.passes').warning('internal')\n"
        "    return load(*a, **k)\n"
        "pipeline.load_normal = noisy\n"
        "from spa.cli import main\n"
        "main(['prune', 'model.onnx', '--ratio', '0.3', '-q'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=workdir, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
