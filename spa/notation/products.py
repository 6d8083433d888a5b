"""Products of data and a stored weight inside a node: which operand is which, and what a row of data is.

    product 0 x 1 + 2                            MatMul with a bias: rows of operand 0, matrix 1, bias 2
    product 0 x 1 by 0.5 + 2 by 2.0              Gemm with alpha and beta
    product 0 x 1 + 2, kernel 3 3, pads 1 1 1 1  Conv: a row is the patch under the window
    product 0 x 1 + 2, kernel 3 3, channels last NhwcConv: the same of data whose channels stand behind
    product before x 2 + 3, part 1 of 2, steps 0, back 0 1, inside      the state of an LSTM, both directions

Either operand of a product may be the stored one, unless a window slides over the data or a recurrence reads its own
result.  *inside*: more is computed with the product before it is the node's result (gates, an activation), so that the
weight can be refitted, and what the result is off by is not what the product is off by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over the last axes of the data, or over those in front of its channels.

    Attributes:
        kernel, strides, dilations: taps, steps and gaps of each spatial axis.
        pads: zeros before, then behind, each axis (negative: elements cut off); None: as many as `same` needs.
        same: "upper" or "lower" where the result is as long as the data over the strides.
        spread: the data's elements lie so far apart, zeros between, and the taps run backwards (a transposed
            convolution); empty: they lie side by side.
        last: the channels stand behind the axes that the window slides over, not in front of them.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    same: str = ""
    spread: tuple[int, ...] = ()
    last: bool = False

    def __str__(self) -> str:
        parts = {
            "kernel": self.kernel,
            "strides": self.strides if set(self.strides) - {1} else (),
            "dilations": self.dilations if set(self.dilations) - {1} else (),
            "pads": self.pads if self.pads and any(self.pads) else (),
            "same": (self.same,) if self.same else (),
            "spread": self.spread,
        }
        shown = [f"{name} {' '.join(map(str, numbers))}" for name, numbers in parts.items() if numbers]
        return ", ".join([*shown, *["channels last"] * self.last])


@dataclass(frozen=True, slots=True)
class Product:
    """`scale * data x weight + bias_scale * bias`.

    Attributes:
        data, weight: positions of operands; `data` is None where a recurrence reads its own first result.
        bias: position of an operand that is added and may be given; None: the node takes no bias.
        scale, bias_scale: factors on the product and on the bias.
        window: how the weight slides over the data.
        part, parts: the last axis of the bias has so many parts, of which this product has one.
        steps: the data is the node's own first result, one step before along this axis ...
        back: ... or one step behind, in those of its directions that run backwards.
        inside: more is computed with the product before it is the node's result.
    """

    data: int | None
    weight: int
    bias: int | None = None
    scale: float = 1.0
    bias_scale: float = 1.0
    window: Window | None = None
    part: int = 0
    parts: int = 1
    steps: int | None = None
    back: tuple[bool, ...] = ()
    inside: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether either operand may be the stored one."""
        return self.window is None and self.parts == 1

    def __str__(self) -> str:
        data = "before" if self.data is None else self.data
        head = f"product {data} x {self.weight}" + (f" by {self.scale!r}" if self.scale != 1.0 else "")
        if self.bias is not None:
            head += f" + {self.bias}" + (f" by {self.bias_scale!r}" if self.bias_scale != 1.0 else "")
        notes = [head, *([str(self.window)] if self.window else [])]
        notes += [f"part {self.part} of {self.parts}"] * (self.parts > 1)
        notes += [f"steps {self.steps}, back {' '.join(str(int(back)) for back in self.back)}"] * bool(self.back)
        return ", ".join([*notes, *["inside"] * self.inside])


_NUMBER = r"[-+.\w]+"
_NOTES = (
    "kernel", "strides", "dilations", "pads", "same", "spread", "channels", "part", "steps", "back", "inside",
)  # fmt: skip
_HEAD = re.compile(rf"product (before|\d+) x (\d+)(?: by ({_NUMBER}))?(?: \+ (\d+)(?: by ({_NUMBER}))?)?")


def parse_product(text: str) -> Product:
    """The product that prints as `text`.

    Raises:
        ValueError: the text is none; says what was expected.
    """
    head, *notes = text.split(", ")
    match = _HEAD.fullmatch(head)
    if match is None:
        raise ValueError(f"rule note {text!r}: expected 'product DATA x WEIGHT', 'by SCALE' and '+ BIAS' behind it")
    data, weight, scale, bias, bias_scale = match.groups()
    said: dict[str, list[str]] = {}
    for note in notes:
        word, *values = note.split()
        if word not in _NOTES:
            raise ValueError(f"rule note {text!r}: a product has no {word!r}")
        said[word] = values
    part = said.get("part", ["0", "of", "1"])
    return Product(
        None if data == "before" else int(data),
        int(weight),
        None if bias is None else int(bias),
        float(scale or 1),
        float(bias_scale or 1),
        _parse_window({word: values for word, values in said.items() if word != "same"}, *said.get("same", [])),
        int(part[0]),
        int(part[2]),
        int(said["steps"][0]) if "steps" in said else None,
        tuple(value == "1" for value in said.get("back", [])),
        "inside" in said,
    )


def _parse_window(said: dict[str, list[str]], same: str = "") -> Window | None:
    if "kernel" not in said:
        return None
    numbers = {
        word: tuple(map(int, said.get(word, []))) for word in ("kernel", "strides", "dilations", "pads", "spread")
    }
    kernel = numbers["kernel"]
    ones, zeros = (1,) * len(kernel), (0,) * 2 * len(kernel)
    pads = None if same else numbers["pads"] or zeros
    strides, dilations = numbers["strides"] or ones, numbers["dilations"] or ones
    return Window(kernel, strides, dilations, pads, same, numbers["spread"], "channels" in said)
