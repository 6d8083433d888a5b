"""Criteria from gradients, gathered over the units of a group as the SPA paper does (arXiv 2403.18955, section 3.3).

    import spa
    criterion = spa.gradients.criterion("taylor", data="train.npz", labels="labels")
    smaller = spa.prune("model.onnx", ratio=0.3, criterion=criterion)

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

The loss is cross-entropy with labels, a function of your own, or neither: then targets are drawn from the network's own
outputs, whose gradients have the Fisher information as their covariance, and taylor is the root of fisher (the distance
from one's own outputs has no gradient).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from spa.analysis.group import Group, Slice
from spa.errors import UsageError
from spa.fields import did_you_mean
from spa.gradients.losses import Loss, labelled, own
from spa.gradients.module import GraphModule
from spa.gradients.samples import Split, split_samples
from spa.passes.choose.importance.gather import Context, Criterion, Scores, by_unit

CRITERIA = ("taylor", "fisher", "obd", "gblm", "snip", "grasp", "crop", "synflow")
AT_ONCE = ("grasp", "crop")
"""Criteria of the mean gradient's own gradient: all samples in one graph."""


def criterion(
    name: str, *, data: Any = None, labels: str | None = None, loss: Any = None, batch_size: int = 1, seed: int = 0
) -> Criterion:
    """A criterion for `spa.prune`.

    Args:
        name: one of `CRITERIA`.
        data: samples, as `spa.finetune` takes them; all but synflow need them.
        labels: the entry of the data that holds labels.
        loss: module:function or a function, called with the outputs and the batch by name.
        batch_size: samples whose gradients are taken together; 1 is what the formulas say.
        seed: of targets that are drawn.

    Raises:
        UsageError: there is no such criterion, or what it needs is missing.
    """
    if name not in CRITERIA:
        raise UsageError(f"criterion {name!r}: expected one of {', '.join(CRITERIA)}{did_you_mean(name, CRITERIA)}")
    if data is None and name != "synflow":
        raise UsageError(f"criterion {name!r} needs samples: give data")
    if labels is not None and loss is not None:
        raise UsageError("labels and loss exclude each other")
    return _Gradients(name, data, labels, loss, batch_size, seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Gradients:
    """The criterion: scores of all groups from one pass over the samples."""

    name: str
    data: Any
    labels: str | None
    loss: Any
    batch_size: int
    seed: int

    def __call__(self, groups: Sequence[Group], context: Context, /) -> Scores:
        """For each group an array (units,)."""
        module = _module_of(groups)
        parameters = dict(module.stored_parameters())
        pieces = [_pieces(group, context.roles, parameters) for group in groups]
        if self.name == "synflow":
            return _synflow(module, groups, pieces, parameters)
        split = split_samples(self.data, module.source, labels=self.labels, batch_size=self.batch_size)
        loss = self._loss()
        if self.name in AT_ONCE:
            return self._flow(module, loss, split, groups, pieces, parameters)
        gathered = _Gathered(groups, pieces, parameters)
        for batch in split.every():
            value = _measured(module, loss, batch)
            gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            gathered.add(dict(zip(parameters, gradients, strict=True)))
        return gathered.scores(self.name, drawn=self.labels is None and self.loss is None)

    def _loss(self) -> Loss:
        if self.labels is not None:
            return labelled(self.labels)
        return own(self.loss) if self.loss is not None else _Drawn(self.seed)

    def _flow(
        self,
        module: GraphModule,
        loss: Loss,
        split: Split,
        groups: Sequence[Group],
        pieces: Sequence[Sequence[Slice]],
        parameters: Mapping[ir.Value, Tensor],
    ) -> Scores:
        """Of the gradient's norm: h = H g by a second backward pass."""
        tensors = list(parameters.values())
        batches = list(split.every())
        mean: list[Tensor] = [torch.zeros_like(tensor) for tensor in tensors]
        for batch in batches:
            found = torch.autograd.grad(_measured(module, loss, batch), tensors, allow_unused=True)
            for total, gradient in zip(mean, found, strict=True):
                total += 0 if gradient is None else gradient / len(batches)
        flow = [torch.zeros_like(tensor) for tensor in tensors]
        for batch in batches:
            value = _measured(module, loss, batch)
            first = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
            along = [(g * m).sum() for g, m in zip(first, mean, strict=True) if g is not None and g.requires_grad]
            if not along:
                continue
            second = torch.autograd.grad(torch.stack(along).sum(), tensors, allow_unused=True)
            for total, product in zip(flow, second, strict=True):
                total += 0 if product is None else product / len(batches)
        products = {value: t.detach() * h for (value, t), h in zip(parameters.items(), flow, strict=True)}
        sums = _sums(groups, pieces, products)
        return [np.abs(scores) for scores in sums] if self.name == "crop" else sums


def _pieces(group: Group, roles: str, parameters: Mapping[ir.Value, Tensor]) -> list[Slice]:
    """What has a gradient along a group, biases and scales too: without them, sums over a unit would not balance."""
    held = [piece for piece in group.slices if piece.value in parameters]
    if roles == "both":
        return held
    return [piece for piece in held if piece.producer == (roles == "producers")] or held


class _Gathered:
    """Sums over units that are kept from sample to sample."""

    def __init__(
        self, groups: Sequence[Group], pieces: Sequence[Sequence[Slice]], parameters: Mapping[ir.Value, Tensor]
    ) -> None:
        self.groups, self.pieces = groups, pieces
        self.weights = {value: tensor.detach() for value, tensor in parameters.items()}
        self.mean = {value: torch.zeros_like(tensor) for value, tensor in self.weights.items()}
        self.squares = {value: torch.zeros_like(tensor) for value, tensor in self.weights.items()}
        self.sums = [np.zeros(group.size) for group in groups]
        self.sums_of_squares = [np.zeros(group.size) for group in groups]
        self.count = 0

    def add(self, gradients: Mapping[ir.Value, Tensor | None]) -> None:
        """The gradients of one sample, or of some together."""
        products = {}
        for value, gradient in gradients.items():
            if gradient is None:
                continue
            self.mean[value] += gradient
            self.squares[value] += gradient.square()
            products[value] = self.weights[value] * gradient
        for at, found in enumerate(_sums(self.groups, self.pieces, products)):
            self.sums[at] += found
            self.sums_of_squares[at] += found**2
        self.count += 1

    def scores(self, name: str, *, drawn: bool) -> Scores:
        """For each group (units,); `drawn`: targets were drawn, so that a mean gradient is chance."""
        count = max(self.count, 1)
        if name == "taylor":
            if drawn:
                return [np.sqrt(found / count) for found in self.sums_of_squares]
            return [np.abs(found) / count for found in self.sums]
        if name == "fisher":
            return [found / count for found in self.sums_of_squares]
        each = {value: self.of_weight(name, value, count) for value in self.weights}
        return _sums(self.groups, self.pieces, each)

    def of_weight(self, name: str, value: ir.Value, count: int) -> Tensor:
        """The score of each element of a tensor."""
        weight, squares = self.weights[value], self.squares[value]
        if name == "obd":
            return 0.5 * weight.square() * squares / count
        if name == "gblm":
            return weight.abs() * squares.sqrt() / (squares.sqrt().mean() + 1e-30)
        return (weight * self.mean[value] / count).abs()


def _sums(
    groups: Sequence[Group], pieces: Sequence[Sequence[Slice]], numbers: Mapping[ir.Value, Tensor]
) -> list[np.ndarray]:
    """For each group (units,) the numbers of all weights of a unit, added up."""
    found = []
    along: dict[tuple[ir.Value, int], np.ndarray] = {}
    for group, mine in zip(groups, pieces, strict=True):
        total = np.zeros(group.size)
        for piece in mine:
            if piece.value not in numbers:
                continue
            key = piece.value, piece.axis
            if key not in along:
                tensor = numbers[piece.value].double()
                others = [axis for axis in range(tensor.ndim) if axis != piece.axis]
                along[key] = (tensor.sum(others) if others else tensor).cpu().numpy()
            total += by_unit(piece, group.size, along[key])
        found.append(total)
    return found


def _synflow(
    module: GraphModule,
    groups: Sequence[Group],
    pieces: Sequence[Sequence[Slice]],
    parameters: Mapping[ir.Value, Tensor],
) -> Scores:
    """In double precision, with every weight's size in its place: products of many layers grow beyond single."""
    module.double()
    tensors = dict(module.stored_parameters())
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
    del parameters
    return _sums(groups, pieces, products)


class _Drawn:
    """Minus the log-likelihood of targets that the network's own outputs are the distribution of.

    A row that may hold logits draws a class; any other output is the mean of a normal distribution of its own variance.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, outputs: Mapping[str, Any], _: Mapping[str, np.ndarray]) -> Tensor:
        parts = [self.of(x.float()) for x in outputs.values() if isinstance(x, Tensor) and x.requires_grad]
        return torch.stack(parts).sum()

    def of(self, output: Tensor) -> Tensor:
        """Of one output."""
        if output.ndim == 2 and output.shape[1] > 1:
            shares = torch.softmax(output.detach(), -1).cpu()
            drawn = torch.multinomial(shares, 1, generator=self.generator).reshape(-1).to(output.device)
            return functional.cross_entropy(output, drawn)
        noise = torch.randn(output.shape, generator=self.generator).to(output.device)
        scale = output.detach().std() + 1e-12
        return (output / scale * noise).sum() / max(output.shape[0] if output.ndim else 1, 1)


def _measured(module: GraphModule, loss: Loss, batch: Mapping[str, np.ndarray]) -> Tensor:
    feeds = {name: batch[name] for name in module.input_names}
    return loss(module.outputs(feeds), batch)


def _module_of(groups: Sequence[Group]) -> GraphModule:
    """The graph that the groups were found in, in torch."""
    graph = next((piece.value.graph for group in groups for piece in group.slices), None)
    if not isinstance(graph, ir.Graph):
        raise UsageError("no group holds a stored tensor, so there is nothing to score")
    return GraphModule(ir.Model(graph, ir_version=10)).eval()
