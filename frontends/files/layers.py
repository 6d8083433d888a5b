"""Count the layers that are left of a model, as runtimes and configs count them: by numbers from nought.

    past_key_values.0.key, .1.key, .2.key, and a cut takes 1      layers 0 and 2 are left, and become 0 and 1

What runs a language model asks for the cache of each layer by its number, below the number of layers in its config, so
the numbers of caches move up. Without caches the residual branches tell, if each layer has as many.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

_NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]+(?![0-9A-Za-z])")


@dataclass(frozen=True, slots=True)
class Depth:
    """What a cut leaves of the layers of a model.

    Attributes:
        branches: for each residual branch, in graph order, whether it stays.
        numbered: the layers that caches are numbered by, ascending.
        gone: those of them of which no cache is left.
        renamed: the caches that are left whose layer has another number now, by name.
    """

    branches: Sequence[bool] = ()
    numbered: Sequence[int] = ()
    gone: Sequence[int] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, caches: Iterable[str], gone: Collection[str], branches: Sequence[bool]) -> Depth:
        """The layers by the names of inputs and outputs.

        Args:
            caches: those that hold caches, before the cut.
            gone: those of them that the cut takes.
            branches: for each residual branch, in graph order, whether it stays.
        """
        places = _numbers(caches)
        numbered = sorted({number for _, number, _ in places.values()})
        left = {number for name, (_, number, _) in places.items() if name not in gone}
        lost = [number for number in numbered if number not in left]
        renamed = {}
        for name, (before, number, after) in places.items():
            moved = number - sum(each < number for each in lost)
            if name not in gone and moved != number:
                renamed[name] = f"{before}{moved}{after}"
        return cls(tuple(branches), tuple(numbered), tuple(lost), renamed)

    @property
    def whole(self) -> bool:
        """Whether no branch went."""
        return all(self.branches) and not self.gone

    def layers(self, count: int) -> tuple[list[int], list[int]] | None:
        """Which of so many layers a runtime no longer counts, and which keep some of their branches and lost others.

        None: nobody can tell.
        """
        each, rest = divmod(len(self.branches), count) if count else (0, 0)
        parts = [self.branches[each * at : each * (at + 1)] for at in range(count)] if each and not rest else []
        partly = [at for at, part in enumerate(parts) if any(part) and not all(part)]
        if self.numbered and self.numbered[-1] < count:
            return list(self.gone), partly
        return ([at for at, part in enumerate(parts) if not any(part)], partly) if parts else None


def _numbers(names: Iterable[str]) -> dict[str, tuple[str, int, str]]:
    """By name: what stands before its number, the number, and what stands behind it.

    A number is one in which other names differ and in nothing else; of several in a name, that in which most do.
    """
    names = list(dict.fromkeys(names))
    alike: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in names:
        for match in _NUMBER.finditer(name):
            alike[name[: match.start()], name[match.end() :]].add(name)
    places = {}
    for name in names:
        parts = [(name[: match.start()], int(match.group()), name[match.end() :]) for match in _NUMBER.finditer(name)]
        best = max(parts, key=lambda part: len(alike[part[0], part[2]]), default=None)
        if best is not None and len(alike[best[0], best[2]]) > 1:
            places[name] = best
    return places


def rename(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give inputs and outputs of a model other names, in place; what lies inside under such a name makes way."""
    graph = model.graph
    ends = [value for value in (*graph.inputs, *graph.outputs) if value.name in names]
    taken = {*names.values()} - {value.name for value in ends}
    inside = [value for node in graph for value in node.outputs if value.name in taken]
    used = {value.name for node in graph for value in node.outputs} | {value.name for value in graph.inputs}
    used |= {*graph.initializers, *names.values()}
    for value in inside:
        number = next(number for number in range(1, len(used) + 2) if f"{value.name}/inside{number}" not in used)
        value.name = f"{value.name}/inside{number}"
        used.add(value.name)
    for value, name in [(value, names[str(value.name)]) for value in ends]:
        value.name = name
