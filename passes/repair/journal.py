"""What a long repair has found so far, in a folder, so that the same command goes on from there after a stop.

    journal = Journal(folder, key, say)     key: of the model, the samples and what was asked for
    journal.open(names)                     reads what an earlier run left
    journal.state["curves"] = found         now and then, at points where all parts fit together:
    journal.save()                          writes the whole state, if the last time is `EVERY` seconds ago

A state replaces the one before in one rename; it holds pickles, which are read only where the key in its head is
right. Arrays that stay as they are, such as new weights, lie in files of their
own beside it (`Shelf`) and are named in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.mapped import release
from spa.passes.repair.memory import Memory
from spa.passes.repair.naming import Names
from spa.passes.repair.store import Shelf, file_of
from spa.passes.samples.calibrate import Calibration
from spa.version import __version__

EVERY = 60.0
"""Seconds between two states: what a stop costs at most, and how long a repair is that writes nothing."""

_STATE, _ARRAYS = "state", "arrays"
_ALIGNMENT, _SMALL_NBYTES = 64, 1 << 16
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class _Head:
    """What a state begins with.

    Attributes:
        key: of the run that wrote it.
        nbytes: of memory that it kept to: parts of other sizes round differently.
        body, arrays: where what `Names.dump` gave lies in the file: (offset, bytes).
    """

    format: int
    key: str
    nbytes: int
    body: tuple[int, int]
    arrays: list[tuple[int, int]]


@dataclass(slots=True, eq=False)
class Journal:
    """The state of one repair.

    Attributes:
        key: what a state has to be of, asked for once it is needed: it reads all weights.
        say: tells the user a line.
        state: by name; what can be called is called when the state is written.
        memory: that this run keeps to: as much as the one that it goes on from.
    """

    folder: Path
    key: Callable[[], str]
    say: Callable[[str], None]
    state: dict[str, Any] = field(default_factory=dict)
    memory: Memory | None = None
    _head: _Head | None = None
    _names: Names | None = None
    _known: str = ""
    _laid: dict[int, tuple[np.ndarray, str]] = field(default_factory=dict)
    _last: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """See whether there is a state, and whether it is of this run; what is of another goes."""
        path = self.folder / _STATE
        if not path.exists():  # nothing, or arrays that no state names
            clear(self.folder)
            return
        head = _read_head(path)
        if head is None or head.key != self._key():
            self.say(f"{self.folder} is of another run (other model, samples, options or version): starting anew")
            clear(self.folder)
            return
        self._head = head

    def limit(self, nbytes: int | None) -> Memory:
        """What a run keeps to that asked for so much: as much as the one that it goes on from."""
        return Memory.of(nbytes) if self._head is None else Memory(self._head.nbytes)

    def open(self, names: Names, memory: Memory) -> None:
        """Read what an earlier run left.

        Args:
            names: of the network.
            memory: that this run keeps to.
        """
        self._names, self.memory = names, memory
        if self._head is None:
            return
        path = self.folder / _STATE
        mapped = np.memmap(path, np.uint8, "r")
        body, *arrays = (
            np.asarray(mapped[start : start + nbytes]) for start, nbytes in (self._head.body, *self._head.arrays)
        )
        self.state = names.load(body.tobytes(), arrays)
        age = max(0.0, time.time() - path.stat().st_mtime)
        self.say(f"going on from {self.folder}, {age / 60:.0f} min old")

    def shelf(self, memory: Memory) -> Shelf:
        """For arrays that a state may name."""
        return Shelf(memory.kept, self.folder / _ARRAYS)

    def save(self) -> None:
        """Write the state, if the last time is long ago; without room for it the repair goes on."""
        if self._names is None or self.memory is None or time.monotonic() - self._last < EVERY:
            return
        with contextlib.suppress(OSError):
            self._write(self._names, self.memory)
        self._last = time.monotonic()

    def _write(self, names: Names, memory: Memory) -> None:
        state = {name: entry() if callable(entry) else entry for name, entry in self.state.items()}
        body, arrays = names.dump(state)
        places: list[tuple[int, int]] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{_STATE}.part"
        with part.open("wb") as file:
            for array in (np.frombuffer(body, np.uint8), *arrays):
                file.write(bytes(-file.tell() % _ALIGNMENT))
                places.append((file.tell(), array.nbytes))
                file.write(array.data)
            head = json.dumps(asdict(_Head(_FORMAT, self._key(), memory.nbytes, places[0], places[1:]))).encode()
            file.write(head)
            file.write(len(head).to_bytes(8, "little"))
        part.replace(self.folder / _STATE)

    def _key(self) -> str:
        self._known = self._known or self.key()
        return self._known

    def laid(self, array: np.ndarray) -> str | np.ndarray:
        """The name of a file in which a large array lies, which does not change; a small array itself."""
        path = file_of(array)
        if path is not None and path.parent.resolve() == (self.folder / _ARRAYS).resolve():
            return path.name
        if array.nbytes < _SMALL_NBYTES:
            return array
        if id(array) not in self._laid:
            path = file_of(Shelf(0, self.folder / _ARRAYS).keep(np.ascontiguousarray(array)))
            if path is None:
                return array
            self._laid[id(array)] = array, path.name
        return self._laid[id(array)][1]

    def array(self, named: str | np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """What `laid` was given, of that type."""
        if isinstance(named, str):
            return np.asarray(np.load(self.folder / _ARRAYS / named, mmap_mode="r")).view(dtype)
        return named


def clear(folder: Path) -> None:
    """Remove the states in a folder, and those in its folders; the folder too, if nothing else is in it."""
    for place in (*(path for path in folder.glob("*") if path.is_dir() and path.name != _ARRAYS), folder):
        shutil.rmtree(place / _ARRAYS, ignore_errors=True)
        for name in (_STATE, f"{_STATE}.part"):
            (place / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            place.rmdir()


def _read_head(path: Path) -> _Head | None:
    """What a state begins with; None: it is none that this version reads."""
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            nbytes = int.from_bytes(file.read(8), "little")
            file.seek(-8 - nbytes, os.SEEK_END)
            head = _Head(**json.loads(file.read(nbytes)))
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    return head if head.format == _FORMAT else None


def key_of(model: ir.Model, data: Calibration, asked: object) -> str:
    """A digest of all that decides what a repair finds.

    Args:
        asked: settings, whose repr says all of them.
    """
    hasher = hashlib.sha256(f"{__version__}\n{asked!r}\n".encode())
    weights = runtime.large_weights((model.graph,))
    hasher.update(runtime.serialized_without(model, weights, {}, "").SerializeToString(deterministic=True))
    for value, tensor in weights.items():
        hasher.update(f"{value.name}\n".encode())
        hasher.update(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
        release(tensor)
    for some in (data, data.beside):
        if some is not None:
            _take_in(hasher, some)
    return hasher.hexdigest()


def _take_in(hasher: Any, data: Calibration) -> None:
    feeds = [{**data.samples, **data.scalars}, *getattr(data, "feeds", ())]
    for name, array in (pair for feed in feeds for pair in feed.items()):
        hasher.update(f"{name} {array.dtype} {array.shape}\n".encode())
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
