"""What onnxruntime is here: missing, broken, with CUDA or without, and how new."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from spa import runtime
from spa.errors import MissingExtra, UsageError
from spa.runtime import installed
from tests.small import WEIGHT, linear

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
Y = np.maximum(X @ WEIGHT + 1, 0)


def test_cpu_is_the_fallback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A CUDA provider that was built in says nothing about a device that works."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [runtime.CUDA, runtime.CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", _cpu_only(onnxruntime.InferenceSession))
    installed.cuda_works.cache_clear()
    try:
        session = runtime.session(linear(), optimize=True)
    finally:
        installed.cuda_works.cache_clear()
    assert session.get_providers() == [runtime.CPU]
    assert capfd.readouterr() == ("", "")


def _cpu_only(session: type[onnxruntime.InferenceSession]) -> object:
    """onnxruntime as it is where CUDA's libraries are missing: it says so on stderr and goes on with the CPU."""

    def create(source: object, *options: object, providers: list[str], **_: object) -> object:
        if runtime.CUDA in providers:
            print("[E:onnxruntime] Failed to create CUDAExecutionProvider", file=sys.stderr, flush=True)
        return session(source, *options, providers=[runtime.CPU])

    return create


@pytest.mark.parametrize(
    ("library", "there"),
    [
        ("libonnxruntime_providers_cuda.so", True),
        ("onnxruntime_providers_cuda.dll", True),
        ("libonnxruntime_providers_shared.so", False),
    ],
)
def test_whether_cuda_is_there_is_looked_up_without_loading_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, there: bool
) -> None:
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('this was loaded')")
    (folder / library).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    assert installed.has_cuda_library() is there


@pytest.mark.gpu
def test_cuda_computes_in_full_precision() -> None:
    if not installed.cuda_works():
        pytest.skip("no CUDA device that onnxruntime can use")
    session = runtime.session(linear(), optimize=True)
    assert session.get_providers()[0] == runtime.CUDA
    assert np.allclose(runtime.run(session, {"x": X})["y"], Y, rtol=1e-6)


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "NoSuchExecutionProvider"])
def test_provider_that_does_not_work_here(provider: str, capfd: pytest.CaptureFixture[str]) -> None:
    if provider == runtime.CUDA and installed.cuda_works():
        pytest.skip("CUDA works here")
    with pytest.raises(UsageError, match=f"cannot use {provider} here; it has CPUExecutionProvider"):
        runtime.session(linear(), optimize=True, providers=[provider, runtime.CPU])
    assert capfd.readouterr() == ("", "")


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'spa-onnx\[cpu\]'") as caught:
        runtime.session(linear(), optimize=False)
    assert "\n" not in str(caught.value)


def test_with_the_remains_of_two_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(MissingExtra, match=r"broken.*pip uninstall both"):
        runtime.session(linear(), optimize=False)


def test_newest_versions_are_those_that_run_and_the_next_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.require()
    ir_version, opset = runtime.newest_versions()
    runtime.session(installed._probe(ir_version, opset), optimize=False)
    assert ir_version <= onnx.IR_VERSION
    assert opset <= onnx.defs.onnx_opset_version()
    for versions in ((ir_version + 1, opset), (ir_version, opset + 1)):
        assert not installed._takes(*versions) or versions > (onnx.IR_VERSION, onnx.defs.onnx_opset_version())
    monkeypatch.setattr(installed, "_takes", lambda *versions: versions <= (9, 20) and versions[1] <= 20)
    assert installed._taken.__wrapped__(14, 28) == (9, 20)


def test_without_onnxruntime_the_newest_versions_are_those_of_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert runtime.newest_versions() == (onnx.IR_VERSION, onnx.defs.onnx_opset_version())
