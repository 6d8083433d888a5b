"""How far a command is: a line on stderr that moves, or where stderr is no terminal, a line every 20 seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from spa.clock import NOTE
from spa.clock import Progress as Step

INTERVAL = 20.0
"""Seconds between lines."""


class _Rate(ProgressColumn):
    """How much of a step is done each second."""

    def render(self, task: Task) -> Text:
        """The share, or nothing yet."""
        return Text(f"{task.speed:.1%}/s" if task.total is not None and task.speed else "")


@contextmanager
def progress(console: Console, *, quiet: bool = False) -> Iterator[Step]:
    """Show which step is running, how far it is and how long it will take."""
    if quiet:
        yield lambda *_: None
    elif console.is_terminal:
        with _bars(console) as step:
            yield step
    else:
        with _lines(console) as step:
            yield step


@contextmanager
def _bars(console: Console) -> Iterator[Step]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        shown: dict[str, TaskID] = {}

        def step(name: str, share: float | None = None, /) -> None:
            if name.startswith(NOTE):
                console.print(name.removeprefix(NOTE), markup=False, soft_wrap=True)
                return
            if name not in shown:
                for task in shown.values():
                    bars.update(task, visible=False)
                shown[name] = bars.add_task(name, total=None)
            if share is not None:
                bars.update(shown[name], total=1.0, completed=share, visible=True)

        yield step


@contextmanager
def _lines(console: Console) -> Iterator[Step]:
    """A thread says now and then where the work is, so that steps that say nothing on their way are seen too."""
    start = time.monotonic()
    done = threading.Event()
    current: list[str] = ["start"]

    def step(name: str, share: float | None = None, /) -> None:
        if name.startswith(NOTE):
            console.print(name.removeprefix(NOTE), markup=False, soft_wrap=True)
            return
        current[0] = name if share is None else f"{name} {share:.0%}"

    def speak() -> None:
        while not done.wait(INTERVAL):
            console.print(f"{current[0]}, {time.monotonic() - start:.0f} s", markup=False)

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield step
    finally:
        done.set()
        speaker.join()
