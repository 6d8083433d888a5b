"""A line on stderr that says how far a command is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

from spa.pipeline import NOTE


class _Rate(ProgressColumn):
    """How much of a step is done each second."""

    def render(self, task: Task) -> Text:
        """The share, or nothing yet."""
        return Text(f"{task.speed:.1%}/s" if task.total is not None and task.speed else "")


@contextmanager
def progress(console: Console) -> Iterator[Callable[..., None]]:
    """Show which step is running, how far it is and how long it will take; nothing without a terminal."""

    def say(name: str, _share: float | None = None) -> None:
        if name.startswith(NOTE):
            console.print(name.removeprefix(NOTE), markup=False, soft_wrap=True)

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate())
    if not console.is_terminal:  # a disabled Progress of older rich still ends with an empty line
        yield say
        return
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        shown: dict[str, TaskID] = {}

        def step(name: str, share: float | None = None) -> None:
            if name.startswith(NOTE):
                say(name)
                return
            if name not in shown:
                for task in shown.values():
                    bars.update(task, visible=False)
                shown[name] = bars.add_task(name, total=None)
            if share is not None:
                bars.update(shown[name], total=1.0, completed=share, visible=True)

        yield step
