"""Calibration samples by input name, drawn evenly and put into batches that a model takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


def evenly(total: int, count: int) -> np.ndarray:
    """So many whole numbers below a total, as far apart as they can be."""
    return np.linspace(0, total - 1, count).round().astype(int)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Samples by input name; the first axis of every array counts samples.

    Batches are as the model takes them: there samples may lie along another axis.

    Attributes:
        batch_size: the number of samples that the model takes at a time; None: any number.
        notes: what a user should know about the samples.
        scalars: inputs without axes (a sampling rate), which are the same for all samples.
        axes: of the model's inputs, along which samples lie, where that is not the first.
        balanced: whether every sample counts as much as any other at each layer, however large its numbers are there.
        unlike: whether they are pictures or sounds that may vary along directions in which the training data never did,
            and nothing told them.
        beside: samples of the tool's own, which are fitted besides, but never judge and are in no figure of a report.
        inverted: whether samples were brought to the statistics that the model's normalisations stored in training.
        held_out: (windows, tokens) of text that no choice and no fit sees; None: the samples are no texts.
    """

    samples: Mapping[str, np.ndarray]
    batch_size: int | None = None
    notes: tuple[str, ...] = ()
    scalars: Mapping[str, np.ndarray] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    balanced: bool = False
    unlike: bool = False
    beside: Calibration | None = None
    inverted: bool = False
    held_out: np.ndarray | None = None

    def __len__(self) -> int:
        return min(len(array) for array in self.samples.values())

    def first(self, count: int | None) -> Calibration:
        """At most so many samples, drawn evenly."""
        return self if count is None or count >= len(self) else self.chosen(evenly(len(self), count))

    def chosen(self, numbers: np.ndarray) -> Calibration:
        """Samples of these numbers."""
        return replace(self, samples={name: array[numbers] for name, array in self.samples.items()})

    def beginning_of(self, count: int) -> Calibration:
        """The first samples, so many of them: where kinds take turns, those drawn evenly may all be of one."""
        return replace(self, samples={name: array[:count] for name, array in self.samples.items()})

    def batches(self, size: int) -> list[dict[str, np.ndarray]]:
        """Samples some at a time; a model that takes a fixed number gets whole batches, the last filled up."""
        parts: Iterable[Any] = [slice(at, at + size) for at in range(0, len(self), size)]
        if self.batch_size is not None:
            numbers = np.arange(-(-len(self) // self.batch_size) * self.batch_size) % len(self)
            parts = numbers.reshape(-1, self.batch_size)
        return [
            {n: np.ascontiguousarray(np.moveaxis(a[part], 0, self.axes.get(n, 0))) for n, a in self.samples.items()}
            | dict(self.scalars)
            for part in parts
        ]

    def count(self, batch: Mapping[str, np.ndarray]) -> int:
        """How many samples a batch has."""
        name = next(iter(self.samples))
        return int(batch[name].shape[self.axes.get(name, 0)])

    def sizes(self, name: str, count: int) -> tuple[int, ...]:
        """The shape of an input as the model takes it, with that many samples where it takes any number."""
        if name in self.scalars:
            return ()
        sizes = list(self.samples[name].shape[1:])
        sizes.insert(self.axes.get(name, 0), self.batch_size or count)
        return tuple(sizes)

    def beginning(self, batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """The first samples of a batch."""
        index = {name: (slice(None),) * self.axes.get(name, 0) + (slice(count),) for name in self.samples}
        return {name: array[index[name]] if name in index else array for name, array in batch.items()}


@dataclass(frozen=True, slots=True)
class Recorded(Calibration):
    """Feeds that are run one by one, each of which counts as one sample.

    Attributes:
        feeds: by input name, all inputs.
    """

    feeds: Sequence[Mapping[str, np.ndarray]] = ()

    def __len__(self) -> int:
        return len(self.feeds)

    def chosen(self, numbers: np.ndarray) -> Calibration:
        """Feeds of these numbers."""
        return replace(self, feeds=[self.feeds[at] for at in numbers])

    def batches(self, size: int) -> list[dict[str, np.ndarray]]:  # noqa: ARG002
        """The feeds: they cannot be put together."""
        return [dict(feed) for feed in self.feeds]

    def count(self, batch: Mapping[str, np.ndarray]) -> int:  # noqa: ARG002
        """A feed is one sample."""
        return 1

    def sizes(self, name: str, count: int) -> tuple[int, ...]:  # noqa: ARG002
        """The shape of an input, as in the first feed."""
        return tuple(self.feeds[0][name].shape)

    def beginning(self, batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:  # noqa: ARG002
        """The whole feed."""
        return dict(batch)
