"""Models that are meant to hurt, through the whole pruner: handled, or refused in a line, in bounded memory and time.

What makes a file unreadable is in test_check; what happens to files while they are written, in test_faults.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

from spa import pipeline
from spa.frontends.files.onnx_file import load
from tests.models import build, integers

needs_runtime = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime")

ROOT = Path(__file__).resolve().parent.parent
MEMORY = 3 << 30  # bytes of address space for what runs on its own; onnxruntime alone maps most of one
HUGE = 1 << 31


def two_layers(rows: str = "N") -> onnx.ModelProto:
    return build(
        f"(float[{rows},4] x) => (float[{rows},3] y) {{ a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }}",
        {"w": [4, 8], "v": [8, 3]},
    )


def chain(length: int) -> onnx.ModelProto:
    """As many nodes in a row, between two layers."""
    model = two_layers()
    (relu,) = (node for node in model.graph.node if node.op_type == "Relu")
    model.graph.node.remove(relu)
    last = model.graph.node.pop()
    names = ["a", *(f"h{k}" for k in range(length - 1)), "r"]
    model.graph.node.extend(onnx.helper.make_node("Relu", [source], [target]) for source, target in pairwise(names))
    model.graph.node.append(last)
    return model


def branches(depth: int) -> onnx.ModelProto:
    """A layer behind as many Ifs, one in the other; each reads what lies outside."""
    body = "h0 = MatMul(r, v)"
    for level in range(1, depth + 1):
        inner = f"then_branch = t{level} () => (float[N,3] h{level - 1}) {{ {body} }}"
        other = f"else_branch = e{level} () => (float[N,3] z{level}) {{ z{level} = MatMul(r, u) }}"
        body = f"h{level} = If (flag) <{inner}, {other}>"
    return build(
        f"(float[N,4] x, bool flag) => (float[N,3] y) {{ a = MatMul(x, w)  r = Relu(a)  {body}  y = Abs(h{depth}) }}",
        {"w": [4, 8], "v": [8, 3], "u": [8, 3]},
    )


@needs_runtime
def test_long_chain() -> None:
    result = pipeline.prune(chain(2000), ratio=0.5, of="channels", weights=True)
    assert len(result.model.graph) == 2002
    assert result.report.exact


@needs_runtime
def test_deep_branches() -> None:
    """Nested as deep as is accepted, and all of them take part."""
    result = pipeline.prune(branches(12), ratio=0.5, of="channels", weights=True)
    assert result.report.difference is not None
    assert result.report.difference < 1e-5
    assert result.model.graph.initializers["u"].shape == [4, 3]


def test_axis_of_two_to_the_31() -> None:
    """An activation that no memory holds is never made; checks that need it are refused in a line."""
    result = pipeline.prune(two_layers(str(HUGE)), ratio=0.5, of="channels", verify=False, weights=True)
    assert result.model.graph.initializers["w"].shape == [4, 4]
    assert str(result.model.graph.inputs[0].shape) == f"[{HUGE},4]"


@needs_runtime
def test_axis_of_two_to_the_31_is_not_run() -> None:
    report = pipeline.prune(two_layers(str(HUGE)), ratio=0.5, of="channels", weights=True).report
    assert report.status == "not compared"
    assert report.missing == ["input 'x' would have 8.6e+09 elements; the limit is 2^31"]


def test_huge_constant_is_not_made(tmp_path: Path) -> None:
    """Folding does not unpack a constant that the file keeps as a number and a shape."""
    model = build(
        """(float[N,4] x) => (float[N,3] y) { a = MatMul(x, w)  e = ConstantOfShape(s)  z = ReduceMax<keepdims=0>(e)
        b = Add(a, z)  y = MatMul(b, v) }""",
        {"w": [4, 8], "v": [8, 3], "s": integers(HUGE, HUGE)},
    )
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from spa import pipeline
result = pipeline.prune(sys.argv[1], ratio=0.5, of="channels", verify=False, weights=True)
print(list(result.model.graph.initializers["w"].shape))
"""
    onnx.save(model, tmp_path / "model.onnx")
    assert run(code, tmp_path / "model.onnx") == "[4, 4]"


def test_memory_of_a_large_file(tmp_path: Path) -> None:
    """External data of a quarter GB, under a limit that leaves no room for a copy of it."""
    model = build(
        "(float[N,4096] x) => (float[N,4096] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }",
        {"w": np.broadcast_to(np.float32(1), (1, 1)), "v": np.broadcast_to(np.float32(1), (1, 1))},
    )
    for tensor, name in zip(model.graph.initializer, "wv", strict=True):
        tensor.ClearField("raw_data")
        tensor.dims[:] = [4096, 8192] if name == "w" else [8192, 4096]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{name}.bin")
        with (tmp_path / f"{name}.bin").open("wb") as file:
            file.truncate(4 * 4096 * 8192)  # zeros that take no disk
    onnx.save(model, tmp_path / "model.onnx")
    code = """
import resource, sys
from spa import pipeline
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = pipeline.prune(sys.argv[1] + "/model.onnx", ratio=0.5, of="channels", criterion="random", verify=False)
result.save(sys.argv[1] + "/small.onnx")
anonymous = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
print(int(anonymous[0].split()[1]) < 300_000)
"""
    assert run(code, tmp_path) == "True"
    assert load(tmp_path / "small.onnx").graph.initializers["w"].shape == [4096, 4096]


def run(code: str, path: Path) -> str:
    """What a process of its own, with a limit on its memory, says last."""
    done = subprocess.run([sys.executable, "-c", code, str(path), str(MEMORY)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_runtime
@pytest.mark.parametrize("name", ["line\nbreak", "quote'\"", "[bold red]", "\x1b[31m", "ключ", " "])
def test_names(name: str, tmp_path: Path) -> None:
    """Any text is a name: the plan finds its groups again, and the report shows it as it is."""
    model = two_layers()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = name
    for node in model.graph.node:
        node.name = name + node.op_type
    result = pipeline.prune(model, ratio=0.5, of="channels", weights=True)
    again = pipeline.apply_plan(model, type(result.plan).from_json(result.plan.to_json()))
    assert again.plan == result.plan
    result.save(tmp_path / "small.onnx")
    assert load(tmp_path / "small.onnx").graph.initializers[name].shape == [4, 4]


@needs_runtime
def test_equal_node_names() -> None:
    """Names of nodes need not be unique."""
    model = two_layers()
    for node in model.graph.node:
        node.name = "node"
    assert pipeline.prune(model, ratio=0.5, of="channels", weights=True).report.exact


def test_two_runs_on_one_target(tmp_path: Path) -> None:
    """Both end well, and the target is what one of them wrote, whole; nothing else is left behind."""
    onnx.save(two_layers(), tmp_path / "model.onnx")
    command = [sys.executable, "-m", "spa", "prune", "model.onnx", "--weights", "--of", "channels", "--no-verify"]
    runs = [
        subprocess.Popen(
            [*command, "--ratio", ratio, "-o", "small.onnx"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for ratio in ("0.25", "0.5", "0.75")
    ]
    for each in runs:
        _, error = each.communicate()
        assert each.returncode == 0, error
    weight = load(tmp_path / "small.onnx").graph.initializers["w"].const_value
    assert weight is not None
    assert tuple(weight.numpy().shape) in {(4, 6), (4, 4), (4, 2)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "small.onnx"]
