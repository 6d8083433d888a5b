"""Operators that work on each element alone, operands broadcast."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from spa.gradients.call import Call, implements, together

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: functional.softplus(x, threshold=50.0),
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}

FOLDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    return lambda _, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call, Tensor, Tensor], Tensor]:
    return lambda call, x, y: function(*broadcast(call, x, y))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _, *operands: reduce(function, together(*operands))


for _name, _function in UNARY.items():
    implements(_name)(_unary(_function))
for _name, _two in BINARY.items():
    implements(_name, vectors="scales" if _name == "Mul" else "")(_binary(_two))
for _name, _two in FOLDED.items():
    implements(_name)(_folded(_two))


def broadcast(call: Call, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both operands; before opset 7 the second one lies along the axes that an attribute names."""
    if call.version < 7 and call.integer("broadcast", 0) and call.has("axis"):
        behind = x.ndim - call.integer("axis") - y.ndim
        y = y.reshape(*y.shape, *[1] * behind)
    first, second = together(x, y)
    return first, second


@implements("Mean")
def mean(_: Call, *operands: Tensor) -> Tensor:
    return reduce(torch.add, together(*operands)) / len(operands)


@implements("Div", vectors="scales")
def divide(call: Call, x: Tensor, y: Tensor) -> Tensor:
    x, y = broadcast(call, x, y)
    return x / y if x.is_floating_point() or x.is_complex() else torch.div(x, y, rounding_mode="trunc")


@implements("Pow")
def power(call: Call, x: Tensor, y: Tensor) -> Tensor:
    base, exponent = broadcast(call, x, y)
    if exponent.ndim == 0 or exponent.numel() == 1:  # a number: the gradient of a square needs no logarithm
        return base.pow(exponent.item()).to(x.dtype).broadcast_to(torch.broadcast_shapes(base.shape, exponent.shape))
    return torch.pow(base, exponent).to(x.dtype)


@implements("Mod")
def modulo(call: Call, x: Tensor, y: Tensor) -> Tensor:
    x, y = broadcast(call, x, y)
    return torch.fmod(x, y) if call.integer("fmod", 0) else torch.remainder(x, y)


@implements("BitShift")
def bit_shift(call: Call, x: Tensor, y: Tensor) -> Tensor:
    wide_x, wide_y = x.to(torch.int64), y.to(torch.int64)
    shifted = wide_x << wide_y if call.text("direction") == "LEFT" else wide_x >> wide_y
    return shifted.to(x.dtype)


@implements("Where")
def where(_: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    condition, x, y = together(condition, x, y)
    return torch.where(condition, x, y)


@implements("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    dtype = call.dtype("to")
    assert dtype is not None
    return x.to(dtype)


@implements("CastLike")
def cast_like(_: Call, x: Tensor, y: Tensor) -> Tensor:
    return x.to(y.dtype)


@implements("IsInf")
def is_infinite(call: Call, x: Tensor) -> Tensor:
    below, above = call.integer("detect_negative", 1), call.integer("detect_positive", 1)
    return (torch.isneginf(x) & bool(below)) | (torch.isposinf(x) & bool(above))


@implements("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if call.version < 11:
        least = call.number("min") if call.has("min") else None
        most = call.number("max") if call.has("max") else None
    else:
        least, most = (None if bound is None else bound.item() for bound in (low, high))
    if least is None and most is None:
        return x
    if least is not None and most is not None and least <= most and x.is_floating_point():
        return functional.hardtanh(x, least, most)  # clamp's own gradient takes five passes over x
    return torch.clamp(x, least, most)


# ------------------------------------------------------------------------------------------------ activations
@implements("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call.number("alpha", 0.01))


@implements("PRelu")
def parametric_relu(_: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@implements("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    return functional.elu(x, call.number("alpha", 1.0))


@implements("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    return functional.celu(x, call.number("alpha", 1.0))


@implements("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.number("alpha", 1.67326319217681884765625), call.number("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


@implements("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.number("alpha", 1.0), x, torch.zeros_like(x))


@implements("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    edge, bias = call.number("lambd", 0.5), call.number("bias", 0.0)
    nothing = torch.zeros_like(x)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, nothing))


@implements("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call.number("alpha", 0.2) * x + call.number("beta", 0.5), 0.0, 1.0)


@implements("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call.text("approximate", "none"))


@implements("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.number("alpha", 1.0) * x)


@implements("Dropout", still=(1, 2), draws=True)
def dropout(call: Call, x: Tensor, ratio: Tensor | None = None, mode: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Drops in training mode: the module's, whatever the file says."""
    share = call.number("ratio", 0.5) if ratio is None else float(ratio.item())
    drops = call.training or (mode is not None and bool(mode.item()))
    if not drops or share == 0.0:
        return x, torch.ones_like(x, dtype=torch.bool)
    kept = torch.rand(x.shape, generator=call.generator, device=call.generator.device).to(x.device) >= share
    return x * kept / (1.0 - share), kept
