from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa import gradients  # noqa: E402
from spa.errors import UsageError  # noqa: E402
from spa.gradients.options import CRITERIA  # noqa: E402
from spa.passes.choose.importance import score_groups  # noqa: E402
from spa.steps import analyse, load_normal  # noqa: E402

RNG = np.random.default_rng(3)
X = RNG.standard_normal((24, 6)).astype(np.float32)
LABELS = RNG.integers(0, 3, 24)
WEIGHTS = {
    "w": RNG.standard_normal((6, 10)).astype(np.float32),
    "b": RNG.standard_normal(10).astype(np.float32),
    "v": RNG.standard_normal((10, 3)).astype(np.float32),
}


def network(activation: str = "Relu", **changed: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[n, 6] x) => (float[n, 3] y)'
        f" {{ a = Gemm(x, w, b) h = {activation}(a) y = MatMul(h, v) }}"
    )
    weights = {**WEIGHTS, **changed}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def scores(criterion: Any, proto: onnx.ModelProto | None = None) -> np.ndarray:
    groups = analyse(load_normal(proto or network())).groups
    (unit_scores,) = score_groups(groups, criterion)
    return unit_scores


def own_gradients(activation: Any = torch.relu, *, create_graph: bool = False) -> tuple[list[Any], list[list[Any]]]:
    """Weights, and their gradients sample by sample, by torch alone."""
    w, b, v = (torch.tensor(WEIGHTS[name], requires_grad=True) for name in ("w", "b", "v"))
    per_sample = []
    for x, label in zip(torch.tensor(X), torch.tensor(LABELS), strict=True):
        y = activation(x @ w + b) @ v
        loss = torch.nn.functional.cross_entropy(y[None], label[None])
        per_sample.append(list(torch.autograd.grad(loss, [w, b, v], create_graph=create_graph)))
    return [w, b, v], per_sample


def by_unit(w: Any, b: Any, v: Any) -> np.ndarray:
    return np.asarray((w.sum(0) + b + v.sum(1)).detach().double())


def test_sums_over_coupled_weights_are_what_torch_says() -> None:
    weights, samples = own_gradients()
    products = np.stack([by_unit(*(t * g for t, g in zip(weights, sample, strict=True))) for sample in samples])
    data = {"x": X, "labels": LABELS}
    expected = {"taylor": np.abs(products.mean(0)), "fisher": (products**2).mean(0)}
    pairs = [(t, torch.stack([sample[at] for sample in samples])) for at, t in enumerate(weights)]
    expected["obd"] = 0.5 * by_unit(*(t**2 * (g**2).mean(0) for t, g in pairs))
    expected["snip"] = by_unit(*((t * g.mean(0)).abs() for t, g in pairs))
    norms = [(t, (g**2).sum(0).sqrt()) for t, g in pairs]
    expected["gblm"] = by_unit(*(t.abs() * n / n.mean() for t, n in norms))
    for name, wanted in expected.items():
        actual = scores(gradients.criterion(name, data=data, labels="labels"))
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, err_msg=name)


def test_flow_is_the_hessian_times_the_gradient() -> None:
    weights, samples = own_gradients(torch.tanh, create_graph=True)
    mean = [torch.stack([sample[at] for sample in samples]).mean(0) for at in range(3)]
    along = sum((m * m.detach()).sum() for m in mean)
    products = torch.autograd.grad(along, weights)
    wanted = by_unit(*(t * h for t, h in zip(weights, products, strict=True)))
    data = {"x": X, "labels": LABELS}
    for name, expected in (("grasp", wanted), ("crop", np.abs(wanted))):
        actual = scores(gradients.criterion(name, data=data, labels="labels"), network("Tanh"))
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)


def test_synflow_needs_no_samples() -> None:
    w, v = (np.abs(WEIGHTS[name]).astype(np.float64) for name in ("w", "v"))
    through = w.sum(0) * v.sum(1)
    bias = np.abs(WEIGHTS["b"]) * v.sum(1)
    np.testing.assert_allclose(scores(gradients.criterion("synflow")), 2 * through + 2 * bias, rtol=1e-6)


@pytest.mark.parametrize("name", CRITERIA)
def test_a_unit_that_does_nothing_goes_first(name: str) -> None:
    v = WEIGHTS["v"].copy()
    v[4] = 0.0
    w = WEIGHTS["w"].copy()
    w[:, 4] = 0.0
    b = WEIGHTS["b"].copy()
    b[4] = 0.0
    options: dict[str, Any] = {} if name == "synflow" else {"data": {"x": X, "labels": LABELS}, "labels": "labels"}
    unit_scores = scores(gradients.criterion(name, **options), network(w=w, v=v, b=b))
    assert unit_scores[4] == 0.0
    if name not in ("grasp", "oracle"):  # whose scores have a sign
        assert unit_scores.argmin() == 4


def test_without_labels_targets_are_drawn_and_the_order_is_that_of_the_loss() -> None:
    """Scores of units, beside how far the outputs' distribution really moves when one goes; logits are small, so that
    the divergence is of second order."""
    small = 0.2 * WEIGHTS["v"]
    unit_scores = scores(gradients.criterion("taylor", data=np.concatenate([X] * 20)), network(v=small))
    logits = torch.tensor(X)
    w, b, v = (torch.tensor(array) for array in (WEIGHTS["w"], WEIGHTS["b"], small))
    hidden = torch.relu(logits @ w + b)
    dense = torch.log_softmax(hidden @ v, -1)
    moved = []
    for unit in range(10):
        cut = hidden.clone()
        cut[:, unit] = 0.0
        other = torch.log_softmax(cut @ v, -1)
        moved.append(float((dense.exp() * (dense - other)).sum(-1).mean()))
    ranks = [np.argsort(np.argsort(numbers)) for numbers in (unit_scores, moved)]
    table: Any = np.corrcoef(np.stack(ranks))
    assert table[0, 1] > 0.9


def test_prune_takes_it() -> None:
    data = {"x": X, "labels": LABELS}
    result = spa.prune(network(), ratio=0.3, criterion=gradients.criterion("fisher", data=data, labels="labels"))
    assert sum(map(len, result.plan.removed.values())) >= 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tailor", {"data": X}, "did you mean taylor"),
        ("taylor", {}, "needs samples"),
        ("taylor", {"data": X, "labels": "l", "loss": "m:f"}, "exclude each other"),
    ],
)
def test_mistakes_are_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gradients.criterion(name, **options)
