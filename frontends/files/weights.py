"""Read weights where they lie: read-only memory maps of the model file and of its external data files."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx_ir as ir

from spa.errors import ModelError
from spa.frontends.files import check
from spa.frontends.files.layers import Depth

_META = "spa.origin"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells whether a file is still the one that was read."""

    path: Path
    nbytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path, status: os.stat_result) -> Fingerprint:
        """The fingerprint of a file with this status."""
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class Origin:
    """The files that a model was read from."""

    path: Path | None = None  # None: it came from memory
    external: bool = False  # weights beside the model, not in it
    files: tuple[Fingerprint, ...] = ()
    notes: tuple[str, ...] = ()  # what was done to the model on reading it
    folder: Path | None = None  # the model was given as this folder, which holds it among other files
    sizes: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)  # what a cut changed, see `configs`
    depth: Depth = field(default_factory=Depth)  # what a cut left of the layers

    def check_unchanged(self) -> None:
        """Refuse to go on with weights that are no longer those that were read.

        Raises:
            ModelError: if a file was changed or taken away since.
        """
        for known in self.files:
            try:
                now = Fingerprint.of(known.path, known.path.stat())
            except OSError:
                now = None
            if now != known:
                raise ModelError(f"{str(known.path)!r} changed while the model was in use; load it again")


def origin_of(model: ir.Model) -> Origin:
    """Where a model was read from. It is kept with the main graph, so copies of the model know it too."""
    origin = model.graph.meta.get(_META)
    return origin if isinstance(origin, Origin) else Origin()


def set_origin(model: ir.Model, origin: Origin) -> None:
    """Note where a model was read from."""
    model.graph.meta[_META] = origin


def open_mapped(path: Path) -> tuple[mmap.mmap, Fingerprint]:
    """Map a file read-only.

    Raises:
        ModelError: if there is no such regular file, or it is empty or may not be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            raise ModelError(f"{str(path)!r} is {'a directory' if path.is_dir() else 'not a regular file'}")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size == 0:
                raise ModelError(f"{str(path)!r} is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), Fingerprint.of(path, status)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ModelError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None


@dataclass(slots=True)
class Weights:
    """Gives a model its tensors: checks each, and maps those that lie in files.

    ``inline`` is the map of the model file itself, to which tensors with the location ``inline_location`` refer;
    ``folders`` are those that external data may lie in.
    """

    folders: tuple[Path, ...] = ()
    inline: mmap.mmap | None = None
    inline_location: str = ""
    files: list[Fingerprint] = field(default_factory=list)
    external: bool = False
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict)

    def adopt(self, graphs: Iterable[ir.Graph]) -> None:
        """Check every tensor of these graphs, and replace external ones by views of mapped files.

        Raises:
            ModelError: naming the tensor at fault.
        """
        for graph in graphs:
            for value in graph.initializers.values():
                if value.const_value is None:
                    raise ModelError(f"initializer {value.name!r} has no value")
                value.const_value = self._adopted(value.const_value)
            for node in graph:
                for attribute in list(node.attributes.values()):
                    if attribute.is_ref():
                        continue
                    if attribute.type == ir.AttributeType.TENSOR:
                        tensor = self._adopted(attribute.as_tensor())
                        node.attributes.add(ir.AttrTensor(attribute.name, tensor, attribute.doc_string))
                    elif attribute.type == ir.AttributeType.TENSORS:
                        tensors = [self._adopted(tensor) for tensor in attribute.as_tensors()]
                        node.attributes.add(ir.AttrTensors(attribute.name, tensors, attribute.doc_string))

    def _adopted(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            check.check_payload(tensor.raw)
        if not isinstance(tensor, ir.ExternalTensor):
            return _apart(tensor)
        expected = check.expected_nbytes(tensor.name, tensor.dtype, list(tensor.shape.numpy()))
        offset, length = tensor.offset or 0, expected if tensor.length is None else tensor.length
        check.check_nbytes(tensor.name, tensor.dtype, list(tensor.shape.numpy()), length)
        if self.inline is not None and tensor.location == self.inline_location:
            return _view(tensor, self.inline, offset)
        self.external = True
        mapped = self._mapped(tensor) if expected else b""
        if expected and not 0 <= offset <= len(mapped) - expected:
            raise ModelError(
                f"tensor {tensor.name!r} lies at bytes {offset} to {offset + expected} of {str(tensor.location)!r}, "
                f"which has {len(mapped)} bytes"
            )
        return _view(tensor, mapped, offset)

    def _mapped(self, tensor: ir.ExternalTensor) -> mmap.mmap:
        folders = self.folders or (Path(tensor.base_dir).resolve(),)
        path = _locate(tensor.name, os.fspath(tensor.location), folders)
        if path not in self._maps:
            try:
                self._maps[path], fingerprint = open_mapped(path)
            except ModelError as error:
                raise ModelError(f"external data of tensor {tensor.name!r}: {error}") from None
            self.files.append(fingerprint)
        return self._maps[path]


def _apart(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same content under a name of its own: onnx_ir writes names into tensors, the caller's own among them."""
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), shape=ir.Shape(tensor.shape.numpy()), name=tensor.name)
    return ir.LazyTensor(
        lambda: tensor,
        tensor.dtype,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props) or None,
    )


def _locate(name: str, location: str, folders: tuple[Path, ...]) -> Path:
    """The file that an external location means, all links followed; it must lie in one of the folders."""
    windows = PureWindowsPath(location)
    if not location or PurePosixPath(location).is_absolute() or windows.drive or windows.root:
        raise ModelError(f"external data of tensor {name!r}: expected a path relative to the model, found {location!r}")
    if ".." in windows.parts or "\0" in location:
        raise ModelError(f"external data of tensor {name!r}: {location!r} climbs out of the model's folder")
    candidate = next((folder / location for folder in folders if (folder / location).exists()), folders[0] / location)
    if not candidate.exists():
        raise ModelError(f"external data of tensor {name!r}: {location!r} is missing in {str(folders[0])!r}")
    path = candidate.resolve()
    if not any(path.is_relative_to(folder) for folder in folders):
        raise ModelError(
            f"external data of tensor {name!r}: {location!r} is a link out of the model's folder, to {str(path)!r}; "
            f"put the file itself there"
        )
    return path


def _view(tensor: ir.ExternalTensor, data: mmap.mmap | bytes, offset: int) -> ir.TensorProtocol:
    """The tensor as a view of mapped bytes; types below a byte stay packed."""
    start, props = offset if tensor.size else 0, dict(tensor.metadata_props) or None
    if tensor.dtype.bitwidth < 8:
        packed = np.frombuffer(data, np.uint8, count=tensor.nbytes, offset=start)
        return ir.PackedTensor(
            packed,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=props,
        )
    dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    array = np.frombuffer(data, dtype, count=tensor.size, offset=start).reshape(tensor.shape.numpy())
    return ir.Tensor(
        array, tensor.dtype, shape=tensor.shape, name=tensor.name, doc_string=tensor.doc_string, metadata_props=props
    )
