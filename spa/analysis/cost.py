"""What a graph costs, as a function of how much of each factor stays.

Parameters and bytes are sums over stored tensors of products of axis sizes; floating-point operations are
sums over contractions (matrix products, convolutions ...) of products of factor sizes, read off the rules.
One multiply-accumulate counts as two operations.  Symbolic axes count with the numbers they are bound to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Application, Coupling
from spa.analysis.group import Masks
from spa.notation.dims import Factor, Kind
from spa.notation.rule import names_of

MEASURES = ("params", "flops", "bytes")

NUMBERS = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING}
"""Types of stored tensors that are no parameters (indices, shapes, masks); zero points and scales are."""


@dataclass(frozen=True, slots=True)
class Term:
    """`weight` times the product of the sizes of some dims."""

    weight: float
    dims: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The terms of each measure."""

    terms: Mapping[str, Sequence[Term]]

    def of(self, measure: str, masks: Masks | None = None) -> float:
        """Parameters, flops or bytes that are left when `masks` stay."""
        sizes = _Sizes(masks or {})
        return sum(term.weight * prod(map(sizes.of, term.dims)) for term in self.terms[measure])


class _Sizes:
    """Sizes of dims under one set of masks, each computed once."""

    def __init__(self, masks: Masks) -> None:
        self.kept = {leaf: int(np.count_nonzero(mask)) for leaf, mask in masks.items()}
        self.known: dict[Factor, int] = {}

    def of(self, dim: Factor) -> int:
        root = dim.root
        found = self.known.get(root)
        if found is None:
            if root.kind is Kind.LEAF:
                found = self.kept.get(root, root.size)
            else:
                parts = map(self.of, root.parts)
                found = prod(parts) if root.kind is Kind.PRODUCT else sum(parts)
            self.known[root] = found
        return found


def measure(coupling: Coupling) -> Cost:
    """The cost of a coupled graph."""
    params: list[Term] = []
    stored: list[Term] = []
    for value, axes in coupling.axes.items():
        tensor = value.const_value
        if tensor is None or value not in coupling.weights:
            continue
        if tensor.dtype != ir.DataType.STRING:  # text has no fixed width
            stored.append(Term(tensor.dtype.bitwidth / 8, axes))
        if tensor.dtype not in NUMBERS:
            params.append(Term(1, axes))
    flops = [Term(2, dims) for application in coupling.applications for dims in macs(application)]
    return Cost({"params": params, "bytes": stored, "flops": flops})


def macs(application: Application) -> list[tuple[Factor, ...]]:
    """The dims that the multiply-accumulates of a node run over, one tuple for each contraction."""
    rule = application.rule
    if rule.macs is not None:
        return [tuple(dim for name in names for dim in application.named(name)) for names in rule.macs]
    operands = [
        {name.name for term in application.operand_axes(position) for name in names_of(term)}
        for position in range(len(rule.operands))
    ]
    held = Counter(name for names in operands for name in names)
    contracted = {name for name in application.factors if name.split(".")[0] in rule.contracted}
    if not any(held[name] > 1 for name in contracted):
        return []
    # what stands in one operand only and in no result is slid over, not summed: unless it is a kernel's taps
    taps = set().union(*operands[1:])
    run_over = [
        f for name, f in application.factors.items() if name not in contracted or held[name] > 1 or name in taps
    ]
    return [tuple(run_over)]
