"""What a dense network answers on the samples, and the distance of a pruned one from that: distillation.

    loss, samples = distillation(teacher, samples)       # what the loss takes lies beside the samples

Answers are computed once and kept beside the samples. Those of a language model are too many, a score for every word of
its vocabulary behind every token: they are computed anew for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from spa import runtime
from spa.analysis.caches import caches_behind
from spa.analysis.unread import cache_pairs
from spa.errors import DataError, TeacherError
from spa.feeds import as_declared
from spa.frontends.files import onnx_file
from spa.gradients.counted import CountedRows
from spa.gradients.losses import distance, kind_of
from spa.gradients.samples import Split
from spa.shapes.binding import declared_shapes
from spa.shapes.decoder import Decoder

TEACHER = "teacher/"
"""Before the name of an output that a teacher gave."""

COUNTED = "counted/"
"""Before the name of an output of which not all rows count."""

KEPT_NBYTES, LOOKED_AT_NBYTES = 1 << 30, 1 << 27
"""Of answers that are kept, and of those that tell their kind and scale where they are not."""

STEP_NBYTES = 1 << 28
"""Of the answers of a step, unless its samples were counted by the user."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """The mean distance of outputs from a teacher's.

    Attributes:
        kinds, scales: of each output, by name.
        teacher: what answers a batch; None: answers lie beside the samples.
    """

    kinds: Mapping[str, str]
    scales: Mapping[str, float]
    teacher: Teacher | None = None

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> Tensor:
        answers = {} if self.teacher is None else self.teacher.answers(batch)
        parts = []
        for name, scale in self.scales.items():
            counted = torch.from_numpy(batch[COUNTED + name]) if COUNTED + name in batch else None
            wanted = torch.from_numpy(answers[name] if answers else batch[TEACHER + name])
            parts.append(distance(outputs[name], wanted, self.kinds[name], scale, counted))
        return torch.stack(parts).mean()


@dataclass(slots=True, eq=False)
class Teacher:
    """A dense network that onnxruntime runs.

    The keys and values of the tokens so far are no answer: a cut takes some of their heads.

    Attributes:
        model: as it was given.
    """

    model: ir.Model
    _session: Any = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Callable[..., Teacher], tuple[bytes]]:
        return _teacher_of, (onnx_file.to_bytes(self.model),)

    def feeds(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What of a batch it takes.

        Raises:
            DataError: it takes an input that the samples have not.
        """
        names = [str(value.name) for value in self.model.graph.inputs if not value.is_initializer()]
        empty = {array.ndim: array for array in batch.values() if isinstance(array, np.ndarray) and not array.size}
        if empty:  # caches of layers that the pruned network has lost
            pasts = [past for pair in cache_pairs(self.model.graph).values() for past in pair if past.shape is not None]
            like = {str(past.name): empty.get(len(past.shape or ())) for past in pasts}
            batch = {name: array for name, array in like.items() if array is not None} | dict(batch)
        if lacking := [name for name in names if name not in batch]:
            raise DataError(
                f"the teacher takes an input {lacking[0]!r}, which the samples have not; they have "
                f"{', '.join(map(repr, batch))}: give the dense model of the pruned one"
            )
        return as_declared({name: batch[name] for name in names}, declared_shapes(self.model.graph))

    def answers(self, batch: Mapping[str, np.ndarray], count: int | None = None) -> dict[str, np.ndarray]:
        """The outputs of floating-point numbers on a batch, float32, by name.

        Args:
            batch: the inputs, among others.
            count: samples in it, along which outputs have to lie; None: nobody asks.

        Raises:
            TeacherError: an output does not lie along the samples, or none is of floating-point numbers.
        """
        if self._session is None:
            self._session = runtime.session(self.model, optimize=True)
        feeds = self.feeds(batch)
        results, caches = runtime.run(self._session, feeds), caches_behind(self.model.graph, feeds)
        floats = {
            name: array.astype(np.float32)
            for name, array in results.items()
            if name not in caches and isinstance(array, np.ndarray) and array.dtype.kind in "fV"
        }
        if not floats:
            raise TeacherError("the teacher gives no floating-point numbers to learn")
        for name, array in floats.items():
            if count is not None and (array.ndim == 0 or array.shape[0] != count):
                raise TeacherError(
                    f"output {name!r} of the teacher has shape {array.shape} for {count} samples: expected its first "
                    "axis to count samples"
                )
        return floats


def _teacher_of(model: bytes) -> Teacher:
    return Teacher(onnx_file.load_stream(BytesIO(model)))


def distillation(model: ir.Model, samples: Split, *, sized: bool = True) -> tuple[Distillation, Split]:
    """The distance from a teacher's outputs, and the samples with what it takes beside them.

    Every output of floating-point numbers counts the same: a row of probabilities by its KL divergence, a row of what
    may be logits by that of its softmax as well as by the share of the variance that is lost, any other by that share.
    Positions that a mask hides do not count.

    Args:
        model: the teacher.
        sized: whether a step has as many samples as it has, however large the answers are.

    Raises:
        TeacherError: the teacher's outputs do not lie along the samples, or are no floating-point numbers.
    """
    teacher = Teacher(model)
    one = next(replace(samples, batch_size=1).every())
    answers = teacher.answers(one, samples.count(one))
    nbytes = max(1, sum(array.nbytes for array in answers.values()) // samples.count(one))
    if not sized:
        samples = _in_steps_of(samples, max(1, STEP_NBYTES // nbytes))
    splits = [samples] if samples.validation is None else [samples, samples.validation]
    kept = nbytes * sum(len(split.calibration) for split in splits) <= KEPT_NBYTES
    counted = CountedRows(model, map(teacher.feeds, samples.every()))
    for split in splits:
        split.beside.update(_beside(teacher, split, counted, keep=kept))
    if kept:
        told, whole = samples, {name: samples.beside[TEACHER + name][: samples.given] for name in answers}
    else:
        told = samples.first(max(1, LOOKED_AT_NBYTES // nbytes))
        whole = {
            name.removeprefix(TEACHER): array
            for name, array in _beside(teacher, replace(told, beside={}), counted, keep=True).items()
            if name.startswith(TEACHER)
        }
    decoder = Decoder.of(model.graph)
    kinds = {
        name: kind_of(array, logits=decoder is not None and name == decoder.scores) for name, array in whole.items()
    }
    scales = {name: _scale(array, told.beside.get(COUNTED + name)) for name, array in whole.items()}
    return Distillation(kinds, scales, None if kept else teacher), samples


def _in_steps_of(samples: Split, most: int) -> Split:
    """Samples that are run so many at a time, or fewer."""
    validation = None if samples.validation is None else _in_steps_of(samples.validation, most)
    return replace(samples, batch_size=min(samples.batch_size, most), validation=validation)


def _beside(teacher: Teacher, samples: Split, counted: CountedRows, *, keep: bool) -> dict[str, np.ndarray]:
    """Which rows of each output count, where not all do; and what a teacher answers on all samples, where that is kept.

    Raises:
        TeacherError: an answer is of another shape for some samples than for others.
    """
    rows: dict[str, list[np.ndarray]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for batch in samples.every():
        count, inputs = samples.count(batch), samples.inputs_of(batch)
        if keep or not shapes:
            answers = teacher.answers(batch, count)
            for name, array in answers.items():
                first = shapes.setdefault(name, array.shape[1:])
                if first != array.shape[1:]:
                    first, second = sorted((first, array.shape[1:]))
                    raise TeacherError(
                        f"output {name!r} of the teacher is of shape {first} for some samples and {second} for "
                        "others: expected one shape; give samples of one size, or cut and padded to it"
                    )
                if keep:
                    rows.setdefault(TEACHER + name, []).append(array)
        for name, shape in shapes.items():
            weights = counted.of(name, inputs, (count, *shape))
            if weights is not None:
                rows.setdefault(COUNTED + name, []).append(weights)
    return {name: np.concatenate(parts)[: len(samples.calibration)] for name, parts in rows.items()}


def _scale(whole: np.ndarray, counted: np.ndarray | None) -> float:
    """The mean variance of an output's numbers; where they do not vary, their mean square."""
    rows = whole if counted is None else whole[counted[: len(whole)] > 0]
    return float(np.var(rows, axis=0).mean()) or float(np.mean(rows**2)) or 1.0
