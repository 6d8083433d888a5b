"""Criteria from gradients, gathered over the units of a group as the SPA paper does (arXiv 2403.18955, section 3.3).

    spa prune model.onnx --ratio 30% --criterion taylor --data labelled.npz        # at the command line
    spa.prune("model.onnx", ratio=0.3, criterion="taylor", data="labelled.npz")     # in Python

    criterion = spa.gradients.criterion("taylor", data=arrays, labels="classes")    # with samples of its own
    spa.prune("model.onnx", ratio=0.3, criterion=criterion)

w is a stored weight, g its gradient for one sample, h its product with the Hessian of the mean loss. A sum runs over
all weights of a unit, producers and consumers alike, so that coupled weights may cancel out:

| name | a unit's score | source |
|---|---|---|
| taylor | abs(mean over samples of sum(w g)) | Molchanov et al. 2019 |
| fisher | mean over samples of sum(w g)^2 | Theis et al. 2018; Liu et al., Group Fisher, 2021 |
| obd | sum(w^2 mean(g^2)) / 2 | LeCun et al. 1989, with the empirical Fisher as the Hessian's diagonal |
| gblm | sum(abs(w) norm of g over samples) | Das et al. 2023, gradients on one scale for each tensor |
| snip | sum(abs(w mean(g))) | Lee et al. 2019 |
| grasp | sum(w h), h = H mean(g) | Wang et al. 2020: what the gradient's flow loses without the unit |
| crop | abs(sum(w h)) | Rachwan et al., Early-CroP, 2022 |
| synflow | sum(abs(w) dR/dabs(w)), R the sum of outputs for inputs of ones | Tanaka et al. 2020: needs no samples |
| oracle | how much the loss grows when all numbers of the unit are zero | Molchanov et al. 2017, section 2.2 |

The loss is cross-entropy with labels, a function of your own, or neither: then targets are drawn from the network's own
outputs, whose gradients have the Fisher information as their covariance, and taylor is the root of fisher (the distance
from one's own outputs has no gradient); the oracle measures that distance itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spa.analysis.group import Group
from spa.errors import UsageError
from spa.fields import did_you_mean
from spa.gradients.networks import GraphNetwork, ModuleNetwork, Network, module_of
from spa.gradients.options import CRITERIA, FLOW, WITHOUT_SAMPLES
from spa.gradients.oracle import oracle
from spa.gradients.samples import split_samples
from spa.gradients.spending import Spend
from spa.gradients.sums import Gathered, Pieces, pieces_of, sums
from spa.passes.choose.importance.gather import Context, Criterion, Scores
from spa.presets import Progress

OF_EACH_SAMPLE = ("fisher", "obd", "gblm")
"""Criteria that square the gradients of single samples."""

BATCH = 64
"""Samples that are run together elsewhere."""


def criterion(
    name: str,
    *,
    data: Any = None,
    labels: str | None = None,
    loss: Any = None,
    batch_size: int | None = None,
    seed: int = 0,
    budget: str = "5m",
    progress: Progress | None = None,
) -> Criterion:
    """A criterion for `spa.prune`.

    Args:
        name: one of `CRITERIA`.
        data: samples, as `spa.finetune` takes them; all but synflow need them.
        labels: the entry of the data that holds labels; by default "labels", where there is one.
        loss: module:function or a function, called with the outputs and the batch by name.
        batch_size: samples whose gradients are taken together; by default 1 where the formula has gradients of single
            samples, else 64.
        seed: of targets that are drawn.
        budget: how long the oracle may measure: a time such as 5m, or runs of a batch such as 2000r.
        progress: called with the criterion's name and the share (0..1) that is done.

    Returns:
        A criterion, which takes all groups and a `Context` and gives for each group an array (units,); it reads the
        samples when it is called, and refuses them with DataError.

    Raises:
        UsageError: there is no such criterion, or what it needs is missing.
        MissingExtra: torch is not installed.
    """
    check(name)
    if data is None and name not in WITHOUT_SAMPLES:
        raise UsageError(f"criterion {name!r} needs samples: give data")
    if labels is not None and loss is not None:
        raise UsageError("labels and loss exclude each other")
    size = batch_size or (1 if name in OF_EACH_SAMPLE else BATCH)

    def network(groups: Sequence[Group]) -> Network:
        module = module_of(groups)
        split = split_samples(data, module.source, labels=labels, batch_size=size, everything=loss is not None)
        known = next(iter(split.beside), None) if labels is None and loss is None else labels
        if name == "taylor" and known is None and loss is None and batch_size is None:
            split = replace(split, batch_size=1)  # targets that are drawn: the root of fisher
        return GraphNetwork(module, split, labels=known, loss=loss, seed=seed)

    return _Gradients(name, network, Spend.of(budget), progress or _say_nothing)


def criterion_of_module(
    name: str,
    module: Any,
    *,
    data: Iterable[Any],
    loss: Callable[..., Any] | None = None,
    seed: int = 0,
    budget: str = "5m",
    progress: Progress | None = None,
) -> Criterion:
    """A criterion from the autograd of a torch module, whose parameters have the names of the graph's stored tensors.

    Args:
        module: set to evaluation mode by whoever calls.
        data: batches as a DataLoader gives them, (inputs, targets) or inputs alone; gradients are those of a batch.
        loss: called with the module's output and the targets, where there are any.

    Raises:
        UsageError: there is no such criterion.
    """
    check(name)

    def network(groups: Sequence[Group]) -> Network:
        return ModuleNetwork(module, groups, data, loss, seed)

    return _Gradients(name, network, Spend.of(budget), progress or _say_nothing)


def check(name: str) -> None:
    """Raise UsageError where no criterion has that name."""
    if name not in CRITERIA:
        raise UsageError(f"criterion {name!r}: expected one of {', '.join(CRITERIA)}{did_you_mean(name, CRITERIA)}")


def _say_nothing(step: str, share: float) -> None:
    """No progress is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class _Gradients:
    """The criterion: scores of all groups from one pass over the samples.

    Attributes:
        network: what gradients are taken of, for some groups.
    """

    name: str
    network: Callable[[Sequence[Group]], Network]
    budget: Spend
    progress: Progress

    def __call__(self, groups: Sequence[Group], context: Context, /) -> Scores:
        """For each group an array (units,)."""
        if self.name == "synflow":
            return _synflow(groups, context.roles)
        network = self.network(groups)
        pieces = pieces_of(groups, context.roles, network.weights)
        if self.name in FLOW:
            return self._flow(network, groups, pieces)
        if self.name != "oracle":
            return self._passed(network, groups, pieces).scores(self.name, drawn=network.drawn)

        def foretold() -> Scores:
            return self._passed(network, groups, pieces).scores("taylor", drawn=network.drawn)

        scores, said = oracle(
            network, groups, pieces, foretold, self.budget, lambda share: self.progress("oracle", share)
        )
        context.notes.append(said)
        return scores

    def _passed(self, network: Network, groups: Sequence[Group], pieces: Pieces) -> Gathered:
        """What one pass over the samples gathers."""
        gathered = Gathered(groups, pieces, network.weights)
        values, tensors = list(network.weights), list(network.weights.values())
        batches = list(network.batches())
        for number, batch in enumerate(batches):
            self.progress(self.name, number / len(batches))
            loss = network.loss(network.outputs(batch), batch)
            count = network.count(batch)
            gathered.add(dict(zip(values, _gradients(loss, tensors), strict=True)), count)
        return gathered

    def _flow(self, network: Network, groups: Sequence[Group], pieces: Pieces) -> Scores:
        """Of the gradient's norm: h = H g by a second backward pass."""
        tensors = list(network.parameters)
        batches = list(network.batches())
        mean: list[Tensor] = [torch.zeros_like(tensor) for tensor in tensors]
        counts = [network.count(batch) for batch in batches]
        shares = [count / sum(counts) for count in counts]
        for number, batch in enumerate(batches):
            self.progress(self.name, 0.3 * number / len(batches))
            gradients = _gradients(network.loss(network.outputs(batch), batch), tensors)
            for total, gradient in zip(mean, gradients, strict=True):
                total += 0 if gradient is None else gradient * shares[number]
        flow = [torch.zeros_like(tensor) for tensor in tensors]
        for number, batch in enumerate(batches):
            self.progress(self.name, 0.3 + 0.7 * number / len(batches))
            first = _gradients(network.loss(network.outputs(batch), batch), tensors, create_graph=True)
            along = [(g * m).sum() for g, m in zip(first, mean, strict=True) if g is not None and g.requires_grad]
            if not along:
                continue
            second = torch.autograd.grad(torch.stack(along).sum(), tensors, allow_unused=True)
            for total, product in zip(flow, second, strict=True):
                total += 0 if product is None else product * shares[number]
        along_flow = {id(tensor): product for tensor, product in zip(tensors, flow, strict=True)}
        products = {value: tensor.detach() * along_flow[id(tensor)] for value, tensor in network.weights.items()}
        scores = sums(groups, pieces, products)
        return [np.abs(each) for each in scores] if self.name == "crop" else scores


def _gradients(loss: Tensor, tensors: Sequence[Tensor], *, create_graph: bool = False) -> Sequence[Tensor | None]:
    """The gradient of a loss for each tensor, None where it has none.

    Raises:
        UsageError: the loss depends on no parameter.
    """
    if not loss.requires_grad:
        raise UsageError("the loss depends on no parameter of the model: nothing can be scored by its gradient")
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        loss, tensors, create_graph=create_graph, allow_unused=True
    )
    return gradients


def _synflow(groups: Sequence[Group], roles: str) -> Scores:
    """In double precision, with every weight's size in its place: products of many layers grow beyond single."""
    module = module_of(groups)
    module.double()
    tensors = dict(module.stored_parameters())
    pieces = pieces_of(groups, roles, tensors)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.abs_()
    feeds = {}
    for value in module.source.graph.inputs:
        if value.is_initializer():
            continue
        if value.dtype is None or not value.dtype.is_floating_point() or value.shape is None:
            raise UsageError(f"criterion 'synflow': input {value.name!r} takes no ones: it is no tensor of floats")
        feeds[str(value.name)] = torch.ones(
            [size if isinstance(size, int) else 1 if at == 0 else 64 for at, size in enumerate(value.shape)],
            dtype=torch.float64,
        )
    outputs = [x for x in module.outputs(feeds).values() if isinstance(x, Tensor) and x.requires_grad]
    gradients = torch.autograd.grad(sum(x.sum() for x in outputs), list(tensors.values()), allow_unused=True)
    products = {v: t.detach() * g for (v, t), g in zip(tensors.items(), gradients, strict=True) if g is not None}
    return sums(groups, pieces, products)
