"""Normalisations in torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import MICROSOFT, Call, implements


@implements("BatchNormalization", still=(3, 4), vectors="norms")
def batch_normalization(
    call: Call, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """Stored statistics; in training those of the batch, and the stored ones move towards them.

    No gradient moves statistics. A tensor that is a statistic here and something trained elsewhere (zeros, stored once)
    keeps its content.
    """
    momentum = 1.0 - call.number("momentum", 0.9)
    if call.integer("training_mode", 0):  # the file itself asks for it, and gives the new statistics
        axes = [axis for axis in range(x.ndim) if axis != 1]
        normal = functional.batch_norm(x, None, None, scale, shift, True, momentum, call.number("epsilon", 1e-5))
        moved = mean + momentum * (x.mean(axes) - mean)
        return (normal, moved, variance + momentum * (x.var(axes, correction=0) - variance))[: call.results]
    shared = mean.requires_grad or variance.requires_grad
    running = (None, None) if call.training and shared else (mean.detach(), variance.detach())
    normal = functional.batch_norm(
        x, *running, scale.to(x.dtype), shift.to(x.dtype), call.training, momentum, call.number("epsilon", 1e-5)
    )
    return normal if call.results == 1 else (normal, mean, variance, mean, variance)[: call.results]


@implements("LayerNormalization", vectors="norms")
def layer_normalization(
    call: Call, x: Tensor, scale: Tensor, shift: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axis, epsilon = call.integer("axis", -1) % x.ndim, call.number("epsilon", 1e-5)
    sizes = x.shape[axis:]
    if call.results == 1 and scale.shape == sizes and (shift is None or shift.shape == sizes):
        return functional.layer_norm(x, sizes, scale, shift, epsilon)
    axes = list(range(axis, x.ndim))
    mean = x.mean(axes, True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, True) + epsilon)
    normal = (x - mean) * inverse * scale
    return (normal if shift is None else normal + shift, mean, inverse)[: call.results]


@implements("InstanceNormalization", vectors="norms")
def instance_normalization(call: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    axes = list(range(2, x.ndim))
    mean = x.mean(axes, True)
    variance = (x - mean).square().mean(axes, True)
    shape = [-1, *[1] * len(axes)]
    normal = (x - mean) * torch.rsqrt(variance + call.number("epsilon", 1e-5))
    return normal * scale.reshape(shape) + shift.reshape(shape)


@implements("GroupNormalization", vectors="norms")
def group_normalization(call: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Before opset 21 scale and shift are those of the groups."""
    groups = call.integer("num_groups")
    repeats = x.shape[1] // scale.numel()
    scale, shift = scale.repeat_interleave(repeats), shift.repeat_interleave(repeats)
    return functional.group_norm(x, groups, scale, shift, call.number("epsilon", 1e-5))


@implements("RMSNormalization", vectors="norms")
@implements("SimplifiedLayerNormalization", vectors="norms")
@implements("SimplifiedLayerNormalization", domain=MICROSOFT, vectors="norms")
def rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor | tuple[Tensor, ...]:
    axis = call.integer("axis", -1) % x.ndim
    inverse = torch.rsqrt(x.square().mean(list(range(axis, x.ndim)), True) + call.number("epsilon", 1e-5))
    normal = x * inverse * scale
    return normal if call.results == 1 else (normal, inverse)


@implements("SkipLayerNormalization", domain=MICROSOFT, vectors="norms")
def skip_layer_normalization(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    total = x + skip if bias is None else x + skip + bias
    epsilon = call.number("epsilon", 1e-12)
    normal = functional.layer_norm(total, total.shape[-1:], scale, shift, epsilon)
    mean, variance = total.mean(-1, True), total.var(-1, correction=0, keepdim=True)
    return (normal, mean, torch.rsqrt(variance + epsilon), total)[: call.results]


@implements("SkipSimplifiedLayerNormalization", domain=MICROSOFT, vectors="norms")
def skip_rms_normalization(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    total = x + skip if bias is None else x + skip + bias
    inverse = torch.rsqrt(total.square().mean(-1, True) + call.number("epsilon", 1e-12))
    return (total * inverse * scale, None, inverse, total)[: call.results]


@implements("LpNormalization")
def power_normalization(call: Call, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, call.integer("p", 2), call.integer("axis", -1), True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


@implements("LRN")
def local_response(call: Call, x: Tensor) -> Tensor:
    size = call.integer("size")
    before, behind = (size - 1) // 2, size - 1 - (size - 1) // 2
    flat = [0, 0] * (x.ndim - 2) + [before, behind]
    total = functional.pad(x.square(), flat).unfold(1, size, 1).sum(-1)
    return x / (call.number("bias", 1.0) + call.number("alpha", 1e-4) / size * total) ** call.number("beta", 0.75)


@implements("MeanVarianceNormalization")
def mean_variance(call: Call, x: Tensor) -> Tensor:
    axes = call.integers("axes", [0, 2, 3])
    mean = x.mean(axes, True)
    variance = (x.square().mean(axes, True) - mean.square()).clamp(min=0)
    return (x - mean) / (variance.sqrt() + 1e-9)
