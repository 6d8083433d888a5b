"""The factors that the multiply-accumulates of a node run over: their product is half of its FLOPs."""

from __future__ import annotations

from collections import Counter

from spa.analysis.application import Application
from spa.notation.patterns import names_of


def macs(application: Application) -> list[list[str]]:
    """The factors that the multiply-accumulates of a node run over, by name, a list for each contraction."""
    rule = application.rule
    if rule.macs is not None:
        return [[key for name in names for key in _keys(application, name)] for names in rule.macs]
    operands = [
        {name.name for term in application.operand_axes(position) for name in names_of(term)}
        for position in range(len(rule.operands))
    ]
    held = Counter(name for names in operands for name in names)
    contracted = {name for summed in application.sums() if not summed.again for name in summed.names}
    if not any(held[name] > 1 for name in contracted):
        return []
    # what stands in one operand only and in no result is slid over, not summed: unless it is a kernel's taps
    taps = set().union(*operands[1:])
    return [[name for name in application.factors if name not in contracted or held[name] > 1 or name in taps]]


def _keys(application: Application, name: str) -> list[str]:
    """What a name goes by in the factors: itself, or one key for each axis of a starred name."""
    if name in application.factors:
        return [name]
    return [f"{name}.{axis}" for axis in range(len(application.named(name)))]
