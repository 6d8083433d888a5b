"""Find out once what several prunes of one model share: the points of a sweep, the tries of a search, gradual steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from spa.errors import SpaError
from spa.executor import Executor

Result = TypeVar("Result")


@dataclass(slots=True)
class Shared:
    """What prunes of one model to several ratios find out once.

    Attributes:
        ratios: near which losses are measured; empty: near that of the budget.
        seconds: that went into it.
        executor: what does the work; None: threads of this process.
        failed: why weights decide although nobody asked for it: a repair by samples did not pass its check.
    """

    ratios: Sequence[float] = ()
    seconds: float = 0.0
    known: dict[str, Any] = field(default_factory=dict)
    executor: Executor | None = None
    failed: str = ""

    def once(self, name: str, make: Callable[[], Result]) -> Result:
        """What is called so, made when it is first asked for; an error that came of it comes again."""
        if name not in self.known:
            start = time.perf_counter()
            try:
                self.known[name] = make()
            except SpaError as error:
                self.known[name] = error
            self.seconds += time.perf_counter() - start
        result = self.known[name]
        if isinstance(result, SpaError):
            raise result
        return result  # type: ignore[no-any-return] # made by `make` of that name
