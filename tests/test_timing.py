from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import spa
from spa.cli import main
from spa.errors import UsageError
from spa.timing import Comparison, _compared, _exponent, bench

RESNET = Path(__file__).parents[1] / "models" / "fashion_resnet.onnx"


def chain(layers: int, width: int = 256) -> onnx.ModelProto:
    steps = " ".join(f"x{k + 1} = MatMul(x{k}, w)" for k in range(layers))
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g (float[n, {width}] x0) => (float[n, {width}] y)'
        f" {{ {steps} y = Relu(x{layers}) }}"
    )
    weight = np.eye(width, dtype=np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


def test_two_models_are_compared_round_by_round() -> None:
    report = bench([chain(40), chain(4)], inputs={"x0": [64, 256]}, seconds=0.3, threads=1)
    assert [row.name for row in report.rows] == ["model 1", "model 2"]
    assert report.rounds >= 10
    assert report.inputs["model 1"] == {"x0": (64, 256)}
    dense, small = report.rows
    assert dense.low <= dense.milliseconds <= dense.high
    assert dense.flops == 10 * (small.flops or 0) == 2 * 64 * 256 * 256 * 40
    assert dense.load_seconds > 0
    assert dense.peak_nbytes > 0
    assert report.comparison is not None
    low, high = report.comparison.interval
    assert low <= report.comparison.ratio <= high


def test_a_ratio_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    dense = rng.uniform(0.9, 1.1, 200)
    rows = [*bench([chain(1)], seconds=0.0).rows] * 2
    comparison = _compared(rows, np.stack([dense, 0.5 * dense * rng.uniform(0.98, 1.02, 200)], 1))
    assert comparison.ratio == pytest.approx(0.5, abs=0.01)
    assert comparison.interval[1] - comparison.interval[0] < 0.01
    assert comparison.verdict == "faster"
    assert comparison.exponent is None  # of one model twice


@pytest.mark.parametrize(
    ("interval", "verdict"), [((0.4, 0.99), "faster"), ((0.9, 1.2), "no difference"), ((1.01, 1.2), "slower")]
)
def test_faster_is_said_where_the_interval_says_it(interval: tuple[float, float], verdict: str) -> None:
    assert Comparison(1.0, interval, None).verdict == verdict


@pytest.mark.parametrize(("ratio", "flops", "exponent"), [(0.5, 0.5, 1.0), (0.25, 0.5, 2.0), (1.0, 0.5, 0.0)])
def test_exponent(ratio: float, flops: float, exponent: float) -> None:
    assert _exponent(ratio, 1.0, flops) == pytest.approx(exponent)
    assert _exponent(ratio, None, flops) is None


def test_open_axes_take_the_sizes_that_flops_are_counted_at() -> None:
    report = bench([RESNET], seconds=0.0)
    (shape,) = report.inputs[str(RESNET)].values()
    assert shape[0] == 1
    assert report.comparison is None


def test_nothing_to_time() -> None:
    with pytest.raises(UsageError, match="expected one model"):
        bench([])
    with pytest.raises(UsageError, match="one for each of 2 models, found 1"):
        bench([RESNET, RESNET], names=["dense"])


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    spa.prune(RESNET, ratio=0.5, of="flops", criterion="l2").save(small)
    with pytest.raises(SystemExit, match="0"):
        main(["bench", str(RESNET), str(small), "--seconds", "0.2", "--threads", "1"])
    printed = capsys.readouterr().out
    assert "fashion_resnet.onnx" in printed
    assert "of the time of" in printed
    assert "1 thread" in printed
    with pytest.raises(SystemExit, match="0"):
        main(["bench", str(RESNET), "--seconds", "0.1", "--json"])
    timing = json.loads(capsys.readouterr().out)
    assert (timing["kind"], timing["rows"][0]["milliseconds"] > 0) == ("timing", True)


def test_the_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", str(RESNET), "--provider", "NoSuchProvider"])
    assert stopped.value.code == 2
    assert "NoSuchProvider" in capsys.readouterr().err
