from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa import runtime  # noqa: E402
from spa.errors import DataError, UsageError  # noqa: E402
from spa.gradients.outcome import FinetuneReport  # noqa: E402

SAMPLES = np.random.default_rng(5).standard_normal((96, 6)).astype(np.float32)


def network(width: int, *, seed: int = 0, batch: str = "n", softmax: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    end = "z = Gemm(h, v, c) y = Softmax(z)" if softmax else "y = Gemm(h, v, c)"
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g (float[{batch}, 6] x) => (float[{batch}, 4] y)'
        f" {{ a = Gemm(x, w, b) h = Relu(a) {end} }}"
    )
    weights = {
        "w": rng.standard_normal((6, width)),
        "b": 0.1 * rng.standard_normal(width),
        "v": rng.standard_normal((width, 4)) / width**0.5,
        "c": 0.1 * rng.standard_normal(4),
    }
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()
    )
    return proto


def pruned(**options: Any) -> onnx.ModelProto:
    """Half of the hidden units gone, in whatever way: the first ones."""
    proto = network(32, **options)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        cut = array[..., :16] if tensor.name in ("w", "b") else array[:16] if tensor.name == "v" else array
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(cut), tensor.name))
    return proto


def distance(model: Any, teacher: Any) -> float:
    """Relative to the teacher's variance, on samples of its own."""
    feeds = {"x": np.random.default_rng(9).standard_normal((200, 6)).astype(np.float32)}
    student, target = (runtime.run(runtime.session(m, optimize=False), feeds)["y"] for m in (model, teacher))
    return float(np.mean((student - target) ** 2) / np.var(target, axis=0).mean())


def as_ir(proto: onnx.ModelProto) -> Any:
    from spa.frontends.files import onnx_file

    return onnx_file.load(proto)


def test_learns_the_teachers_outputs_on_samples_of_its_own() -> None:
    teacher = network(32)
    before = distance(as_ir(pruned()), as_ir(teacher))
    result = spa.finetune(pruned(), teacher=teacher, data=SAMPLES, epochs=60, learning_rate=5e-3)
    assert distance(result.model, as_ir(teacher)) < 0.5 * before
    assert result.report.after < 0.5 * result.report.before
    assert result.report.epochs == 60
    assert result.report.trained == 1.0


def test_goes_part_of_the_way_back_where_that_is_better() -> None:
    """Steps that are too long, by few samples: half-way, what was not learned by heart is better."""
    teacher = network(32)
    options: dict[str, Any] = {"teacher": teacher, "data": SAMPLES[:24], "epochs": 1, "batch_size": 1}
    report = spa.finetune(pruned(), learning_rate=0.03, **options).report
    assert report.after < 0.9 * min(report.before, *report.history)


def test_is_never_worse_than_what_came_in() -> None:
    teacher = network(32)
    result = spa.finetune(teacher, teacher=teacher, data=SAMPLES, epochs=2, learning_rate=10.0)
    assert result.report.before == result.report.after == pytest.approx(0.0, abs=1e-6)  # rounding of float32
    kept = {name: value.const_value for name, value in result.model.graph.initializers.items()}
    for tensor in teacher.graph.initializer:
        stored = kept[tensor.name]
        assert stored is not None
        np.testing.assert_array_equal(stored.numpy(), onnx.numpy_helper.to_array(tensor))


def test_the_same_seed_gives_the_same_weights() -> None:
    histories = [
        spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=3, seed=seed).report.history
        for seed in (0, 0, 1)
    ]
    assert histories[0] == histories[1] != histories[2]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole = spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=6)

    def stop(_: str, share: float) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=6, resume=state, progress=stop)
    resumed = spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=6, resume=state)
    assert resumed.report.history == whole.report.history
    assert resumed.report.epochs == 6


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=1, resume=state)
    with pytest.raises(DataError, match="no state of this model"):
        spa.finetune(network(8), teacher=network(32), data=SAMPLES, epochs=2, resume=state)


@pytest.mark.parametrize(("names", "moved"), [(["biases"], {"b", "c"}), ([], {"w", "b", "v", "c"})])
def test_subsets_train_vectors_alone(names: list[str], moved: set[str]) -> None:
    before = pruned()
    result = spa.finetune(before, teacher=network(32), data=SAMPLES, epochs=4, train=names)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in before.graph.initializer}
    changed = set()
    for name, value in result.model.graph.initializers.items():
        assert value.const_value is not None
        if not np.array_equal(value.const_value.numpy(), stored[name]):
            changed.add(name)
    assert changed == moved


def test_mixed_precision_keeps_weights_in_float32() -> None:
    results = [
        spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=20, learning_rate=5e-3, precision=precision)
        for precision in ("float32", "bfloat16")
    ]
    single, mixed = (result.report for result in results)
    assert mixed.after != single.after
    assert mixed.after == pytest.approx(single.after, rel=0.05)
    types = {str(value.dtype) for value in results[1].model.graph.initializers.values()}
    assert types == {"FLOAT"}


def test_two_processes_share_out_the_batches() -> None:
    said = []
    options: dict[str, Any] = {"teacher": network(32), "epochs": 20, "learning_rate": 5e-3}
    shared = spa.finetune(
        pruned(), data=SAMPLES, devices=2, device="cpu", batch_size=8,
        progress=lambda step, share: said.append((step, share)), **options,
    )  # fmt: skip
    alone = spa.finetune(pruned(), data=SAMPLES, batch_size=16, **options)
    assert said[0][0] == "finetune"
    assert [share for _, share in said] == sorted(share for _, share in said)
    assert shared.report.before == pytest.approx(alone.report.before)  # all samples held out, in both
    assert shared.report.after == pytest.approx(alone.report.after, rel=0.1)  # as many steps of as many samples


def test_a_mistake_in_another_process_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=1, resume=state)
    with pytest.raises(DataError, match="no state of this model"):
        spa.finetune(
            network(8), teacher=network(32), data=SAMPLES, epochs=2, resume=state, devices=2, device="cpu", batch_size=8
        )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_learns_on_a_gpu(precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    result = spa.finetune(
        pruned(), teacher=network(32), data=SAMPLES, epochs=40, learning_rate=5e-3, device="cuda", precision=precision
    )
    assert result.report.after < 0.5 * result.report.before


def test_labels_are_learned_by_cross_entropy() -> None:
    labels = (SAMPLES[:, 0] > 0).astype(np.int64)
    result = spa.finetune(
        pruned(), data={"x": SAMPLES, "labels": labels}, labels="labels", epochs=40, learning_rate=1e-2
    )
    feeds = {"x": SAMPLES}
    scores = runtime.run(runtime.session(result.model, optimize=False), feeds)["y"]
    assert np.mean(scores.argmax(1) == labels) > 0.95


def test_a_teacher_and_labels_are_learned_together() -> None:
    teacher, data = network(32), {"x": SAMPLES, "labels": (SAMPLES[:, 0] > 0).astype(np.int64)}
    options: dict[str, Any] = {"epochs": 30, "learning_rate": 5e-3, "alone": True}
    by_both, by_labels, by_teacher = (
        spa.finetune(pruned(), data=data, **options, **given)
        for given in ({"teacher": teacher, "labels": "labels"}, {"labels": "labels"}, {"teacher": teacher})
    )
    assert by_both.report.before == pytest.approx(by_labels.report.before + by_teacher.report.before, rel=1e-5)
    assert distance(by_both.model, as_ir(teacher)) < 0.5 * distance(by_labels.model, as_ir(teacher))
    scores = runtime.run(runtime.session(by_both.model, optimize=False), {"x": SAMPLES})["y"]
    taught = runtime.run(runtime.session(by_teacher.model, optimize=False), {"x": SAMPLES})["y"]
    right, right_by_teacher = (np.mean(each.argmax(1) == data["labels"]) for each in (scores, taught))
    assert right > right_by_teacher + 0.1


def test_a_loss_of_ones_own_gets_outputs_and_batch() -> None:
    def loss(outputs: Any, batch: Any) -> Any:
        assert batch["x"].shape[1] == 6
        return outputs["y"].square().mean()

    result = spa.finetune(pruned(), data=SAMPLES, loss=loss, epochs=20, learning_rate=1e-2)
    assert result.report.after < 0.5 * result.report.before


def test_a_loss_in_a_script_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loss_of_mine.py").write_text("def small(outputs, batch):\n    return outputs['y'].square().mean()\n")
    monkeypatch.chdir(tmp_path)
    result = spa.finetune(pruned(), data=SAMPLES, loss="loss_of_mine:small", epochs=20, learning_rate=1e-2)
    assert result.report.after < 0.5 * result.report.before


def test_probabilities_are_learned_by_their_divergence() -> None:
    teacher = network(32, softmax=True)
    result = spa.finetune(pruned(softmax=True), teacher=teacher, data=SAMPLES, epochs=40, learning_rate=5e-3)
    assert result.report.after < 0.5 * result.report.before


def test_models_of_a_fixed_number_of_samples() -> None:
    teacher = network(32, batch="8")
    result = spa.finetune(pruned(batch="8"), teacher=teacher, data=SAMPLES, epochs=20, learning_rate=5e-3)
    assert result.report.after < result.report.before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "nothing to learn from"),
        ({"teacher": "t", "epochs": 1, "minutes": 1.0}, UsageError, "exclude each other"),
        ({"teacher": "t", "train": ["kernels"]}, UsageError, "expected one of biases, norms, scales"),
        ({"teacher": "t", "train": ["norms"]}, UsageError, "the model has no norms"),
        ({"teacher": "t", "learning_rate": 0.0}, UsageError, "a number above 0"),
        ({"labels": "labels"}, DataError, "expected an entry 'labels'"),
        ({"loss": "no_such_module:f"}, UsageError, "no_such_module"),
        ({"teacher": "t", "device": "cpu", "devices": 4096}, UsageError, "devices of kind cpu: 4096 asked for"),
        ({"teacher": "t", "device": "cpu", "devices": 2, "batch_size": 80}, UsageError, "give a smaller batch_size"),
        ({"loss": lambda outputs, _: outputs["y"].mean(), "device": "cpu", "devices": 2}, UsageError, "importable"),
        ({"teacher": "t", "device": "cpu", "precision": "float16"}, UsageError, "needs a GPU"),
        ({"teacher": "t", "data": SAMPLES[:4]}, DataError, "expected 6 or more"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], error: type[Exception], message: str) -> None:
    if options.get("teacher") == "t":
        options = {**options, "teacher": network(32)}
    with pytest.raises(error, match=message):
        spa.finetune(pruned(), **{"data": SAMPLES, "epochs": None if "minutes" in options else 1, **options})


NO_BETTER = "no better on samples held out than before, 0.5, after"
AS_IT_WAS = "the weights are as they were; try a lower learning rate, or more samples"


@pytest.mark.parametrize(
    ("after", "history", "sentence"),
    [
        (0.25, (0.4, 0.25), "loss on samples held out: 0.5 -> 0.25 after 2 epochs"),
        (0.5, (0.75,), f"{NO_BETTER} 1 epoch, 0.75 at best: {AS_IT_WAS}"),
        (0.5, (), f"{NO_BETTER} 0 epochs: {AS_IT_WAS}"),
    ],
)
def test_a_report_says_where_no_epoch_did_better(after: float, history: tuple[float, ...], sentence: str) -> None:
    assert FinetuneReport(0.5, after, len(history), 1.0, 1.0, history).sentence == sentence


def test_the_best_epoch_is_chosen_by_samples_for_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that say something else than the samples that count: what is kept is what these say."""
    monkeypatch.setattr("spa.gradients.epochs.WAY_BACK", ())
    rng, student = np.random.default_rng(3), pruned()
    x, labels = rng.standard_normal((40, 6)).astype(np.float32), rng.integers(0, 4, 40)
    data = {"x": SAMPLES, "labels": rng.integers(0, 4, len(SAMPLES))}
    options: dict[str, Any] = {"labels": "labels", "epochs": 8, "learning_rate": 1e-2}
    kept = spa.finetune(student, data=data, validation={"x": x, "labels": labels}, **options)
    logits = runtime.run(runtime.session(kept.model, optimize=False), {"x": x})["y"].astype(np.float64)
    chances = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert kept.report.after == pytest.approx(-chances[np.arange(40), labels].mean(), rel=1e-5)
    assert kept.report.after == min(kept.report.before, *kept.report.history)
    assert spa.finetune(student, data=data, **options).report.history != kept.report.history


def test_validation_leaves_all_data_to_the_steps() -> None:
    from spa.gradients.samples import split_samples

    model = as_ir(pruned())
    options: dict[str, Any] = {"labels": None, "batch_size": 8}
    alone = split_samples(SAMPLES[:24], model, **options)
    with_more = split_samples(SAMPLES[:24], model, validation=SAMPLES[90:91], **options)
    assert (alone.steps, with_more.steps) == (3, 3)
    seen = [batch["x"] for batch in with_more.epoch(0, seed=0)]
    assert sorted(map(tuple, np.concatenate(seen))) == sorted(map(tuple, SAMPLES[:24]))
    assert sum(len(batch["x"]) for batch in alone.epoch(0, seed=0)) == 20
    (held_out,) = with_more.held_out()
    np.testing.assert_array_equal(held_out["x"], SAMPLES[90:91])
    few = split_samples(SAMPLES[:3], model, validation=SAMPLES[90:91], **options)  # fewer than six: all are learned
    assert few.steps == 1


def test_a_teacher_is_asked_about_the_validation_too() -> None:
    student = pruned()
    result = spa.finetune(student, teacher=network(32), data=SAMPLES, validation=SAMPLES[:12], epochs=20)
    assert result.report.after < result.report.before
    with pytest.raises(DataError, match="labels: expected an entry 'labels'"):
        spa.finetune(student, data={"x": SAMPLES, "labels": np.zeros(96, int)}, validation=SAMPLES, labels="labels")
