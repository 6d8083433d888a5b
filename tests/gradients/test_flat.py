"""Convolutions along an axis of one position: Keras and TensorFlow write one-dimensional networks so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from spa.gradients.module import GraphModule  # noqa: E402

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], int]] = {
    "one flat axis": ((2, 4, 40, 1), (6, 4, 8, 1), {"strides": [4, 1]}, 1),
    "the other": ((2, 4, 1, 40), (6, 4, 1, 8), {"strides": [3, 2], "dilations": [1, 2]}, 1),
    "both": ((2, 4, 1, 1), (6, 4, 1, 1), {"strides": [2, 2]}, 2),
    "groups and padding along the other": ((2, 4, 21, 1), (6, 2, 5, 1), {"group": 2, "pads": [3, 0, 1, 0]}, 1),
    "padding along the flat one": ((2, 4, 21, 1), (6, 4, 5, 1), {"pads": [0, 1, 0, 1]}, 0),
    "taps along the flat one": ((2, 4, 21, 1), (6, 4, 5, 3), {"pads": [0, 1, 0, 1]}, 0),
    "two of three": ((2, 4, 1, 12, 1), (6, 4, 1, 3, 1), {"strides": [1, 2, 1]}, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_convolution_of_all_axes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from spa.gradients.operators import linear

    sizes, kernel, attributes, flat = CASES[case]
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.standard_normal(kernel).astype(np.float32),
        "b": rng.standard_normal(kernel[0]).astype(np.float32),
    }
    values = {name: ir.Value(name=name, const_value=ir.Tensor(array, name=name)) for name, array in stored.items()}
    x = ir.Value(name="x", shape=ir.Shape(sizes), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Conv", [x, *values.values()], attributes=attributes)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=list(values.values()), opset_imports={"": 20})
    module = GraphModule(ir.Model(graph, ir_version=10))
    data = torch.from_numpy(rng.standard_normal(sizes).astype(np.float32))

    def run() -> list[Any]:
        given = data.clone().requires_grad_()
        module.zero_grad()
        made = module(given)
        (made * torch.arange(made.numel()).reshape(made.shape).sin()).sum().backward()
        return [made.detach(), given.grad, *(each.grad for each in module.parameters())]

    asked: list[int] = []
    of = linear.flat_axes

    def noted(*given: Any) -> list[int]:
        asked.append(len(of(*given)))
        return of(*given)

    monkeypatch.setattr(linear, "flat_axes", noted)
    fewer = run()
    assert asked[-1] == (flat - 1 if flat == len(kernel) - 2 else flat)
    monkeypatch.setattr(linear, "flat_axes", lambda *_: [])
    assert len(fewer) == 4
    for ours, whole in zip(fewer, run(), strict=True):
        assert ours.shape == whole.shape
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-4)
