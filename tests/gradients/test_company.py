"""Few samples, and the tool's own beside them, which the teacher answers too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")


import spa  # noqa: E402
from spa.errors import DataError  # noqa: E402
from spa.gradients.epochs import Job  # noqa: E402
from spa.gradients.outcome import Outcome  # noqa: E402
from spa.gradients.placing import placed  # noqa: E402
from spa.gradients.samples import OWN, Split, split_samples  # noqa: E402
from spa.gradients.teaching import distillation  # noqa: E402
from spa.passes.normalize.normalize import normalize  # noqa: E402
from spa.passes.samples.photographs import photographs  # noqa: E402
from spa.presets import Progress  # noqa: E402
from tests.gradients.test_finetune import SAMPLES, as_ir, network  # noqa: E402
from tests.models import build  # noqa: E402

PICTURES = 40.0 + 100.0 * photographs(24, 3, 8, 8, np.random.default_rng(2))


def seer() -> onnx.ModelProto:
    return build(
        "(float[n,3,8,8] x) => (float[n,5] y) { a=Conv<pads=[1,1,1,1]>(x,w,b) r=Relu(a) p=GlobalAveragePool(r)"
        " f=Flatten(p) y=MatMul(f,v) }",
        {"w": [8, 3, 3, 3], "b": [8], "v": [8, 5]},
    )


def split(model: onnx.ModelProto, data: Any) -> Split:
    return split_samples(data, as_ir(model), labels=None, batch_size=8)


def test_tokens_and_features_get_no_company() -> None:
    model = build("(int64[n,8] x) => (float[n,8,16] y) { e=Gather(t,x) y=MatMul(e,v) }", {"t": [32, 8], "v": [8, 16]})
    tokens = split(model, {"x": np.random.default_rng(1).integers(0, 32, (24, 8))})
    assert tokens.topped_up(normalize(as_ir(model))) is tokens
    features = split(network(32), SAMPLES)
    assert features.topped_up(normalize(as_ir(network(32)))) is features


def test_answers_of_several_shapes_are_said_to_be_so() -> None:
    model = build("(float[n,k,6] x) => (float[n,k,4] y) { y=MatMul(x,v) }", {"v": [6, 4]})
    feeds = [{"x": np.ones((1, 3 + at % 2, 6), np.float32)} for at in range(12)]
    with pytest.raises(DataError, match=r"output 'y' of the teacher is of shape \(3, 4\) for some"):
        distillation(as_ir(model), split(model, feeds))


def test_few_pictures_get_company_that_is_never_held_out() -> None:
    model = seer()
    alone = split(model, PICTURES)
    topped = alone.topped_up(normalize(as_ir(model)))
    assert (topped.given, topped.own) == (24, 24 * OWN)
    assert (alone.steps, topped.steps) == (3, 5)  # 20 and 40 in batches of 8
    held_out = np.concatenate([batch["x"] for batch in topped.held_out()])
    np.testing.assert_array_equal(held_out, np.concatenate([batch["x"] for batch in alone.held_out()]))
    own = {row.tobytes() for row in topped.calibration.samples["x"][24:]}
    first, second = ([row for batch in topped.epoch(at, 0) for row in batch["x"]] for at in (0, 1))
    assert len(first) == len(second) == 40
    drawn = [{row.tobytes() for row in rows} & own for rows in (first, second)]
    assert [len(rows) for rows in drawn] == [20, 20]
    assert drawn[0] != drawn[1]
    assert topped.calibration.samples["x"].min() >= PICTURES.min() - 1e-3


@pytest.mark.parametrize(("options", "counts"), [({}, (24, 96)), ({"alone": True}, (24, 0))])
def test_what_finetune_learns(
    options: dict[str, Any], counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []

    def noted(job: Job, progress: Progress) -> Outcome:
        jobs.append(job)
        return placed(job, progress)

    monkeypatch.setattr("spa.gradients.tuning.placed", noted)
    small = spa.prune(seer(), ratio=0.4, weights=True, align=1).model
    result = spa.finetune(small, teacher=seer(), data=PICTURES, epochs=3, **options)
    assert (jobs[0].samples.given, jobs[0].samples.own) == counts
    assert result.report.own == (20 if counts[1] else 0)
    assert ("3 epochs, each with 20 samples of our own besides, at a" in result.report.sentence) is bool(counts[1])
    assert result.report.after < result.report.before
    labels = np.zeros(24, int)
    spa.finetune(small, data={"x": PICTURES, "labels": labels}, labels="labels", epochs=1)
    assert jobs[1].samples.own == 0


def test_company_takes_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, teacher = split(seer(), PICTURES), normalize(as_ir(seer()))
    for nbytes, count in ((PICTURES.nbytes // 2, 12), (10, 0)):
        monkeypatch.setattr("spa.gradients.samples.OWN_NBYTES", nbytes)
        topped = alone.topped_up(teacher)
        assert topped.own == count
        assert topped.steps == -(-(20 + count) // 8)
        assert sum(len(batch["x"]) for batch in topped.epoch(0, 0)) == 20 + count
