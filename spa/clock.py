"""Time each step, and report progress to the caller."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

NOTE = "note: "
"""What begins with this is a line for the user, no step."""


class Progress(Protocol):
    """Told of each step before it, and on the way of the share (0..1) of it that is done.

    What begins with `NOTE` is no step, but a line for the user.
    """

    def __call__(self, step: str, share: float | None = None, /) -> None: ...


class Clock:
    """Seconds by step, and the word to who waits."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done in the block."""
        if self.progress is not None:
            self.progress(name, None)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def say(self, text: str) -> None:
        """Tell the user something before the work goes on."""
        if self.progress is not None:
            self.progress(f"{NOTE}{text}", None)

    def share(self, name: str, share: float) -> None:
        """Say how much of a step is done."""
        if self.progress is not None:
            self.progress(name, share)


def within(progress: Progress | None, prefix: str) -> Progress:
    """Progress whose steps are of one part of the work."""

    def step(name: str, share: float | None = None, /) -> None:
        if progress is not None:
            progress(name if name.startswith(NOTE) else f"{prefix}{name}", share)

    return step
