"""If, Loop and Scan: their bodies run as the graph does, and gradients pass through the rounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spa.gradients.call import Call, implements


@implements("If")
def branch(call: Call, condition: Tensor) -> tuple[Any, ...]:
    taken = "then_branch" if bool(condition.item()) else "else_branch"
    return tuple(call.body(call.node.attributes[taken].as_graph(), []))


@implements("Loop")
def loop(call: Call, trips: Tensor | None, condition: Tensor | None, *state: Any) -> tuple[Any, ...]:
    body = call.node.attributes["body"].as_graph()
    most = None if trips is None else int(trips.item())
    carried = list(state)
    rounds: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - len(state))]
    going, number = condition is None or bool(condition.item()), 0
    while going and (most is None or number < most):
        flag = torch.tensor(True) if condition is None else torch.tensor(going)
        results = call.body(body, [torch.tensor(number), flag, *carried])
        going, carried = bool(results[0].item()), results[1 : 1 + len(carried)]
        for kept, made in zip(rounds, results[1 + len(carried) :], strict=True):
            kept.append(made)
        number += 1
    stacked = [_stacked(made, 0, value) for made, value in zip(rounds, body.outputs[1 + len(state) :], strict=True)]
    return (*carried, *stacked)


def _stacked(made: list[Tensor], axis: int, value: Any) -> Tensor:
    """The results of all rounds; of no round, as many as none."""
    if made:
        return torch.stack(made, axis)
    sizes = [size if isinstance(size, int) else 0 for size in value.shape or ()]
    sizes.insert(axis, 0)
    return torch.zeros(sizes)


@implements("Scan")
def scan(call: Call, *operands: Tensor) -> tuple[Tensor, ...]:
    body, count = call.node.attributes["body"].as_graph(), call.integer("num_scan_inputs")
    carried, scanned = list(operands[: len(operands) - count]), operands[len(operands) - count :]
    made_count = len(body.outputs) - len(carried)
    input_axes = call.integers("scan_input_axes", [0] * count)
    output_axes = call.integers("scan_output_axes", [0] * made_count)
    backwards = call.integers("scan_input_directions", [0] * count)
    output_backwards = call.integers("scan_output_directions", [0] * made_count)
    sequences = [
        list(operand.unbind(axis))[:: -1 if back else 1]
        for operand, axis, back in zip(scanned, input_axes, backwards, strict=True)
    ]
    rounds: list[list[Tensor]] = [[] for _ in range(made_count)]
    for slices in zip(*sequences, strict=True):
        results = call.body(body, [*carried, *slices])
        carried = results[: len(carried)]
        for kept, made in zip(rounds, results[len(carried) :], strict=True):
            kept.append(made)
    stacked = [
        _stacked(made[:: -1 if back else 1], axis, value)
        for made, back, axis, value in zip(
            rounds, output_backwards, output_axes, body.outputs[len(carried) :], strict=True
        )
    ]
    return (*carried, *stacked)
