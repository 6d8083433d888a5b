"""Pruning in one step or in several, with training between: ``--steps 4 --finetune 4e --regrow``.

What has gone after step k of n is ``ratio (1 - (1 - k / n)^3)`` (Zhu and Gupta, To prune, or not to prune, 2017): much
at first, little at last. Every step decides anew, on the model as it is by then; floors are shares of the first widths.
In the end all steps are one plan of the dense model.

Units come back as in GraNet (Liu et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, 2021,
section 3.2): after a step's training, of every group that was cut some of the units that are smallest go, and as many
return that have the largest gradients. What reads them starts from zero, so that the outputs are as without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from math import cos, pi

import numpy as np
import onnx_ir as ir

from spa import learning
from spa.analysis.group import Group
from spa.analysis.plan import Plan
from spa.clock import Clock
from spa.decision import Made
from spa.errors import ModelError, UsageError
from spa.gradients.spending import Spend
from spa.options import PruneOptions
from spa.passes.choose.budget import CHANNELS
from spa.passes.choose.importance import score_groups
from spa.passes.cut.scatter import scatter
from spa.passes.repair.biases import drop_zero_biases
from spa.passes.repair.network import prepare
from spa.report import Report
from spa.steps import Analysis, analyse, cut, report_on

REGROWN = 0.5
"""Of the units that stay, so many are exchanged after the first step, falling to none as a cosine."""

CLOSE = 1e-3
"""A step is left out that would take less than this share."""

Once = Callable[[ir.Model, PruneOptions, Clock], Made]


def shares(ratio: float, steps: int) -> list[float]:
    """What has gone after each step, the last of them `ratio`."""
    return [ratio * (1 - (1 - number / steps) ** 3) for number in range(1, steps + 1)]


class Gradual:
    """The model on its way."""

    def __init__(self, dense: ir.Model, options: PruneOptions, clock: Clock, once: Once) -> None:
        """Samples to learn from are read at once, where there is training.

        Args:
            once: one cut of a model, which is changed in place.

        Raises:
            MissingExtra: torch is not installed.
            DataError: samples do not fit the model, or none can be made up.
        """
        self.dense, self.options, self.clock, self.once = dense, options, clock, once
        self.steps = options.learning.steps
        self.model = dense.clone()
        self.plan = Plan({}, {})
        self.notes: list[str] = []
        self.said: set[str] = set()
        self.trained: list[str] = []
        self.spend = None if options.learning.finetune is None else _parts(options.learning.finetune, self.steps)
        self.samples = None if self.spend is None else learning.learning_samples(dense, options, clock)
        self.repair = ""

    def run(self) -> Made:
        """All steps."""
        first: Made | None = None
        for number, share in enumerate(shares(self.options.budget.ratio, self.steps), 1):
            last = number == self.steps
            ratio = self.options.budget.ratio if self.steps == 1 else self.further(share)
            if self.steps == 1 or ratio > CLOSE or (last and ratio > 0):
                made = self.step(ratio, number)
                first = first or made
            self.train(number)
            if not last and self.options.learning.regrow:
                self.regrow(number)
        assert first is not None
        texts = None if self.samples is None else self.samples.calibration.held_out
        return self.made(first.report, texts if first.held_out is None else first.held_out)

    def further(self, share: float) -> float:
        """What has to go of the model as it is, so that a share of the dense one has gone."""
        gone = self.gone()
        return (share - gone) / (1 - gone) if gone < share else 0.0

    def gone(self) -> float:
        """The share of the dense model that has gone."""
        if not self.plan:
            return 0.0
        analysis, of = self.analysed(), self.options.budget.of
        if of == CHANNELS:
            taking_part = [group.size for group in analysis.groups if group.off is None]
            return sum(map(len, self.plan.removed.values())) / max(sum(taking_part), 1)
        return report_on(analysis, self.plan).removed_share(of)

    def analysed(self, model: ir.Model | None = None) -> Analysis:
        return analyse((model or self.dense).clone(), inputs=self.options.run.inputs)

    def step(self, ratio: float, number: int) -> Made:
        """One cut of the model as it is."""
        budget = replace(self.options.budget, ratio=ratio)
        made = self.once(self.model.clone(), replace(self.options, budget=budget), self.clock)
        if made.packing is not None:
            raise UsageError(
                "weights of few bits are opened, cut and packed in one step: leave steps and finetune out; "
                "`spa finetune PRUNED --teacher DENSE --data ...` trains what it can of the file afterwards"
            )
        self.plan = composed(self.plan, made.plan)
        self.model = made.model
        self.repair = made.plan.repair or self.repair
        new = [note for note in made.report.notes if note not in self.said]
        self.said.update(new)
        self.notes += [f"step {number}: {note}" for note in new] if number > 1 else new
        return made

    def train(self, number: int) -> None:
        """Learn for this step's part of the time."""
        if self.spend is None or self.samples is None:
            return
        self.model, said = learning.tune(
            self.model, self.dense, self.options, self.samples, self.spend[number - 1], self.clock, number
        )
        self.trained.append(f"step {number}: {said}" if self.steps > 1 else said)

    # -------------------------------------------------------------------------------------------------- all in one
    def large(self) -> ir.Model:
        """As large as the dense model, with the weights as they are now where they stay."""
        model = self.dense.clone()
        if set(self.model.graph.initializers) - set(model.graph.initializers):  # biases that a repair added
            network = prepare(self.dense, inputs=self.options.run.inputs)
            model = network.model
            drop_zero_biases(model, [name for name in network.new_biases if name not in self.model.graph.initializers])
        analysis = analyse(model, inputs=self.options.run.inputs)
        scatter(analysis.coupling, self.plan.masks(analysis.groups), self.model)
        return model

    def made(self, report: Report, held_out: np.ndarray | None) -> Made:
        """The whole way as one plan of the dense model.

        Raises:
            ModelError: groups have other names after a cut.
        """
        try:
            reference = self.large()
            whole = report_on(self.analysed(), self.plan)
        except ModelError as error:
            raise ModelError(f"the steps do not make one plan of this model ({error}): give steps 1") from error
        whole.layers, whole.resized = report.layers, report.resized
        whole.notes, whole.trained = self.notes, self.trained
        said = [self.repair] if self.repair else []
        if self.options.learning.finetune:
            said.append(f"finetune {self.options.learning.finetune}")
            whole.outputs, whole.outputs_on = learning.distance(self.dense, self.model, self.options, self.samples)
        repair = "; ".join(said) + (f"; {self.steps} steps" if said and self.steps > 1 else "")
        return Made(self.model, reference, replace(self.plan, repair=repair), whole, self.dense, None, held_out)

    def regrow(self, number: int) -> None:
        """Exchange units: the smallest for those whose readers have the largest gradients."""
        large, rate = self.large(), REGROWN * 0.5 * (1 + cos(pi * number / self.steps))
        analysis = analyse(large, inputs=self.options.run.inputs)
        groups = [group for group in analysis.groups if group.name in self.plan.removed]
        assert self.samples is not None
        gradients = learning.regrowth(large, groups, self.plan, self.options, self.samples)
        sizes = score_groups(groups, "l2")
        removed, back = dict(self.plan.removed), {}
        for group, size, gradient in zip(groups, sizes, gradients, strict=True):
            gone = np.array(removed[group.name])
            stay = np.setdiff1d(np.arange(group.size), gone)
            count = min(len(gone), len(stay) - 1, int(rate * len(stay)))
            returning = gone[np.argsort(-gradient[gone], kind="stable")[:count]]
            going = stay[np.argsort(size[stay], kind="stable")[:count]]
            removed[group.name] = tuple(sorted({*map(int, gone), *map(int, going)} - {*map(int, returning)}))
            back[group.name] = returning
        silence(groups, back)
        self.plan = replace(self.plan, removed=removed)
        analysis = analyse(large, inputs=self.options.run.inputs)
        cut(analysis, self.plan)
        self.model = large
        self.notes.append(f"step {number}: {sum(map(len, back.values()))} units came back for as many others")


def composed(first: Plan, second: Plan) -> Plan:
    """One plan for two, the second of which was made for what the first leaves.

    Raises:
        ModelError: they do not follow each other.
    """
    removed, sizes = {**first.removed}, {**second.sizes, **first.sizes}
    for name, units in second.removed.items():
        stay = np.setdiff1d(np.arange(sizes[name]), first.removed.get(name, ()))
        if len(stay) != second.sizes[name]:
            raise ModelError(f"group {name!r} has {second.sizes[name]} units after a cut that leaves {len(stay)}")
        removed[name] = tuple(sorted({*first.removed.get(name, ()), *(int(stay[unit]) for unit in units)}))
    return replace(second, removed=removed, sizes=sizes)


def silence(groups: list[Group], units: Mapping[str, np.ndarray]) -> None:
    """Set to zero what reads some units, or where nothing stored reads them what makes them."""
    for group in groups:
        readers = [piece for piece in group.slices if piece.consumer] or list(group.slices)
        for piece in readers:
            tensor = piece.value.const_value
            if tensor is None or not tensor.dtype.is_floating_point():
                continue
            array = np.moveaxis(np.array(tensor.numpy()), piece.axis, 0)
            array[np.isin(piece.unit_of, units[group.name])] = 0
            restored = np.ascontiguousarray(np.moveaxis(array, 0, piece.axis))
            piece.value.const_value = ir.Tensor(restored, dtype=tensor.dtype, name=tensor.name)


def _parts(text: str, steps: int) -> list[Spend]:
    """A spend over some steps; epochs are whole, and the last steps get what is over."""
    spend = Spend.of(text)
    if spend.seconds is not None:
        return [Spend(spend.seconds / steps, "s")] * steps
    ends = [round(number * spend.amount / steps) for number in range(steps + 1)]
    return [Spend(float(after - before), "e") for before, after in pairwise(ends)]
