"""Give a fused attention values that name positions, in whatever operand it has its values.

    values (keys, size):  0 1 0 0    the second key of those that are named
                          0 0 1 0    the third
    what comes out        a b c d    each query's attention to the keys that are named

`spa.notation.values` says where an operator has them. A projection inside is given some inputs more, which name the
position and of which its last columns make the values; what it makes of the others are queries and keys, as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spa.notation.values import Values

Operands = Sequence["np.ndarray | None"]


class Sizes(NamedTuple):
    """How many heads an attention has, how many its values have (None: as the operand says), and numbers of each."""

    heads: int
    shared: int | None
    size: int


@dataclass(frozen=True, slots=True)
class Form:
    """One attention with the operands of one call.

    Attributes:
        at: the operand that holds the values, or of a projection the weight.
        heads, shared: heads of queries, and of values.
        size: numbers of a value of one head: so many keys are named at a time.
        before: keys of earlier calls.
        now: keys of this call.
    """

    values: Values
    operands: Operands
    at: int
    heads: int
    shared: int
    size: int
    before: int
    now: int

    @classmethod
    def of(cls, values: Values, operands: Operands, sizes: Sizes) -> Form:
        """The form of some operands.

        Raises:
            ValueError: values of another form, or none.
        """
        heads, shared, size = sizes
        own, past = _given(operands, values.operand), _given(operands, values.past)
        before = 0 if past is None else past.shape[-2]
        if own is not None and values.operand is not None and own.ndim in (3, 4):
            now = own.shape[1 if own.ndim == 3 else 2]
            return cls(values, operands, values.operand, heads, shared or heads, size, before, now)
        at = next((at for at in reversed(values.packed) if _given(operands, at) is not None), values.weight)
        whole, data = _given(operands, at), _given(operands, 0)
        if at is None or whole is None or data is None or own is not None:
            raise ValueError("values of another form")
        if whole.ndim == 3 and at != values.weight:
            shared = (whole.shape[-1] // size - heads) // 2
        if shared is not None and whole.shape[-1] != (heads + 2 * shared) * size:
            raise ValueError("values of another form")
        now = (data if at == values.weight else whole).shape[1]
        return cls(values, operands, at, heads, shared or heads, size, before, now)

    @property
    def width(self) -> int:
        """Numbers of the values of all heads."""
        return self.shared * self.size

    @property
    def tokens(self) -> int:
        """Keys, those of earlier calls too."""
        return self.before + self.now

    def naming(self, start: int) -> list[np.ndarray | None]:
        """The operands with values that name some keys from one on: as many as a value has numbers."""
        names = np.zeros((self.tokens, self.size), bool)
        keys = np.arange(start, min(start + self.size, self.tokens))
        names[keys, keys - start] = True
        operands = list(self.operands)
        values, past = self.values, _given(self.operands, self.values.past)
        bias = _given(operands, values.bias)
        if bias is not None and values.bias is not None:
            operands[values.bias] = np.concatenate(
                [bias[: -self.shared * self.size], np.zeros_like(bias[-self.shared * self.size :])]
            )
        if past is not None and values.past is not None:
            operands[values.past] = self._past(past, names[: self.before])
        named = names[self.before :]
        if self.at == values.weight:
            operands[0], operands[self.at] = self._projected(named)
        else:
            operands[self.at] = self._placed(named)
        return operands

    def read(self, result: np.ndarray) -> np.ndarray:
        """What an attention gives for such operands, as shares: integers stand for more or less than one."""
        if self.values.scales is None:
            return result
        data, weight = (_given(self.operands, at) for at in self.values.scales)
        assert data is not None
        assert weight is not None
        step = self._step(0) * self._step(1)
        ones = step * data.reshape(-1)[:1] * weight.reshape(-1)[-min(weight.size, self.width) :]
        return np.asarray(result / ones)

    def _placed(self, names: np.ndarray) -> np.ndarray:
        """The operand that holds the values, with others."""
        array = self.operands[self.at]
        assert array is not None
        tiled = np.tile(names, (1, self.shared))
        if array.ndim == 4:
            return np.ascontiguousarray(np.broadcast_to(names[None, None], array.shape)).astype(array.dtype)
        made = array.copy()
        if array.ndim == 5:
            made[:, :, :, -1, :] = names[None, :, None, :]
        else:
            made[:, :, -tiled.shape[1] :] = tiled[None]
        return made

    @staticmethod
    def _past(array: np.ndarray, names: np.ndarray) -> np.ndarray:
        made = array.copy()
        made[-1 if array.ndim == 5 else ...] = names[None, None]
        return made

    def _projected(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a projection reads, and its weight, with more inputs: these alone make the values."""
        data, weight = self.operands[0], self.operands[self.at]
        assert data is not None
        assert weight is not None
        nought = [self._zero(number, array.dtype) for number, array in enumerate((data, weight))]
        blank = np.broadcast_to(nought[1], weight.shape[1])
        more = np.broadcast_to(nought[0] + self._step(0) * names[None], (len(data), *names.shape))
        rows = np.tile(blank, (self.size, 1))
        rows[:, -self.width :] += self._step(1) * np.tile(np.eye(self.size, dtype=rows.dtype), (1, self.shared))
        whole = np.concatenate([weight, rows.astype(weight.dtype)])
        whole[: len(weight), -self.width :] = blank[-self.width :].astype(weight.dtype)
        return np.concatenate([data, more.astype(data.dtype)], axis=-1), whole

    def _zero(self, number: int, dtype: np.dtype) -> np.ndarray:
        """The number that means zero, of the data (0) or the weight (1); of the weight one, or one a column."""
        at = None if self.values.zeros is None else self.values.zeros[number]
        zero = _given(self.operands, at)
        wide = np.float32 if dtype.kind == "f" else np.int64
        return np.zeros(1, wide) if zero is None else zero.reshape(-1).astype(wide)

    def _step(self, number: int) -> int:
        """By how much what names a position differs from zero: integers may have no larger number."""
        array = self.operands[0 if number == 0 else self.at]
        assert array is not None
        if array.dtype.kind == "f":
            return 1
        return -1 if self._zero(number, array.dtype).max() >= np.iinfo(array.dtype).max else 1


def _given(operands: Operands, at: int | None) -> np.ndarray | None:
    return operands[at] if at is not None and at < len(operands) else None
