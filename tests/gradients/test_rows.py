"""Every operator's rows, computed by torch and by onnxruntime; and gradients against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.rows import ROWS
from tests.soundness import Case, Row

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

from spa.errors import ModelError  # noqa: E402
from spa.gradients.call import implementation, is_still  # noqa: E402
from spa.gradients.module import GraphModule, torch_module  # noqa: E402
from tests.gradients import elsewhere  # noqa: E402

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
STEP = 1e-6
INSIDE = {
    "Acos": torch.tanh,
    "Acosh": lambda x: x.abs() + 1.1,
    "Asin": torch.tanh,
    "Atanh": torch.tanh,
    "Log": torch.abs,
    "Pow": torch.abs,
    "ReduceLogSum": torch.abs,
    "Sqrt": torch.abs,
}
"""Where an operator has a slope."""


def is_known(row: Row) -> bool:
    node = ir.Node(row.domain, row.name, [], num_outputs=1)
    return implementation(node) is not None


def is_random(row: Row) -> bool:
    drops = row.name == "Dropout" and len(row.operands) > 2
    return drops or row.name in RANDOM


RUNNABLE = [row for row in ROWS if row.engine == "onnxruntime" and is_known(row) and not is_random(row)]


def labelled(rows: list[Row]) -> list[object]:
    return [pytest.param(row, id=f"{number:03}-{row}") for number, row in enumerate(rows)]


def module_of(case: Case) -> GraphModule:
    model = case.model(case.dense)
    return torch_module(ir.serde.serialize_model(model))


def feeds_of(case: Case) -> dict[str, np.ndarray]:
    return {f"x{k}": array for k, array in case.dense.items() if not case.tensors[k].constant}


@pytest.mark.parametrize("row", labelled(RUNNABLE))
def test_computes_what_onnxruntime_computes(row: Row) -> None:
    case = Case(row)
    expected: list[Any] = list(case.run(case.model(case.dense), case.dense))
    made = list(module_of(case).outputs(feeds_of(case)).values())
    for wanted, tensor in zip(expected, made, strict=False):
        if isinstance(wanted, list):  # a sequence
            assert [part.shape for part in wanted] == [tuple(part.shape) for part in tensor]
            continue
        actual = tensor.detach().numpy()
        assert actual.shape == wanted.shape
        if row.attributes.get("sorted") == 0:  # in any order
            actual, wanted = np.sort(actual), np.sort(wanted)
        if wanted.dtype.kind == "f":
            scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0)
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4 * scale)
        else:
            apart = actual.astype(np.float64) != wanted.astype(np.float64)
            assert apart.sum() <= 0.02 * apart.size  # rounding at a step


@pytest.mark.parametrize("row", labelled(RUNNABLE))
def test_computes_the_same_on_another_device(row: Row) -> None:
    """Weights and floats lie there, integers on the CPU."""
    case = Case(row)
    module, feeds = module_of(case), feeds_of(case)
    expected = module.outputs(feeds)
    module.to(elsewhere.device())
    with torch.no_grad():
        made_there = module.outputs(feeds)
    for name, made in made_there.items():
        for wanted, tensor in zip(*(x if isinstance(x, list) else [x] for x in (expected[name], made)), strict=True):
            torch.testing.assert_close(tensor.cpu(), wanted.detach(), equal_nan=True)


@pytest.mark.parametrize("row", labelled([row for row in RUNNABLE if row.name not in ("LSTM", "GRU", "RNN")]))
def test_gradients_stay_on_another_device(row: Row) -> None:
    """Those of recurrent cells are kernels of GPUs."""
    case = Case(row)
    module = module_of(case).to(elsewhere.device())
    feeds = {name: torch.from_numpy(np.array(array)) for name, array in feeds_of(case).items()}
    feeds = {k: x.to(elsewhere.device()).requires_grad_() if x.is_floating_point() else x for k, x in feeds.items()}
    made = [x for x in module.outputs(feeds).values() if isinstance(x, torch.Tensor) and x.requires_grad and x.numel()]
    if not made:
        pytest.skip("no float moves the result")
    torch.stack([x.float().nansum() for x in made]).sum().backward()
    moved = [x for x in (*module.parameters(), *feeds.values()) if x.requires_grad and x.grad is not None]
    assert all(x.grad.device == x.device for x in moved)


@pytest.mark.parametrize("row", labelled([row for row in RUNNABLE if row.name not in ("LSTM", "GRU", "RNN")]))
def test_runs_in_mixed_precision(row: Row) -> None:
    """Data of 16 bits, as an operator before it leaves them, and weights of 32."""
    case = Case(row)
    module, feeds = module_of(case), {k: torch.from_numpy(np.array(x)) for k, x in feeds_of(case).items()}
    shapes = [getattr(x, "shape", None) for x in module.outputs(feeds).values()]
    first = next((k for k, x in feeds.items() if x.dtype == torch.float32 and x.ndim), None)
    if first is None:
        pytest.skip("takes no floats of single precision")
    with torch.autocast("cpu", torch.bfloat16):
        made = module.outputs({**feeds, first: feeds[first].to(torch.bfloat16)})
    assert [getattr(x, "shape", None) for x in made.values()] == shapes


def differentiable(row: Row) -> bool:
    quantises = "Quantize" in row.name or "Integer" in row.name or "NBits" in row.name
    steps = row.name in {"Ceil", "Floor", "Round", "Sign", "Hardmax", "Cast", "CastLike", "Shape", "Size", "Unique"}
    return not quantises and not steps


@pytest.mark.parametrize("row", labelled([row for row in RUNNABLE if differentiable(row)]))
def test_gradient_is_the_slope(row: Row) -> None:
    """The derivative along a random direction, in double precision."""
    case = Case(row)
    module = module_of(case).double()
    feeds = {name: torch.from_numpy(np.array(array)) for name, array in feeds_of(case).items()}
    inside = INSIDE.get(row.name, lambda x: x)
    node = next(node for node in module.source.graph if node.name == "node")
    still = {f"x{at}" for at in case.dense if is_still(node, at)}
    moved = {
        name: inside(x.double()).requires_grad_()
        for name, x in feeds.items()
        if x.dtype == torch.float32 and name not in still
    }
    feeds |= {name: x.double() for name, x in feeds.items() if x.dtype == torch.float32 and name in still}
    parameters = [p for p in module.parameters() if p.dtype == torch.float64]
    variables = [*moved.values(), *parameters]
    rng = torch.Generator().manual_seed(0)

    def loss() -> Any:
        made = module.outputs({**feeds, **moved}).values()
        floats = [x for x in made if isinstance(x, torch.Tensor) and x.dtype == torch.float64 and x.numel()]
        weigh = torch.Generator().manual_seed(1)
        return sum(((x * torch.randn(x.shape, generator=weigh)).nansum() for x in floats), torch.zeros(()))

    try:
        value = loss()
    except ModelError as error:
        if "dtype" in str(error) or "expected" in str(error):
            pytest.skip("a type of the row does not take double precision")
        raise
    if not variables or not value.requires_grad:
        pytest.skip("nothing of the result depends on a float")
    gradients = torch.autograd.grad(value, variables, allow_unused=True)
    directions = [torch.randn(x.shape, generator=rng, dtype=torch.float64) for x in variables]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            for x, d in zip(variables, directions, strict=True):
                x += sign * STEP * d
            values.append(float(loss()))
            for x, d in zip(variables, directions, strict=True):
                x -= sign * STEP * d
    measured = (values[0] - values[1]) / (2 * STEP)
    assert slope == pytest.approx(measured, rel=1e-4, abs=1e-5 * max(1.0, abs(float(value.detach()))))
