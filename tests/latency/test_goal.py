"""Budgets of time: whose device counts, how a goal is met and corrected, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

import spa
from spa import profiling
from spa.device import milliseconds
from spa.errors import BudgetError, UsageError
from spa.options import PruneOptions
from spa.passes.latency.goal import ROUNDS, Goal
from spa.steps import analyse, load_normal
from tests.latency import devices
from tests.latency.networks import chain

SHAPES = {"first": 64, "second": 96, "third": 128}


def pruned(profile, **options):
    return spa.prune(chain(), of="latency", profile=profile, weights=True, verify=False, **options)


def kept(result) -> dict[str, int]:
    return {name: result.model.graph.initializers[name].shape[0] for name in SHAPES}


def foretold(profile, plan) -> float:
    analysis = analyse(load_normal(ir.from_proto(chain())))
    return Goal(profile, 0.5, "half", None).bound(analysis.groups, analysis.coupling, analysis.cost).foretold(plan)


def test_steps_are_traded_until_hardly_more_goes_than_was_asked_for():
    """Three groups in steps of sixteen: the first way down to a half ends 3.5 % below it."""
    latency = pruned(devices.profile(chain(), devices.flops), ratio=0.5).report.latency
    assert latency.foretold == pytest.approx(latency.wanted, rel=0.03)


def test_another_machine_is_foretold_and_said_to_be():
    latency = pruned(devices.profile(chain(), devices.flops), ratio=0.5).report.latency
    assert latency.dense is latency.pruned is latency.met is None
    assert latency.foretold == pytest.approx(latency.wanted, rel=0.2)
    assert latency.foretold <= latency.wanted
    assert "not measured, since this machine is another" in latency.sentence


def test_kept_widths_stay_on_the_fast_path():
    for ratio in (0.2, 0.4, 0.6, 0.8):
        widths = kept(pruned(devices.profile(chain(), devices.flops), ratio=ratio))
        assert all(width % 16 == 0 for width in widths.values()), widths


def test_the_device_of_the_profile_decides_what_goes():
    """Two threads that help one layer alone make it cheap there, and its channels not worth the loss on samples."""

    def first_is_dear(operator, inputs, outputs):
        return devices.flops(operator, inputs, outputs) * (20 if operator == "Conv" and inputs[1][1] == 3 else 1)

    def third_is_dear(operator, inputs, outputs):
        third = operator == "Conv" and inputs[1][1] > 3 and inputs[1][2] == 3
        return devices.flops(operator, inputs, outputs) * (20 if third else 1)

    first_dear = devices.profile(chain(), first_is_dear)
    third_dear = devices.elsewhere(devices.profile(chain(), third_is_dear), threads=2)
    data = {"x": np.random.default_rng(0).standard_normal((48, 3, 32, 32), np.float32)}
    first, second = (
        spa.prune(chain(), of="latency", ratio=0.5, profile=profile, data=data, preset="fast", verify=False)
        for profile in (first_dear, third_dear)
    )
    assert first.plan.removed != second.plan.removed
    for profile, mine, others in ((first_dear, first, second), (third_dear, second, first)):
        assert foretold(profile, mine.plan) == pytest.approx(0.5, rel=0.03)
        assert foretold(profile, others.plan) != pytest.approx(0.5, rel=0.03)
    assert "2 threads" in str(second.report.latency and second.report.latency.sentence)


def test_a_target_that_cannot_be_met_says_what_the_floor_is_and_what_holds_it():
    profile = devices.profile(chain(), devices.flops)
    floor = r"the floor is about [\d.]+ of [\d.]+ ms \(9[\d.]+% less\), most of it in Conv g \([\d.]+ ms\), .*; "
    with pytest.raises(
        BudgetError, match=rf"^target 0\.1 ms cannot be met: {floor}the rest is held by align=auto"
    ) as it:
        pruned(profile, target=0.1)
    assert it.value.most.removed
    with pytest.raises(BudgetError, match=rf"^ratio 0\.999 of latency cannot be met: {floor}"):
        pruned(profile, ratio=0.999)


def test_the_floor_that_is_said_can_be_reached():
    profile = devices.profile(chain(), devices.flops)
    with pytest.raises(BudgetError) as refused:
        pruned(profile, target=0.1)
    floor = float(str(refused.value).partition("the floor is about ")[2].partition(" of")[0])
    assert pruned(profile, target=1.01 * floor).report.latency.foretold <= 1.01 * floor


def test_a_target_that_the_dense_model_meets_is_refused():
    profile = devices.profile(chain(), devices.flops)
    with pytest.raises(UsageError, match=r"the dense model takes .* so nothing has to go"):
        pruned(profile, target=profile.milliseconds * 2)


@pytest.mark.parametrize("drift", [0.9, 1.0, 1.1])
def test_what_was_missed_is_made_up_for(drift):
    """A device on which cuts bring less, or more, than the profile says, as a share that does not change."""
    profile = devices.profile(chain(), devices.flops)
    analysis = analyse(load_normal(ir.from_proto(chain())))
    goal = Goal(profile, 0.5, "half", None)
    bound = goal.bound(analysis.groups, analysis.coupling, analysis.cost)
    goal = replace(goal, measure=lambda plan: (bound.foretold(plan) * drift, 0.001))
    bound = goal.bound(analysis.groups, analysis.coupling, analysis.cost)
    rows = []

    def choose(ratio):
        rows.append(ratio)
        return pruned(profile, ratio=ratio, dry_run=True, align=1).plan

    plan = bound.meet(choose)
    assert len(goal.rounds) == len(rows) <= ROUNDS
    assert bound.foretold(plan) * drift == pytest.approx(0.5, rel=0.05)


def test_a_measured_budget_prints_what_it_measured():
    pytest.importorskip("onnxruntime")
    profile = spa.profile(chain(), threads=1, seconds=1)
    result = pruned(profile, ratio=0.4)
    latency = result.report.latency
    assert latency.pruned is not None
    assert latency.rounds
    assert "by turns" in latency.sentence
    assert f"asked {latency.wanted:.3g} ms" in latency.sentence
    assert '"latency"' in result.report.to_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 5.0, "ratio": 0.3}, "target and ratio both say"),
        ({"target": 5.0, "of": "flops"}, "target counts of latency, not of flops"),
        ({"target": -1.0}, "expected milliseconds above zero"),
        ({"ratio": 0.3, "threads": 1}, "threads has no effect on a budget of params"),
        ({"ratio": 0.3, "of": "latency", "scope": "local"}, "time is shared out over the whole model"),
        ({"ratio": 0.3, "of": "latency", "threads": 0}, "expected a whole number of threads"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        PruneOptions.of(**options)


def test_threads_of_the_profile_hold():
    profile = devices.profile(chain(), devices.flops)
    with pytest.raises(UsageError, match="threads 2: the profile was made with 1"):
        pruned(profile, ratio=0.3, threads=2)


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_threads_than_one_are_refused(threads):
    for timed in (profiling.profile, profiling.layers):
        with pytest.raises(UsageError, match=f"threads {threads}: expected a whole number of threads, 1 or more"):
            timed(chain(), threads=threads)


@pytest.mark.parametrize(("text", "wanted"), [("5ms", 5.0), ("5", 5.0), ("0.005s", 5.0), ("800us", 0.8)])
def test_times_have_units(text, wanted):
    assert milliseconds(text) == pytest.approx(wanted)
    with pytest.raises(UsageError, match="expected a time such as 5ms"):
        milliseconds("fast")


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_gpus_are_timed(provider):
    runtime = pytest.importorskip("spa.runtime")
    if not runtime.available() or not runtime.works(provider):
        pytest.skip(f"{provider} does not work here")
    latency = spa.prune(chain(), of="latency", ratio=0.2, provider=provider, weights=True, verify=False).report.latency
    assert latency is not None
    assert latency.pruned is not None
    assert provider in latency.sentence


def test_a_provider_that_is_not_here_is_refused_before_any_work():
    runtime = pytest.importorskip("spa.runtime")
    if not runtime.available() or runtime.works("CUDAExecutionProvider"):
        pytest.skip("a GPU works here")
    with pytest.raises(UsageError, match="CUDAExecutionProvider does not work here; onnxruntime has"):
        spa.prune(chain(), of="latency", ratio=0.2, provider="CUDAExecutionProvider", weights=True)


def test_quantised_models_are_cut_for_time(tmp_path):
    """Stored as integers between nodes that quantise: the units are those that compute in integers."""
    quantization = pytest.importorskip("onnxruntime.quantization")

    left = [{"x": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}] * 2
    reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: left.pop() if left else None})
    quantization.quantize_static(chain(), tmp_path / "int8.onnx", reader(), per_channel=True)
    profile = spa.profile(tmp_path / "int8.onnx", threads=1, seconds=1)
    assert profile.model["precision"] == "int8"
    assert "QLinearConv" in {unit.operator for unit in profile.variants[0].units}
    for asked in ({"of": "latency", "ratio": 0.3}, {"target": 0.7 * profile.milliseconds}):
        result = spa.prune(tmp_path / "int8.onnx", profile=profile, weights=True, **asked)
        assert result.report.verified
        assert result.report.latency is not None
        assert result.report.latency.pruned is not None


def bound_to(profile, **changes):
    """A goal of half the time, with the groups of the chain."""
    analysis = analyse(load_normal(ir.from_proto(chain())))
    goal = replace(Goal(profile, 0.5, "half", None), **changes)
    return goal.bound(analysis.groups, analysis.coupling, analysis.cost)


def test_between_a_plan_too_slow_and_one_too_fast_lies_the_next():
    """A device that takes a jump near the time that is asked for: scaling alone goes from one side to the other."""
    profile = devices.profile(chain(), devices.flops)
    plain = bound_to(profile)

    def jumps(plan):
        foretold = plain.foretold(plan)
        return (foretold * (0.9 if foretold < 0.52 else 1.01), 0.001)

    bound = bound_to(profile, measure=jumps)
    asked = []

    def choose(ratio):
        asked.append(1 - ratio)
        return pruned(profile, ratio=ratio, dry_run=True, align=1).plan

    bound.meet(choose)
    (first, second, third), points = asked, [(r.foretold, r.measured) for r in bound.goal.rounds]
    assert first == pytest.approx(0.5, rel=1e-3)
    (foretold, measured) = points[0]  # and of the dense model's time, all of it is foretold
    assert second == pytest.approx(foretold + (0.5 - measured) / (1 - measured) * (1 - foretold), rel=0.02)
    assert points[0][1] < 0.5 < points[1][1]
    assert first < third < second


@pytest.mark.parametrize(
    ("dear", "slowed", "taken"),
    [
        (1.0, 1.0, True),  # 3 % slower, a tenth of the loss
        (0.15, 1.0, False),  # 3 % slower, two thirds of the loss
        (1.0, 1.03, False),  # measured, it is 6 % slower
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_a_plan_a_little_slower_is_taken_where_it_loses_far_less(dear, slowed, taken, local):
    """The last per cent of the time costs two more layers: whoever asks for half of it is served by 0.52 of it."""
    profile = devices.profile(chain(), devices.flops)
    plain = bound_to(profile)

    def measure(plan):
        return plain.foretold(plan) * (slowed if plain.foretold(plan) > 0.51 else 1.0), 0.0

    def loss(plan):
        return 0.1 if plain.foretold(plan) > 0.51 else dear

    def choose(ratio):
        return pruned(profile, ratio=min(ratio, 0.5) if ratio > 0.49 else 0.485, dry_run=True, align=1).plan

    bound = bound_to(profile, measure=measure if local else None)
    plan = bound.meet(choose, loss)
    slower = taken or (not local and slowed > 1)
    assert plain.foretold(plan) == pytest.approx(0.515 if slower else 0.5, rel=0.01)
    assert len(bound.goal.rounds) == (1 if dear < 0.2 else 2)


def test_a_coarse_step_is_named_where_it_keeps_a_plan_from_being_nearer():
    profile = devices.profile(chain(), devices.flops, device=replace(devices.BOARD, block=64))
    latency = pruned(profile, ratio=0.15).report.latency
    assert latency.foretold < 0.9 * latency.wanted
    assert "no plan is nearer: of the next slower one 32 more units of second:0 take" in latency.sentence
    assert "% less than that" in latency.sentence
    fine = pruned(profile, ratio=0.3, align=1).plan
    assert not bound_to(devices.profile(chain(), devices.flops)).coarsest(fine, 0.5)
    assert not bound_to(profile).coarsest(pruned(profile, ratio=0.15).plan, 0.1)  # slower plans were nearer


def test_times_that_vary_too_much_are_said_to():
    sure = pruned(devices.profile(chain(), devices.flops), ratio=0.5).report.latency
    measured = {"base": 100.0, "wanted": 50.0, "dense": 100.0, "pruned": 30.0, "unmeasured": "", "coarse": "steps"}
    assert "40% less than that (steps)" in replace(sure, **measured, interval=(0.299, 0.301)).sentence
    assert "less than that (other work disturbs the times" in replace(sure, **measured, interval=(0.1, 0.5)).sentence


def test_a_dry_run_says_what_is_foretold():
    """On another machine, and on this one, where models of the widths were timed while the plan was chosen."""
    latency = pruned(devices.profile(chain(), devices.flops), ratio=0.5, dry_run=True).report.latency
    assert latency.dense is latency.pruned is None
    share = latency.foretold / latency.base
    assert f"{latency.foretold:.3g} of {latency.base:.3g} ms foretold ({share:.3f} of the time)" in latency.sentence
    assert latency.sentence.endswith("not measured, since a dry run makes nothing to be timed")
    pytest.importorskip("onnxruntime")
    timed = pruned(spa.profile(chain(), threads=1, seconds=1), ratio=0.4, dry_run=True).report.latency
    assert timed.rounds[0].measured is not None
    assert "a trial of these widths took " in timed.sentence


def test_where_a_loss_is_limited_no_time_is_asked_for():
    profile = devices.profile(chain(), devices.flops)
    data = {"x": np.random.default_rng(0).standard_normal((48, 3, 32, 32), np.float32)}
    result = spa.prune(chain(), of="latency", max_loss=0.3, data=data, preset="fast", profile=profile, verify=False)
    latency, limit = result.report.latency, result.report.limit
    assert latency is not None
    assert limit is not None
    assert latency.wanted is latency.met is None
    assert "asked" not in latency.sentence
    assert latency.foretold / latency.base == pytest.approx(1 - limit.ratio, rel=0.05)
    assert limit.loss <= 0.3
