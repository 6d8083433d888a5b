"""Operators that make tensors: constants, ranges, sizes, random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from spa.gradients.call import Call, implements, ints


@implements("Constant")
def constant(call: Call) -> Tensor:
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        if name in call.node.attributes:
            return torch.tensor(call.node.attributes[name].value, dtype=dtype)
    for name, dtype in (("value_floats", torch.float32), ("value_ints", torch.int64)):
        if name in call.node.attributes:
            return torch.tensor(list(call.node.attributes[name].value), dtype=dtype)
    from spa.gradients.graphs import to_torch

    return to_torch(call.node.attributes["value"].as_tensor())


@implements("ConstantOfShape")
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    given = call.node.attributes.get("value")
    if given is None:
        return torch.zeros(ints(shape))
    from spa.gradients.graphs import to_torch

    fill = to_torch(given.as_tensor()).reshape(())
    return fill.expand(ints(shape)).clone()


@implements("Shape")
def shape_of(call: Call, x: Tensor) -> Tensor:
    first, last = call.integer("start", 0), call.integer("end", x.ndim)
    return torch.tensor(list(x.shape)[first:last], dtype=torch.int64)


@implements("Size")
def size_of(_: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


@implements("Range")
def range_(_: Call, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


@implements("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    dtype = call.dtype("dtype") or x.dtype
    columns = torch.arange(x.shape[1], device=x.device)[None]
    return (columns - torch.arange(x.shape[0], device=x.device)[:, None] == call.integer("k", 0)).to(dtype)


# ----------------------------------------------------------------------------------------------- random numbers
def _shape_and_type(call: Call, like: Tensor | None) -> tuple[list[int], torch.dtype, torch.device]:
    if like is None:
        return call.integers("shape"), call.dtype("dtype") or torch.float32, torch.device("cpu")
    dtype = call.dtype("dtype") or (like.dtype if like.is_floating_point() else torch.float32)
    return list(like.shape), dtype, like.device


@implements("RandomNormal", "RandomNormalLike", draws=True)
def random_normal(call: Call, like: Tensor | None = None) -> Tensor:
    shape, dtype, device = _shape_and_type(call, like)
    drawn = torch.randn(shape, generator=call.generator).to(device, dtype)
    return drawn * call.number("scale", 1.0) + call.number("mean", 0.0)


@implements("RandomUniform", "RandomUniformLike", draws=True)
def random_uniform(call: Call, like: Tensor | None = None) -> Tensor:
    shape, dtype, device = _shape_and_type(call, like)
    low, high = call.number("low", 0.0), call.number("high", 1.0)
    return torch.rand(shape, generator=call.generator).to(device, dtype) * (high - low) + low


@implements("Bernoulli", draws=True)
def bernoulli(call: Call, x: Tensor) -> Tensor:
    drawn = torch.rand(x.shape, generator=call.generator).to(x.device) < x
    return drawn.to(call.dtype("dtype") or x.dtype)


@implements("Multinomial", draws=True)
def multinomial(call: Call, x: Tensor) -> Tensor:
    count = call.integer("sample_size", 1)
    drawn = torch.multinomial(torch.softmax(x.float(), -1).cpu(), count, replacement=True, generator=call.generator)
    return drawn.to(x.device, call.dtype("dtype") or torch.int32)


# -------------------------------------------------------------------------------------------------- transforms
@implements("DFT")
def fourier(call: Call, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """The last axis holds real and imaginary parts, or real ones alone."""
    along = int(axis.item()) if axis is not None else call.integer("axis", 1 if call.version < 20 else -2)
    along += x.ndim if along < 0 else 0
    size = None if length is None else int(length.item())
    inverse, one_sided = bool(call.integer("inverse", 0)), bool(call.integer("onesided", 0))
    if x.shape[-1] == 1 and one_sided:
        return torch.view_as_real(torch.fft.rfft(x[..., 0], size, along))
    data = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0].to(torch.complex64)
    if inverse and one_sided:
        return torch.fft.irfft(data, size, along).unsqueeze(-1)
    made = (torch.fft.ifft if inverse else torch.fft.fft)(data, size, along)
    return torch.view_as_real(made)


def _window(call: Call, size: Tensor, factors: tuple[float, ...]) -> Tensor:
    count = int(size.item())
    steps = (
        torch.arange(count, dtype=torch.float64) * 2 * torch.pi / (count if call.integer("periodic", 1) else count - 1)
    )
    made = sum(((-1) ** k * factor * torch.cos(k * steps) for k, factor in enumerate(factors)), torch.zeros(count))
    return made.to(call.dtype("output_datatype") or torch.float32)


@implements("HannWindow")
def hann(call: Call, size: Tensor) -> Tensor:
    return _window(call, size, (0.5, 0.5))


@implements("HammingWindow")
def hamming(call: Call, size: Tensor) -> Tensor:
    return _window(call, size, (25 / 46, 21 / 46))


@implements("BlackmanWindow")
def blackman(call: Call, size: Tensor) -> Tensor:
    return _window(call, size, (0.42, 0.5, 0.08))


@implements("STFT")
def short_time_fourier(
    call: Call, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    size = int(length.item()) if length is not None else len(window) if window is not None else x.shape[1]
    frames = x[..., 0].unfold(1, size, int(step.item())) if x.ndim == 3 else x.unfold(1, size, int(step.item()))
    if window is not None:
        frames = frames * window
    transform = torch.fft.rfft if call.integer("onesided", 1) else torch.fft.fft
    return torch.view_as_real(transform(frames, dim=-1))
