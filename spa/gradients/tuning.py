"""Fine-tuning a pruned model: it learns to answer as the dense one does, without labels unless they are given.

    import spa
    result = spa.finetune("pruned.onnx", teacher="dense.onnx", data="samples.npz", minutes=5)
    print(result.report.before, "->", result.report.after)      # loss on samples that no step saw
    result.save("tuned.onnx")

Distillation (Hinton et al. 2015) is the default: a KL divergence where an output holds or may hold probabilities, else
the share of its variance that is lost. Every sixth sample is held out; the state that does best on those is kept, and
what came in is one of the candidates. With `train=("biases", "norms", "scales")` only vectors are trained, about 0.3 %
of the parameters (PERP, Zimmer et al. 2023). Normalisations keep their running statistics.

One file: the loop of training, what it is told and what it reports.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from spa import runtime
from spa.analysis.group import Group
from spa.errors import DataError, UsageError, VerificationError
from spa.fields import takes_options
from spa.frontends.files import onnx_file
from spa.gradients.losses import Loss, distillation, labelled, own
from spa.gradients.module import GraphModule, Source
from spa.gradients.options import FinetuneOptions, TrainOptions
from spa.gradients.samples import Split, split_samples
from spa.gradients.sparsity import Sparsity
from spa.gradients.subsets import chosen

WARM_UP = 0.05
"""Share of the budget in which the learning rate rises."""

LARGEST_STEP = 1.0
"""Of the gradient's norm, over all parameters."""

CLOSE = 1e-3
"""How far onnxruntime may be from torch on the result, relative to the largest output."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """How it went.

    Attributes:
        before, after: loss on samples held out, of what came in and of what is given back; `after` is never larger.
        epochs: begun, those of an earlier run that was resumed included.
        trained: share (0..1) of the parameters that were trained.
        history: held-out loss after each epoch.
    """

    before: float
    after: float
    epochs: int
    seconds: float
    trained: float
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The tuned model: the graph that came in, with other weights."""

    model: ir.Model
    report: FinetuneReport

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model; the target appears whole or not at all."""
        onnx_file.save(self.model, path)


@takes_options(FinetuneOptions)
def finetune(
    pruned: Source, *, teacher: Source | None = None, progress: Progress | None = None, **options: Any
) -> FinetuneResult:
    """Train a pruned model's weights; the graph stays as it is.

    Args:
        pruned: a path, `onnx.ModelProto`, `onnx_ir.Model` or onnx-graphsurgeon graph; never changed.
        teacher: the dense model, whose outputs are learned; needed unless there are labels or a loss of your own.
        progress: called with the step and the share of it that is done.
        options: as follows.

    Raises:
        UsageError, DataError: an option or the samples are wrong, or there is nothing to learn from.
        ModelError: a model is not valid, or an operator has no gradient here; names it.
        VerificationError: onnxruntime does not compute what torch does on the result.
    """
    asked = FinetuneOptions(**options)
    student = GraphModule(onnx_file.load(pruned), seed=asked.seed).eval()
    dense = None if teacher is None else onnx_file.load(teacher)
    samples = split_samples(
        asked.data, student.source, labels=asked.labels, batch_size=asked.batch_size, everything=asked.loss is not None
    )
    loss = _loss(asked, student, dense, samples)
    run = _Run(student, samples, loss, asked, progress or _say_nothing)
    report = run.train()
    model = student.to_onnx()
    _verify(model, student, samples)
    return FinetuneResult(model, report)


def fit(
    model: ir.Model, samples: Split, asked: TrainOptions, groups: Sequence[Group], *, progress: Progress | None = None
) -> FinetuneResult:
    """Train a model by labels or a loss of one's own; normalisations take the statistics of batches, and learn them.

    Args:
        groups: whose units are made sparse, where that is asked for.

    Raises:
        UsageError: there is nothing to train, or to make sparse.
        ModelError: an operator has no gradient here; names it.
        VerificationError: onnxruntime does not compute what torch does on the result.
    """
    student = GraphModule(model, seed=asked.seed).eval()
    samples = replace(samples, batch_size=asked.batch_size)
    loss = _loss(asked, student, None, samples)
    sparsity = None
    if asked.sparsify is not None:
        sparsity = Sparsity(asked.sparsify, asked.strength, student, groups, asked.seed)
        if not (sparsity.scales if asked.sparsify == "scales" else sparsity.units):
            raise UsageError(f"sparsify {asked.sparsify!r}: the model has no scales of normalisations or no units")
    torch.manual_seed(asked.seed)
    run = _Run(student, samples, loss, asked, progress or _say_nothing, sparsity=sparsity, training=True)
    report = run.train()
    trained = student.to_onnx()
    _verify(trained, student, samples)
    return FinetuneResult(trained, report)


def _say_nothing(step: str, share: float) -> None:
    """No progress is shown."""


def _loss(asked: FinetuneOptions, student: GraphModule, dense: ir.Model | None, samples: Split) -> Loss:
    if asked.loss is not None:
        return own(asked.loss)
    if asked.labels is not None:
        return labelled(asked.labels)
    if dense is None:
        raise UsageError("nothing to learn from: give the dense model as teacher, labels, or a loss of your own")
    names = [str(value.name) for value in dense.graph.outputs]
    if names != student.output_names:
        raise DataError(f"the teacher gives {', '.join(names)}, the pruned model {', '.join(student.output_names)}")
    return distillation(dense, samples)


class _Run:
    """The loop, and what it keeps between epochs."""

    def __init__(
        self,
        student: GraphModule,
        samples: Split,
        loss: Loss,
        asked: FinetuneOptions,
        progress: Progress,
        *,
        sparsity: Sparsity | None = None,
        training: bool = False,
    ) -> None:
        self.student, self.samples, self.loss, self.asked, self.progress = student, samples, loss, asked, progress
        self.sparsity, self.training = sparsity, training
        self.name = "train" if training else "finetune"
        self.parameters = chosen(student, asked.train)
        self.optimizer = torch.optim.AdamW(self.grouped(), lr=asked.learning_rate)
        self.epochs, self.seconds = 0, 0.0
        self.history: list[float] = []
        self.before = self.best_loss = self.held_out()
        self.best = self.state()

    def grouped(self) -> list[dict[str, Any]]:
        """What the optimiser moves: matrices decay where that is asked for, vectors never do."""
        decay = getattr(self.asked, "weight_decay", 0.0)
        vectors = [p for p in self.parameters if sum(size > 1 for size in p.shape) < 2]
        known = {id(p) for p in vectors}
        matrices = [p for p in self.parameters if id(p) not in known]
        groups = [
            {"params": matrices, "weight_decay": decay, "times": 1.0},
            {"params": vectors, "weight_decay": 0.0, "times": 1.0},
        ]
        groups += [] if self.sparsity is None else self.sparsity.trained()
        return [group for group in groups if group["params"]]

    @property
    def budget(self) -> int:
        """Epochs, where no time is given."""
        return self.asked.epochs or 10

    def train(self) -> FinetuneReport:
        """Epochs until the budget is spent; then the best state is put back."""
        self.resume()
        start = time.perf_counter() - self.seconds
        while self.spent(time.perf_counter() - start) < 1.0:
            for number, batch in enumerate(self.samples.epoch(self.epochs, self.asked.seed)):
                share = self.spent(time.perf_counter() - start, number / self.samples.steps)
                if share >= 1.0:
                    break
                self.progress(self.name, share)
                self.step(batch, share)
            self.epochs += 1
            self.keep(self.held_out())
            self.seconds = time.perf_counter() - start
            self.save()
        self.load(self.best)
        if self.sparsity is not None:
            self.sparsity.settle()
        total = sum(parameter.numel() for parameter in self.student.parameters())
        trained = sum(parameter.numel() for parameter in self.parameters) / max(total, 1)
        return FinetuneReport(self.before, self.best_loss, self.epochs, self.seconds, trained, tuple(self.history))

    def spent(self, seconds: float, within: float = 0.0) -> float:
        """Share (0..1) of the budget that is spent."""
        if self.asked.minutes is not None:
            return seconds / (60.0 * self.asked.minutes)
        return (self.epochs + within) / self.budget

    def step(self, batch: Mapping[str, np.ndarray], share: float) -> None:
        """One step of AdamW; the learning rate rises, then falls as a cosine, over the budget."""
        rising = min(1.0, (share + 1e-3) / WARM_UP)
        rate = self.asked.learning_rate * rising * 0.5 * (1.0 + cos(pi * min(share, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["times"]
        self.optimizer.zero_grad(set_to_none=True)
        self.student.train(self.training)
        value = self.measured(batch)
        if self.sparsity is not None:
            value = value + self.sparsity.penalty()
        self.student.eval()
        if not isfinite(float(value.detach())):
            return
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, LARGEST_STEP)
        self.optimizer.step()

    def measured(self, batch: Mapping[str, np.ndarray]) -> Tensor:
        """The loss of a batch."""
        feeds = {name: batch[name] for name in self.student.input_names}
        instead = None
        if self.sparsity is not None:
            instead = self.sparsity.instead(training=self.student.training)
        return self.loss(self.student.outputs(feeds, instead), batch)

    def held_out(self) -> float:
        """Mean loss on the samples that no step sees."""
        total = count = 0.0
        with torch.no_grad():
            for batch in self.samples.held_out():
                size = self.samples.count(batch)
                total += float(self.measured(batch)) * size
                count += size
        return total / max(count, 1.0)

    def keep(self, value: float) -> None:
        """Note how an epoch went."""
        self.history.append(value)
        sparse = self.sparsity is not None  # whose last state is what was asked for
        if value < self.best_loss or sparse:
            self.best_loss, self.best = value, self.state()

    def state(self) -> dict[str, Tensor]:
        """A copy of all weights."""
        return {name: tensor.clone() for name, tensor in self.student.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put weights back."""
        self.student.load_state_dict(state)

    def save(self) -> None:
        """Write what another run needs to go on; the file is whole or as it was."""
        if self.asked.resume is None:
            return
        path = Path(self.asked.resume)
        part = path.with_name(f"{path.name}.part")
        kept = {
            "weights": self.student.state_dict(),
            "best": self.best,
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "numbers": [self.epochs, self.seconds, self.before, self.best_loss],
            "history": self.history,
            "gates": [] if self.sparsity is None else self.sparsity.state(),
        }
        torch.save(kept, part)
        part.replace(path)

    def resume(self) -> None:
        """Go on from a file that an earlier run wrote.

        Raises:
            DataError: it is of another model.
        """
        if self.asked.resume is None or not Path(self.asked.resume).exists():
            return
        try:
            kept = torch.load(self.asked.resume, weights_only=True)
            self.load(kept["weights"])
            self.optimizer.load_state_dict(kept["optimizer"])
            if self.sparsity is not None:
                self.sparsity.load(kept["gates"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"{self.asked.resume}: no state of this model's fine-tuning; remove it to start") from error
        self.best = kept["best"]
        epochs, self.seconds, self.before, self.best_loss = kept["numbers"]
        self.epochs, self.history = int(epochs), list(kept["history"])


def _verify(model: ir.Model, student: GraphModule, samples: Split) -> None:
    """Run the result in onnxruntime beside torch.

    Raises:
        VerificationError: an output is not the same.
    """
    batch = next(samples.held_out())
    feeds = {name: batch[name] for name in student.input_names}
    found = runtime.run(runtime.session(model, optimize=False), feeds)
    with torch.no_grad():
        expected = student.outputs(feeds)
    for name, tensor in expected.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        wanted = tensor.float().numpy()
        gap = np.abs(wanted - found[name].astype(np.float32)).max(initial=0.0)
        scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
        limit = CLOSE if tensor.dtype == torch.float32 else 50 * CLOSE
        if not gap / scale <= limit:
            raise VerificationError(
                f"onnxruntime differs from torch by {gap / scale:.1e} of the largest {name!r}, more than {limit:g}"
            )


__all__ = ["FinetuneOptions", "FinetuneReport", "FinetuneResult", "finetune"]
