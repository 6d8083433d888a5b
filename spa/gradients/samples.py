"""Samples of a training run: what steps see, and what is held out: one in six, which no repair has seen where some were
not, or samples for that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.gradients.options import FinetuneOptions
from spa.passes.samples.calibrate import Calibration, Recorded, evenly
from spa.passes.samples.seen import marks_of, seen_by
from spa.passes.samples.topping import recipe_like
from spa.passes.samples.values import SHIPPED
from spa.supplied import Reading, checked

EVERY = 6
"""One sample of so many is held out."""

FEW, OWN, OWN_NBYTES = 1024, 4, 1 << 28
"""Samples up to which pictures and sounds are topped up with the tool's own, with how many times as many, and with how
many bytes at most."""

LARGEST_BATCH, SMALLEST_BATCH, STEPS = 32, 4, 20
"""Samples of a step unless told, and steps that an epoch should have."""


@dataclass(frozen=True, slots=True)
class Split:
    """Samples, with what is learned of each beside its inputs.

    Attributes:
        calibration: the inputs.
        beside: arrays whose first axis counts samples: labels, or a teacher's outputs.
        validation: samples that are held out, so that steps see all of these; None: one of `EVERY` of these is.
        unseen: numbers of those that no repair of the model has seen, of which the held-out ones are; None: it is not
            known, or there was no repair.
        own: how many of the last ones are samples of the tool's own, which are never held out; an epoch has as many of
            them, drawn anew, as of the others.
    """

    calibration: Calibration
    beside: dict[str, np.ndarray]
    batch_size: int
    validation: Split | None = None
    unseen: Sequence[int] | None = None
    own: int = 0

    @classmethod
    def of(
        cls,
        calibration: Calibration,
        beside: Mapping[str, np.ndarray],
        *,
        batch_size: int = 1,
        validation: Split | None = None,
        least: int = EVERY,
    ) -> Split:
        """Samples that were checked, with what lies beside them.

        Args:
            least: of which there have to be so many.

        Raises:
            DataError: there are too few, or not as many rows beside them.
        """
        if validation is None and len(calibration) < least:
            count = len(calibration)
            raise DataError(f"{count} samples: expected {EVERY} or more, of which one in {EVERY} is held out")
        for name, array in beside.items():
            if not array.ndim or len(array) != len(calibration):
                rows = f"{len(array)} rows" if array.ndim else "no rows"
                raise DataError(f"{name!r} has {rows}, and there are {len(calibration)} samples")
        return cls(calibration, dict(beside), batch_size, validation)

    def apart_from(self, model: ir.Model) -> Split:
        """Those that are held out are samples that no repair of a model has seen, where there are some."""
        marks = seen_by(model)
        if not marks or self.validation is not None:
            return self
        own = [mark for batch in self.calibration.batches(1) for mark in marks_of(self.calibration, batch)]
        return replace(self, unseen=[n for n, mark in enumerate(own[: len(self.calibration)]) if mark not in marks])

    @property
    def fitted(self) -> bool:
        """Whether a repair of the model has seen what is held out."""
        return self.unseen is not None and not self.unseen

    def first(self, count: int) -> Split:
        """At most so many samples, drawn evenly."""
        total = len(self.calibration)
        return self if count >= total else self.chosen(evenly(total, count))

    def chosen(self, numbers: np.ndarray) -> Split:
        """Samples of these numbers."""
        beside = {name: array[numbers] for name, array in self.beside.items()}
        unseen = None if self.unseen is None else np.flatnonzero(np.isin(numbers, self.unseen)).tolist()
        return replace(self, calibration=self.calibration.chosen(numbers), beside=beside, unseen=unseen)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        size = 1 if isinstance(self.calibration, Recorded) else self.calibration.batch_size or self.batch_size
        return max(1, -(-(len(self._numbers(held_out=False)) + self.own_drawn) // size))

    @property
    def own_drawn(self) -> int:
        """How many samples of the tool's own an epoch has."""
        return min(self.own, len(self._numbers(held_out=False)))

    def epoch(self, number: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of an epoch, in an order of its own."""
        rng = np.random.default_rng([seed, number])
        learned = self._numbers(held_out=False)
        if self.own:
            own = rng.permutation(self.own)[: self.own_drawn] + self.given
            learned = np.concatenate([learned, own])
        yield from self._batches(rng.permutation(learned))

    def held_out(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches that no step sees."""
        if self.validation is not None:
            yield from self.validation.every()
            return
        yield from self._batches(self._numbers(held_out=True))

    def every(self) -> Iterator[dict[str, np.ndarray]]:
        """All samples, in order."""
        yield from self._batches(np.arange(len(self.calibration)))

    def inputs_of(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What of a batch the model takes."""
        return {name: array for name, array in batch.items() if name not in self.beside}

    def count(self, batch: Mapping[str, np.ndarray]) -> int:
        """How many samples a batch has."""
        return self.calibration.count(batch)

    @property
    def given(self) -> int:
        """How many samples are not the tool's own."""
        return len(self.calibration) - self.own

    def topped_up(self, teacher: ir.Model) -> Split:
        """With samples of the tool's own in the range of these, where these are few, and pictures or sounds.

        Args:
            teacher: normalised; its answers are all that is learned, so that nothing else lies beside the samples.
        """
        if self.given > FEW or self.own:
            return self
        recipe = recipe_like(teacher, self.calibration)
        if recipe is None:
            return self
        nbytes = sum(array.nbytes for array in self.calibration.samples.values())
        count = int(min(OWN, OWN_NBYTES / max(nbytes, 1)) * self.given)
        if not count:
            return self
        made = recipe.made(SHIPPED, count, seed=0)
        arrays = {
            name: np.concatenate([array, made[name][:count].astype(array.dtype)])
            for name, array in self.calibration.samples.items()
        }
        return replace(self, calibration=replace(self.calibration, samples=arrays), beside={}, own=count)

    def _numbers(self, *, held_out: bool) -> np.ndarray:
        """Of the samples that were given."""
        numbers = np.arange(self.given)
        if self.validation is not None:
            return numbers[:0] if held_out else numbers
        if not self.unseen:
            return numbers[(numbers % EVERY == EVERY - 1) == held_out]
        most = max(1, len(numbers) // EVERY)
        judging = np.array(self.unseen)[:: -(-len(self.unseen) // most)]
        return judging if held_out else np.setdiff1d(numbers, judging)

    def _batches(self, order: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        """Some samples; a model that takes a fixed number gets whole batches, the last filled up."""
        if isinstance(self.calibration, Recorded):  # one by one, as they were given
            for at in order:
                beside = {name: array[at : at + 1] for name, array in self.beside.items()}
                yield dict(self.calibration.feeds[at]) | beside
            return
        size = self.calibration.batch_size or self.batch_size
        if self.calibration.batch_size is not None and len(order) % size:
            order = np.concatenate([order, order[: size - len(order) % size]])
        for start in range(0, len(order), size):
            part = order[start : start + size]
            inputs = {
                name: np.ascontiguousarray(np.moveaxis(array[part], 0, self.calibration.axes.get(name, 0)))
                for name, array in self.calibration.samples.items()
            }
            yield inputs | dict(self.calibration.scalars) | {name: array[part] for name, array in self.beside.items()}


def samples_of(asked: FinetuneOptions, model: ir.Model) -> Split:
    """The samples that a training was given.

    Raises:
        DataError: as `split_samples`.
    """
    return split_samples(
        asked.data, model, labels=asked.labels, batch_size=asked.batch_size, everything=asked.loss is not None,
        validation=asked.validation, reading=Reading(images=asked.images, texts=asked.texts),
    )  # fmt: skip


def split_samples(
    data: Any,
    model: ir.Model,
    *,
    labels: str | None,
    batch_size: int | None,
    everything: bool = False,
    validation: Any = None,
    reading: Reading | None = None,
) -> Split:
    """Read and check samples.

    Args:
        data: arrays, a file, a folder or texts; or samples that were checked, with what is beside them, as a `Split`.
        batch_size: None: `LARGEST_BATCH`, or fewer, of few samples.
        labels: the entry that holds labels, and is no input; by default "labels", where there is one.
        everything: whether all entries that are no inputs come along, for a loss of one's own.
        validation: samples as `data`, that are held out; None: some of `data` are.
        reading: how files become samples.

    Raises:
        DataError: samples do not fit the model, there are too few of them, or there is no such entry.
    """
    apart_from = None
    if validation is not None:
        apart_from = _read(validation, model, reading, labels=labels, batch_size=batch_size, everything=everything,
                           least=1)  # fmt: skip
    split = _read(data, model, reading, labels=labels, batch_size=batch_size, everything=everything,
                  validation=apart_from)  # fmt: skip
    return split.apart_from(model)


def _read(
    data: Any,
    model: ir.Model,
    reading: Reading | None,
    *,
    labels: str | None,
    batch_size: int | None,
    everything: bool,
    validation: Split | None = None,
    least: int = EVERY,
) -> Split:
    if isinstance(data, Split):
        if labels is not None and labels not in data.beside:
            raise DataError(f"labels: expected an entry {labels!r} in the data, found none")
        size = batch_size or _batch_size(len(data.calibration))
        return replace(data, batch_size=size, validation=validation or data.validation)
    calibration, beside = checked(data, model, reading, labels=labels, everything=everything)
    size = batch_size or _batch_size(len(calibration))
    return Split.of(calibration, beside, batch_size=size, validation=validation, least=least)


def _batch_size(samples: int) -> int:
    """Samples of a step."""
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, samples // STEPS))
