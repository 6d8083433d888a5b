"""Recurrent layers: all gates and both directions share one hidden size."""

from __future__ import annotations

from spa.notation.operation import Operation, operator
from spa.notation.patterns import parse_terms
from spa.notation.products import Product
from spa.notation.rule import Rule, Sizes, rule
from spa.operators.linear import text_of
from spa.operators.sizes import batch_differs

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS = "steps of a recurrence"


@operator(*GATES, contradicts=batch_differs)
def recurrent(operation: Operation) -> Rule:
    """`t n i, d (g h) i, d (g h) h, d (b h), n, d n h, d n h, d (p h) -> t d n h, d n h, d n h`."""
    gates = GATES[operation.name]
    batch_first = bool(operation.attribute("layout", 0))
    data, hidden, state = ("n t i", "n t d h", "n d h") if batch_first else ("t n i", "t d n h", "d n h")
    made = "(g h)" if gates > 1 else "h"
    operands = [data, f"d {made} i", f"d {made} h", "d (b h)", "n", state, state, "d (p h)"]
    present = [text if operation.has(position) else "_" for position, text in enumerate(operands)]
    sizes = {"g": gates, "b": 2 * gates, "p": 3}
    used = [name for name in sizes if any(f"({name} h)" in text for text in present)]
    stays = {" ".join(used): "gates", "d": "directions", "t": STEPS}
    results = [hidden, state, state]
    return rule(
        f"{', '.join(present[: len(operation.inputs)])} -> {', '.join(results[: len(operation.outputs)])}",
        sizes={name: sizes[name] for name in used},
        frozen=stays,
        follows=(Sizes("hidden_size", tuple(parse_terms("h")), scalar=True),)
        if "hidden_size" in operation.attributes
        else (),
        kinds={"h": "hidden"},
        macs=tuple(("t", "n", "d", *(["g"] if gates > 1 else []), "h", read) for read in ("i", "h")),
        reads=((2, 2),),
        products=_products(operation),
    )


def _products(operation: Operation) -> tuple[Product, ...]:
    """What is added up before the gates: data by W, and the state of the step before by R; each has its half of B."""
    fed = Product(0, 1, 3, part=0, parts=2, inside=True)
    if operation.name == "GRU" and not operation.attribute("linear_before_reset", 0):
        return (fed,)  # the new gate reads the state times the reset gate: R is no matrix that rows are multiplied with
    directions = {"reverse": (True,), "bidirectional": (False, True)}
    back = directions.get(text_of(operation, "direction", "forward"), (False,))
    steps = 1 if operation.attribute("layout", 0) else 0
    return (fed, Product(None, 2, 3, part=1, parts=2, steps=steps, back=back, inside=True))
