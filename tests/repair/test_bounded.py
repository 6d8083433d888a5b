"""A repair in little memory, or one that was stopped and goes on, gives what one in one go does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from models.decoder import Decoder
from models.decoder import build as build_decoder
from spa.errors import UsageError
from spa.options import nbytes_of
from spa.passes.choose.budget import Budget
from spa.passes.repair import journal as module
from spa.passes.repair import memory
from spa.passes.repair.compensate import Compensation, compensated
from spa.passes.repair.dense import Gathering, fitting, in_turn, moments_of
from spa.passes.repair.groundwork import Groundwork
from spa.passes.repair.journal import Journal, clear, key_of
from spa.passes.repair.memory import LEAST, Memory
from spa.passes.repair.network import prepare
from spa.passes.repair.session import Session
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.checking import check_samples
from spa.pipeline import load_normal
from spa.presets import PRESETS
from tests.models import build

LITTLE = 1 << 18
"""Bytes: the weights of each layer have a session of their own, and values and moments lie in files."""

CONVOLUTIONS = """(float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, u)  b = BatchNormalization(a, s, t, m, v)  r = Relu(b)
    c = Conv<pads=[1,1,1,1]>(r, w)  k = Add(c, a)  d = Relu(k)  g = GlobalAveragePool(d)  f = Flatten(g)
    y = Gemm<transB=1>(f, z) }"""
SIZES = Decoder(layers=2, width=32, heads=4, kv_heads=2, ffn=48, vocabulary=40, length=12)


def convolutions() -> tuple[ir.Model, Calibration]:
    weights: dict[str, Any] = {"u": [12, 3, 3, 3], "w": [12, 12, 3, 3], "z": [4, 12]}
    vectors = {"s": np.ones(12, np.float32), "t": np.full(12, 0.3, np.float32), "m": np.zeros(12, np.float32)}
    model = load_normal(build(CONVOLUTIONS, weights | vectors | {"v": np.ones(12, np.float32)}))
    samples = np.random.default_rng(3).standard_normal((48, 3, 8, 8)).astype(np.float32)
    return model, check_samples({"x": samples}, model)


def decoder(folder: Path, dtype: str = "float32") -> tuple[ir.Model, Calibration]:
    model = load_normal(build_decoder(SIZES, folder, dtype=dtype))
    tokens = np.random.default_rng(3).integers(0, SIZES.vocabulary, (24, SIZES.length))
    return model, check_samples({"input_ids": tokens}, model)


@pytest.fixture(params=["convolutions", "float32", "bfloat16"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ir.Model, Calibration]:
    return convolutions() if request.param == "convolutions" else decoder(tmp_path, request.param)


def repaired(
    model: ir.Model, data: Calibration, *, memory: int | None = None, journal: Journal | None = None
) -> Compensation:
    budget = Budget(ratio=0.3)
    return compensated(Groundwork.of(model, data, budget, memory=memory, journal=journal), budget)


def weights(result: Compensation) -> dict[str, np.ndarray]:
    stored = result.model.graph.initializers.items()
    return {name: value.const_value.numpy() for name, value in stored if value.const_value is not None}


def same(left: Compensation, right: Compensation, *, within: float = 0.0) -> None:
    assert left.plan.removed == right.plan.removed
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=within * float(np.abs(array).max(initial=0.0)))


def test_little_memory_gives_the_same_plan_and_weights(network: tuple[ir.Model, Calibration]) -> None:
    whole, little = repaired(*network), repaired(*network, memory=LITTLE // 4)
    assert any(whole.plan.removed.values())
    same(whole, little, within=1e-5)
    for name, off in whole.difference.items():
        assert little.difference[name] == pytest.approx(off, rel=1e-3)


def test_moments_are_gathered_stage_by_stage_and_let_go_of(tmp_path: Path) -> None:
    model, data = decoder(tmp_path)
    session = Session.of(prepare(model), data, PRESETS["default"], memory=Memory(LITTLE))
    groups = [group for group in session.network.groups if group.off is None and session.network.readers[group.name]]
    items = [[session.problem(r.layer) for r in session.network.readers[group.name]] for group in groups]
    assert len(items) >= 2 * SIZES.layers
    gathering = Gathering(session, [*items, []], session.split)
    most, seen = 0, []
    for numbers, statistics in gathering.run():
        seen += numbers
        most = max(most, len(gathering.waiting))
        for number in numbers:
            for problem in [*items, []][number]:
                assert statistics[problem.key].seen
    assert sorted(seen) == list(range(len(items) + 1))
    assert most < len({problem.key for problems in items for problem in problems})


def test_an_item_whose_readers_lie_apart_waits_for_the_last_of_them(tmp_path: Path) -> None:
    model, data = decoder(tmp_path)
    session = Session.of(prepare(model), data, PRESETS["default"], memory=Memory(LITTLE))
    problems = [session.problem(layer) for layer in session.network.layers]
    apart = [problems[0], problems[-1]]
    turns = list(in_turn(session, [apart, [problems[3]]]))
    assert [numbers for numbers, _ in turns] == [[1], [0]]
    expected = Session.of(prepare(model), data, PRESETS["default"])
    others = [expected.problem(layer) for layer in expected.network.layers]
    whole = expected.dense_statistics([others[0], others[-1]])
    for problem, other in zip(apart, (others[0], others[-1]), strict=True):
        left, right = turns[1][1][problem.key], whole[other.key]
        np.testing.assert_allclose(left.fitted[0].gram, right.fitted[0].gram, rtol=1e-4, atol=1e-5)


def test_items_go_together_as_far_as_their_moments_fit(tmp_path: Path) -> None:
    model, data = decoder(tmp_path)
    session = Session.of(prepare(model), data, PRESETS["default"])
    problems = [[session.problem(layer)] for layer in session.network.layers]
    assert list(fitting(problems, 1 << 40)) == [list(range(len(problems)))]
    assert [number for part in fitting(problems, 0) for number in part] == list(range(len(problems)))
    size = moments_of(problems[0][0])
    assert list(fitting([problems[0], [], problems[0], problems[-1]], size)) == [[0, 1, 2], [3]]


class Stopped(Exception):
    pass


def stopping_after(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a repair stop behind so many states, and write one at every point where it could."""
    monkeypatch.setattr(module, "EVERY", 0.0)
    save, left = Journal.save, [saves]

    def and_stop(self: Journal) -> None:
        save(self)
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    monkeypatch.setattr(Journal, "save", and_stop)


@pytest.mark.parametrize("after", [1, 5, 9, 14])
def test_what_was_stopped_goes_on_to_the_same_bytes(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = decoder(tmp_path / "model", "float16")
    expected = repaired(model, data, memory=LITTLE)
    said: list[str] = []

    def journal() -> Journal:
        return Journal(tmp_path / "unfinished", lambda: key_of(model, data, "asked"), said.append)

    with monkeypatch.context() as patched:
        stopping_after(after, patched)
        with pytest.raises(Stopped):
            repaired(model, data, memory=LITTLE, journal=journal())
    assert not said
    actual = repaired(
        model, data, memory=1 << 34, journal=journal()
    )  # the limit is that of the run that it goes on from
    assert [line.partition(" from ")[0] for line in said] == ["going on"]
    same(expected, actual)
    assert [report.name for report in actual.layers] == [report.name for report in expected.layers]
    assert actual.difference == expected.difference
    assert actual.notes == expected.notes
    clear(tmp_path / "unfinished")
    assert not (tmp_path / "unfinished").exists()


def test_a_state_of_another_run_is_told_of_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = decoder(tmp_path / "model")
    with monkeypatch.context() as patched:
        stopping_after(3, patched)
        with pytest.raises(Stopped):
            repaired(model, data, memory=LITTLE, journal=Journal(tmp_path / "state", lambda: "a", print))
    said: list[str] = []
    other = Journal(tmp_path / "state", lambda: "b", said.append)
    assert ["another run" in line for line in said] == [True]
    assert not other.state
    assert not (tmp_path / "state").exists()


def test_a_damaged_state_is_one_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"no state at all")
    said: list[str] = []
    Journal(tmp_path, lambda: "a", said.append)
    assert ["another run" in line for line in said] == [True]


def test_keys_tell_models_samples_and_what_was_asked_for(tmp_path: Path) -> None:
    model, data = decoder(tmp_path)
    other = model.clone()
    name, value = next((n, v) for n, v in other.graph.initializers.items() if n.endswith(".gate.weight"))
    assert value.const_value is not None
    changed = np.array(value.const_value.numpy())
    changed[0, 0] += 1
    value.const_value = ir.Tensor(changed, name=name)
    moved = replace(data, samples={name: array[::-1] for name, array in data.samples.items()})
    keys = [key_of(model, data, 1), key_of(other, data, 1), key_of(model, moved, 1), key_of(model, data, 2)]
    assert len(set(keys)) == 4
    assert key_of(model.clone(), data, 1) == keys[0]


def test_clearing_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "groundwork" / "arrays").mkdir(parents=True)
    (tmp_path / "groundwork" / "state").write_bytes(b"")
    (tmp_path / "mine.txt").write_text("mine")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


KILLED = """
import os, signal, sys
from spa.passes.repair import journal
journal.EVERY = 0.0
save, left = journal.Journal.save, [int(sys.argv[1])]
def and_die(self):
    save(self)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.save = and_die
from spa.cli import main
main(sys.argv[2:])
"""


def test_a_killed_command_goes_on_to_the_same_file(tmp_path: Path) -> None:
    path = build_decoder(SIZES, tmp_path / "model", dtype="float16")
    tokens = np.random.default_rng(3).integers(0, SIZES.vocabulary, (24, SIZES.length))
    np.savez(tmp_path / "samples.npz", input_ids=tokens)
    words = ["prune", str(path), "--ratio", "0.3", "--data", str(tmp_path / "samples.npz"), "--memory", "64MB"]
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
    target, other = tmp_path / "first" / "small.onnx", tmp_path / "second" / "small.onnx"
    spa = [sys.executable, "-m", "spa"]
    subprocess.run([*spa, *words, "-o", str(target)], check=True, capture_output=True)
    killed = subprocess.run([sys.executable, "-c", KILLED, "2", *words, "-o", str(other)], capture_output=True)
    assert killed.returncode < 0
    assert [file.name for file in other.parent.iterdir()] == ["small.onnx.unfinished"]
    again = subprocess.run([*spa, *words, "-o", str(other)], check=True, capture_output=True, text=True)
    assert "going on from" in again.stderr
    names = sorted(file.name for file in target.parent.iterdir())
    assert sorted(file.name for file in other.parent.iterdir()) == names
    for name in names:
        assert (target.parent / name).read_bytes() == (other.parent / name).read_bytes()


@pytest.mark.parametrize(("text", "size"), [("6GB", 6 * 10**9), ("500mb", 5 * 10**8), ("1.5G", 15 * 10**8), ("70", 70)])
def test_sizes(text: str, size: int) -> None:
    assert nbytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "six", "6 pounds"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="6GB"):
        nbytes_of(text)


def test_the_limit_is_half_of_what_is_free_and_never_very_little(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, limit in ((100 << 30, 50 << 30), (1 << 20, LEAST)):
        monkeypatch.setattr(memory, "free_nbytes", lambda free=free: free)
        assert Memory.of().nbytes == limit
    assert Memory.of(5).nbytes == 5


def test_free_memory_is_what_the_control_group_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.free_nbytes() > 0
    monkeypatch.setattr(memory, "_control_group", lambda: [123])
    assert memory.free_nbytes() == 123
