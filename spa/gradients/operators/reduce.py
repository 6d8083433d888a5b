"""Sums, means, extremes and softmaxes over axes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import Call, implements

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    count = prod(x.shape[axis] for axis in axes)
    return torch.div(x.sum(axes, keep), count, rounding_mode="trunc").to(x.dtype)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
}


def _reducing(function: Reduction) -> Callable[..., Tensor]:
    def reduce(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = call.axes(given)
        if not axes:
            if call.integer("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        if not axes:  # a single number
            return function(x.reshape(1), [0], False)
        return function(x, axes, bool(call.integer("keepdims", 1))).to(x.dtype)

    return reduce


for _name, _function in REDUCTIONS.items():
    implements(_name)(_reducing(_function))


@implements("Softmax", "LogSoftmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """Before opset 13 over all axes from the given one on."""
    function = torch.softmax if call.node.op_type == "Softmax" else torch.log_softmax
    if call.version >= 13:
        return function(x, call.integer("axis", -1))
    axis = call.integer("axis", 1) % max(x.ndim, 1)
    return function(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)


@implements("Hardmax")
def hardmax(call: Call, x: Tensor) -> Tensor:
    axis = call.integer("axis", -1 if call.version >= 13 else 1) % x.ndim
    flat = x if call.version >= 13 else x.reshape(*x.shape[:axis], -1)
    along = axis if call.version >= 13 else -1
    best = flat.argmax(along, keepdim=True)
    return torch.zeros_like(flat).scatter(along, best, 1.0).reshape(x.shape)


@implements("CumSum")
def cumulative_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    along = int(axis.item())
    if call.integer("reverse", 0):
        x = x.flip(along)
    total = torch.cumsum(x, along).to(x.dtype)
    if call.integer("exclusive", 0):
        total = total - x
    return total.flip(along) if call.integer("reverse", 0) else total


@implements("NegativeLogLikelihoodLoss")
def negative_log_likelihood(call: Call, scores: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    return functional.nll_loss(
        scores,
        labels,
        weight,
        ignore_index=call.integer("ignore_index", -100),
        reduction=call.text("reduction", "mean"),
    )


@implements("SoftmaxCrossEntropyLoss")
def cross_entropy(call: Call, scores: Tensor, labels: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    logarithms = torch.log_softmax(scores, 1)
    return negative_log_likelihood(call, logarithms, labels, weight), logarithms
