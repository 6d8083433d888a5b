"""Writing a model so that a reader, or a crash, meets either the old file or the new one, each of them complete.

Everything is written to temporary files in the target's folder and synced. External data takes its final name first,
one that no other model refers to; then one rename puts the new model in place; only then does the old data go.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import re
import secrets
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Self

import numpy as np
import onnx
import onnx_ir as ir

from spa.errors import UsageError
from spa.frontends.files import check, wire
from spa.frontends.files.weights import Origin, open_mapped, origin_of
from spa.runtime import large_weights, serialized_without

# Protobuf messages hold at most this many bytes.
_MAX_MESSAGE_NBYTES = 2**31 - 1
# External weights start at multiples of this: one cache line, enough for any element type.
_ALIGNMENT = 64


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a model to a file, atomically, and leave the model as it is.

    Weights go into the model file, or, if they were beside the model that was loaded or if the file would pass 2 GB,
    into one file beside it: ``<name>.data``, or ``<name>.<digest>.data`` while the file that is replaced still needs
    the former.

    Raises:
        UsageError: if the target cannot be written, or is one of the files that the model was read from.
        ModelError: if one of these files changed since.
    """
    origin = origin_of(model)
    target = _target(Path(path), origin)
    sources = {known.path.resolve() for known in origin.files}
    try:
        with terminated_by_exception(), _Staging(target, sources) as staging:
            origin.check_unchanged()
            old_data = _external_data_of(target)
            inline = _inline(model)
            location = ""
            if origin.external or inline.nbytes > _MAX_MESSAGE_NBYTES:
                location = _write_external(model, staging)
            else:
                _write_inline(model, inline, staging)
            origin.check_unchanged()
            staging.commit()
            for data in {target.with_name(name) for name in old_data - {location}} - sources:
                data.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def check_target(path: str | os.PathLike[str], *, model: ir.Model | None = None) -> None:
    """Refuse a target that could not be written, before the work that comes first.

    Raises:
        UsageError: its folder is missing or read-only, it is no regular file, or the model was read from it.
    """
    target = _target(Path(path), Origin() if model is None else origin_of(model))
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"cannot write {str(path)!r}: the folder {str(target.parent)!r} is read-only")


def save_text(text: str, path: str | os.PathLike[str], *, model: ir.Model | None = None) -> None:
    """Write a text file, atomically; raises as `save_bytes`."""
    save_bytes(text.encode(), path, model=model)


def save_bytes(content: bytes, path: str | os.PathLike[str], *, model: ir.Model | None = None) -> None:
    """Write a file that is no model, atomically.

    Raises:
        UsageError: if it cannot be written, or is one of the files that the model was read from.
    """
    target = _target(Path(path), Origin() if model is None else origin_of(model))
    try:
        with terminated_by_exception(), _Staging(target, ()) as staging:
            with staging.model() as file:
                file.write(content)
            staging.commit()
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def _target(path: Path, origin: Origin) -> Path:
    """Where to write: the path with links followed, so that a link stays one."""
    try:
        target = path.resolve()
        if not target.parent.is_dir():
            raise UsageError(f"cannot write {str(path)!r}: there is no folder {str(target.parent)!r}")
        if target.exists() and not target.is_file():
            raise UsageError(
                f"cannot write {str(path)!r}: it is {'a folder' if target.is_dir() else 'not a regular file'}"
            )
        for known in origin.files:
            if target == known.path.resolve() or (
                target.exists() and known.path.exists() and target.samefile(known.path)
            ):
                raise UsageError(f"cannot write {str(path)!r}: the model was read from it; choose another name")
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise UsageError(f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    return target


def _offsets(weights: Mapping[ir.Value, ir.TensorProtocol]) -> dict[ir.Value, int]:
    offsets: dict[ir.Value, int] = {}
    end = 0
    for value, tensor in weights.items():
        offsets[value] = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = offsets[value] + tensor.nbytes
    return offsets


def _payload(tensor: ir.TensorProtocol) -> memoryview:
    """The bytes of a tensor as a file holds them, copied only where they must be."""
    array = tensor.raw if isinstance(tensor, ir.Tensor) else None
    if isinstance(array, np.ndarray) and tensor.dtype.bitwidth >= 8 and array.dtype.newbyteorder("<") == array.dtype:
        payload = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    else:
        payload = memoryview(tensor.tobytes())
    check.check_nbytes(tensor.name, tensor.dtype, list(tensor.shape.numpy()), payload.nbytes)
    return payload


def _inline(model: ir.Model) -> wire.Streamed:
    """The model as one file. Only the main graph's weights are streamed; others are rare, and copied."""
    weights = large_weights((model.graph,))
    proto = serialized_without(model, weights, {}, "")
    return wire.streamed(proto, {str(value.name): tensor.nbytes for value, tensor in weights.items()})


def _write_inline(model: ir.Model, inline: wire.Streamed, staging: _Staging) -> None:
    with staging.model() as file:
        for piece in inline.pieces:
            if isinstance(piece, bytes):
                file.write(piece)
            else:
                tensor = model.graph.initializers[piece].const_value
                assert tensor is not None
                file.write(_payload(tensor))


def _write_external(model: ir.Model, staging: _Staging) -> str:
    """Write the weights and then the model that refers to them; returns the data file's name."""
    weights = large_weights(model.graphs())
    offsets = _offsets(weights)
    with staging.data() as file:
        for value, offset in offsets.items():
            file.write(b"\0" * (offset - file.tell()))
            file.write(_payload(weights[value]))
    location = staging.place_data()
    with staging.model() as file:
        proto = serialized_without(model, weights, offsets, location)
        file.write(proto.SerializeToString(deterministic=True))
    return location


def _external_data_of(target: Path) -> set[str]:
    """The data files that belong to the model in place and to no other, as their names tell."""
    if not target.exists():
        return set()
    try:
        data, _ = open_mapped(target)
        proto = onnx.ModelProto.FromString(wire.skeleton(data, location=""))
    except Exception:  # noqa: BLE001 - what is replaced need not be a model at all
        return set()
    own = re.compile(re.escape(target.name) + r"(\.[0-9a-f]{16})?\.data")
    names = {
        entry.value for tensor in check.all_tensors(proto) for entry in tensor.external_data if entry.key == "location"
    }
    return {name for name in names if own.fullmatch(name)}


class _Staging:
    """Temporary files in the target's folder; those that have not taken their place by the end are removed."""

    def __init__(self, target: Path, reserved: Collection[Path]) -> None:
        self._target = target
        self._reserved = reserved
        self._leftovers: list[Path] = []
        self._model = self._data = target  # set by the methods below

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._leftovers:
            path.unlink(missing_ok=True)

    def _create(self, suffix: str) -> Path:
        path = self._target.with_name(f".{self._target.name}.{secrets.token_hex(8)}{suffix}")
        self._leftovers.append(path)
        return path

    @contextmanager
    def model(self) -> Iterator[BinaryIO]:
        """The file that will become the target."""
        self._model = self._create(".tmp")
        with _synced(self._model) as file:
            if self._target.exists():
                self._model.chmod(self._target.stat().st_mode & 0o777)
            yield file

    @contextmanager
    def data(self) -> Iterator[BinaryIO]:
        """The file that will hold the weights."""
        self._data = self._create(".data.tmp")
        with _synced(self._data) as file:
            yield file

    def place_data(self) -> str:
        """Give the data file a name that it shares with no other content; returns the name."""
        final = self._target.with_name(f"{self._target.name}.data")
        if final in self._reserved or (final.exists() and not filecmp.cmp(self._data, final, shallow=False)):
            with self._data.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            final = self._target.with_name(f"{self._target.name}.{digest}.data")
        if final.exists():  # with this very content
            self._data.unlink()
        else:
            self._data.rename(final)
            self._data = final
            self._leftovers.append(final)
            _sync_folder(final.parent)
        return final.name

    def commit(self) -> None:
        """Put the model in place."""
        self._model.replace(self._target)
        self._leftovers = [path for path in self._leftovers if path not in (self._model, self._data)]
        _sync_folder(self._target.parent)


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """A new file, on disk by the end. Made by hand for the usual permissions; tempfile's are the owner's alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder last; some file systems offer no such thing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def terminated_by_exception() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary files go; a handler of the caller's own is left alone."""

    def unwind(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        if ours:
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
