"""ONNX models: from a file or from memory to ``onnx_ir.Model``, and back to a file."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from spa.errors import ModelError
from spa.frontends.addresses import refuse_address
from spa.frontends.files import check, folder, upgrade, wire
from spa.frontends.files.weights import Fingerprint, Origin, Weights, open_mapped, origin_of, set_origin
from spa.frontends.files.writing import check_target, save_bytes, save_text
from spa.frontends.files.writing import save as save_file

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = [
    "check_target",
    "graph_path",
    "load",
    "load_stream",
    "origin_of",
    "save",
    "save_bytes",
    "save_text",
    "to_bytes",
]

_HEAD_NBYTES = 40
_IR_WITHOUT_LISTS = 4  # before it, every initializer had to be listed as an input


def load(source: str | os.PathLike[str] | onnx.ModelProto | ir.Model | gs.Graph) -> ir.Model:
    """Read and check a model.

    Weights stay memory-mapped, external or not. The source is never changed: a model in memory is copied (its tensors
    are shared, which nothing writes to). ``source`` may also be an ``onnx_graphsurgeon.Graph``. A path may be that of a
    folder that holds a graph among other files (`spa.frontends.files.folder`).

    Raises:
        ModelError: if there is no valid model; one line that says why.
    """
    if isinstance(source, (str, os.PathLike)):
        return _load_file(Path(source))
    if isinstance(source, ir.Model):
        if 0 < source.opset_imports.get("", 0) < check.OLDEST_OPSET and not source.functions:
            return from_proto(ir.to_proto(source))
        with _refusals():
            return _adopt(source.clone(), Weights(), origin_of(source))
    if type(source).__module__.partition(".")[0] == "onnx_graphsurgeon":
        from spa.frontends.files import graphsurgeon_graph

        return graphsurgeon_graph.load(source)
    if isinstance(source, onnx.ModelProto):
        return from_proto(source)
    raise ModelError(
        f"expected a path, onnx.ModelProto, onnx_ir.Model or onnx_graphsurgeon.Graph, found {type(source)}"
    )


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a model to a file; one that was read as a folder to a folder again, unless the path ends in .onnx.

    Raises:
        UsageError: the target cannot be written, or the model was read from it.
        ModelError: a file that the model was read from has changed since.
    """
    if origin_of(model).folder is not None and Path(path).suffix != ".onnx":
        folder.save(model, path)
    else:
        save_file(model, path)


def graph_path(source: str | os.PathLike[str]) -> Path:
    """The file of a model: in a folder, its graph.

    Raises:
        ModelError: the folder holds no graph, or several.
    """
    path = Path(source)
    return folder.graph_of(path) if os.path.isdir(path) else path  # noqa: PTH112 - see `_load_file`


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Check a model that is in memory; external data is looked for in the working directory.

    Raises:
        ModelError: if it is not valid; one line that says why.
    """
    check.check_proto(proto)
    with _refusals():
        origin = Origin()
        if upgrade.old_opset(proto) is not None:
            proto, note = upgrade.upgraded(proto)
            origin = Origin(notes=(note,))
        return _adopt(ir.from_proto(proto), Weights(), origin)


def load_stream(stream: BinaryIO) -> ir.Model:
    """Read and check a model that comes through a pipe; external data is looked for in the working directory.

    Raises:
        ModelError: if there is no valid model; one line that says why.
    """
    content = stream.read()
    if not content:
        raise ModelError("standard input is empty: expected an ONNX model")
    data = mmap.mmap(-1, len(content))
    data[:] = content
    return _parsed(data, "standard input", Weights(folders=(Path.cwd(),)), Origin())


def to_bytes(model: ir.Model) -> bytes:
    """A model as one file without external data.

    Raises:
        ModelError: it is larger than the 2 GB that such a file may have.
    """
    try:
        content: bytes = ir.to_proto(model).SerializeToString()
    except ValueError as error:
        raise ModelError("the model is larger than 2 GB, which one stream cannot carry: give a file") from error
    return content


def _load_file(path: Path) -> ir.Model:
    refuse_address(path)
    whole = path if os.path.isdir(path) else None  # noqa: PTH112 - is_dir raises for names that no file can have
    path = graph_path(path)
    data, fingerprint = open_mapped(path)
    folders = tuple(dict.fromkeys((path.parent.resolve(), path.resolve().parent)))
    origin = Origin(path=path, folder=whole)
    return _parsed(data, repr(str(path)), Weights(folders=folders, files=[fingerprint]), origin)


def _parsed(data: mmap.mmap, name: str, weights: Weights, origin: Origin) -> ir.Model:
    """The model in a map, whose own weights stay where they are."""
    weights.inline = data
    weights.inline_location = secrets.token_hex(16)  # no tensor of the file can mean this by chance or by intent
    try:
        with _refusals():
            proto = onnx.ModelProto.FromString(wire.skeleton(data, location=weights.inline_location))
            check.check_proto(proto)
            if upgrade.old_opset(proto) is not None:
                whole = onnx.ModelProto.FromString(data[:]) if origin.path is None else onnx.load(origin.path)
                proto, note = upgrade.upgraded(whole)
                origin = replace(origin, notes=(note,))
            return _adopt(ir.from_proto(proto), weights, origin)
    except ModelError as error:
        head = data[:_HEAD_NBYTES]
        is_text = all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in head)
        reason = f"text, not an ONNX model: it starts with {head.decode()!r}" if is_text else str(error)
        raise ModelError(f"{name}: {reason}") from error.__cause__


def _adopt(model: ir.Model, weights: Weights, origin: Origin) -> ir.Model:
    """Give a model what SPA relies on: checked, sorted, weights mapped, one name for the standard domain."""
    graphs = check.all_graphs(model)
    weights.adopt(graphs)
    check.check_model(model, graphs)
    for graph in check.bodies(model):
        if "ai.onnx" in graph.opset_imports:
            opset = graph.opset_imports.pop("ai.onnx")
            graph.opset_imports.setdefault("", opset)
    for graph in graphs:
        _open_negative_axes(graph)
    files: tuple[Fingerprint, ...] = (*origin.files, *weights.files)
    notes = tuple(dict.fromkeys((*origin.notes, *_listed(model))))
    set_origin(model, replace(origin, external=origin.external or weights.external, files=files, notes=notes))
    return model


def _listed(model: ir.Model) -> Iterator[str]:
    """A note where weights are listed as inputs although the IR version does not ask for that."""
    listed = [str(value.name) for value in model.graph.inputs if value.is_initializer()]
    if listed and (model.ir_version or 0) >= _IR_WITHOUT_LISTS:
        names = f"{', '.join(listed[:3])}{f' and {len(listed) - 3} more' if len(listed) > 3 else ''}"
        yield f"stored tensors listed as inputs ({names}) are taken as weights, and stay listed with their new shapes"


def _open_negative_axes(graph: ir.Graph) -> None:
    """Axes declared as -1, as some exporters do, become axes of unknown length: that is how runtimes take them."""
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None and any(isinstance(size, int) and size < 0 for size in value.shape):
            value.shape = ir.Shape([None if isinstance(size, int) and size < 0 else size for size in value.shape])


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn whatever a damaged model makes protobuf and onnx_ir raise into a ModelError, and keep their log quiet."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except ModelError:
        raise
    except DecodeError:
        raise ModelError("not an ONNX model, or truncated or damaged") from None
    except Exception as error:  # onnx_ir raises many kinds; each of them means: not a valid model
        cause: BaseException = error
        while deeper := cause.__cause__ or cause.__context__:
            cause = deeper
        reason = " ".join(str(cause).split())[:200]
        raise ModelError(f"not a valid model: {reason or type(cause).__name__}") from error
    finally:
        logger.setLevel(level)
