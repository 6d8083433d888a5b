"""Quantised tensors: straight-through gradients through QuantizeLinear and DequantizeLinear (Bengio et al. 2013).

A quantised activation is kept as whole numbers in a tensor of floats, so that a gradient can pass; what reads it as
integers gets integers. Operators that compute with integers themselves have no gradient: onnxruntime runs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spa.gradients.call import MICROSOFT, Call, implements, together
from spa.gradients.integers import remember

LIMITS = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767), torch.uint16: (0, 65535)}


def _along(call: Call, scale: Tensor, x: Tensor) -> Tensor:
    """A scale of each slice along an axis, or of each block of one, laid against the data."""
    if scale.ndim == 0 or scale.numel() == 1:
        return scale.reshape(())
    axis = call.integer("axis", 1) % x.ndim
    block = call.integer("block_size", 0)
    if block:
        return scale.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return scale.reshape(shape)


@implements("QuantizeLinear")
@implements("QuantizeLinear", domain=MICROSOFT)
def quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    dtype = torch.uint8 if zero is None else zero.dtype
    dtype = call.dtype("output_dtype") or dtype
    low, high = LIMITS[dtype]
    point = 0 if zero is None else _along(call, zero, x).to(x)
    exact = x / _along(call, scale, x)
    rounded = exact + (torch.round(exact) - exact).detach()
    return remember(torch.clamp(rounded + point, low, high), dtype)


@implements("DequantizeLinear")
@implements("DequantizeLinear", domain=MICROSOFT)
def dequantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    point = 0 if zero is None else _along(call, zero, x).to(scale)
    return (x.to(scale) - point) * _along(call, scale, x)


@implements("DynamicQuantizeLinear")
def dynamic_quantize(_: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.clamp(x.min(), max=0).detach(), torch.clamp(x.max(), min=0).detach()
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    exact = x / scale
    rounded = exact + (torch.round(exact) - exact).detach()
    return remember(torch.clamp(rounded + zero, 0, 255), torch.uint8), scale, remember(zero, torch.uint8)


@implements("MatMulInteger")
def matmul_integer(_: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    """In floats, which hold the sums exactly as far as their mantissa goes, so that a gradient passes."""
    left, right = together(*(x if x.is_floating_point() else x.to(torch.float32) for x in (a, b)))
    wider = torch.promote_types(left.dtype, right.dtype)
    left, right = left.to(wider), right.to(wider)
    if a_zero is not None:
        left = left - (a_zero.reshape(-1, 1) if a_zero.numel() > 1 else a_zero).to(left)
    if b_zero is not None:
        right = right - b_zero.to(right)
    return remember(left @ right, torch.int32)


@implements("MatMulNBits", domain=MICROSOFT)
def matmul_few_bits(
    call: Call, x: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor | None = None, *_: Tensor | None
) -> Tensor:
    """The weight is unpacked, (outputs, inputs); a gradient reaches the data alone."""
    width, outputs, bits, block = (
        call.integer("K"),
        call.integer("N"),
        call.integer("bits", 4),
        call.integer("block_size"),
    )
    blocks = -(-width // block)
    levels = _unpacked(packed.to(x.device).reshape(outputs * blocks, -1), bits)[:, :block].to(x.dtype)
    if zeros is None:
        points = torch.full((outputs * blocks, 1), 2 ** (bits - 1), dtype=x.dtype, device=x.device)
    elif zeros.dtype == torch.uint8:
        points = _unpacked(zeros.reshape(outputs, -1), bits)[:, :blocks].reshape(-1, 1).to(x)
    else:
        points = zeros.reshape(-1, 1)
    weight = ((levels - points) * scales.reshape(-1, 1)).reshape(outputs, -1)[:, :width]
    return x @ weight.T


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Numbers of a few bits, the lower bits of a byte first."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, device=packed.device)
    return ((packed[..., None].to(torch.int32) >> shifts) & (2**bits - 1)).flatten(-2)
