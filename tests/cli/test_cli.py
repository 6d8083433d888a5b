"""Every command as a user runs it: output, exit status, files.

One file: the commands share one folder and one way to run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import spa
from spa import making, pipeline
from spa.errors import VerificationError
from spa.notation.operation import registered
from spa.passes.cut.slicing import slice_model
from spa.report import rule_rows
from tests import models
from tests.cli.conftest import Ran
from tests.models import build
from tests.small import entries

MODEL = Path(__file__).parents[2] / "models" / "fashion_resnet.onnx"


# ------------------------------------------------------------------------------------------------- commands
def test_prune(workdir: Path, run: Callable[..., Ran]) -> None:
    before = (workdir / "model.onnx").read_bytes()
    ran = run("prune", "model.onnx", "--ratio", 0.3, "--weights")
    assert (ran.code, ran.err) == (0, "")
    assert "verified: valid, same inputs and outputs; d" in ran.out
    assert "from the dense model with the removed units read as zero" in ran.out
    assert ran.out.endswith("\nwrote model.pruned.onnx\n")
    assert all(line == line.rstrip() for line in ran.out.splitlines())
    assert (workdir / "model.onnx").read_bytes() == before
    assert entries(workdir) == ["model.onnx", "model.pruned.onnx"]
    pruned = onnx.load("model.pruned.onnx")
    onnx.checker.check_model(pruned, full_check=True)
    left, whole = (sum(np.prod(t.dims) for t in m.graph.initializer) for m in (pruned, onnx.load("model.onnx")))
    assert left <= 0.7 * whole


def test_prune_as_json(workdir: Path, run: Callable[..., Ran]) -> None:
    ran = run("prune", "model.onnx", "--ratio", 0.3, "--weights", "-o", "out.onnx", "--json")
    assert (ran.code, ran.err) == (0, "")
    result = json.loads(ran.out)
    assert result["removed_share"]["params"] >= 0.3
    assert result["verified"] is True
    assert result["difference"] < 1e-5
    assert {row["name"]: (row["kind"], row["units"]) for row in result["groups"]} == {
        "c0:0": ("channels", 8),
        "c1:0": ("channels", 6),
        "c2:branch": ("depth", 1),
    }
    assert set(result["seconds"]) == {"normalise", "couple", "score", "select", "slice", "verify"}
    assert entries(workdir) == ["model.onnx", "out.onnx"]


def test_dry_run_writes_the_plan_alone(workdir: Path, run: Callable[..., Ran]) -> None:
    ran = run("prune", "model.onnx", "--ratio", 0.3, "--weights", "--dry-run", "--save-plan", "plan.json")
    assert ran.code == 0
    assert ran.out.endswith("dry run: nothing was written\n")
    assert entries(workdir) == ["model.onnx", "plan.json"]


def test_a_saved_plan_gives_the_same_bytes(workdir: Path, run: Callable[..., Ran]) -> None:
    assert run("prune", "model.onnx", "--ratio", 0.4, "--weights", "-o", "a.onnx", "--save-plan", "plan.json").code == 0
    ran = run("apply", "model.onnx", "plan.json", "-o", "b.onnx")
    assert (ran.code, ran.err) == (0, "")
    assert (workdir / "a.onnx").read_bytes() == (workdir / "b.onnx").read_bytes()
    ran = run("apply", "model.onnx", "plan.json", "--json", "--no-verify")
    assert json.loads(ran.out)["verified"] is False
    assert (workdir / "a.onnx").read_bytes() == (workdir / "model.pruned.onnx").read_bytes()


@pytest.mark.usefixtures("workdir")
def test_no_verify_says_so(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "verify_plan", None)
    ran = run("prune", "model.onnx", "--ratio", 0.3, "--weights", "--no-verify")
    assert ran.code == 0
    assert ran.out.endswith("not verified\nwrote model.pruned.onnx\n")


@pytest.mark.usefixtures("workdir")
def test_verify(run: Callable[..., Ran]) -> None:
    run("prune", "model.onnx", "--ratio", 0.4, "--weights", "--save-plan", "plan.json")
    ran = run("verify", "model.onnx", "model.pruned.onnx", "--plan", "plan.json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("verified: ")
    verdict = json.loads(run("verify", "model.onnx", "model.pruned.onnx", "--plan", "plan.json", "--json").out)
    assert verdict["verified"] is True
    model = onnx.load("model.pruned.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "w")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.5, "w"))
    onnx.save(model, "changed.onnx")
    ran = run("verify", "model.onnx", "changed.onnx", "--plan", "plan.json")
    assert (ran.code, ran.out) == (1, "")
    assert "stored tensor 'w' differs in " in ran.err
    assert "the pruned model is another one, or was changed since" in ran.err
    ran = run("verify", "model.pruned.onnx", "model.onnx", "--plan", "plan.json")
    assert ran.code == 2
    assert "the plan expects" in ran.err


def test_normalize(workdir: Path, run: Callable[..., Ran]) -> None:
    ran = run("normalize", "model.onnx")
    assert ran == (0, "wrote model.normal.onnx\n", "")
    onnx.checker.check_model("model.normal.onnx", full_check=True)
    assert run("normalize", "model.onnx", "-o", "other.onnx").code == 0
    assert entries(workdir) == ["model.normal.onnx", "model.onnx", "other.onnx"]


def test_groups(workdir: Path, run: Callable[..., Ran]) -> None:
    onnx.save(models.layer_normed(), "model.onnx")
    ran = run("groups", "model.onnx")
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["w1:1", "ffn", "12", "192"] in rows
    assert "off (--include width): enters a mean and a variance" in ran.out
    assert "graph output" in ran.out
    assert "graph input" in ran.out
    assert entries(workdir) == ["model.onnx"]
    inventory = json.loads(run("groups", "model.onnx", "--json").out)
    assert [(row["name"], row["kind"], row["off"] is None) for row in inventory["groups"]] == [
        ("w0:1", "width", False),
        ("w1:1", "ffn", True),
        ("w2:branch", "depth", False),
    ]
    assert {entry["reason"] for entry in inventory["frozen_axes"]} == {"graph input", "graph output"}


def test_groups_where_nothing_can_go(workdir: Path, run: Callable[..., Ran]) -> None:
    onnx.save(build("(float[N,4] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": [4, 2]}), "fixed.onnx")
    ran = run("groups", "fixed.onnx")
    assert ran.code == 0
    assert ran.out.startswith("no group of units can be removed\n")
    ran = run("prune", "fixed.onnx", "--ratio", 0.3, "--weights")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: nothing can be removed: ")
    assert entries(workdir) == ["fixed.onnx", "model.onnx"]


def test_rule(run: Callable[..., Ran]) -> None:
    ran = run("rule", "matmul")
    assert (ran.code, ran.err) == (0, "")
    assert "a m k, k n -> a m n | k is ffn | n is ffn | product 0 x 1" in " ".join(ran.out.split())
    everything = run("rule").out
    assert all(name in everything for _, name in registered())
    assert len(run("rule", "--markdown").out.splitlines()) == 2 + len(rule_rows())
    ran = run("rule", "Nonesuch")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: no rule for operator 'Nonesuch'")


@pytest.mark.usefixtures("workdir")
def test_options_reach_the_pipeline(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def stop(source: Path, **options: object) -> None:
        seen.update(options, source=source)
        raise VerificationError("stop")

    monkeypatch.setattr(pipeline, "prune", stop)
    given = {
        "of": "flops", "criterion": "l1", "gather": "max", "roles": "producers", "normalise": "sum", "scope": "local",
        "align": 8, "min_keep": 0.25,
    }  # fmt: skip
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", value)]
    several = ["--include", "width", "--exclude", "a*", "--exclude", "b", "--only", "c", "--input", "x=2,3,8,8"]
    assert run("prune", "model.onnx", "--ratio", 0.3, "--weights", *flags, *several, "--no-verify").code == 1
    expected = {
        **given, "ratio": 0.3, "source": Path("model.onnx"), "include": ["width"], "exclude": ["a*", "b"],
        "only": ["c"], "inputs": {"x": [2, 3, 8, 8]}, "verify": False,
    }  # fmt: skip
    assert {name: seen.get(name) for name in expected} == expected


CRITERION = """
import numpy as np

def last_first(groups, context):
    return [np.arange(group.size)[::-1] for group in groups]

number = 3
"""


def test_a_criterion_of_ones_own(workdir: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "my_criterion.py").write_text(CRITERION)
    monkeypatch.syspath_prepend(str(workdir))
    ran = run("prune", "model.onnx", "--ratio", 0.3, "--criterion", "my_criterion:last_first", "--json")
    result = json.loads(ran.out)
    assert result["options"]["criterion"] == "last_first"
    sizes = {row["name"]: row["units"] for row in result["groups"]}
    assert all(gone == list(range(sizes[name]))[-len(gone) :] for name, gone in result["removed"].items())
    for name, message in (("number", "expected a function"), ("none", "has no attribute 'none'")):
        ran = run("prune", "model.onnx", "--ratio", 0.3, "--criterion", f"my_criterion:{name}")
        assert (ran.code, message in ran.err) == (2, True)


@pytest.mark.usefixtures("workdir")
def test_a_shape_for_an_input_scales_flops(run: Callable[..., Ran]) -> None:
    flops = []
    for shape in ("x=1,3,8,8", "x=4,3,8,8"):
        ran = run("prune", "model.onnx", "--ratio", 0.3, "--weights", "--dry-run", "--json", "--input", shape)
        flops.append(json.loads(ran.out)["before"]["flops"])
    assert flops[1] == 4 * flops[0]
    assert run("prune", "model.onnx", "--ratio", 0.3, "--weights", "--input", "x=4,3,8,8").code == 0
    assert onnx.load("model.pruned.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize("command", ["prune", "normalize", "groups", "apply", "verify", "rule"])
def test_help(run: Callable[..., Ran], command: str) -> None:
    ran = run(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"Usage: spa {command} " in ran.out
    assert command in run("--help").out
    for shown in (ran.out, run("--help").out):  # a switch takes no value
        assert "--help" in shown
        assert "<bool>" not in shown


def test_version(run: Callable[..., Ran]) -> None:
    assert run("--version") == (0, f"{spa.__version__}\n", "")


# -------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        *(
            (["--ratio", ratio], 2, f"error: ratio {ratio}: expected a share between 0 and 1, both excluded")
            for ratio in ("0", "1", "-1", "nan", "inf")
        ),
        (["--ratio", "much"], 2, "error: --ratio 'much': expected a share such as 0.3 or 30%"),
        (["--ratio", "30"], 2, "did you mean 0.3 or, on the command line, 30%?"),
        ([], 2, "nothing says how much is to go"),
        (["--ratio", "0.3", "--of", "weights"], 2, "expected one of params, flops, bytes, latency, channels"),
        (["--ratio", "0.3", "--criterion", "l3"], 2, "expected one of l1, l2, fpgm"),
        (["--ratio", "0.3", "--gather", "x"], 2, "expected one of sum, mean"),
        (["--ratio", "0.3", "--scope", "x"], 2, "expected one of global, local"),
        (["--ratio", "0.3", "--align", "0"], 2, "align 0: expected a whole number"),
        (["--ratio", "0.3", "--min-keep", "2"], 2, "min_keep 2: expected a share"),
        (["--ratio", "0.3", "--exclude", "c0:9"], 2, "close to it: c0:0"),
        (["--ratio", "0.3", "--only", "nothing"], 2, "matches no group, tensor or node"),
        (["--ratio", "0.3", "--input", "x"], 2, "expected NAME=SIZES"),
        (["--ratio", "0.3", "--input", "x=0,3,8,8"], 2, "expected NAME=SIZES"),
        (["--ratio", "0.3", "--input", "z=1,3,8,8"], 2, "no input is named 'z'"),
        (["--ratio", "0.3", "--input", "x=1,5,8,8"], 2, "'x'"),
        (["--ratio", "0.3", "-o", "missing/out.onnx"], 2, "there is no folder"),
        (["--ratio", "0.3", "-o", "."], 2, "it is a folder"),
        (["--ratio", "0.3", "-o", "model.onnx"], 2, "choose another name"),
        (["--ratio", "0.3", "--save-plan", "model.onnx"], 2, "choose another name"),
        (["--ratio", "0.3", "-o", "x", "--save-plan", "x"], 2, "choose another name"),
        (["--ratio", "0.3", "--save-plan", "missing/plan.json"], 2, "there is no folder"),
        (["--ratio", "0.99"], 1, "cannot be met: at most "),
        (["--ratio", "0.3", "--exclude", "*"], 1, "nothing can be removed"),
        (["--ratio", "0.3", "--align", "8"], 1, "align=8"),
        (["--ratio", "0.001", "--of", "channels"], 1, "the smallest ratio at which something does is "),
    ],
)
def test_refused_options(workdir: Path, run: Callable[..., Ran], options: list[str], code: int, message: str) -> None:
    before = (workdir / "model.onnx").read_bytes()
    ran = run("prune", "model.onnx", *options)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    if ran.err.startswith("error: "):
        assert ran.err.count("\n") == 1
    assert entries(workdir) == ["model.onnx"]
    assert (workdir / "model.onnx").read_bytes() == before


def wrong_size() -> onnx.ModelProto:
    model = build("(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w)  y = Relu(a) }", {"w": [4, 4]})
    model.graph.initializer[0].dims[0] = 5
    return model


def cyclic() -> onnx.ModelProto:
    return build("(float[2] x) => (float[2] y) { a = Add(x, b)  b = Relu(a)  y = Neg(b) }", {})


def external(location: str) -> onnx.ModelProto:
    model = models.residual_cnn()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "truncated": (lambda: models.residual_cnn().SerializeToString()[:-400], "truncated or damaged"),
    "cut in half": (lambda: MODEL.read_bytes()[: MODEL.stat().st_size // 2], "truncated or damaged"),
    "text": (lambda: b"hello, world\n", "text, not an ONNX model: it starts with 'hello, world"),
    "missing external data": (lambda: external("gone.bin").SerializeToString(), "'gone.bin' is missing in"),
    "external data above": (lambda: external("../up.bin").SerializeToString(), "climbs out of the model's folder"),
    "external data elsewhere": (lambda: external("/etc/hosts").SerializeToString(), "relative to the model"),
    "cycle": (lambda: cyclic().SerializeToString(), "the graph has a cycle"),
    "wrong tensor size": (lambda: wrong_size().SerializeToString(), "takes 80 bytes, found 64"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["prune", "normalize", "groups", "apply", "verify"])
def test_bad_models(workdir: Path, run: Callable[..., Ran], case: str, command: str) -> None:
    content, message = BAD[case]
    (workdir / "bad.onnx").write_bytes(content())
    (workdir / "plan.json").write_text(spa.Plan({}, {}).to_json())
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    rest: dict[str, list[object]] = {
        "prune": ["--ratio", 0.3, "--weights"],
        "apply": ["plan.json"],
        "verify": ["model.onnx", "--plan", "plan.json"],
    }
    ran = run(command, "bad.onnx", *rest.get(command, []))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: 'bad.onnx'")
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before


@pytest.mark.parametrize("path", ["gone.onnx", "."])
def test_unreadable_models(workdir: Path, run: Callable[..., Ran], path: str) -> None:
    ran = run("prune", path, "--ratio", 0.3, "--weights")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("error: ")
    assert entries(workdir) == ["model.onnx"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no plan of format"),
        ("[]", "no plan of format"),
        ('{"format": "other", "groups": []}', "expected a plan of format 'spa-plan-1', found 'other'"),
        ('{"format": "spa-plan-1", "groups": [{"group": "q:0", "size": 4, "removed": [1]}]}', "no group of this model"),
        ('{"format": "spa-plan-1", "groups": [{"group": "c1:0", "size": 4, "removed": [1]}]}', "this model has 6"),
        (
            '{"format": "spa-plan-1", "groups": [{"group": "c1:0", "size": 6, "removed": [6]}]}',
            "removes unit 6 of 'c1:0'",
        ),
        ('{"format": "spa-plan-1", "groups": [{"group": "c1:0", "size": 6, "removed": [-1]}]}', "units are 0 to 5"),
        ('{"format": "spa-plan-1", "groups": [{"group": "c1:0", "size": 6, "removed": [0,1,2,3,4,5]}]}', "all 6 units"),
    ],
)
def test_bad_plans(workdir: Path, run: Callable[..., Ran], text: str, message: str) -> None:
    (workdir / "plan.json").write_text(text)
    ran = run("apply", "model.onnx", "plan.json")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err
    assert entries(workdir) == ["model.onnx", "plan.json"]
    assert run("apply", "model.onnx", "gone.json").code == 2
    ran = run("apply", "model.onnx", "plan.json", "-o", "plan.json")
    assert (ran.code, (workdir / "plan.json").read_text()) == (2, text)


def test_a_failed_verification_writes_nothing(
    workdir: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slicing is made to remove the wrong unit of one group."""

    def wrong(model, coupling, shapes, masks):
        turned = {leaf: np.roll(mask, 1) if leaf.size == 6 else mask for leaf, mask in masks.items()}
        slice_model(model, coupling, shapes, turned)

    monkeypatch.setattr("spa.steps.slice_model", wrong)
    ran = run("prune", "model.onnx", "--ratio", 0.4, "--align", 1, "--weights", "--save-plan", "plan.json")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "at fault: 'c1:0';" in ran.err
    assert entries(workdir) == ["model.onnx"]


def test_external_weights_are_not_written_over(workdir: Path, run: Callable[..., Ran]) -> None:
    onnx.save(models.residual_cnn(), "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    for option in ("-o", "--save-plan"):
        ran = run("prune", "model.onnx", "--ratio", 0.3, "--weights", option, "weights.bin")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: cannot write 'weights.bin': the model was read from it")
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before
    assert run("prune", "model.onnx", "--ratio", 0.3, "--weights", "--save-plan", "plan.json").code == 0
    assert entries(workdir) == ["model.onnx", "model.pruned.onnx", "model.pruned.onnx.data", "plan.json", "weights.bin"]


def test_interrupted(workdir: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "cut", interrupt)
    ran = run("prune", "model.onnx", "--ratio", 0.3, "--weights")
    assert ran.code == 130
    assert ran.out == ""
    assert entries(workdir) == ["model.onnx"]


# ------------------------------------------------------------------------------------------ as a process
WITHOUT_ONNXRUNTIME = "import sys; sys.modules['onnxruntime'] = None; from spa.cli import main; main(sys.argv[1:])"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["prune", "model.onnx", "--ratio", "0.3", "--weights"], 2),
        (["prune", "model.onnx", "--ratio", "0.3", "--weights", "--no-verify"], 0),
        (["prune", "model.onnx", "--ratio", "0.3", "--no-verify"], 0),
    ],
)
def test_without_onnxruntime(workdir: Path, arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_ONNXRUNTIME, *arguments], capture_output=True, text=True)
    assert done.returncode == code
    if code:
        assert done.stderr == (
            "error: onnxruntime is not installed: pip install 'spa-onnx[cpu]', or 'spa-onnx[gpu]' for an NVIDIA GPU\n"
        )
        assert done.stdout == ""
    assert (workdir / "model.pruned.onnx").exists() is not bool(code)


def test_a_reader_that_stops_early(workdir: Path) -> None:
    """`spa rule | head -1`: no complaint about a closed pipe."""
    command = f"'{sys.executable}' -m spa rule --markdown | head -c 20"
    done = subprocess.run(["bash", "-c", command], cwd=workdir, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert done.stdout == "| family | operators"
