"""Losses of a training: the distance from a teacher's outputs, cross-entropy with labels, or a function of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from spa import runtime
from spa.errors import DataError, TeacherError, UsageError
from spa.fields import function_of
from spa.gradients.counted import CountedRows
from spa.gradients.samples import Split

Loss = Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Tensor]
"""From the outputs and the batch, both by name."""

TEACHER = "teacher/"
"""Before the name of an output that a teacher gave."""

COUNTED = "counted/"
"""Before the name of an output of which not all rows count."""

LOGITS_SPREAD = 64.0
"""Numbers of a row that lie further apart are no logits."""


def distillation(teacher: ir.Model, samples: Split) -> Loss:
    """The distance from a teacher's outputs, which are computed once: onnxruntime runs it on all samples.

    Every output of floating-point numbers counts the same: a row of probabilities by its KL divergence, a row of what
    may be logits by that of its softmax as well as by the share of the variance that is lost, any other by that share.
    Positions that a mask hides do not count.

    Raises:
        TeacherError: the teacher's outputs do not lie along the samples, or are no floating-point numbers.
    """
    session = runtime.session(teacher, optimize=True)
    counted = CountedRows(teacher, map(samples.inputs_of, samples.every()))
    learned = _answers(session, samples, counted)
    if not learned:
        raise TeacherError("the teacher gives no floating-point numbers to learn")
    samples.beside.update(learned)
    if samples.validation is not None:
        samples.validation.beside.update(_answers(session, samples.validation, counted))
    given = {name: array[: samples.given] for name, array in learned.items()}
    outputs = {name.removeprefix(TEACHER): whole for name, whole in given.items() if name.startswith(TEACHER)}
    scales = {name: _scale(whole, given.get(COUNTED + name)) for name, whole in outputs.items()}
    return _FromTeacher({name: _kind(whole) for name, whole in outputs.items()}, scales)


def _scale(whole: np.ndarray, counted: np.ndarray | None) -> float:
    """The mean variance of an output's numbers; where they do not vary, their mean square."""
    rows = whole if counted is None else whole[counted > 0]
    return float(np.var(rows, axis=0).mean()) or float(np.mean(rows**2)) or 1.0


def _answers(session: Any, samples: Split, counted: CountedRows) -> dict[str, np.ndarray]:
    """The outputs of floating-point numbers of a teacher on all samples, and which of their rows count where not all
    do, by name.

    Raises:
        TeacherError: they do not lie along the samples.
    """
    rows: dict[str, list[np.ndarray]] = {}
    for batch in samples.every():
        count, inputs = samples.count(batch), samples.inputs_of(batch)
        for name, array in runtime.run(session, inputs).items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fV":
                continue
            if array.ndim == 0 or array.shape[0] != count:
                raise TeacherError(
                    f"output {name!r} of the teacher has shape {array.shape} for {count} samples: expected its first "
                    "axis to count samples"
                )
            rows.setdefault(TEACHER + name, []).append(array.astype(np.float32))
            weights = counted.of(name, inputs, array.shape)
            if weights is not None:
                rows.setdefault(COUNTED + name, []).append(weights)
    for name, parts in rows.items():
        if len(shapes := {part.shape[1:] for part in parts}) > 1:
            first, second = sorted(shapes)[:2]
            raise TeacherError(
                f"output {name.partition('/')[2]!r} of the teacher is of shape {first} for some samples and {second} "
                "for others: expected one shape; give samples of one size, or cut and padded to it"
            )
    return {name: np.concatenate(parts)[: len(samples.calibration)] for name, parts in rows.items()}


@dataclass(frozen=True, slots=True)
class _FromTeacher:
    """The mean distance of outputs from a teacher's, which lie beside the samples; kinds and scales by their names."""

    kinds: Mapping[str, str]
    scales: Mapping[str, float]

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> Tensor:
        parts = []
        for name, scale in self.scales.items():
            counted = torch.from_numpy(batch[COUNTED + name]) if COUNTED + name in batch else None
            wanted = torch.from_numpy(batch[TEACHER + name])
            parts.append(_distance(outputs[name], wanted, self.kinds[name], scale, counted))
        return torch.stack(parts).mean()


@dataclass(frozen=True, slots=True)
class Distance:
    """How far outputs are from what they were: for each as `distillation` measures it, added up."""

    wanted: Sequence[Tensor]
    kinds: Sequence[str]
    scales: Sequence[float]

    @classmethod
    def of(cls, outputs: Sequence[Tensor]) -> Distance:
        """The distance from some outputs, one number a sample or more."""
        arrays = [tensor.detach().float().cpu().numpy() for tensor in outputs]
        scales = [float(np.var(array)) or float(np.mean(array**2)) or 1.0 for array in arrays]
        return cls([tensor.detach().float().cpu() for tensor in outputs], [_kind(array) for array in arrays], scales)

    def __call__(self, outputs: Sequence[Tensor]) -> Tensor:
        parts = zip(outputs, self.wanted, self.kinds, self.scales, strict=True)
        return torch.stack([_distance(output, wanted, kind, scale) for output, wanted, kind, scale in parts]).sum()


def _kind(whole: np.ndarray) -> str:
    """probabilities, logits or numbers, by what a teacher gave."""
    flat = whole.reshape(-1, whole.shape[-1]) if whole.ndim > 1 else whole.reshape(-1, 1)
    if flat.shape[1] < 2 or not np.isfinite(flat).all():
        return "numbers"
    if flat.min(initial=0.0) >= 0 and np.allclose(flat.sum(1), 1.0, atol=1e-3):
        return "probabilities"
    spread = float(np.mean(flat.max(1) - flat.min(1)))
    return "logits" if whole.ndim == 2 and spread < LOGITS_SPREAD else "numbers"


def _distance(output: Tensor, wanted: Tensor, kind: str, scale: float, counted: Tensor | None = None) -> Tensor:
    """The mean over rows.

    Args:
        counted: (rows as the output has them) 1 for those that count; None: all do.
    """
    output = output.float()
    wanted = wanted.to(output.device)
    there = torch.isfinite(wanted)
    squares = torch.where(there, output - torch.where(there, wanted, 0.0), 0.0).square()
    lost = (squares.mean() if counted is None else _mean(squares.mean(-1), counted)) / scale
    if kind == "probabilities":
        gap = wanted * (torch.log(wanted + 1e-12) - torch.log(output.clamp(min=0) + 1e-12))
        return _mean(gap.sum(-1), counted)
    if kind == "logits":
        student, teacher = torch.log_softmax(output, -1), torch.log_softmax(wanted, -1)
        return lost + _mean((teacher.exp() * (teacher - student)).sum(-1), counted)
    return lost


def _mean(rows: Tensor, counted: Tensor | None) -> Tensor:
    if counted is None:
        return rows.mean()
    weights = counted.to(rows.device)
    return (rows * weights).sum() / weights.sum().clamp(min=1.0)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Cross-entropy between the first output, (samples, classes ...), and the labels of that name."""

    name: str

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> Tensor:
        scores = next(iter(outputs.values())).float()
        labels = torch.from_numpy(np.asarray(batch[self.name])).to(scores.device)
        if scores.ndim < 2 or (not labels.is_floating_point() and int(labels.max()) >= scores.shape[1]):
            raise DataError(
                f"labels {self.name!r} up to {labels.max()} do not fit the first output, of shape {tuple(scores.shape)}"
            )
        return functional.cross_entropy(scores, labels if labels.is_floating_point() else labels.long())


@dataclass(frozen=True, slots=True)
class Together:
    """The sum of several losses."""

    parts: Sequence[Loss]

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> Tensor:
        return torch.stack([loss(outputs, batch) for loss in self.parts]).sum()


def own(given: Any) -> Loss:
    """A user's loss, as a function or as module:function.

    Raises:
        UsageError: there is no such function.
    """
    function = given
    if isinstance(given, str) and ":" in given:
        try:
            function = function_of(given)
        except UsageError as error:
            raise UsageError(f"loss {given!r}: {error}") from error
    if not callable(function):
        raise UsageError(f"loss {given!r}: expected module:function")

    return _Own(given, function)


@dataclass(frozen=True, slots=True)
class _Own:
    """A user's function, and how it was given."""

    given: Any
    function: Callable[..., Any]

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> Tensor:
        value = self.function(outputs, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise UsageError(f"loss {self.given!r}: expected a tensor of one number, found {type(value).__name__}")
        return value.reshape(())
