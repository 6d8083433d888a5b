"""What a teacher may answer, and on what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa import verdict  # noqa: E402
from spa.errors import DataError, UsageError  # noqa: E402
from spa.gradients import teaching  # noqa: E402
from spa.gradients.samples import split_samples  # noqa: E402
from spa.gradients.teaching import Teacher, distillation  # noqa: E402
from tests import models  # noqa: E402
from tests.gradients.test_counted import masked  # noqa: E402
from tests.gradients.test_finetune import SAMPLES, as_ir, network  # noqa: E402
from tests.models import build  # noqa: E402

RNG = np.random.default_rng(4)


def padded(count: int, length: int) -> dict[str, np.ndarray]:
    mask = np.ones((count, length), np.int64)
    mask[:, length // 2 :] = RNG.integers(0, 2, (count, 1))
    return {"x": RNG.standard_normal((count, length, 6)).astype(np.float32), "mask": mask}


def test_validation_may_be_of_another_length() -> None:
    report = spa.finetune(masked(16), teacher=masked(32), data=padded(24, 10), validation=padded(6, 4), epochs=2).report
    assert report.after <= report.before


def test_an_output_that_holds_its_input_is_learned() -> None:
    """A forecaster gives the past and what comes behind it."""
    body = """(float[n,6] x) => (float[n,10] y) {
        a = MatMul(x, w)  h = Relu(a)  b = MatMul(h, v)  y = Concat<axis=1>(x, b) }"""
    wide = {"w": RNG.standard_normal((6, 32)).astype(np.float32), "v": RNG.standard_normal((32, 4)).astype(np.float32)}
    narrow = {"w": wide["w"][:, :16], "v": wide["v"][:16]}
    report = spa.finetune(build(body, narrow), teacher=build(body, wide), data=SAMPLES, epochs=10).report
    assert report.after < report.before


def test_inputs_that_the_samples_have_not_are_named() -> None:
    other = build("(float[n,6] other) => (float[n,4] y) { y = MatMul(other, w) }", {"w": [6, 4]})
    student = build("(float[n,6] x) => (float[n,4] y) { y = MatMul(x, w) }", {"w": [6, 4]})
    with pytest.raises(
        DataError, match="the teacher takes an input 'other', which the samples have not; they have 'x'"
    ):
        spa.finetune(student, teacher=other, data=SAMPLES, epochs=1)


def test_steps_are_small_where_answers_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = as_ir(network(16))
    validation = split_samples(SAMPLES, model, labels=None, batch_size=16)
    samples = split_samples(SAMPLES, model, labels=None, batch_size=16, validation=validation)
    monkeypatch.setattr(teaching, "STEP_NBYTES", 5 * 4 * 3)
    width = Teacher(model).answers(next(samples.every()))["y"].shape[1]
    assert 1 <= 15 // width < 16
    small = distillation(model, samples, sized=False)[1]
    assert small.validation is not None
    assert (small.batch_size, small.validation.batch_size) == (15 // width, 15 // width)
    assert distillation(model, samples)[1].batch_size == 16


def test_a_state_of_other_weights_that_stay_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "teacher": network(32),
        "data": SAMPLES,
        "train": ["biases"],
        "resume": tmp_path / "state",
    }
    spa.finetune(network(8), epochs=1, **options)
    with pytest.raises(DataError, match="no state of this model's fine-tuning"):
        spa.finetune(network(11), epochs=2, **options)


def test_images_are_asked_for_where_there_may_be_some() -> None:
    with pytest.raises(UsageError, match="images has no effect"):
        spa.finetune(network(8), teacher=network(8), data=SAMPLES, images=spa.ImageOptions(mean=(9.0,)))


# ------------------------------------------------------------------------------------------- a cut by gradients
IMAGES = RNG.standard_normal((24, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("options", [{"steps": 2}, {"control": "shuffled"}])
def test_what_was_not_trained_is_compared_on_the_samples(options: dict[str, Any]) -> None:
    report = spa.prune(models.residual_cnn(), ratio=0.3, criterion="taylor", data=IMAGES, **options).report
    assert report.outputs_on == verdict.SAMPLES
    assert report.outputs


def test_what_onnxruntime_does_not_run_is_cut_by_gradients_all_the_same() -> None:
    double = models.residual_cnn()
    for tensor in double.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )
    for value in (*double.graph.input, *double.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    result = spa.prune(double, ratio=0.3, criterion="taylor", data=IMAGES.astype(np.float64), verify=False)
    assert result.plan.removed
    assert not result.report.outputs


def test_samples_of_its_own_are_as_asked_for_where_units_are_drawn_at_random() -> None:
    options: dict[str, Any] = {"control": "random", "finetune": "1e", "input_ranges": {"x": (0.0, 255.0)}}
    result = spa.prune(models.residual_cnn(), ratio=0.3, **options)
    assert result.report.trained
    with pytest.raises(UsageError, match="memory has no effect"):
        spa.prune(models.residual_cnn(), ratio=0.3, control="random", memory=1 << 32)
