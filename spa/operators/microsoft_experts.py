"""Mixtures of experts of onnxruntime's own domain: a router's scores choose the layers that each token passes."""

from __future__ import annotations

import re

from spa.notation.operation import MICROSOFT, Operation, Refusal, letters, operator, pattern
from spa.notation.products import Product
from spa.notation.rule import Rule, rule
from spa.operators.microsoft import GATE
from spa.operators.reduce import ALONG


@operator("MoE", domain=MICROSOFT)
def mixture_of_experts(operation: Operation) -> Rule:
    """`b s w, (b s) e, e (p i) w, e (p i), e w i, e w, e i w, e i -> b s w`: two or three layers for each expert.

    Products of the layers that read the tokens. The second layer reads an expert's hidden units, which are no value of
    the graph, so its weight is not refitted.
    """
    rows, tokens, first = _experts(operation)
    operands = [f"{rows} w", f"{tokens} e", f"e {first} w", f"e {first}", "e w i", "e w", "e i w", "e i"]
    given = [
        text if operation.has(position) else "_" for position, text in enumerate(operands[: len(operation.inputs)])
    ]
    fused = "p" in first
    return rule(
        f"{', '.join(given)} -> {rows} w",
        sizes={"p": 2} if fused else {},
        statistic={"e": ALONG["Softmax"]},
        frozen={"p": GATE} if fused else {},
        least={"e": int(operation.attribute("k", 1))},
        kinds={"e": "experts", "i": "ffn"},
        reads=((0, len(rows.split())), (4, 2)),  # a bias keeps an inner unit alive: what reads it counts
        products=tuple(Product(0, at, at + 1, inside=True) for at in (2, 6) if operation.has(at)),
    )


def _experts(operation: Operation) -> tuple[str, str, str]:
    """What the axes of the tokens are called, the axis of as many router scores, and the outputs of a first layer."""
    first = {0: "i", 1: "(i p)", 2: "(p i)"}[int(operation.attribute("swiglu_fusion", 0))]
    return ("b s", "(b s)", first) if len(operation.shape(0)) == 3 else ("t", "t", first)


@operator("QMoE", domain=MICROSOFT)
def mixture_of_packed_experts(operation: Operation) -> Rule:
    """`b s w, (b s) e, e (p i) c, ... -> b s w`: whole experts, whose weights are packed.

    No product: the weights are packed by each runtime in a way of its own, so they are not refitted.
    """
    if len(operation.inputs) > 15:
        raise Refusal("experts whose activations have scales")
    rows, tokens, first = _experts(operation)
    known = {0: f"{rows} w", 1: f"{tokens} e", 2: f"e {first} c", 4: f"e {first}", 5: "e w d", 7: "e w", 8: "e i c"}
    known |= {10: "e i", 14: f"{tokens} e"}
    fresh = iter(letters(2 * len(operation.inputs), avoid="bstwepicd"))  # of scales and zero points
    packed = {
        at: f"e {pattern([next(fresh) for _ in operation.shape(at)[1:]])}"
        for at in range(len(operation.inputs))
        if operation.has(at) and at not in known
    }
    given = [{**known, **packed}.get(at, "_") if operation.has(at) else "_" for at in range(len(operation.inputs))]
    line = f"{', '.join(given)} -> {rows} w"
    stays = sorted({name for text in given for name in re.findall(r"[a-z]\d*", text)} - {"e", *rows.split()})
    second = (*rows.split(), "e", "w", "i")
    return rule(
        line,
        sizes={"p": 2} if "p" in first else {},
        statistic={"e": ALONG["Softmax"]},
        frozen={" ".join(stays): "packed bits"},
        least={"e": int(operation.attribute("k", 1))},
        kinds={"e": "experts"},
        macs=((*second, "p") if "p" in first else second, *[second] * (1 + operation.has(8))),
    )
