"""Losses of a training: the distance from wanted outputs, cross-entropy with labels, or a function of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spa.errors import DataError, UsageError
from spa.fields import function_of

Loss = Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Tensor]
"""From the outputs and the batch, both by name."""

LOGITS_SPREAD = 64.0
"""Numbers of a row that lie further apart are no logits."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far outputs are from what they were: for each as `teaching.distillation` measures it, added up."""

    wanted: Sequence[Tensor]
    kinds: Sequence[str]
    scales: Sequence[float]

    @classmethod
    def of(cls, outputs: Sequence[Tensor]) -> Distance:
        """The distance from some outputs, one number a sample or more."""
        arrays = [tensor.detach().float().cpu().numpy() for tensor in outputs]
        scales = [float(np.var(array)) or float(np.mean(array**2)) or 1.0 for array in arrays]
        return cls([tensor.detach().float().cpu() for tensor in outputs], [kind_of(array) for array in arrays], scales)

    def __call__(self, outputs: Sequence[Tensor]) -> Tensor:
        parts = zip(outputs, self.wanted, self.kinds, self.scales, strict=True)
        return torch.stack([distance(output, wanted, kind, scale) for output, wanted, kind, scale in parts]).sum()


def kind_of(whole: np.ndarray, *, logits: bool = False) -> str:
    """probabilities, logits or numbers, by what a teacher gave.

    Args:
        logits: it holds scores of tokens, (samples, positions, vocabulary), which may be logits too.
    """
    flat = whole.reshape(-1, whole.shape[-1]) if whole.ndim > 1 else whole.reshape(-1, 1)
    if flat.shape[1] < 2 or not np.isfinite(flat).all():
        return "numbers"
    if flat.min(initial=0.0) >= 0 and np.allclose(flat.sum(1), 1.0, atol=1e-3):
        return "probabilities"
    spread = float(np.mean(flat.max(1) - flat.min(1)))
    return "logits" if (whole.ndim == 2 or logits) and spread < LOGITS_SPREAD else "numbers"


def distance(output: Tensor, wanted: Tensor, kind: str, scale: float, counted: Tensor | None = None) -> Tensor:
    """The distance of an output from what is wanted of it, the mean over rows; as `teaching.distillation` says.

    Args:
        kind: as of `kind_of`.
        scale: what a squared difference is divided by.
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


IGNORED = -100
"""The label of what has none, which torch's cross-entropy leaves out."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Cross-entropy between the first output, (samples, classes ...), and the labels of that name."""

    name: str

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray]) -> Tensor:
        scores = next(iter(outputs.values())).float()
        labels = torch.from_numpy(self._fitting(np.asarray(batch[self.name]), tuple(scores.shape))).to(scores.device)
        return functional.cross_entropy(scores, labels)

    def _fitting(self, labels: np.ndarray, scores: tuple[int, ...]) -> np.ndarray:
        """The labels as cross-entropy takes them, of scores of that shape.

        Raises:
            DataError: they are no classes, and no shares of classes.
        """
        classes = (*scores[:1], *scores[2:])
        if labels.shape == (*classes, 1) and labels.shape != scores:  # a column, as Keras has them
            labels = labels[..., 0]
        whole = labels.dtype.kind in "iub" and labels.shape == classes and len(scores) > 1
        if whole:
            known = labels[labels != IGNORED].astype(np.int64)
            fits = not known.size or (known.min() >= 0 and known.max() < scores[1])
            found = f"{known.min()} to {known.max()}" if known.size else ""
        else:
            fits, found = labels.dtype.kind in "fiub" and labels.shape == scores and len(scores) > 1, ""
        if not fits:
            raise DataError(
                f"labels {self.name!r} do not fit the first output, of shape {scores}: expected classes, whole numbers "
                f"of shape {classes} from 0 up, or shares of shape {scores}; found {labels.dtype} of shape "
                f"{labels.shape}{', ' * bool(found)}{found}"
            )
        return labels.astype(np.int64 if whole else np.float32)


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
