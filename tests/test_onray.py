"""Work on a Ray cluster: on workers of this machine, on two nodes, and where something is lost or missing."""

from __future__ import annotations

import gc
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import spa
from spa import installed, onray
from spa.errors import ClusterError, DataError, MissingExtra, UsageError
from spa.executing import executing
from spa.executor import Threads
from spa.options import PruneOptions
from tests.nodes import ROOT, end, free_port

PAGE = ROOT / "docs" / "howto" / "cluster.md"
MEMORY = 300 << 20
SAMPLES = np.random.default_rng(0).standard_normal((96, 1, 28, 28)).astype(np.float32)

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Two workers, in little memory."""
    module = pytest.importorskip("ray")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ |= {"RAY_worker_niceness": "0"}  # other tests run meanwhile
    onray._ray()
    module.init(
        "local", num_cpus=2, object_store_memory=MEMORY, _memory=1 << 31, include_dashboard=False, logging_level="ERROR"
    )
    yield module
    module.shutdown()
    with warnings.catch_warnings(action="ignore"):  # its processes have been told to end, and nobody waits for them
        gc.collect()


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(1000).astype(np.float32)


def killed_once(marker: Path, number: int) -> int:
    """Ends its own worker when it is first called."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refused(number: int) -> None:
    raise DataError(f"sample {number} holds no numbers")


def too_large(_: int) -> None:
    raise MemoryError("Unable to allocate 70 GiB")


def printed(number: int) -> int:
    print(f"a word from a worker about {number}")
    return number


def twice(number: int, shared: Any) -> float:
    return number * float(shared.get().sum())


def test_work_on_workers(ray: Any, tmp_path: Path) -> None:
    with executing("ray") as executor:
        assert executor.remote
        done: list[int] = []
        assert executor.map(partial(operator.mul, 3), range(9), told=done.append) == [3 * n for n in range(9)]
        assert done == list(range(1, 10))
        total = executor.reduce(draw, range(9), np.add)
        assert total.tobytes() == Threads().reduce(draw, range(9), np.add).tobytes()
        held = executor.share(np.ones(1000))
        assert executor.map(partial(twice, shared=held), [1, 2]) == [1000, 2000]
        assert executor.map(partial(killed_once, tmp_path / "marker"), range(4)) == [0, 1, 2, 3]
        assert (tmp_path / "marker").exists()
        with pytest.raises(DataError, match=r"^sample 1 holds no numbers$"):
            executor.map(refused, [1])
        with pytest.raises(ClusterError, match=r"^the moments, which needs about 0\.5 GB, did not fit .* 70 GiB; give"):
            executor.map(too_large, [1], nbytes=500_000_000, what="the moments")
        with pytest.raises(ClusterError, match=r"the moments needs 500 GB of memory, and the largest node .* 2\.15 GB"):
            executor.map(draw, [1], nbytes=500_000_000_000, what="the moments")
        with pytest.raises(ClusterError, match=r"no node 'board' in the cluster at .*: there are .*CPU"):
            executor.on_node("board", draw, 1)  # type: ignore[attr-defined]
        assert executor.on_node("CPU", os.getpid) != os.getpid()  # type: ignore[attr-defined]
    assert ray.is_initialized(), "it was the caller who started it"


@pytest.mark.usefixtures("ray")
def test_what_workers_print_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    with executing("ray") as executor:
        print("a result")
        executor.map(printed, range(2))
        results, said = capfd.readouterr()
        end = time.monotonic() + 60
        while "a word" not in said and time.monotonic() < end:
            time.sleep(0.2)
            out, err = capfd.readouterr()
            results, said = results + out, said + err
    assert results == "a result\n"
    assert "a word from a worker about" in said


def test_what_other_threads_print_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stdout(cast("Any", onray._Aside())):
        other = threading.Thread(target=print, args=("A worker died",))
        other.start()
        other.join()
        print("a result")
        sys.stdout.flush()
    assert capsys.readouterr() == ("a result\n", "A worker died\n")


def weights_of(result: Any) -> dict[str, bytes]:
    return {name: value.const_value.tobytes() for name, value in result.model.graph.initializers.items()}


@pytest.mark.usefixtures("ray")
def test_a_prune_is_the_same_as_here() -> None:
    given: dict[str, Any] = {"ratio": 0.4, "of": "flops", "data": SAMPLES, "preset": "fast", "verify": False}
    path = ROOT / "models" / "fashion_resnet.onnx"
    local, there, again = (spa.prune(path, on=on, **given) for on in (None, "ray", "ray"))
    assert local.plan.removed == there.plan.removed
    assert weights_of(there) == weights_of(again)
    for name, value in local.model.graph.initializers.items():
        other = there.model.graph.initializers[name].const_value
        assert value.const_value is not None
        assert other is not None
        expected = value.const_value.numpy()
        np.testing.assert_allclose(other.numpy(), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


def test_other_versions_are_refused(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = onray.Ray(ray, "10.0.0.1:6379")
    executor.check()
    monkeypatch.setattr(installed, "__version__", "9.9.9")
    with pytest.raises(ClusterError, match=r"^node .* would not compute the same: spa .* there, 9\.9\.9 .* here"):
        executor.check()


@pytest.mark.parametrize("place", ["dask", "ray:", "ray://head", "ray://head:port", "10.0.0.1:6379"])
def test_other_places_are_refused(place: str) -> None:
    with pytest.raises(UsageError, match=rf"on '{place}': expected ray .*, or ray://HOST:PORT"):
        PruneOptions.of(ratio=0.3, data_free=True, on=place)


def test_a_place_needs_samples() -> None:
    with pytest.raises(UsageError, match="on has no effect without samples"):
        PruneOptions.of(ratio=0.3, weights=True, on="ray")


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # whatever other tests have started
    port = free_port()
    start = time.monotonic()
    with pytest.raises(ClusterError, match=rf"^no cluster at ray://127\.0\.0\.1:{port}: .*ray start --head$"):
        spa.prune(ROOT / "models" / "fashion_resnet.onnx", ratio=0.3, data=SAMPLES, on=f"ray://127.0.0.1:{port}")
    assert time.monotonic() - start < onray.REACHED + 5


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'spa-onnx\[ray\]'"), executing("ray"):
        pass


def test_the_example_of_two_nodes(tmp_path: Path) -> None:
    """The commands of the page but the last, which would end the clusters of others too, on ports that are free."""
    pytest.importorskip("ray")
    (block,) = re.findall(r"<!-- two nodes -->\n```sh\n(.*?)ray stop\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for port in ("6379", "10001"):
        block = block.replace(port, str(free_port()))
    np.savez(tmp_path / "samples.npz", image=SAMPLES)
    (tmp_path / "net.onnx").write_bytes((ROOT / "models" / "fashion_resnet.onnx").read_bytes())
    (tmp_path / "spa").write_text(f'#!/bin/sh\nexec {sys.executable} -m spa "$@"\n')
    (tmp_path / "spa").chmod(0o755)
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets lie in it, whose names may not be long
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder}
    try:
        command = ["/bin/sh", "-ec", block]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    finally:
        end(folder)
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrote small.onnx" in done.stdout + done.stderr
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "net.onnx").stat().st_size
