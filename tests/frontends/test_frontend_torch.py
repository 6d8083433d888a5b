from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from spa.adapters import restore
from spa.errors import BudgetError, ModelError, NothingToPrune, UsageError
from spa.frontends import torch as frontend
from spa.frontends.exporting.exported import difference, run_model

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
nn = torch.nn


class Attention(nn.Module):
    """Heads as most code writes them: sizes in attributes of its own names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.how_many, self.each, self.all_of_them = heads, width // heads, width

    def forward(self, x: Any) -> Any:
        shape = (x.shape[0], x.shape[1], self.how_many, self.each)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = (q @ k.transpose(-1, -2) / self.each**0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], self.all_of_them))


class Stubborn(nn.Module):
    """Computes its heads from the width: no attribute can say that there are fewer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.mix, self.out, self.heads = nn.Linear(width, width), nn.Linear(width, width), heads

    def forward(self, x: Any) -> Any:
        shape = (x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads)
        y = self.mix(x).view(shape).transpose(1, 2)
        y = (y @ y.transpose(-1, -2)).softmax(-1) @ y
        return self.out(y.transpose(1, 2).reshape(x.shape))


class Net(nn.Module):
    def __init__(self, attention: type[nn.Module] = Attention) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.grouped = nn.Conv2d(16, 24, 1, groups=4)
        self.project = nn.Conv2d(24, 32, 1)
        self.norm = nn.LayerNorm(32)
        self.attention = attention(32, 8)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.lstm = nn.LSTM(32, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        x = self.project(torch.relu(self.grouped(torch.relu(self.depthwise(self.stem(x))))))
        x = self.norm(x.flatten(2).transpose(1, 2))
        x = x + self.attention(x)
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(self.lstm(x)[0])


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    made = Net()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return made.eval()


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("exporter", frontend.EXPORTERS)
def test_export_names_its_weights_and_runs_at_other_batches(net: Any, exporter: str) -> None:
    model = frontend.export(net, X, exporter=exporter)
    names = set(model.graph.initializers)
    assert {"up.weight", "attention.query.weight", "head.weight", "depthwise.weight", "stem.0.weight"} <= names
    assert not [node for node in model.graph if node.op_type == "BatchNormalization"]
    batch = torch.randn(3, 3, 8, 8)
    outputs = run_model(model, {str(model.graph.inputs[0].name): batch.numpy()}, what="the export")
    assert difference(outputs, frontend.run(net, batch)) < 1e-5


@pytest.mark.parametrize("exporter", frontend.EXPORTERS)
def test_batch_norm_is_kept_when_asked(net: Any, exporter: str) -> None:
    model = frontend.export(net, X, exporter=exporter, keep_batch_norm=True)
    (norm,) = [node for node in model.graph if node.op_type == "BatchNormalization"]
    assert [value.name for value in norm.inputs[1:] if value] == [
        f"stem.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    ]


@pytest.mark.parametrize("exporter", frontend.EXPORTERS)
def test_every_parameter_is_traced_under_its_name(net: Any, exporter: str) -> None:
    traced = frontend.trace(net, X, exporter=exporter)
    floats = {name: tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    assert traced.arrays == set(floats)
    for name, tensor in floats.items():
        stored = traced.model.graph.initializers[name].const_value
        assert stored is not None
        assert np.array_equal(stored.numpy(), tensor.numpy())


def test_a_module_comes_back_smaller(net: Any) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    restored = restore.prune(frontend, net, X, ratio=0.4, scope="local")
    smaller = restored.source
    assert type(smaller) is Net
    assert smaller.training
    assert not restored.left
    count, dense = (sum(p.numel() for p in each.parameters()) for each in (smaller, net))
    assert count < 0.65 * dense
    assert smaller.attention.how_many < 8
    assert smaller.attention.all_of_them == smaller.attention.how_many * 4
    assert smaller.attention.each == 4
    assert smaller.depthwise.groups == smaller.depthwise.in_channels == smaller.depthwise.weight.shape[0]
    assert smaller.up.out_features == smaller.down.in_features == smaller.up.weight.shape[0] < 64
    expected = run_model(restored.result.model, {"x": X.numpy()}, what="the pruned graph")
    assert difference(frontend.run(smaller, X), expected) < 1e-5
    assert restored.result.report.difference is not None
    assert restored.result.report.difference < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    smaller(torch.randn(2, 3, 8, 8)).sum().backward()  # it trains
    assert frontend.export(smaller, X).graph.outputs[0].name == "output"


def test_samples_repair_a_module_that_keeps_its_tensors() -> None:
    """No bias is added where the class has none; a linear layer's weight is refitted as it is stored."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 24, 3, bias=False))
    rest = (nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(2), nn.Linear(16, 32, bias=False), nn.ReLU(), nn.Linear(32, 4))
    module = nn.Sequential(*layers, *rest).eval()
    x = torch.randn(300, 3, 8, 8)
    options: dict[str, Any] = {"ratio": 0.5, "of": "channels"}
    cut = restore.prune(frontend, module, x[:2], **options)
    repaired = restore.prune(frontend, module, x[:2], data=x[:240], **options)
    assert not cut.left
    assert not repaired.left
    assert {*repaired.source.state_dict()} == {*module.state_dict()}
    dense, plain, ours = (frontend.run(each, x[240:])[0] for each in (module, cut.source, repaired.source))
    assert np.sum((ours - dense) ** 2) < 0.5 * np.sum((plain - dense) ** 2)


def test_what_the_code_cannot_express_is_left_alone_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="spa")  # the command line, if it ran before in this process, says it otherwise
    torch.manual_seed(0)
    weigh: dict[str, Any] = {"criterion": "l1", "normalise": "none"}
    net = Net(Stubborn)
    with torch.no_grad():
        for weight in (net.attention.mix.weight, net.attention.out.weight):
            weight.mul_(0.01)  # the smallest units, so that they would go
    restored = restore.prune(frontend, net, X, ratio=0.3, **weigh)
    assert restored.source.attention.mix.weight.shape == (32, 32)
    assert all(name.startswith("attention.") for name in restored.left)
    assert "attention" in caplog.text
    assert "scope='local'" in caplog.text
    assert any("left alone" in note for note in restored.result.report.notes)


def test_nothing_left_says_what_was_left_alone() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Stubborn(32, 8)

        def forward(self, x: Any) -> Any:
            return self.attention(x)

    with pytest.raises((NothingToPrune, BudgetError), match="left alone besides"):
        frontend.prune(Alone(), torch.randn(2, 5, 32), ratio=0.2)


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.again = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32)
            self.again.weight = self.second.weight
            self.out = nn.Linear(32, 3)

        def forward(self, x: Any) -> Any:
            return self.out(torch.relu(self.again(torch.relu(self.second(torch.relu(self.first(x)))))))

    smaller = frontend.prune(Tied(), torch.randn(2, 8), ratio=0.3)
    assert smaller.again.weight is smaller.second.weight
    assert smaller.again.weight.shape[0] < 32


def test_keyword_arguments_and_structures() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x: Any, *, scale: Any = None, many: Any = ()) -> dict[str, Any]:
            return {"main": self.b(torch.relu(self.a(x))) * scale, "rest": [each + 1 for each in many]}

    inputs = {"x": torch.randn(2, 4), "scale": torch.randn(2, 1), "many": [torch.randn(2, 3), torch.randn(2, 3)]}
    model = frontend.export(Pair(), inputs)
    assert [value.name for value in model.graph.outputs] == ["main", "rest_0", "rest_1"]
    assert frontend.prune(Pair(), inputs, ratio=0.3).a.out_features < 16


def test_exported_program(tmp_path: Any) -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.randn(2, 4),))
    torch.export.save(program, str(tmp_path / "net.pt2"))
    model = frontend.export(frontend.load(tmp_path / "net.pt2"))
    assert [node.op_type for node in model.graph][:2] == ["Gemm", "Relu"]


def test_errors_are_one_line() -> None:
    class Broken(nn.Module):
        def forward(self, x: Any) -> Any:
            return x @ x

    with pytest.raises(ModelError, match="does not run on the example inputs"):
        frontend.export(Broken(), torch.randn(2, 3))
    with pytest.raises(UsageError, match=r"expected a torch\.nn\.Module"):
        frontend.export(object(), torch.randn(2, 3))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one of dynamo, torchscript"):
        frontend.export(Broken(), torch.randn(2, 3), exporter="jit")
