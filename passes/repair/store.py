"""Arrays that wait, in memory up to a limit and then in files: values of samples, and what a repair made.

store = Store(limit_nbytes)                 values that are read and dropped
shelf = Shelf(limit_nbytes)                 arrays that stay: `keep` gives the array back, or a map of its file
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import tempfile
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.passes.repair.memory import WAITING_NBYTES

SMALL_NBYTES = 1 << 20
"""Of an array for which a file of its own, opened to be read, takes longer than a copy from a file of many."""


@dataclass(slots=True)
class Store:
    """Values of all batches that wait to be read; beyond a limit they lie in a temporary folder."""

    limit_nbytes: int = WAITING_NBYTES
    nbytes: int = 0
    spilled_nbytes: int = 0
    _folder: TemporaryFolder | None = None
    _entries: dict[tuple[ir.Value, int], Any] = field(default_factory=dict)
    _number: int = 0
    _slots: _Slots | None = None

    def put(self, value: ir.Value, batch: int, array: Any) -> None:
        """Keep a value of a batch."""
        nbytes = getattr(array, "nbytes", 0)
        if self.nbytes + nbytes > self.limit_nbytes and _can_lie_in_file(array):
            if self._folder is None:
                self._folder = TemporaryFolder()
            self.spilled_nbytes += nbytes
            if nbytes < SMALL_NBYTES:
                self._slots = self._slots or _Slots(self._folder.path / "slots")
                self._entries[value, batch] = self._slots.put(array)
                return
            path = self._folder.path / f"{self._number}.npy"
            self._number += 1
            self._entries[value, batch] = _Laid.of(path, array)
            return
        self.nbytes += nbytes
        self._entries[value, batch] = array

    def get(self, value: ir.Value, batch: int) -> Any:
        """A value of a batch."""
        entry = self._entries[value, batch]
        return entry.array() if isinstance(entry, (_Laid, _Slot)) else entry

    def drop(self, value: ir.Value, batch: int) -> None:
        """Forget a value of a batch."""
        entry = self._entries.pop((value, batch), None)
        if isinstance(entry, _Laid):
            entry.path.unlink(missing_ok=True)
        elif isinstance(entry, _Slot):
            entry.slots.free(entry)
        else:
            self.nbytes -= getattr(entry, "nbytes", 0)

    def __contains__(self, entry: tuple[ir.Value, int]) -> bool:
        return entry in self._entries

    def held(self) -> list[tuple[ir.Value, int]]:
        """What is kept: values and batches."""
        return list(self._entries)

    def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        if self._slots is not None:
            self._slots.close()
            self._slots = None
        if self._folder is not None:
            self._folder.remove()


class _Slots:
    """A file of small arrays, in which the place of one that is dropped is free for another as large."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.close = weakref.finalize(self, os.close, self.file)
        self.end = 0
        self.empty: dict[int, list[int]] = {}

    def put(self, array: np.ndarray) -> _Slot:
        """Copy an array into the file."""
        if self.empty.get(array.nbytes):
            offset = self.empty[array.nbytes].pop()
        else:
            offset, self.end = self.end, self.end + array.nbytes
        os.pwrite(self.file, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, offset)
        return _Slot(self, offset, array.dtype, array.shape)

    def free(self, slot: _Slot) -> None:
        """Nobody needs what lies in a slot."""
        self.empty.setdefault(slot.nbytes, []).append(slot.offset)


@dataclass(frozen=True, slots=True)
class _Slot:
    slots: _Slots
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def array(self) -> np.ndarray:
        """A copy; any thread may call this."""
        array = np.empty(self.nbytes, np.uint8)
        os.preadv(self.slots.file, [array.data], self.offset)
        return array.view(self.dtype).reshape(self.shape)


@dataclass(slots=True, eq=False)
class Shelf:
    """Arrays that stay as they are; beyond a limit they lie in files, of which maps are given out.

    Attributes:
        folder: where files lie; None: in a temporary folder that goes with the shelf. Maps outlive it.
    """

    limit_nbytes: int
    folder: Path | None = None
    nbytes: int = 0
    _temporary: TemporaryFolder | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, array: np.ndarray) -> np.ndarray:
        """The array, in memory or in a file; any thread may call this."""
        with self._lock:
            if file_of(array) is not None or not _can_lie_in_file(array):
                return array
            if self.nbytes + array.nbytes <= self.limit_nbytes:
                self.nbytes += array.nbytes
                return array
            path = self._path()
        return _Laid.of(path, array).array()

    def _path(self) -> Path:
        """Of a file that is not there yet."""
        if self.folder is None:
            self._temporary = TemporaryFolder()
            self.folder = self._temporary.path
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{secrets.token_hex(8)}.npy"


class TemporaryFolder:
    """A folder that goes when nobody holds this any more, or before."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="spa-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def file_of(array: np.ndarray) -> Path | None:
    """The file that an array is a map of, all of it; None: it is none."""
    holder: Any = array
    while isinstance(holder, np.ndarray) and not isinstance(holder, np.memmap):
        holder = holder.base
    whole = isinstance(holder, np.memmap) and holder.shape == array.shape and holder.filename is not None
    return Path(holder.filename) if whole else None


@dataclass(frozen=True, slots=True)
class _Laid:
    """An array in a file, which numpy may not know the type of: then its bits lie there."""

    path: Path
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, path: Path, array: np.ndarray) -> _Laid:
        np.save(path, array if array.dtype.isbuiltin == 1 else array.view(np.dtype(f"u{array.dtype.itemsize}")))
        return cls(path, array.dtype)

    def array(self) -> np.ndarray:
        """A map of the file."""
        mapped = np.asarray(np.load(self.path, mmap_mode="r"))
        return mapped if mapped.dtype == self.dtype else mapped.view(self.dtype)


def _can_lie_in_file(array: Any) -> bool:
    """Whether an array can lie in a file: a sequence, and one of texts, cannot."""
    return isinstance(array, np.ndarray) and not array.dtype.hasobject and array.dtype.isbuiltin != 0 and array.size > 0
