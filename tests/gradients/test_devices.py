"""Scores and training on a device beside the CPU, which `tests.gradients.elsewhere` makes up."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

from spa import gradients  # noqa: E402
from spa.gradients import networks, regrowing  # noqa: E402
from spa.gradients.epochs import Job, train  # noqa: E402
from spa.gradients.options import CRITERIA, FinetuneOptions, TrainOptions  # noqa: E402
from spa.gradients.samples import split_samples  # noqa: E402
from spa.gradients.teaching import distillation  # noqa: E402
from spa.steps import analyse  # noqa: E402
from tests.gradients.elsewhere import device  # noqa: E402
from tests.gradients.test_criteria import LABELS, X, network, scores  # noqa: E402
from tests.gradients.test_finetune import SAMPLES, as_ir, pruned  # noqa: E402
from tests.gradients.test_finetune import network as dense_network  # noqa: E402


@pytest.fixture(autouse=True)
def swapped() -> Any:
    """What stands in for a tensor is exchanged as a whole, not number by number."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    for module in (networks, regrowing):
        monkeypatch.setattr(module, "best_device", device)
    return device()


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_scores_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = None if name == "synflow" else {"x": X, "labels": LABELS}
    on_cpu = scores(gradients.criterion(name, data=data, budget="1000r"))
    monkeypatch.setattr(networks, "best_device", device)
    there = scores(gradients.criterion(name, data=data, budget="1000r"))
    np.testing.assert_allclose(there, on_cpu, rtol=1e-4, atol=1e-6)


def test_targets_that_are_drawn_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = scores(gradients.criterion("fisher", data={"x": X}))
    monkeypatch.setattr(networks, "best_device", device)
    np.testing.assert_allclose(scores(gradients.criterion("fisher", data={"x": X})), on_cpu, rtol=1e-4)


def test_units_that_come_back_are_the_same(elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    regrowths = []
    for place in (elsewhere, torch.device("cpu")):
        monkeypatch.setattr(regrowing, "best_device", lambda place=place: place)
        model = ir.from_proto(network())
        groups = analyse(model).groups
        gone = {groups[0].name: [0, 3]}
        regrowths.append(
            gradients.regrowth(model, groups, gone, data={"x": X, "labels": LABELS}, labels="labels", loss=None)
        )
    np.testing.assert_allclose(regrowths[0][0], regrowths[1][0], rtol=1e-4)


def said(_: str, __: float) -> None:
    """No progress is shown."""


class Place:
    """What a launched Fabric is to a training, on any device."""

    world_size, global_rank = 1, 0

    def __init__(self, device: Any) -> None:
        self.device = device

    def setup(self, module: Any, optimizer: Any, *, move_to_device: bool) -> tuple[Any, Any]:
        assert not move_to_device
        module.mark_forward_method = str
        return module, optimizer

    def autocast(self) -> Any:
        return nullcontext()

    def backward(self, value: Any) -> None:
        value.backward()

    def clip_gradients(self, module: Any, _: Any, *, max_norm: float, error_if_nonfinite: bool) -> None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)


def test_training_gives_the_same_weights() -> None:
    results = []
    for place in (device(), torch.device("cpu")):
        model = as_ir(pruned())
        asked = FinetuneOptions(data=SAMPLES, epochs=3)
        samples = split_samples(SAMPLES, model, labels=None, batch_size=32)
        loss, samples = distillation(as_ir(dense_network(32)), samples)
        results.append(train(Job(model, samples, loss, asked), Place(place), said))
    assert results[0].report.after == pytest.approx(results[1].report.after, rel=1e-4)
    for name, tensor in results[0].weights.items():
        assert tensor.device.type == "cpu"
        torch.testing.assert_close(tensor, results[1].weights[name])


@pytest.mark.parametrize("name", ["gates", "lasso", "scales"])
def test_training_for_sparsity_gives_the_same_weights(name: str) -> None:
    model = as_ir(pruned())
    if name == "scales":
        model = as_ir(normalised())
    results = []
    for place in (device(), torch.device("cpu")):
        asked = TrainOptions(data=SAMPLES, epochs=2, sparsify=name, loss=mean_square)
        samples = split_samples(SAMPLES, model, labels=None, batch_size=32)
        groups = analyse(model).groups
        job = Job(model, samples, mean_square, asked, training=True, groups=groups)
        results.append(train(job, Place(place), said))
    for key, tensor in results[0].weights.items():
        torch.testing.assert_close(tensor, results[1].weights[key], rtol=1e-4, atol=1e-5)


def mean_square(outputs: Any, _: Any) -> Any:
    return outputs["y"].square().mean()


def normalised() -> Any:
    """A network with the scales of a normalisation."""
    import onnx

    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[n, 6] x) => (float[n, 4] y)'
        " { a = Gemm(x, w) m = BatchNormalization(a, s, b, mean, var) h = Relu(m) y = MatMul(h, v) }"
    )
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.standard_normal((6, 16)), "s": np.ones(16) + 0.1 * rng.standard_normal(16), "b": np.zeros(16),
        "mean": rng.standard_normal(16), "var": np.ones(16), "v": rng.standard_normal((16, 4)),
    }  # fmt: skip
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()
    )
    return proto
