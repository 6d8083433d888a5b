"""Criteria from gradients by name: at the command line and in Python, with the tool's own samples, and from torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa import cli, gradients, runtime, verdict  # noqa: E402
from spa.errors import UsageError  # noqa: E402
from spa.frontends import torch as door  # noqa: E402
from spa.gradients.options import CRITERIA  # noqa: E402
from spa.gradients.spending import Spend  # noqa: E402
from spa.gradients.sums import pieces_of  # noqa: E402
from spa.passes.choose.importance import score_groups  # noqa: E402
from spa.steps import analyse, load_normal  # noqa: E402
from tests.gradients.test_criteria import LABELS, WEIGHTS, X, network, scores  # noqa: E402

NEEDING = [name for name in CRITERIA if name != "synflow"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    np.savez("labelled.npz", x=X, labels=LABELS)
    np.savez("plain.npz", x=X)
    np.savez("short.npz", x=X, labels=LABELS[:5])
    Path("mine.py").write_text("def loss(outputs, batch):\n    return outputs['y'].square().mean()\n")
    return tmp_path


def run(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize("name", CRITERIA)
def test_command_line_and_python_alike(name: str, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = "" if name == "synflow" else "--data labelled.npz"
    code, out, err = run(f"prune net.onnx --ratio 30% --criterion {name} {data} --save-plan plan.json", capfd)
    assert (code, err) == (0, "")
    assert "verified: " in out
    options: dict[str, Any] = {} if name == "synflow" else {"data": {"x": X, "labels": LABELS}}
    result = spa.prune("net.onnx", ratio=0.3, criterion=name, **options)
    assert result.plan.removed == spa.Plan.from_json((there / "plan.json").read_text()).removed
    by_hand = gradients.criterion(name, **(options | ({} if name == "synflow" else {"labels": "labels"})))
    assert result.plan.removed == spa.prune("net.onnx", ratio=0.3, criterion=by_hand).plan.removed


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", ["taylor", "snip"])
def test_samples_that_score_units_say_how_far_outputs_moved(name: str) -> None:
    result = spa.prune("net.onnx", ratio=0.3, criterion=name, data="labelled.npz")
    assert result.report.outputs_on == verdict.SAMPLES
    dense, pruned = (
        runtime.run(runtime.session(model, optimize=False), {"x": X})["y"]
        for model in (load_normal("net.onnx"), result.model)
    )
    lost = np.square(pruned - dense).sum() / np.square(dense - dense.mean(0)).sum()
    assert result.report.outputs["y"]["relative_l2"] == pytest.approx(float(np.sqrt(lost)), rel=1e-3)


def test_labels_a_loss_and_neither_are_three_things(there: Path) -> None:
    def units(**options: Any) -> Any:
        groups = analyse(load_normal(network())).groups
        return score_groups(groups, gradients.criterion("snip", **options))[0]

    both = {"x": X, "labels": LABELS}
    by_unit = [units(data=both), units(data=both, loss="mine:loss"), units(data=X)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(by_unit[first], by_unit[second], rtol=0.01)
    assert there.exists()


def test_the_labels_entry_is_no_sample_for_a_repair(there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("prune net.onnx --ratio 30% --data labelled.npz", capfd)
    assert (code, err) == (0, "")
    assert (there / "net.pruned.onnx").exists()


def test_without_data_samples_of_our_own_are_drawn(there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("prune net.onnx --ratio 30% --criterion taylor", capfd)
    assert code == 0
    assert "no labels: targets are drawn from the model's own outputs" in out
    assert there.exists()


MISTAKES = {
    "misspelt": ("--criterion tailor", "did you mean taylor?"),
    "by weights": ("--criterion taylor --weights", "criterion 'taylor' needs samples: leave weights out"),
    "no such labels": ("--criterion snip --data plain.npz --labels classes", "expected an entry 'classes' in the data"),
    "labels of other samples": ("--criterion snip --data short.npz", "'labels' has 5 rows, and there are 24 samples"),
    "two losses": ("--criterion snip --data plain.npz --labels y --loss m:f", "labels and loss exclude each other"),
    "no such loss": ("--criterion snip --data plain.npz --loss mine:lost", "loss 'mine:lost'"),
    "samples for synflow": ("--criterion synflow --data plain.npz", "data has no effect with criterion 'synflow'"),
    "labels in vain": ("--weights --labels y", "labels has no effect unless something is learned"),
    "a budget in vain": ("--criterion taylor --oracle-budget 1m --data plain.npz", "oracle_budget has no effect with"),
    "a budget without unit": ("--criterion oracle --data plain.npz --oracle-budget 5", "expected 90s (seconds), 5m"),
    "a budget in epochs": ("--criterion oracle --data plain.npz --oracle-budget 5e", "2000r (runs)"),
    "work of a repair": ("--criterion taylor --data plain.npz --preset best", "preset has no effect with gradients"),
    "gathering": ("--criterion taylor --data plain.npz --gather max", "gather has no effect with gradients"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_line(mistake: str, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words, answer = MISTAKES[mistake]
    code, out, err = run(f"prune net.onnx --ratio 30% {words}", capfd)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert answer in err
    assert not (there / "net.pruned.onnx").exists()


@pytest.mark.parametrize("text", ["90s", "5m", "2h", "3e", "2000r", "0.5m"])
def test_a_spend_is_a_number_with_its_unit(text: str) -> None:
    assert str(Spend.of(text)) == text


@pytest.mark.parametrize("text", ["5", "m", "0m", "-3e", "1.5e", "5 minutes", "", "infm"])
def test_what_is_no_spend(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number with its unit"):
        Spend.of(text)


# --------------------------------------------------------------------------------------------------- the oracle
def losses_without_units(labels: np.ndarray | None) -> np.ndarray:
    """By torch alone: how much the loss grows when all numbers of a unit are zero."""
    w, b, v = (torch.tensor(WEIGHTS[name]) for name in ("w", "b", "v"))
    x = torch.tensor(X)
    dense = torch.relu(x @ w + b) @ v

    def loss(y: Any) -> float:
        if labels is not None:
            return float(torch.nn.functional.cross_entropy(y, torch.tensor(labels)))
        lost = float((y - dense).square().mean() / dense.var(correction=0))
        log_y, log_dense = torch.log_softmax(y, -1), torch.log_softmax(dense, -1)
        return lost + float((log_dense.exp() * (log_dense - log_y)).sum(-1).mean())

    losses = []
    for unit in range(10):
        hidden = torch.relu(x @ w + b)
        hidden[:, unit] = 0.0
        losses.append(loss(hidden @ v) - loss(dense))
    return np.array(losses)


@pytest.mark.parametrize("labels", [LABELS, None])
def test_the_oracle_measures_what_units_are_worth(labels: np.ndarray | None) -> None:
    data = {"x": X} if labels is None else {"x": X, "labels": labels}
    actual = scores(gradients.criterion("oracle", data=data, budget="1000r"))
    np.testing.assert_allclose(actual, losses_without_units(labels), rtol=1e-4, atol=1e-6)


def test_with_few_runs_the_rest_is_read_off_between() -> None:
    groups = analyse(load_normal(network())).groups
    notes: list[str] = []
    criterion = gradients.criterion("oracle", data={"x": X, "labels": LABELS}, budget="4r")
    (by_unit,) = score_groups(groups, criterion, notes=notes)
    wanted = losses_without_units(LABELS)
    measured = np.isclose(by_unit, wanted, rtol=1e-4, atol=1e-7)
    assert 4 <= measured.sum() < 10
    assert wanted[measured].min() - 1e-6 <= by_unit.min()
    assert by_unit.max() <= wanted[measured].max() + 1e-6
    assert notes == ["oracle: 4 of 10 units measured, each on 1 of 1 batches"]


def test_the_oracle_leaves_the_weights_as_they_were() -> None:
    proto = network()
    before = proto.SerializeToString()
    groups = analyse(load_normal(proto)).groups
    stored = {piece.value: piece.value.const_value for group in groups for piece in group.slices}
    copies = {value: tensor.numpy().copy() for value, tensor in stored.items() if tensor is not None}
    score_groups(groups, gradients.criterion("oracle", data=X, budget="100r"))
    assert proto.SerializeToString() == before
    for value, array in copies.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), array)


# ------------------------------------------------------------------------------------------- torch's own autograd
class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(2, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.mix = torch.nn.Conv2d(8, 12, 3, padding=1)
        self.head = torch.nn.Linear(12, 4)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.mix(torch.relu(self.norm(self.conv(x)))))
        return self.head(y.mean((2, 3)))


IMAGES = torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(32) % 4


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("name", ["taylor", "snip", "grasp", "oracle"])
def test_a_modules_own_autograd_scores_as_the_graph_does(name: str) -> None:
    net = Net().eval()
    loader = [(IMAGES[at : at + 8], CLASSES[at : at + 8]) for at in range(0, 32, 8)]
    small = door.prune(
        net, IMAGES[:2], ratio=0.3, criterion=name, loss=torch.nn.functional.cross_entropy, data=loader,
        oracle_budget="10000r", align=1,
    ) if name == "oracle" else door.prune(
        net, IMAGES[:2], ratio=0.3, criterion=name, loss=torch.nn.functional.cross_entropy, data=loader, align=1
    )  # fmt: skip
    exported = door.export(net, IMAGES[:2], keep_batch_norm=True)
    (key,) = (str(value.name) for value in exported.graph.inputs)
    data = {key: IMAGES.numpy(), "labels": CLASSES.numpy()}
    options: dict[str, Any] = {"oracle_budget": "10000r"} if name == "oracle" else {}
    graph = spa.prune(exported, ratio=0.3, criterion=name, data=data, align=1, **options)
    widths = {n: p.shape[0] for n, p in small.named_parameters() if n in ("conv.weight", "mix.weight")}
    stored = graph.model.graph.initializers
    assert widths == {n: stored[n].shape[0] for n in widths}  # type: ignore[index]
    mixed = stored["mix.weight"].const_value
    assert mixed is not None
    np.testing.assert_array_equal(small.mix.weight.detach().numpy(), mixed.numpy())
    assert sum(p.numel() for p in net.parameters()) > sum(p.numel() for p in small.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "taylor"}, "needs samples: give data"),
        ({"criterion": "taylor", "data": []}, "there are no batches"),
        ({"criterion": "taylor", "data": [IMAGES[:2]], "loss": lambda y: y}, "expected a tensor of one number"),
        ({"criterion": "taylor", "data": [IMAGES[:2]], "loss": lambda y: y.detach().sum()}, "depends on no parameter"),
        ({"criterion": "l2", "loss": torch.nn.functional.cross_entropy}, "loss has no effect"),
    ],
)
def test_mistakes_in_torch(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        door.prune(Net().eval(), IMAGES[:2], ratio=0.3, **options)


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("options", [{"criterion": "l2"}, {"criterion": "l2", "steps": 2}, {}])
def test_a_module_comes_back_trained(options: dict[str, Any]) -> None:
    net = Net().eval()
    (key,) = (str(value.name) for value in door.export(net, IMAGES[:2]).graph.inputs)
    data = {key: IMAGES.numpy()}
    plain = door.prune(net, IMAGES[:2], ratio=0.3, align=1, weights=True)
    small = door.prune(net, IMAGES[:2], ratio=0.3, align=1, data=data, finetune="30e", **options)
    assert type(small) is Net
    distances = [float((each(IMAGES) - net(IMAGES)).square().mean()) for each in (plain, small)]
    assert distances[1] < distances[0]


# ------------------------------------------------------------------------------------------------- the module
def test_constants_of_nodes_are_parameters_in_a_fresh_process(tmp_path: Path) -> None:
    """The operators' registry says what a Constant holds; nothing else may have filled it before."""
    import subprocess
    import sys

    proto = network()
    weight = proto.graph.initializer[0]
    node = onnx.helper.make_node("Constant", [], [weight.name], value=weight)
    del proto.graph.initializer[0]
    proto.graph.node.insert(0, node)
    onnx.save(proto, tmp_path / "net.onnx")
    code = "import sys, spa; print(sorted(n for n, _ in spa.torch_module(sys.argv[1]).named_parameters()))"
    command = [sys.executable, "-c", code, str(tmp_path / "net.onnx")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(spa.__file__).parents[1])
    assert done.stdout == "['b', 'v', 'w']\n"


@pytest.mark.parametrize("training", [False, True])
def test_a_tensor_that_is_a_statistic_and_a_bias(training: bool) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[n, 4] x) => (float[n, 4] y)'
        " { a = MatMul(x, w) h = BatchNormalization(a, s, zeros, zeros, s) y = Add(h, zeros) }"
    )
    arrays = {"w": np.eye(4, dtype=np.float32), "s": np.full(4, 2.0, np.float32), "zeros": np.zeros(4, np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    module = spa.torch_module(proto).train(training)
    y = module(torch.tensor(X[:, :4]))
    y.square().sum().backward()
    reached = {name: p.grad is not None for name, p in module.named_parameters()}
    assert reached == {"w": True, "s": True, "zeros": True}
    np.testing.assert_array_equal(module.state_dict()["zeros"].numpy(), arrays["zeros"])


def test_biases_count_along_a_unit() -> None:
    groups = analyse(load_normal(network())).groups
    module = spa.torch_module(network())
    named = {value.name: tensor for value, tensor in module.stored_parameters()}
    held = {piece.value: named[str(piece.value.name)] for group in groups for piece in group.slices}
    assert [str(piece.value.name) for piece in pieces_of(groups, "both", held)[0]] == ["w", "b", "v"]
    assert [str(piece.value.name) for piece in pieces_of(groups, "consumers", held)[0]] == ["v"]
