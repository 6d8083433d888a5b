"""Training an initialised graph, with what goes before it, controls, and masks that are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa import runtime  # noqa: E402
from spa.errors import UsageError  # noqa: E402
from spa.gradients.restarting import restart  # noqa: E402
from spa.making import shuffled  # noqa: E402
from spa.steps import analyse, load_normal  # noqa: E402
from tests import models  # noqa: E402
from tests.gradients.test_scoring import run  # noqa: E402

RNG = np.random.default_rng(4)
LABELS = np.arange(240) % 4
CENTRES = RNG.standard_normal((4, 3, 8, 8))
IMAGES = (CENTRES[LABELS] + 0.8 * RNG.standard_normal((240, 3, 8, 8))).astype(np.float32)
DATA = {"x": IMAGES, "labels": LABELS}
QUICK: dict[str, Any] = {"data": DATA, "batch_size": 20, "learning_rate": 1e-2}


def network() -> onnx.ModelProto:
    """Two convolutions with normalisations, and a head of four classes."""
    rng = np.random.default_rng(1)
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[n, 3, 8, 8] x) => (float[n, 4] y) {'
        " c0 = Conv<pads = [1, 1, 1, 1]>(x, w0) n0 = BatchNormalization(c0, s0, b0, m0, v0) r0 = Relu(n0)"
        " c1 = Conv<pads = [1, 1, 1, 1]>(r0, w1) n1 = BatchNormalization(c1, s1, b1, m1, v1) r1 = Relu(n1)"
        " p = GlobalAveragePool(r1) f = Flatten(p) y = Gemm(f, h, hb) }"
    )
    arrays = {
        "w0": rng.standard_normal((16, 3, 3, 3)) * 0.27, "w1": rng.standard_normal((24, 16, 3, 3)) * 0.12,
        "h": rng.standard_normal((24, 4)) * 0.3, "hb": np.zeros(4),
    }  # fmt: skip
    for at, size in ((0, 16), (1, 24)):
        arrays |= {f"s{at}": np.ones(size), f"b{at}": np.zeros(size)}
        arrays |= {f"m{at}": np.zeros(size), f"v{at}": np.ones(size)}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    return proto


def accuracy(model: Any) -> float:
    made = runtime.run(runtime.session(model, optimize=False), {"x": IMAGES})
    return float(np.mean(made["y"].argmax(1) == LABELS))


def stored(model: Any) -> dict[str, np.ndarray]:
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value is not None}


def test_an_initialised_graph_learns_and_its_statistics_follow() -> None:
    result = spa.train(network(), epochs=8, **QUICK)
    assert accuracy(load_normal(network())) < 0.5
    assert accuracy(result.model) > 0.95
    assert result.report.after < 0.2 * result.report.before
    trained = stored(result.model)
    assert not np.allclose(trained["m0"], 0.0, atol=1e-3)
    assert not np.allclose(trained["v1"], 1.0, atol=1e-3)


def test_the_same_seed_gives_the_same_weights() -> None:
    histories = [spa.train(network(), epochs=2, seed=seed, **QUICK).report.history for seed in (0, 0, 1)]
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.parametrize("name", ["snip", "synflow", "l2", "grasp", "spa"])
def test_cut_before_the_training(name: str) -> None:
    result = spa.train(network(), epochs=12, prune=name, ratio=0.5, **QUICK)
    assert result.plan is not None
    before, after = (sum(a.size for a in stored(m).values()) for m in (load_normal(network()), result.model))
    assert after <= 0.52 * before
    assert accuracy(result.model) > 0.9


@pytest.mark.parametrize("control", ["uniform", "random", "shuffled"])
def test_controls(control: str) -> None:
    chosen = spa.train(network(), epochs=1, prune="snip", ratio=0.5, **QUICK).plan
    held = spa.train(network(), epochs=1, prune="snip", ratio=0.5, control=control, **QUICK).plan
    assert chosen is not None
    assert held is not None
    counts = [{name: len(units) for name, units in plan.removed.items()} for plan in (chosen, held)]
    assert held.removed != chosen.removed
    if control == "shuffled":
        assert counts[0] == counts[1]
    if control == "uniform":
        shares = [len(units) / held.sizes[name] for name, units in held.removed.items()]
        assert max(shares) - min(shares) < 0.26  # of multiples of eight


def test_shuffled_units_are_as_many_and_others_with_another_seed() -> None:
    plan = spa.prune(models.residual_cnn(), ratio=0.4, weights=True).plan
    drawn = [shuffled(plan, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {name: len(units) for name, units in drawn[0].removed.items()} == {
        n: len(u) for n, u in plan.removed.items()
    }


@pytest.mark.parametrize("options", [{"weights": True}, {"data": DATA}, {"data": DATA, "criterion": "taylor"}])
@pytest.mark.parametrize("control", ["uniform", "random", "shuffled"])
def test_controls_of_a_prune_are_verified(options: dict[str, Any], control: str) -> None:
    result = spa.prune(network(), ratio=0.5, control=control, align=1, **options)
    assert result.report.verified
    assert result.report.removed_share("params") >= 0.48
    if control != "uniform":
        assert not result.plan.repair
        cut = spa.apply_plan(network(), result.plan)
        for name, array in stored(cut.model).items():
            np.testing.assert_array_equal(stored(result.model)[name], array)


def test_rewinding_cuts_an_early_checkpoint_as_the_trained_one_was(tmp_path: Path) -> None:
    early = spa.train(network(), epochs=1, **QUICK).model
    late = spa.train(network(), epochs=6, **QUICK).model
    cut = spa.prune(late, ratio=0.5, weights=True)
    (tmp_path / "plan.json").write_text(cut.plan.to_json())
    rewound = spa.train(early, epochs=10, plan=tmp_path / "plan.json", **QUICK)
    assert {n: a.shape for n, a in stored(rewound.model).items()} == {n: a.shape for n, a in stored(cut.model).items()}
    assert accuracy(rewound.model) > 0.9


def test_restarting_forgets_the_weights_and_keeps_the_sizes() -> None:
    trained = spa.train(network(), epochs=10, **QUICK).model
    model = trained.clone()
    restart(analyse(model).coupling, seed=3)
    old, new = stored(trained), stored(model)
    for name, array in new.items():
        assert array.shape == old[name].shape
        if name[0] in "wh" and name != "hb":
            assert not np.allclose(array, old[name])
    assert np.std(new["w1"]) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)
    assert np.std(new["h"]) == pytest.approx((2 / 24) ** 0.5, rel=0.3)
    for name, number in (("s0", 1.0), ("b0", 0.0), ("m1", 0.0), ("v1", 1.0), ("hb", 0.0)):
        np.testing.assert_array_equal(new[name], np.full_like(new[name], number))
    assert accuracy(model) < 0.6
    again = spa.train(trained, epochs=12, restart=True, **QUICK)
    assert again.report.before > 2 * spa.train(trained, epochs=1, **QUICK).report.before
    assert accuracy(again.model) > 0.9


def units_near_zero(model: Any) -> float:
    """The share of units of all groups whose readers hold next to nothing."""
    small = total = 0
    for group in analyse(load_normal(model)).groups:
        size = np.zeros(group.size)
        for piece in group.slices:
            if not piece.consumer or piece.value.const_value is None:
                continue
            rows = np.moveaxis(np.abs(piece.value.const_value.numpy()), piece.axis, 0).reshape(len(piece.unit_of), -1)
            np.add.at(size, piece.unit_of[piece.unit_of >= 0], rows[piece.unit_of >= 0].sum(1))
        if size.any():
            small += int(np.sum(size < 1e-3 * size.max()))
            total += group.size
    return small / max(total, 1)


def test_gates_close_units_and_the_network_still_decides() -> None:
    result = spa.train(network(), epochs=40, sparsify="gates", strength=2.0, **QUICK)
    assert units_near_zero(result.model) > 0.2
    assert accuracy(result.model) > 0.9
    assert units_near_zero(spa.train(network(), epochs=10, **QUICK).model) == 0.0
    cut = spa.prune(result.model, ratio=0.15, weights=True, align=1)
    assert accuracy(cut.model) > 0.9


@pytest.mark.parametrize("name", ["lasso", "scales"])
def test_norms_and_scales_become_small(name: str) -> None:
    plain = stored(spa.train(network(), epochs=8, **QUICK).model)
    sparse = stored(spa.train(network(), epochs=8, sparsify=name, strength=3.0, **QUICK).model)
    tensors = ("s0", "s1") if name == "scales" else ("w0", "w1", "s0", "s1")
    for tensor in tensors:
        assert np.abs(sparse[tensor]).mean() < 0.8 * np.abs(plain[tensor]).mean()


@pytest.mark.parametrize("sparsify", [None, "gates"])
def test_a_run_that_was_stopped_goes_on(sparsify: str | None, tmp_path: Path) -> None:
    def stop(_: str, share: float | None = None) -> None:
        if share is not None and share >= 0.5:
            raise KeyboardInterrupt

    options = {**QUICK, "epochs": 4, "sparsify": sparsify, "resume": tmp_path / "state.pt"}
    with pytest.raises(KeyboardInterrupt):
        spa.train(network(), progress=stop, **options)
    resumed = spa.train(network(), **options)
    assert resumed.report.epochs == 4
    if sparsify is None:
        whole = spa.train(network(), **{**options, "resume": None})
        assert resumed.report.history == pytest.approx(whole.report.history)


def test_scales_that_were_trained_to_zero_are_recognised() -> None:
    plain = spa.prune(network(), ratio=0.3, weights=True, align=1)
    assert not any("trained for sparsity" in note for note in plain.report.notes)
    proto = network()
    for tensor in proto.graph.initializer:
        if tensor.name in ("s0", "s1"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[::3] = 1e-4
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    result = spa.prune(proto, ratio=0.3, weights=True, align=1)
    assert any("14 of 40 scales of normalisations are next to zero" in note for note in result.report.notes)
    for units in result.plan.removed.values():
        assert all(unit % 3 == 0 for unit in units)
    told = spa.prune(proto, ratio=0.3, criterion="l2", align=1)
    assert not any("trained for sparsity" in note for note in told.report.notes)


# ------------------------------------------------------------------------------------------------ the command
@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "init.onnx")
    np.savez("labelled.npz", x=IMAGES, labels=LABELS)
    np.savez("plain.npz", x=IMAGES)
    Path("plan.txt").write_text("nothing")
    return tmp_path


def test_the_command_line(there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = "train init.onnx --data labelled.npz --epochs 2 --prune snip --ratio 50% --save-plan plan.json"
    code, out, err = run(words, capfd)
    assert (code, err) == (0, "")
    assert "after 2 epochs; onnxruntime computes what torch does" in out
    assert (there / "init.trained.onnx").exists()
    code, _, err = run("train init.onnx --data labelled.npz --epochs 1 --plan plan.json --restart -o again.onnx", capfd)
    assert (code, err) == (0, "")
    code, _, err = run("prune init.trained.onnx --ratio 20% --weights -o smaller.onnx", capfd)
    assert (code, err) == (0, "")


MISTAKES = {
    "no labels": ("--data plain.npz", "the data has no entry 'labels'"),
    "a criterion without a share": ("--data labelled.npz --prune snip", "prune and ratio go together"),
    "a share without a criterion": ("--data labelled.npz --ratio 50%", "prune and ratio go together"),
    "a criterion misspelt": ("--data labelled.npz --prune snap --ratio 50%", "did you mean snip?"),
    "a control in vain": ("--data labelled.npz --control shuffled", "control has no effect without prune"),
    "a control misspelt": ("--data labelled.npz --prune snip --ratio 50% --control unifrom", "did you mean uniform?"),
    "plan and criterion": ("--data labelled.npz --prune snip --ratio 50% --plan p.json", "prune and plan exclude"),
    "no plan": ("--data labelled.npz --plan p.json", "cannot read the plan 'p.json'"),
    "a plan that is none": ("--data labelled.npz --plan plan.txt", "no plan of format"),
    "a penalty misspelt": ("--data labelled.npz --sparsify gate", "did you mean gates?"),
    "a strength in vain": ("--data labelled.npz --strength 2", "strength has no effect without sparsify"),
    "a plan in vain": ("--data labelled.npz --save-plan p.json", "--save-plan has no effect without --prune"),
    "time and epochs": ("--data labelled.npz --epochs 1 --minutes 1", "epochs and minutes exclude each other"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_line(mistake: str, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words, answer = MISTAKES[mistake]
    code, out, err = run(f"train init.onnx {words}", capfd)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert answer in err
    assert not (there / "init.trained.onnx").exists()


def test_a_loss_of_ones_own() -> None:
    def loss(outputs: Any, batch: Any) -> Any:
        assert set(batch) == {"x", "labels"}
        return torch.nn.functional.cross_entropy(outputs["y"], torch.from_numpy(batch["labels"]))

    result = spa.train(network(), epochs=10, loss=loss, **QUICK)
    assert accuracy(result.model) > 0.9
    with pytest.raises(UsageError, match="labels and loss exclude"):
        spa.train(network(), epochs=1, loss=loss, labels="labels", **QUICK)


def test_a_page_of_a_training(there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for module in ("jinja2", "vl_convert"):
        pytest.importorskip(module, reason="needs the extra report")
    code, out, _ = run("train init.onnx --data labelled.npz --epochs 2 --report page.html", capfd)
    assert code == 0
    assert "wrote page.html" in out
    page = (there / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Loss by epoch" in page
