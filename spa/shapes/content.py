"""Compute the contents of tensors, node by node, whole or element by element.

Whole operands go through the reference implementation that ships with onnx. Where only some elements are known (the
static axes in the result of Shape, say), nodes that move elements are run a second time on the mask of known elements,
and element-wise arithmetic joins the masks of its operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx.reference.op_run import RuntimeImplementationError, RuntimeTypeError
from onnx.reference.ops import load_op

from spa.notation.operation import Entry, Moves, Partly, entry_of

SMALL = 4096  # elements; contents above this are not followed

# Raised by reference implementations for operands or attributes that they do not support.
_UNSUPPORTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    RuntimeImplementationError,
    RuntimeTypeError,
    TypeError,
    ValueError,
)

_NOTHING = -1


@dataclass(frozen=True, slots=True)
class Content:
    """Elements of a tensor, all of them or some.

    array: the elements; placeholders where they are not known
    unknown: for each element 0 where it is known, n where it is the size of symbolic axis ``symbols[n - 1]``, -1 where
        nothing is known of it; None says that all are known
    """

    array: np.ndarray
    unknown: np.ndarray | None = None  # int64, the shape of array
    symbols: Sequence[str] = ()

    @classmethod
    def open(cls, shape: Sequence[int]) -> Content:
        """Elements of which nothing is known but how many there are."""
        return cls(np.ones(shape, dtype=np.int64), np.full(shape, _NOTHING, dtype=np.int64))

    @classmethod
    def sizes(cls, dims: Sequence[int | str | None], symbols: list[str]) -> Content:
        """What Shape gives; ``symbols`` is added to."""
        symbols.extend({dim: None for dim in dims if isinstance(dim, str) and dim not in symbols})
        unknown = [0 if isinstance(dim, int) else _NOTHING if dim is None else symbols.index(dim) + 1 for dim in dims]
        numbers = [dim if isinstance(dim, int) else 1 for dim in dims]
        return cls(np.array(numbers, dtype=np.int64), np.array(unknown, dtype=np.int64), symbols).plain()

    @property
    def complete(self) -> bool:
        """Whether each element is known."""
        return self.unknown is None

    @property
    def mask(self) -> np.ndarray:
        """``unknown``, written out."""
        return np.zeros(self.array.shape, dtype=np.int64) if self.unknown is None else self.unknown

    def plain(self) -> Content:
        """The same without the mask if each element is known."""
        return self if self.unknown is not None and self.unknown.any() else Content(self.array)

    def elements(self) -> list[int | str | None]:
        """Each element: a number, a symbol, or unknown."""
        if self.unknown is None:
            return [int(element) for element in self.array.flat]
        return [
            int(element) if code == 0 else self.symbols[code - 1] if code > 0 else None
            for element, code in zip(self.array.flat, self.unknown.flat, strict=True)
        ]


@lru_cache(maxsize=4096)
def _implementation(payload: bytes, version: int) -> Any:
    proto = onnx.NodeProto.FromString(payload)
    entry = entry_of(proto)
    if proto.domain not in ("", "ai.onnx") or entry.draws is not None or entry.quantises:
        return None
    parameters = {"log": lambda *_: None, "opsets": {"": version}, "verbose": 0, "new_ops": None}
    try:
        return load_op("", proto.op_type, version)(proto, parameters)
    except _UNSUPPORTED:
        return None


def can_evaluate(payload: bytes, version: int) -> bool:
    """Whether a reference implementation of the serialised node exists, and may stand for it."""
    return _implementation(payload, version) is not None


def evaluate(payload: bytes, version: int, operands: Sequence[np.ndarray | None]) -> list[np.ndarray] | None:
    """Outputs of a serialised node on these operands (None: omitted); None where no reference implementation does it.

    Raises nothing: a node that cannot be evaluated is simply not known.
    """
    implementation = _implementation(payload, version)
    if implementation is None:
        return None
    while operands and operands[-1] is None:
        operands = operands[:-1]
    try:
        with np.errstate(all="ignore"):
            results: tuple[Any, ...] = implementation.run(*operands)
    except _UNSUPPORTED:
        return None
    if not all(isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    return [np.asarray(result) for result in results]


def evaluate_partly(
    payload: bytes, version: int, entry: Entry, operands: Sequence[Content | None]
) -> list[Content] | None:
    """The same for operands of which only some elements are known; None where nothing can be said."""
    arrays = [None if operand is None else operand.array for operand in operands]
    results = evaluate(payload, version, arrays)
    if results is None:
        return None
    masks = [None if operand is None else operand.mask for operand in operands]
    open_operands = [position for position, operand in enumerate(operands) if operand and not operand.complete]
    unknown: Sequence[np.ndarray] | None = None
    if entry.moves is Moves.ALL:
        unknown = evaluate(payload, version, masks)
    elif entry.moves is Moves.FIRST and open_operands == [0]:
        unknown = evaluate(payload, version, [masks[0], *arrays[1:]])
    elif entry.partly is Partly.FIRST and results[0].dtype.kind in "iuf" and masks[0] is not None:
        unknown = [masks[0]]
    elif entry.partly is Partly.CHOSEN:
        condition, chosen, other = (np.asarray(mask) for mask in masks)
        unknown = [np.where(condition != 0, _NOTHING, np.where(np.asarray(arrays[0]), chosen, other))]
    elif entry.partly is Partly.ANY:
        some = np.logical_or.reduce(np.broadcast_arrays(*(mask != 0 for mask in masks if mask is not None)))
        unknown = [np.where(some, _NOTHING, 0)]
    if unknown is None:
        return None
    symbols = next((operand.symbols for operand in operands if operand and operand.symbols), ())
    return [Content(array, codes, symbols).plain() for array, codes in zip(results, unknown, strict=True)]
