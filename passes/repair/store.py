"""Values of all batches that wait to be read, in memory up to a limit and then in temporary files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

MEMORY_NBYTES = 1 << 30
"""Of waiting values; what goes beyond lies in temporary files."""


@dataclass(slots=True)
class Store:
    """Values of all batches that wait to be read; beyond a limit they lie in a temporary folder."""

    limit_nbytes: int = MEMORY_NBYTES
    nbytes: int = 0
    spilled_nbytes: int = 0
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _entries: dict[tuple[ir.Value, int], Any] = field(default_factory=dict)
    _number: int = 0

    def put(self, value: ir.Value, batch: int, array: Any) -> None:
        """Keep a value of a batch."""
        nbytes = getattr(array, "nbytes", 0)
        if self.nbytes + nbytes > self.limit_nbytes and isinstance(array, np.ndarray) and array.dtype.isbuiltin:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="spa-", ignore_cleanup_errors=True)
            path = Path(self._folder.name) / f"{self._number}.npy"
            self._number += 1
            self.spilled_nbytes += nbytes
            np.save(path, array)
            self._entries[value, batch] = path
            return
        self.nbytes += nbytes
        self._entries[value, batch] = array

    def get(self, value: ir.Value, batch: int) -> Any:
        """A value of a batch."""
        entry = self._entries[value, batch]
        return np.load(entry, mmap_mode="r") if isinstance(entry, Path) else entry

    def drop(self, value: ir.Value, batch: int) -> None:
        """Forget a value of a batch."""
        entry = self._entries.pop((value, batch), None)
        if isinstance(entry, Path):
            entry.unlink(missing_ok=True)
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
        if self._folder is not None:
            self._folder.cleanup()
