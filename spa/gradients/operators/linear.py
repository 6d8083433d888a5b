"""Products of matrices, convolutions, sums of products."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import MICROSOFT, Call, implements, together

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


@implements("MatMul")
def matmul(_: Call, x: Tensor, y: Tensor) -> Tensor:
    x, y = together(x, y)
    return torch.matmul(x, y)


@implements("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left = a.mT if call.integer("transA") else a
    right = b.mT if call.integer("transB") else b
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if c is None:
        return alpha * (left @ right) if alpha != 1.0 else left @ right
    return torch.addmm(c, left, right, beta=beta, alpha=alpha)


@implements("Einsum")
def einsum(call: Call, *operands: Tensor) -> Tensor:
    return torch.einsum(call.text("equation").replace(" ", ""), *together(*operands))


# ---------------------------------------------------------------------------------------------- convolutions
def pads_of(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Elements before and behind each spatial axis of a window, as attributes or `auto_pad` say."""
    rank, auto = len(kernel), call.text("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = call.integers("pads", [0] * 2 * rank)
        return pads[:rank], pads[rank:]
    if auto == "VALID":
        return [0] * rank, [0] * rank
    before, behind = [], []
    for size, taps, stride, gap in zip(sizes, kernel, strides, dilations, strict=True):
        missing = max(0, (ceil(size / stride) - 1) * stride + gap * (taps - 1) + 1 - size)
        less, more = missing // 2, missing - missing // 2
        before.append(less if auto == "SAME_UPPER" else more)
        behind.append(more if auto == "SAME_UPPER" else less)
    return before, behind


def padded(x: Tensor, before: Sequence[int], behind: Sequence[int], value: float = 0.0) -> Tensor:
    """The data with elements of one value around its last axes; negative numbers cut off."""
    if not any(before) and not any(behind):
        return x
    flat = [size for pair in zip(reversed(before), reversed(behind), strict=True) for size in pair]
    return functional.pad(x, flat, value=value)


@implements("Conv")
def convolution(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    before, behind = pads_of(call, x.shape[2:], weight.shape[2:], strides, dilations)
    if before == behind and min(before, default=0) >= 0:
        padding = before
    else:
        x, padding = padded(x, before, behind), [0] * rank
    flat = flat_axes(x.shape[2:], weight.shape[2:], padding)
    if flat:
        axes = [2 + axis for axis in flat]
        strides, padding, dilations = (
            [each for axis, each in enumerate(numbers) if axis not in flat] for numbers in (strides, padding, dilations)
        )
        x, weight = x.squeeze(axes), weight.squeeze(axes)
    made = CONVOLUTIONS[rank - len(flat) - 1](x, weight, bias, strides, padding, dilations, call.integer("group", 1))
    for axis in flat:
        made = made.unsqueeze(2 + axis)
    return made


def flat_axes(sizes: Sequence[int], kernel: Sequence[int], padding: Sequence[int]) -> list[int]:
    """Axes of a window that have one position and one tap, of which one is left if they all do.

    Without them, torch takes a fortieth of the time for the gradient of a strided window along the other axis.
    """
    flat = [at for at, place in enumerate(zip(sizes, kernel, padding, strict=True)) if place == (1, 1, 0)]
    return flat[1:] if len(flat) == len(kernel) else flat


@implements("ConvTranspose")
def transposed_convolution(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    strides, dilations = call.integers("strides", [1] * rank), call.integers("dilations", [1] * rank)
    extra = call.integers("output_padding", [0] * rank)
    reach = [gap * (taps - 1) + 1 for gap, taps in zip(dilations, weight.shape[2:], strict=True)]
    whole = [
        (size - 1) * stride + far + more
        for size, stride, far, more in zip(x.shape[2:], strides, reach, extra, strict=True)
    ]
    before, behind = _cropped(call, x.shape[2:], strides, whole)
    made = TRANSPOSED[rank - 1](
        x, weight, bias, strides, 0, extra_of(extra, strides), call.integer("group", 1), dilations
    )
    short = [size - made.shape[2 + axis] for axis, size in enumerate(whole)]
    return _biased_edge(made, short, bias, before, behind)


def extra_of(extra: Sequence[int], strides: Sequence[int]) -> list[int]:
    """What torch takes as output padding: less than the stride."""
    return [min(more, stride - 1) for more, stride in zip(extra, strides, strict=True)]


def _biased_edge(
    made: Tensor, short: Sequence[int], bias: Tensor | None, before: Sequence[int], behind: Sequence[int]
) -> Tensor:
    """The result with rows that no tap reaches, which hold the bias alone, and without what the padding crops."""
    if any(short):
        made = padded(made, [0] * len(short), short)
        if bias is not None:
            reached = padded(
                torch.ones_like(made[..., *(slice(None, -size or None) for size in short)]), [0] * len(short), short
            )
            made = made + (1 - reached) * bias.reshape(-1, *[1] * len(short))
    return padded(made, [-size for size in before], [-size for size in behind])


def _cropped(
    call: Call, sizes: Sequence[int], strides: Sequence[int], whole: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What goes from each end of the whole result."""
    rank, auto = len(sizes), call.text("auto_pad", "NOTSET")
    shape = call.integers("output_shape") if call.has("output_shape") else None
    if shape is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        shape = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if shape is None:
        pads = call.integers("pads", [0] * 2 * rank) if auto in ("NOTSET", "") else [0] * 2 * rank
        return pads[:rank], pads[rank:]
    surplus = [size - wanted for size, wanted in zip(whole, shape[-rank:], strict=True)]
    half = [size // 2 for size in surplus]
    rest = [size - part for size, part in zip(surplus, half, strict=True)]
    return (half, rest) if auto == "SAME_UPPER" else (rest, half)


@implements("DeformConv")
def deformable_convolution(
    call: Call, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Every tap is read at its own bilinearly interpolated place; the patches then meet the weight."""
    taps = weight.shape[2] * weight.shape[3]
    count, channels = x.shape[:2]
    strides, dilations = call.integers("strides", [1, 1]), call.integers("dilations", [1, 1])
    before, _ = pads_of(call, x.shape[2:], weight.shape[2:], strides, dilations)
    share, groups = call.integer("offset_group", 1), call.integer("group", 1)
    height, width = offset.shape[2:]
    offset = offset.reshape(count, share, taps, 2, height, width)
    rows = torch.arange(weight.shape[2]).repeat_interleave(weight.shape[3]) * dilations[0]
    columns = torch.arange(weight.shape[3]).repeat(weight.shape[2]) * dilations[1]
    y = offset[:, :, :, 0] + _grid(rows, height, strides[0], before[0], x).reshape(taps, height, 1)
    z = offset[:, :, :, 1] + _grid(columns, width, strides[1], before[1], x).reshape(taps, 1, width)
    size = x.shape[2:]
    places = torch.stack([2 * z / max(size[1] - 1, 1) - 1, 2 * y / max(size[0] - 1, 1) - 1], -1)
    parts = x.reshape(count * share, channels // share, *size)
    places = places.reshape(count * share, taps * height, width, 2)
    read = functional.grid_sample(parts, places, align_corners=True, padding_mode="zeros")
    read = read.reshape(count, share, channels // share, taps, height, width)
    if mask is not None:
        read = read * mask.reshape(count, share, 1, taps, height, width)
    patches = read.reshape(count, groups, channels // groups * taps, height * width)
    kernel = weight.reshape(groups, weight.shape[0] // groups, -1)
    made = torch.einsum("gok,ngkp->ngop", kernel, patches).reshape(count, weight.shape[0], height, width)
    return made if bias is None else made + bias.reshape(-1, 1, 1)


def _grid(taps: Tensor, length: int, stride: int, pad: int, like: Tensor) -> Tensor:
    """(taps, length): where a tap lies for each place of the window, before it is moved."""
    return (taps[:, None] + torch.arange(length)[None] * stride - pad).to(like)


# --------------------------------------------------------------------------------------------- fused products
@implements("FusedMatMul", domain=MICROSOFT)
def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    left = _turned(a, call.integer("transA"), call.integer("transBatchA"))
    right = _turned(b, call.integer("transB"), call.integer("transBatchB"))
    return call.number("alpha", 1.0) * (left @ right)


def _turned(x: Tensor, transposed: int, batch: int) -> Tensor:
    if batch:  # the first axis stands before the last but one
        x = x.movedim(0, -2)
    return x.mT if transposed else x


@implements("FusedGemm", domain=MICROSOFT)
def fused_gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    return activated(call, gemm(call, a, b, c))


@implements("GemmFastGelu", domain=MICROSOFT)
def gemm_fast_gelu(_: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    made = x @ weight
    return functional.gelu(made if bias is None else made + bias, approximate="tanh")


@implements("FusedConv", domain=MICROSOFT)
def fused_convolution(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    made = convolution(call, x, weight, bias)
    return activated(call, made if added is None else made + added)


def activated(call: Call, x: Tensor) -> Tensor:
    """The activation that a fused node applies in the end."""
    name = call.text("activation", "")
    parameters = call.node.attributes.get("activation_params")
    numbers = list(parameters.as_floats()) if parameters is not None else []
    alpha = numbers[0] if numbers else call.number("activation_alpha", 0.01)
    beta = numbers[1] if len(numbers) > 1 else call.number("activation_beta", 0.0)
    match name:
        case "":
            return x
        case "Relu":
            return torch.relu(x)
        case "Sigmoid":
            return torch.sigmoid(x)
        case "Tanh":
            return torch.tanh(x)
        case "LeakyRelu":
            return functional.leaky_relu(x, alpha)
        case "Clip":
            return torch.clamp(x, alpha, beta)
        case "HardSigmoid":
            return torch.clamp(alpha * x + beta, 0.0, 1.0)
        case "HardSwish":
            return functional.hardswish(x)
    from spa.errors import ModelError

    raise ModelError(f"{call.where}: activation {name!r} is not known")
