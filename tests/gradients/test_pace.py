"""Learning rates, and which samples may say how well they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

import spa  # noqa: E402
from spa.gradients.pace import RATES, TRIAL, Pace  # noqa: E402
from spa.gradients.samples import Split, split_samples  # noqa: E402
from spa.passes.samples.checking import check_samples  # noqa: E402
from spa.passes.samples.seen import KEY, seen_by  # noqa: E402
from tests.gradients.test_finetune import SAMPLES, as_ir, network, pruned  # noqa: E402

MANY = np.random.default_rng(7).standard_normal((96, 6)).astype(np.float32)


def repaired(**options: Any) -> ir.Model:
    return spa.prune(network(32), ratio=0.4, of="channels", data=MANY, **options).model


def test_one_rate_rises_and_falls_over_the_whole() -> None:
    pace = Pace.of(0.1)
    rates = [pace.rate(share) for share in np.linspace(0.0, 1.0, 41)]
    assert max(rates) <= 0.1
    assert np.argmax(rates) in (2, 3)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert pace.trials_before(0.9) == 0


def test_rates_are_tried_one_after_another_and_the_better_goes_on() -> None:
    pace = Pace.of(None)
    tops = [max(pace.rate(TRIAL * (number + within)) for within in np.linspace(0, 0.99, 30)) for number in range(2)]
    assert tops == pytest.approx(RATES, rel=0.02)
    assert [pace.trials_before(share) for share in (0.0, 0.19, 0.2, 0.4, 1.0)] == [0, 0, 1, 2, 2]
    assert pace.choose([0.2, 0.1]) == 1
    assert max(pace.rate(share) for share in np.linspace(0.41, 1.0, 30)) == pytest.approx(RATES[1], rel=0.02)


def test_a_training_goes_on_with_the_rate_that_did_better() -> None:
    report = spa.finetune(pruned(), teacher=network(32), data=SAMPLES, epochs=10).report
    assert report.learning_rate == RATES[0]  # units are gone and nothing was refitted: far to go
    assert report.after < report.before
    assert "at a learning rate of 0.001" in report.sentence


def test_a_training_that_was_stopped_in_a_trial_goes_on_as_if_it_had_not(tmp_path: Any) -> None:
    options: dict[str, Any] = {"teacher": network(32), "data": SAMPLES, "epochs": 10}
    whole = spa.finetune(pruned(), **options)
    for at in (0.25, 0.55):

        def stop(_: str, share: float, at: float = at) -> None:
            if share >= at:
                raise KeyboardInterrupt

        state = tmp_path / f"{at}.pt"
        with pytest.raises(KeyboardInterrupt):
            spa.finetune(pruned(), resume=state, progress=stop, **options)
        resumed = spa.finetune(pruned(), resume=state, **options).report
        assert (resumed.history, resumed.after, resumed.learning_rate) == (
            whole.report.history, whole.report.after, whole.report.learning_rate,
        )  # fmt: skip


def test_what_is_held_out_is_what_no_repair_has_seen() -> None:
    model = repaired()
    marks = seen_by(model)
    assert 0.7 * len(MANY) < len(marks) < len(MANY)
    split = split_samples(MANY, model, labels=None, batch_size=8)
    held = np.concatenate([batch["x"] for batch in split.held_out()])
    trained = np.concatenate([batch["x"] for batch in split.epoch(0, 0)])
    assert 4 <= len(held) <= 16
    assert len(held) + len(trained) == len(MANY)
    unseen = {row.tobytes() for row in MANY[list(split.unseen or ())]}
    assert unseen
    assert {row.tobytes() for row in held} <= unseen
    assert not split.fitted


@pytest.mark.parametrize("samples", ["others", "seen", "unknown"])
def test_of_samples_that_are_all_new_or_all_seen_one_in_six_is_held_out(samples: str) -> None:
    model = repaired()
    if samples == "unknown":
        del model.metadata_props[KEY]
    split = split_samples(MANY, model, labels=None, batch_size=8)
    data = SAMPLES if samples == "others" else MANY
    if samples == "seen":
        data = np.delete(MANY, list(split.unseen or ()), axis=0)
    split = split_samples(data, model, labels=None, batch_size=8)
    assert sum(split.count(batch) for batch in split.held_out()) == len(data) // 6
    assert split.fitted == (samples == "seen")


def test_a_training_says_that_the_repair_has_seen_what_judges_it() -> None:
    model = repaired()
    seen = np.delete(MANY, list(split_samples(MANY, model, labels=None, batch_size=8).unseen or ()), axis=0)
    report = spa.finetune(model, teacher=network(32), data=seen, epochs=1, learning_rate=1.0).report
    assert report.after == report.before
    assert "name others by validation" in report.sentence


def test_marks_of_two_repairs_are_together_and_own_samples_leave_none() -> None:
    first = repaired()
    second = spa.prune(first, ratio=0.2, of="channels", data=SAMPLES).model
    assert seen_by(first) < seen_by(second)
    free = spa.prune(network(32), ratio=0.4, of="channels", data_free=True).model
    assert KEY not in free.metadata_props


def test_samples_drawn_evenly_keep_what_is_known_of_them() -> None:
    split = Split(check_samples({"x": MANY}, as_ir(network(32))), {}, 8, unseen=[0, 95, 50])
    assert split.first(2).unseen == [0, 1]
