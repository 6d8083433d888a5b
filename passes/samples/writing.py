"""How a language model writes its own samples: as many as it may, with its caches or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spa.passes.samples.decoding import WRITTEN_FLOPS, write_with_cache
from spa.passes.samples.inputs import Input, Run
from spa.passes.samples.words import REPEATED_FLOPS, WRITTEN_AT_ONCE, runs_of_text, write
from spa.presets import Progress
from spa.shapes.decoder import Decoder


@dataclass(frozen=True)
class Writer:
    """A language model.

    Attributes:
        run: the model, on samples that lie along the first axis.
        words: the input that takes them.
        axes: those that are as long as a text, by input; none: texts have one length, or there are caches.
        decoder: of a model that takes the keys and values of earlier tokens.
        flops: of a run of one text.
    """

    run: Run
    words: Input
    axes: Mapping[str, Sequence[int]]
    decoder: Decoder | None
    flops: float

    @property
    def runs(self) -> float:
        """How many runs of a whole text writing it costs."""
        return 1.0 if self.decoder is not None else runs_of_text(self.axes)

    @property
    def most_flops(self) -> float:
        """What writing may cost, but for the first few texts."""
        return WRITTEN_FLOPS if self.decoder is not None else REPEATED_FLOPS

    def affordable(self, most: int) -> int:
        """How many texts may be written, at most so many."""
        return max(WRITTEN_AT_ONCE, min(most, int(self.most_flops / max(self.flops * self.runs, 1.0))))

    def write(self, texts: dict[str, np.ndarray], rng: np.random.Generator, progress: Progress | None) -> None:
        """Words drawn from the model, in place.

        Args:
            texts: by input, (texts, words) where there are words, the first of which are there.
        """
        ids = texts[self.words.name]
        if self.decoder is not None:
            write_with_cache(self.run, self.decoder, ids, self.words.rows, rng, progress)
        else:
            rounds = int(self.most_flops / max(self.flops * len(ids), 1.0))
            write(self.run, self.words, texts, self.axes, rounds, rng, progress)
