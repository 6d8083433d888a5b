"""A node of which only some sizes and numbers are known, for entries that are asked while shapes are inferred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

Dim = int | str | None  # a number, a symbol, or unknown
Dims = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known of a node's operands.

    Attributes:
        dims: of each operand; None: left out, or of unknown rank.
        numbers: a function from an operand's position to its elements, if it is small and of whole numbers.
        result: dims of the first result as onnx's own inference tells them.
        attribute: a function from an attribute's name and default to its value.
    """

    dims: Sequence[Dims | None]
    numbers: Callable[[int], Sequence[Dim] | None]
    result: Dims | None
    attribute: Callable[[str, Any], Any]

    def of(self, position: int) -> Dims | None:
        """The dims of an operand."""
        return self.dims[position] if position < len(self.dims) else None

    def static(self, position: int) -> tuple[int, ...] | None:
        """The dims of an operand when each is a number."""
        return static(self.of(position))

    def elements(self, position: int) -> Sequence[Dim] | None:
        """The elements of an operand, as far as known."""
        return self.numbers(position)


def static(dims: Dims | None) -> tuple[int, ...] | None:
    """Dims when each is a number."""
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return cast("tuple[int, ...]", dims)
