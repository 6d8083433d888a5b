"""The loop of training: epochs over samples until the budget is spent; what does best on held-out samples is kept.

    outcome = train(job, place, progress)        # weights by name, and a report

`spa.gradients.placing` says where it runs: on one device or several, in single or mixed precision.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from math import isfinite
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from spa.analysis.group import Group
from spa.errors import DataError, UsageError
from spa.frontends.files import onnx_file
from spa.gradients.losses import Loss
from spa.gradients.module import GraphModule
from spa.gradients.options import FinetuneOptions
from spa.gradients.outcome import FinetuneReport, Outcome
from spa.gradients.pace import Pace
from spa.gradients.samples import Split
from spa.gradients.sparsity import Sparsity
from spa.gradients.states import copied, digest, moving, restore
from spa.gradients.subsets import chosen
from spa.presets import Progress

WAY_BACK = (0.75, 0.5, 0.25)
"""Shares of the way from the weights that came in to those that were learned."""

LARGEST_STEP = 1.0
"""Of the gradient's norm, over all parameters."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained on what; another process can be given it.

    Attributes:
        training: whether normalisations take their statistics from the batches.
        groups: whose units are made sparse, where that is asked for.
    """

    model: ir.Model
    samples: Split
    loss: Loss
    asked: FinetuneOptions
    training: bool = False
    groups: Sequence[Group] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        model = onnx_file.to_bytes(self.model)
        return _job_of, (model, self.samples, self.loss, self.asked, self.training, self.groups)


def _job_of(model: bytes, *others: Any) -> Job:
    return Job(onnx_file.load_stream(BytesIO(model)), *others)


def train(job: Job, place: Any, progress: Progress) -> Outcome:
    """Train a model.

    Args:
        place: a `lightning_fabric.Fabric` that was launched.
        progress: called with the step and the share (0..1) of it that is done.

    Raises:
        UsageError: there is nothing to train or to make sparse.
        DataError: a state to go on from is of another model.
        ModelError: an operator has no gradient here; names it.
    """
    return _Run(job, place, progress).train()


class _Run:
    """The loop, and what it keeps between epochs."""

    def __init__(self, job: Job, place: Any, progress: Progress) -> None:
        self.samples, self.loss, self.asked, self.training = job.samples, job.loss, job.asked, job.training
        self.place, self.progress = place, progress
        self.name = "train" if job.training else "finetune"
        torch.manual_seed(job.asked.seed)
        self.student = GraphModule(job.model, seed=job.asked.seed).eval()
        self.student.to(place.device)
        if place.device.type == "cpu":
            self.student.to(memory_format=torch.channels_last)  # a step of convolutions takes 0.75 to 0.95 of the time
        self.sparsity = _sparsity(job, self.student)
        self.parameters = chosen(self.student, job.asked.train)
        self.pace = Pace.of(job.asked.learning_rate)
        optimizer = torch.optim.AdamW(self.grouped(), lr=self.pace.highest)
        self.placed, self.optimizer = place.setup(self.student, optimizer, move_to_device=False)
        self.placed.mark_forward_method("outputs")
        self.steps = self.samples.steps // place.world_size
        self.epochs, self.seconds = 0, 0.0
        self.moving = moving(self.student, training=job.training)
        self.still = "" if job.asked.resume is None else digest(self.student, self.moving)
        self.history: list[float] = []
        self.before = self.best_loss = self.held_out()
        self.best = self.state()
        self.start = self.best
        self.tried: list[tuple[float, dict[str, Tensor]]] = []  # loss and weights at the end of each trial

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

    def train(self) -> Outcome:
        """Epochs until the budget is spent; then the best state."""
        self.resume()
        start = time.perf_counter() - self.seconds
        while self.spent(time.perf_counter() - start) < 1.0:
            for number, batch in enumerate(self.epoch()):
                share = self.spent(time.perf_counter() - start, number / self.steps)
                if share >= 1.0:
                    break
                self.progress(self.name, share)
                self.turn(share)
                self.step(batch, share)
            self.epochs += 1
            self.keep(self.held_out())
            self.seconds = time.perf_counter() - start
            self.save()
        if not self.training and self.sparsity is None:
            self.go_back()
        self.load(self.best)
        if self.sparsity is not None:
            self.sparsity.settle()
        total = sum(parameter.numel() for parameter in self.student.parameters())
        trained = sum(parameter.numel() for parameter in self.parameters) / max(total, 1)
        weights = {name: tensor.detach().cpu() for name, tensor in self.student.state_dict().items()}
        report = FinetuneReport(
            self.before, self.best_loss, self.epochs, self.seconds, trained, tuple(self.history),
            self.pace.last if self.pace.tries else None, self.samples.fitted, self.samples.own_drawn,
        )  # fmt: skip
        return Outcome(weights, report)

    def turn(self, share: float) -> None:
        """Where a trial of a learning rate ends, go back for the next one, or on with the best."""
        while len(self.tried) < self.pace.trials_before(share):
            self.tried.append((self.held_out(), self.state()))
            self.note(self.tried[-1][0])
            if len(self.tried) < self.pace.tries:
                self.load(self.start)
            else:
                self.load(self.tried[self.pace.choose([loss for loss, _ in self.tried])][1])
            self.optimizer.state.clear()

    def go_back(self) -> None:
        """Keep weights on the way from those that came in to the best ones, where they do better on samples held out.

        Few samples are learned by heart sooner than a network is trained: half-way back it has forgotten more of them
        than of what they teach (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
        """
        best = self.best
        for share in WAY_BACK if best is not self.start else ():
            between = {name: torch.lerp(tensor, best[name], share) if tensor.is_floating_point() else tensor
                       for name, tensor in self.start.items()}  # fmt: skip
            self.load(between)
            self.note(self.held_out())

    def epoch(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches that this process takes: each takes as many."""
        batches = self.samples.epoch(self.epochs, self.asked.seed)
        world = self.place.world_size
        return islice(batches, self.place.global_rank, self.steps * world, world)

    def spent(self, seconds: float, within: float = 0.0) -> float:
        """Share (0..1) of the budget that is spent, the same in all processes."""
        if self.asked.minutes is None:
            return (self.epochs + within) / self.asked.budget
        share = seconds / (60.0 * self.asked.minutes)
        return share if self.place.world_size == 1 else float(self.place.broadcast(share))

    def step(self, batch: Mapping[str, np.ndarray], share: float) -> None:
        """One step of AdamW."""
        rate = self.pace.rate(share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["times"]
        self.optimizer.zero_grad(set_to_none=True)
        self.student.train(self.training)
        value = self.measured(batch)
        if self.sparsity is not None:
            value = value + self.sparsity.penalty()
        self.student.eval()
        if not isfinite(self.total(float(value.detach()))):
            return
        self.place.backward(value)
        self.place.clip_gradients(self.placed, self.optimizer, max_norm=LARGEST_STEP, error_if_nonfinite=False)
        self.optimizer.step()

    def measured(self, batch: Mapping[str, np.ndarray]) -> Tensor:
        """The loss of a batch."""
        feeds = self.student.feeds_of(batch)
        instead = None
        if self.sparsity is not None:
            instead = self.sparsity.instead(training=self.student.training)
        with self.place.autocast():
            outputs = self.placed.outputs(feeds, instead)
        return self.loss(outputs, batch)

    def held_out(self) -> float:
        """Mean loss on the samples that no step sees."""
        total = count = 0.0
        with torch.no_grad():
            for batch in islice(self.samples.held_out(), self.place.global_rank, None, self.place.world_size):
                size = self.samples.count(batch)
                total += float(self.measured(batch)) * size
                count += size
        return self.total(total) / max(self.total(count), 1.0)

    def total(self, number: float) -> float:
        """The sum over all processes."""
        if self.place.world_size == 1:
            return number
        return float(self.place.all_reduce(torch.tensor(number, dtype=torch.float64), reduce_op="sum"))

    def keep(self, value: float) -> None:
        """Note how an epoch went."""
        self.history.append(value)
        self.note(value)

    def note(self, value: float) -> None:
        """Keep the weights as they are, if none before did better on samples held out."""
        sparse = self.sparsity is not None  # whose last state is what was asked for
        if value < self.best_loss or sparse:
            self.best_loss, self.best = value, self.state()

    def state(self) -> dict[str, Tensor]:
        """A copy of all that moves."""
        return copied(self.moving)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Be as a state was."""
        restore(self.moving, state)

    def save(self) -> None:
        """Write what another run needs to go on; the file is whole or as it was."""
        if self.asked.resume is None or self.place.global_rank:
            return
        path = Path(self.asked.resume)
        part = path.with_name(f"{path.name}.part")
        kept = {
            "weights": self.state(),
            "still": self.still,
            "best": self.best,
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "numbers": [self.epochs, self.seconds, self.before, self.best_loss],
            "history": self.history,
            "tried": self.tried,
            "start": self.start,
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
            kept = torch.load(self.asked.resume, weights_only=True, map_location=self.place.device)
            if kept.get("still") != self.still:
                raise ValueError("weights that were not trained are others")
            self.load(kept["weights"])
            self.optimizer.load_state_dict(kept["optimizer"])
            if self.sparsity is not None:
                self.sparsity.load(kept["gates"])
        except (RuntimeError, KeyError, ValueError, AttributeError, TypeError, EOFError, UnpicklingError) as error:
            raise DataError(f"{self.asked.resume}: no state of this model's fine-tuning; remove it to start") from error
        self.best = kept["best"]
        epochs, self.seconds, self.before, self.best_loss = kept["numbers"]
        self.epochs, self.history = int(epochs), list(kept["history"])
        self.tried = [(loss, state) for loss, state in kept.get("tried", [])]
        self.start = kept.get("start") or self.start
        if self.tried and len(self.tried) == self.pace.tries:
            self.pace.choose([loss for loss, _ in self.tried])


def _sparsity(job: Job, student: GraphModule) -> Sparsity | None:
    """What makes units small, where that is asked for.

    Raises:
        UsageError: the model has nothing that could be.
    """
    name = getattr(job.asked, "sparsify", None)
    if name is None:
        return None
    made = Sparsity(name, job.asked.strength, student, job.groups, job.asked.seed)  # type: ignore[attr-defined]
    if not (made.scales if name == "scales" else made.units):
        raise UsageError(f"sparsify {name!r}: the model has no scales of normalisations or no units")
    return made
