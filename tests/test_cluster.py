"""Clusters of two nodes: a model that is timed on one of them, and what happens when one is lost or has no memory."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests import models, nodes
from tests.nodes import ROOT, SECONDS, Cluster, waited_for

pytest.importorskip("ray")

PAGE = ROOT / "docs" / "howto" / "cluster.md"
DEVICE = re.search(r"<!-- device -->\n```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
PRUNE = ("prune", "net.onnx", "--ratio", "40%", "--of", "flops", "--preset", "fast", "--data", "samples.npz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a network and samples."""
    (tmp_path / "net.onnx").write_bytes((ROOT / "models" / "fashion_resnet.onnx").read_bytes())
    np.savez(tmp_path / "samples.npz", image=np.random.default_rng(0).standard_normal((96, 1, 28, 28), np.float32))
    return tmp_path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """With a network that takes little time to be timed."""
    onnx.save(models.residual_cnn(), str(tmp_path / "net.onnx"))
    return tmp_path


@pytest.fixture(scope="module")
def board() -> Iterator[Cluster]:
    """A head, and a node that has a resource."""
    assert DEVICE is not None
    start, *_ = (shlex.split(line, comments=True) for line in DEVICE[1].splitlines())
    with nodes.cluster() as cluster:
        cluster.start("head")
        cluster.start("board", *start[start.index("--resources") :])
        yield cluster


def ran(cluster: Cluster, *words: str, folder: Path) -> tuple[int, str, str]:
    """What `spa` gives: its status, and what it prints."""
    process = cluster.spa(*words, folder=folder)
    out, err = process.communicate(timeout=2 * SECONDS)
    assert "Traceback" not in err, err
    return process.returncode, out, err


# ----------------------------------------------------------------------------------------------- a device
def test_a_node_is_profiled_as_the_page_says(board: Cluster, tiny: Path) -> None:
    assert DEVICE is not None
    _, profile, prune = (shlex.split(line, comments=True)[1:] for line in DEVICE[1].splitlines())
    profile[profile.index("--on") + 1] = board.place
    status, out, err = ran(board, *profile, "--seconds", "1", folder=tiny)
    assert status == 0, err
    assert re.search(r"ms in all on .*1 thread", out), out
    assert "wrote board.json" in out + err
    timed = json.loads((tiny / "board.json").read_text())
    assert timed["device"]["threads"] == 1
    assert len(timed["variants"]) > 3
    dense = max(variant["milliseconds"] for variant in timed["variants"])
    prune[prune.index("--target") + 1] = f"{0.9 * dense:.5f}ms"
    status, out, err = ran(board, *prune, "--weights", "--align", "1", "-o", "small.onnx", folder=tiny)
    assert status == 0, err
    assert (tiny / "small.onnx").exists()


def test_a_node_that_is_not_there_is_named(board: Cluster, tiny: Path) -> None:
    status, out, err = ran(board, "profile", "net.onnx", "--on", board.place, "--node", "bord", folder=tiny)
    assert status != 0
    assert not out
    assert re.search(
        r"no node 'bord' in the cluster at ray://127\.0\.0\.1:\d+: there are .*board", " ".join(err.split())
    )
    assert not (tiny / "net.profile.json").exists()


def test_a_cluster_that_is_not_there_is_named(board: Cluster, tiny: Path) -> None:
    place = f"ray://127.0.0.1:{nodes.free_port()}"
    status, out, err = ran(board, "profile", "net.onnx", "--on", place, "--node", "board", folder=tiny)
    assert status != 0
    assert not out
    assert re.search(rf"no cluster at {place}: .*on its head: ray start --head", " ".join(err.split()))


@pytest.mark.parametrize(("given", "said"), [("--on", "without node"), ("--node", "without --on")])
def test_a_place_is_a_cluster_and_a_node(board: Cluster, tiny: Path, given: str, said: str) -> None:
    words = {"--on": board.place, "--node": "board"}
    status, out, err = ran(board, "profile", "net.onnx", given, words[given], folder=tiny)
    assert status != 0
    assert not out
    assert said in " ".join(err.split())


def test_a_model_that_does_not_run_on_a_node_says_so(board: Cluster, tiny: Path) -> None:
    words = ("--on", board.place, "--node", "board", "--provider", "NoSuchProvider")
    status, _, err = ran(board, "profile", "net.onnx", *words, folder=tiny)
    assert status != 0
    assert "NoSuchProvider" in err


# ---------------------------------------------------------------------------------------------------- losses
def client(cluster: Cluster, code: str, before: str = "") -> subprocess.Popen[str]:
    """A process that does `code` with an executor on the cluster, and prints what it gives or raises."""
    program = (
        "from functools import partial\nfrom pathlib import Path\n"
        "from spa.errors import SpaError\nfrom spa.executing import executing\nfrom tests import nodes\n"
        f"{before}\n"
        f"with executing({cluster.place!r}) as executor:\n"
        "    try:\n"
        f"        print({code})\n"
        "    except SpaError as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    return subprocess.Popen(command, env=cluster.environment, text=True, stdout=pipe, stderr=pipe)


def test_tasks_of_a_lost_node_run_on_others(tmp_path: Path) -> None:
    with nodes.cluster() as cluster:
        cluster.start("head")
        cluster.start("lost")
        process = client(cluster, f"executor.map(partial(nodes.never_there, Path({str(tmp_path)!r})), range(6))")
        waited_for((tmp_path / "runs").exists, process)
        cluster.lose("lost")
        out, err = process.communicate(timeout=SECONDS)
    assert out.splitlines()[-1:] == ["[0, 1, 2, 3, 4, 5]"], out + err


def test_a_prune_outlives_a_node(folder: Path) -> None:
    with nodes.cluster() as cluster:
        cluster.start("head")
        cluster.start("lost")
        whole = ran(cluster, *PRUNE, "--on", cluster.place, "-o", "whole.onnx", folder=folder)
        process = cluster.spa(*PRUNE, "--on", cluster.place, "-o", "outlived.onnx", folder=folder)
        waited_for(lambda: cluster.works("lost"), process)
        cluster.lose("lost")
        out, err = process.communicate(timeout=2 * SECONDS)
    assert whole[0] == 0, whole[2]
    assert process.returncode == 0, out + err
    undisturbed, outlived = (onnx.load(str(folder / name)) for name in ("whole.onnx", "outlived.onnx"))
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in undisturbed.graph.initializer}
    assert {tensor.name for tensor in outlived.graph.initializer} == {*expected}
    for tensor in outlived.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected[tensor.name])


def test_a_prune_that_loses_its_head_says_so(folder: Path) -> None:
    with nodes.cluster() as cluster:
        cluster.start("head")
        process = cluster.spa(*PRUNE, "--on", cluster.place, "-o", "small.onnx", folder=folder)
        waited_for(lambda: cluster.works("head"), process)
        cluster.lose("head")
        out, err = process.communicate(timeout=2 * SECONDS)
    assert process.returncode not in (0, None)
    assert "Traceback" not in err, err
    assert re.search(r"lost on the cluster at ray://127\.0\.0\.1", " ".join(err.split())), out + err
    assert {path.name for path in folder.iterdir()} == {"net.onnx", "samples.npz"}


def test_a_worker_that_its_node_stops_is_told_of() -> None:
    """Ray's monitor stops workers once more of the machine's memory is used than a share."""
    if sys.platform != "linux" or limited():
        pytest.skip("how much memory counts as used is known of a Linux machine without control groups alone")
    threshold = f"{nodes.used_memory() + 0.08:.3f}"
    with nodes.cluster(RAY_memory_usage_threshold=threshold, RAY_memory_monitor_refresh_ms="50") as cluster:
        cluster.start("head")
        task = "executor.map(nodes.swells, [1], nbytes=50_000_000, what='the moments')"
        out, err = client(cluster, task).communicate(timeout=2 * SECONDS)
    said = (
        r"ClusterError the moments, which needs about 0\.05 GB, did not fit into the memory of a node: its worker was"
    )
    assert re.match(said, out), out + err
    assert "give the cluster a node with more memory" in out


def test_a_cluster_without_memory_is_told_of(folder: Path) -> None:
    with nodes.cluster(RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="50") as cluster:
        cluster.start("head")
        status, out, err = ran(cluster, *PRUNE, "--on", cluster.place, "-o", "small.onnx", folder=folder)
    assert status != 0, out
    assert "its worker was stopped, as its node ran out of memory; give the cluster" in " ".join(err.split())
    assert {path.name for path in folder.iterdir()} == {"net.onnx", "samples.npz"}


def test_a_worker_that_ends_again_and_again_is_told_of(board: Cluster) -> None:
    fewer = "from spa import onray\nonray.RETRIES = 1"
    process = client(board, "executor.map(nodes.ends, [1], what='the moments')", before=fewer)
    out, err = process.communicate(timeout=2 * SECONDS)
    assert re.match(r"ClusterError the moments was lost on the cluster at ray://.*; begin again, or look into", out), (
        err
    )


def limited() -> bool:
    """Whether this process may use less memory than the machine has."""
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or "max"
            return int(Path(path).read_text()) < 1024 * int(total.split()[1])
    return False
