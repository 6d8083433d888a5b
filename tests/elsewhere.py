"""An executor that does work in this process on copies of what it is given, as workers of a cluster have them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spa.executor import in_pairs


@dataclass(frozen=True)
class Copied:
    """What lies elsewhere: every get is another copy."""

    body: bytes

    def get(self) -> Any:
        return pickle.loads(self.body)


class Elsewhere:
    """Work on copies."""

    remote = True

    def share(self, value: Any) -> Copied:
        return Copied(pickle.dumps(value))

    def map(self, function: Callable[..., Any], items: Iterable[Any], *, told: Any = None, **_: Any) -> list[Any]:
        results = []
        for item in items:
            results.append(pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(item))))))
            if told is not None:
                told(len(results))
        return results

    def reduce(self, function: Callable[..., Any], items: Iterable[Any], join: Callable[..., Any], **how: Any) -> Any:
        return in_pairs(self.map(function, items, **how), join)
