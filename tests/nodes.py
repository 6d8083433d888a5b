"""Clusters of several nodes on this machine, as `ray start` makes them, and nodes that are lost."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NODE = "SPA_TEST_NODE"
"""The environment variable that says on which node a process runs."""

SECONDS = 120.0
"""Within which a command ends, and a node does what is waited for."""


@dataclass(frozen=True)
class Cluster:
    """Nodes by name, of which the first is the head.

    Attributes:
        folder: in which their sockets lie.
        port: of the head.
        client: its port for clients.
        environment: of every process.
    """

    folder: str
    port: int
    client: int
    environment: dict[str, str]

    @property
    def place(self) -> str:
        """What `--on` takes."""
        return f"ray://127.0.0.1:{self.client}"

    def start(self, name: str, *words: str) -> None:
        """A node of one core."""
        first = ["--head", "--port", str(self.port), "--ray-client-server-port", str(self.client)]
        first += ["--include-dashboard", "false"]
        where = first if name == "head" else ["--address", f"127.0.0.1:{self.port}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--num-cpus", "1"]
        command += ["--object-store-memory", "100000000", *words]
        given = self.environment | {NODE: name}
        subprocess.run(command, env=given, check=True, capture_output=True, timeout=SECONDS)

    def spa(self, *words: str, folder: Path) -> subprocess.Popen[str]:
        """`spa`, begun with these words in a folder."""
        command = [sys.executable, "-m", "spa", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=folder, env=self.environment, text=True, stdout=pipe, stderr=pipe)

    def processes(self, node: str) -> dict[int, str]:
        """The command line of each process of a node, by number."""
        commands = {}
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit():
                    given = (folder / "environ").read_bytes().split(b"\0")
                    if {f"RAY_TMPDIR={self.folder}".encode(), f"{NODE}={node}".encode()} <= {*given}:
                        commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return commands

    def works(self, node: str) -> bool:
        """Whether a worker of a node has begun with linear algebra."""
        for number, name in self.processes(node).items():
            with suppress(OSError):
                if name.startswith("ray::_") and "scipy/linalg" in Path(f"/proc/{number}/maps").read_text():
                    return True
        return False

    def lose(self, node: str) -> None:
        """A node as it is when its machine stops."""
        for number in self.processes(node):
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)


@contextmanager
def cluster(**environment: str) -> Iterator[Cluster]:
    """A cluster without nodes, which end with the block."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # names of sockets may not be long
    given = {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 8 * "spa-test"}
    given |= {"RAY_worker_niceness": "0"}  # other tests run meanwhile
    try:
        yield Cluster(folder, free_port(), free_port(), {**os.environ, **given, **environment})
    finally:
        end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def used_memory() -> float:
    """The share of this machine's memory that is used now."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return 1 - free / total


def free_port() -> int:
    """A port that nothing listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def end(folder: str) -> None:
    """End the processes that were started with a folder for their sockets."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and f"RAY_TMPDIR={folder}".encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def waited_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return as soon as something is there, which a process brings about.

    Raises:
        RuntimeError: it has ended before.
        TimeoutError: it is not there for long.
    """
    end = time.monotonic() + SECONDS
    while not there():
        if process.poll() is not None:
            raise RuntimeError(f"ended too early: {process.communicate()}")
        if time.monotonic() > end:
            raise TimeoutError(f"not there after {SECONDS:g} s")
        time.sleep(0.02)


def never_there(folder: Path, number: int) -> int:
    """The number, once it runs on a node that is called lost too, which gives no answer."""
    if os.environ.get(NODE) == "lost":
        (folder / "runs").touch()
        time.sleep(10 * SECONDS)
    while not (folder / "runs").exists():
        time.sleep(0.02)
    return number


def swells(_: int) -> None:
    """Takes more and more memory, until it is stopped: at most 6 GB."""
    held = []
    for _ in range(120):
        held.append(bytearray(os.urandom(1 << 20) * 50))
        time.sleep(0.05)


def ends(_: int) -> None:
    """The end of the worker."""
    os._exit(1)
