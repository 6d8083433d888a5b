"""Pruning with training after it, in steps, and with units that come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa import gradual, runtime  # noqa: E402
from spa.analysis.plan import Plan  # noqa: E402
from spa.errors import ModelError, TeacherError, UsageError  # noqa: E402
from spa.gradual import composed, shares  # noqa: E402
from spa.options import PruneOptions  # noqa: E402
from spa.written import verify_files  # noqa: E402
from tests import models  # noqa: E402
from tests.gradients.test_scoring import run  # noqa: E402
from tests.latency import devices  # noqa: E402
from tests.latency.networks import chain  # noqa: E402

RNG = np.random.default_rng(2)
IMAGES = RNG.standard_normal((60, 3, 8, 8)).astype(np.float32)
FRESH = np.random.default_rng(99).standard_normal((32, *IMAGES.shape[1:])).astype(np.float32)
"""Images that nothing was fitted to or trained on."""
LABELS = np.arange(60) % 3


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(models.residual_cnn(), "net.onnx")
    np.savez("plain.npz", x=IMAGES)
    return tmp_path


def outputs(model: Any) -> np.ndarray:
    made = runtime.run(runtime.session(model, optimize=False), {"x": FRESH})
    return next(iter(made.values()))


def far(model: Any, dense: Any) -> float:
    actual, expected = outputs(model), outputs(dense)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def as_ir(proto: onnx.ModelProto) -> Any:
    from spa.frontends.files import onnx_file

    return onnx_file.load(proto)


@pytest.mark.parametrize("options", [{"weights": True}, {"criterion": "l1"}, {"criterion": "taylor"}, {}])
def test_training_brings_the_outputs_nearer_and_the_result_is_verified(options: dict[str, Any]) -> None:
    dense = models.residual_cnn()
    plain: dict[str, Any] = {} if "weights" in options or options.get("criterion") == "l1" else {"data": IMAGES}
    cut = spa.prune(dense, ratio=0.3, **options, **plain)
    tuned = spa.prune(dense, ratio=0.3, data=IMAGES, finetune="60e", **options)
    assert tuned.plan.removed == cut.plan.removed
    assert tuned.report.verified
    assert tuned.report.outputs_on == "samples held out"
    assert far(tuned.model, as_ir(dense)) < far(cut.model, as_ir(dense))
    assert any("trained by the dense model's outputs for 60 epochs" in line for line in tuned.report.trained)
    assert tuned.plan.repair.endswith("finetune 60e")


def test_the_reference_is_as_large_as_the_dense_model_and_holds_the_trained_weights() -> None:
    dense = models.residual_cnn()
    result = spa.prune(dense, ratio=0.3, data=IMAGES, criterion="l2", finetune="2e")
    shapes = {
        name: value.const_value.shape for name, value in result.dense.graph.initializers.items() if value.const_value
    }
    changed = 0
    for name, value in result.reference.graph.initializers.items():
        old, new = result.dense.graph.initializers[name].const_value, value.const_value
        assert old is not None
        assert new is not None
        assert new.shape == shapes[name]
        changed += not np.array_equal(old.numpy(), new.numpy())
    assert changed >= 3
    assert set(result.plan.refitted or {}) <= set(shapes)
    assert len(result.plan.refitted or {}) == changed


def test_files_are_verified_later(there: Path) -> None:
    result = spa.prune("net.onnx", ratio=0.3, data="plain.npz", criterion="l2", finetune="2e")
    result.save("small.onnx")
    report = verify_files("net.onnx", "small.onnx", result.plan)
    assert report.verified
    other = spa.prune("net.onnx", ratio=0.3, weights=True)
    other.save("other.onnx")
    with pytest.raises(spa.errors.VerificationError):
        verify_files("net.onnx", "other.onnx", result.plan)
    assert there.exists()


def test_the_same_seed_gives_the_same_file(there: Path) -> None:
    files = []
    for seed in (0, 0, 1):
        result = spa.prune("net.onnx", ratio=0.3, data=IMAGES, criterion="l2", finetune="2e", seed=seed)
        result.save("one.onnx")
        files.append(Path("one.onnx").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]
    assert there.exists()


def test_a_prune_that_was_stopped_in_its_training_goes_on(there: Path) -> None:
    options: dict[str, Any] = {"ratio": 0.4, "data": IMAGES, "criterion": "l2", "finetune": "6e", "steps": 2}
    whole = spa.prune("net.onnx", **options)
    said: list[tuple[str, float | None]] = []

    def stop(step: str, share: float | None = None, /) -> None:
        said.append((step, share))
        if said.count(("finetune", None)) == 2:  # each step begins so
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spa.prune("net.onnx", **options, resume="state.pt", progress=stop)
    assert [path.name for path in there.glob("state*")] == ["state.1.pt"]
    first = [share for step, share in said if step == "finetune"]
    said.clear()
    resumed = spa.prune("net.onnx", **options, resume="state.pt", progress=lambda *each: said.append(each))
    again = [share for step, share in said if step == "finetune"]
    assert len(again) <= len(first)  # nothing of the first step is trained again
    assert resumed.report.trained == whole.report.trained
    np.testing.assert_array_equal(outputs(resumed.model), outputs(whole.model))


def test_labels_are_learned_beside_the_dense_models_outputs() -> None:
    options: dict[str, Any] = {"ratio": 0.5, "criterion": "l2", "finetune": "20e"}
    taught, labelled = (
        spa.prune(models.residual_cnn(), data=data, **options)
        for data in ({"x": IMAGES}, {"x": IMAGES, "labels": LABELS})
    )
    assert any("trained by the dense model's outputs for 20" in line for line in taught.report.trained)
    assert any("outputs and the labels 'labels' for 20" in line for line in labelled.report.trained)
    assert np.abs(outputs(taught.model) - outputs(labelled.model)).max() > 1e-3


FOUND = """places (float[1,5] y) => (float[k,2] found) {
    clear = Relu(y)  at = NonZero(clear)  pairs = Transpose(at)  found = Cast<to=1>(pairs) }"""


def test_labels_alone_are_learned_where_the_data_count_what_the_dense_model_finds() -> None:
    dense = models.residual_cnn()
    dense.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    places = onnx.parser.parse_graph(FOUND)
    dense.graph.node.extend(places.node)
    dense.graph.output.extend(places.output)
    options: dict[str, Any] = {"ratio": 0.3, "criterion": "l2", "finetune": "2e"}
    result = spa.prune(dense, data={"x": IMAGES, "labels": LABELS}, **options)
    (line,) = (line for line in result.report.trained if "trained by" in line)
    assert "trained by the labels 'labels' alone (output 'found' of the teacher has shape (" in line
    with pytest.raises(TeacherError, match="expected its first axis to count samples"):
        spa.prune(dense, data=IMAGES, **options)


@pytest.mark.usefixtures("there")
def test_units_drawn_at_random_are_trained_at_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("prune net.onnx --ratio 30% --data plain.npz --control random --finetune 2e", capfd)
    assert code == 0
    assert "trained by the dense model's outputs for 2 epochs" in out


def test_shares_are_cubic() -> None:
    np.testing.assert_allclose(shares(0.8, 4), [0.8 * (1 - 27 / 64), 0.8 * (1 - 8 / 64), 0.8 * (1 - 1 / 64), 0.8])
    assert shares(0.3, 1) == [0.3]


@pytest.mark.parametrize("of", ["params", "flops", "channels"])
@pytest.mark.parametrize(
    "options",
    [
        {"weights": True},
        {"criterion": "synflow"},
        {"criterion": "snip", "data": {"x": IMAGES, "labels": LABELS}},
        {"data": IMAGES},
        {"data": IMAGES, "finetune": "3e", "criterion": "l2"},
        {"data": IMAGES, "finetune": "3e"},
    ],
    ids=["weights", "synflow", "snip", "repair", "l2 trained", "repair trained"],
)
def test_steps_are_one_plan_of_the_dense_model(of: str, options: dict[str, Any]) -> None:
    dense = models.residual_cnn()
    result = spa.prune(dense, ratio=0.5, of=of, steps=3, align=1, **options)
    assert result.report.verified
    if of != "channels":
        assert result.report.removed_share(of) >= 0.5
    cut = spa.pipeline.apply_plan(dense, result.plan)
    for name, value in cut.model.graph.initializers.items():
        small = result.model.graph.initializers[name].const_value
        assert small is not None
        assert value.const_value is not None
        assert small.shape == value.const_value.shape
        if not result.plan.repair:
            np.testing.assert_array_equal(small.numpy(), value.const_value.numpy())


def test_floors_are_shares_of_the_first_widths() -> None:
    result = spa.prune(models.residual_cnn(), ratio=0.6, weights=True, steps=4, min_keep=0.4, align=1)
    for name, units in result.plan.removed.items():
        assert result.plan.sizes[name] - len(units) >= 0.4 * result.plan.sizes[name] - 1e-9


def test_plans_follow_each_other() -> None:
    first = Plan({"a": (0, 3)}, {"a": 6})
    second = Plan({"a": (1, 3), "b": (0,)}, {"a": 4, "b": 2})
    assert composed(first, second).removed == {"a": (0, 2, 3, 5), "b": (0,)}
    assert composed(first, second).sizes == {"a": 6, "b": 2}
    with pytest.raises(ModelError, match="has 5 units after a cut that leaves 4"):
        composed(first, Plan({"a": (1,)}, {"a": 5}))


def test_units_come_back_with_readers_that_start_from_zero() -> None:
    dense = models.residual_cnn()
    result = spa.prune(
        dense, ratio=0.5, data=IMAGES, criterion="l2", steps=3, finetune="3e", regrow=True, align=1, min_keep=0.2
    )
    plain = spa.prune(dense, ratio=0.5, data=IMAGES, criterion="l2", steps=3, finetune="3e", align=1, min_keep=0.2)
    assert result.report.verified
    assert result.report.removed_share("params") >= 0.5
    assert any("units came back for as many others" in note for note in result.report.notes)
    assert result.plan.removed != plain.plan.removed


def test_what_is_silenced_is_not_read() -> None:
    model = as_ir(models.residual_cnn())
    before = outputs(model)
    groups = spa.pipeline.analyse(model).groups
    group = next(group for group in groups if any(piece.consumer for piece in group.slices))
    gradual.silence([group], {group.name: np.array([], int)})
    np.testing.assert_array_equal(outputs(model), before)
    gradual.silence([group], {group.name: np.array([0])})
    for piece in group.slices:
        assert piece.value.const_value is not None
        first = np.moveaxis(piece.value.const_value.numpy(), piece.axis, 0)[piece.unit_of == 0]
        assert bool(np.any(first)) != piece.consumer or not piece.consumer


@pytest.mark.parametrize("goal", ["ratio", "target"])
def test_a_budget_of_time_is_trained_behind_the_cut(goal: str) -> None:
    profile = devices.profile(chain(), devices.flops)
    asked = {"ratio": 0.5} if goal == "ratio" else {"target": 0.6 * profile.milliseconds}
    data = np.random.default_rng(0).standard_normal((12, 3, 32, 32)).astype(np.float32)
    options: dict[str, Any] = {"of": "latency", "profile": profile, "criterion": "l2", "data": data, **asked}
    result = spa.prune(chain(), finetune="1e", **options)
    assert result.report.verified
    assert len(result.report.trained) == 1
    assert result.report.latency is not None


MISTAKES = {
    "a state of no training": ("--resume state.pt", "resume has no effect without training: give finetune"),
    "no unit": ("--data plain.npz --finetune 5", "expected 90s (seconds), 5m (minutes), 2h (hours) or 3e (epochs)"),
    "runs": ("--data plain.npz --finetune 20r", "finetune '20r': expected 90s"),
    "steps below one": ("--weights --steps 0", "steps 0: expected 1 or more"),
    "nothing between": ("--weights --steps 3 --regrow", "regrow has no effect without steps and training between"),
    "no steps": ("--data plain.npz --finetune 1e --regrow", "regrow has no effect without steps"),
    "nothing to train": ("--data plain.npz --finetune 1e --dry-run", "finetune has no effect with dry-run"),
    "data in vain": (
        "--data plain.npz --criterion l1",
        "it scores weights alone, so leave the data out, or give finetune",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_line(mistake: str, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words, answer = MISTAKES[mistake]
    code, out, err = run(f"prune net.onnx --ratio 30% {words}", capfd)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert answer in err
    assert not (there / "net.pruned.onnx").exists()


def test_the_command_line(there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = "prune net.onnx --ratio 30% --data plain.npz --finetune 4e --steps 2 --save-plan plan.json -o small.onnx"
    code, out, err = run(words, capfd)
    assert (code, err) == (0, "")
    assert "verified: " in out
    assert "step 2: trained by the dense model's outputs for 2 epochs" in out
    code, out, err = run("verify net.onnx small.onnx --plan plan.json", capfd)
    assert (code, err) == (0, "")
    assert there.exists()


def test_options_are_told_in_the_plan() -> None:
    asked = PruneOptions.of(ratio=0.3, data=IMAGES, finetune="90s", steps=2).asked()
    assert (asked["finetune"], asked["steps"]) == ("90s", 2)
    with pytest.raises(UsageError, match="labels and loss exclude"):
        PruneOptions.of(ratio=0.3, data=IMAGES, finetune="90s", labels="y", loss="m:f")
