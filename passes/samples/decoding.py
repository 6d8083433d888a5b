"""A decoder with caches of keys and values: sizes that it runs with, and texts that it writes token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spa.errors import DataError
from spa.passes.samples.inputs import LARGEST_TABLE, Input, Run
from spa.passes.samples.words import gumbel
from spa.presets import Progress
from spa.shapes.decoder import Decoder

LENGTHS = (128, 64, 32, 16, 8)
"""Tokens of a text: the first of these that the model runs with."""

AT_ONCE = 16
"""Texts that are written side by side."""

WRITTEN_FLOPS = 4e12
"""What writing may cost, but for the first few texts."""


def decoder_inputs(run: Run, decoder: Decoder, asked: Sequence[int] | None) -> list[Input]:
    """The inputs of a decoder at a size that it runs with, before which there are no tokens.

    Args:
        asked: the shape of the tokens that a user gave.

    Raises:
        DataError: it runs with none.
    """
    lengths = [asked[1]] if asked is not None and len(asked) == 2 else [decoder.length] if decoder.length else LENGTHS
    reason: DataError | None = None
    for length in lengths:
        ids = np.zeros((decoder.batch or 1, length), np.int64)
        try:
            made = run(decoder.feeds(ids))
        except DataError as error:
            reason = error
            continue
        tokens, rows = str(decoder.tokens.name), _table(run, decoder, ids)
        if decoder.scores is not None:
            rows = min(rows, made[decoder.scores].shape[-1])
        return [
            Input(name, array.dtype, array.shape, open=decoder.batch is None, rows=rows if name == tokens else 0)
            for name, array in decoder.feeds(ids).items()
        ]
    raise DataError(
        f"the decoder does not run on {' or '.join(map(str, lengths))} tokens behind empty caches: {reason}"
    )


def _table(run: Run, decoder: Decoder, ids: np.ndarray) -> int:
    """How many tokens it knows, by halving: a larger number makes it fail."""

    def runs(number: int) -> bool:
        try:
            return bool(run(decoder.feeds(np.full_like(ids[:, :1] if decoder.length is None else ids, number))))
        except DataError:
            return False

    least, most = 0, LARGEST_TABLE
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if runs(middle) else (least, middle)
    return most


def write_with_cache(
    run: Run,
    decoder: Decoder,
    ids: np.ndarray,
    rows: int,
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Texts drawn from a decoder, in place: token by token, each behind the caches of those before.

    Args:
        ids: (texts, tokens), whose first tokens are there.
        rows: how many tokens the decoder knows.
    """
    assert decoder.scores is not None
    size = decoder.batch or AT_ONCE
    for start in range(0, len(ids), size):
        last = start + size if decoder.batch else min(start + size, len(ids))
        part = np.arange(start, last) % len(ids)
        caches: Mapping[str, np.ndarray] | None = None
        for at in range(1, ids.shape[1]):
            if progress is not None:
                progress("samples", (start + size * at / ids.shape[1]) / (len(ids) + size))
            outputs = run(decoder.feeds(ids[part, at - 1 : at], caches))
            caches = decoder.behind(outputs)
            scores = outputs[decoder.scores][:, -1, :rows]
            ids[part, at] = np.argmax(scores + gumbel(scores.shape, rng), axis=-1)
