"""The protobuf wire format of a model file, as far as it takes to leave large weights where they are.

Parsing a model copies every weight, twice; serialising it copies them again. So a file is read as a *skeleton*: the
same messages without the large ``raw_data`` fields, each tensor marked with where its bytes lie in the file. Writing
is the reverse: the messages around the weights are serialised, the weights are streamed in between.

Source: https://protobuf.dev/programming-guides/encoding and the field numbers of onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import onnx

from spa.errors import ModelError
from spa.runtime import LARGE_NBYTES

# onnx nests three messages per subgraph, and protobuf refuses more than 100 levels.
_MAX_DEPTH = 100

Message = Literal["model", "function", "graph", "node", "attribute", "tensor"]

# Which fields lead to a tensor that may be large.
_CHILDREN: Mapping[Message, Mapping[int, Message]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 11: "graph"},
}

_GRAPH, _INITIALIZER, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    number: int
    wire_type: int
    start: int  # of the tag
    payload: int  # start of the payload
    end: int


def skeleton(data: mmap.mmap, *, location: str) -> bytes:
    """The serialised model without its large weights.

    Each tensor that lost its ``raw_data`` is marked as external, with this location, the offset of the bytes in
    ``data`` and their length.

    Raises:
        ModelError: if the messages do not fit together, as in a truncated file.
    """
    reduced = _reduce(data, 0, len(data), "model", location, 0)
    return data[:] if reduced is None else reduced


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    number = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise ModelError(f"truncated or damaged: expected a number that ends before byte {end}, found none")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        tag, payload = _varint(data, position, end)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, after = _varint(data, payload, end)
        elif wire_type == _BYTES:
            nbytes, payload = _varint(data, payload, end)
            after = payload + nbytes
        elif wire_type in (_FIXED32, _FIXED64):
            after = payload + (4 if wire_type == _FIXED32 else 8)
        else:
            raise ModelError(f"not an ONNX model, or damaged: found wire type {wire_type} at byte {position}")
        if after > end:
            raise ModelError(
                f"truncated or damaged: the field at byte {position} needs {after - payload} bytes, "
                f"but {max(end - payload, 0)} are left"
            )
        yield _Field(tag >> 3, wire_type, position, payload, after)
        position = after


def _reduce(data: mmap.mmap, start: int, end: int, message: Message, location: str, depth: int) -> bytes | None:
    """A message without its large weights; None if it holds none."""
    if depth > _MAX_DEPTH:
        raise ModelError(f"messages are nested deeper than {_MAX_DEPTH} levels")
    if message == "tensor":
        return _reduce_tensor(data, start, end, location)
    pieces: list[bytes] = []
    kept = start
    for field in _fields(data, start, end):
        child = _CHILDREN[message].get(field.number)
        if child is None or field.wire_type != _BYTES or field.end - field.payload < LARGE_NBYTES:
            continue
        reduced = _reduce(data, field.payload, field.end, child, location, depth + 1)
        if reduced is not None:
            pieces += [data[kept : field.start], _header(field.number, len(reduced)), reduced]
            kept = field.end
    return b"".join([*pieces, data[kept:end]]) if pieces else None


def _reduce_tensor(data: mmap.mmap, start: int, end: int, location: str) -> bytes | None:
    fields = list(_fields(data, start, end))
    raw = [field for field in fields if field.number == _RAW_DATA and field.wire_type == _BYTES]
    external = any(
        field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and data[field.payload] != 0)
        for field in fields
    )
    if external or len(raw) != 1 or raw[0].end - raw[0].payload < LARGE_NBYTES:
        return None
    (field,) = raw
    mark = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    mark.external_data.add(key="location", value=location)
    mark.external_data.add(key="offset", value=str(field.payload))
    mark.external_data.add(key="length", value=str(field.end - field.payload))
    return b"".join([data[start : field.start], data[field.end : end], mark.SerializeToString()])


@dataclass(frozen=True, slots=True)
class Streamed:
    """A serialised model in pieces: messages, and between them the names of weights whose bytes are yet to come."""

    pieces: tuple[bytes | str, ...]
    nbytes: int  # of the whole file, weights included


def streamed(proto: onnx.ModelProto, nbytes: Mapping[str, int]) -> Streamed:
    """Serialise a model around the named weights of its main graph, which it holds as external tensors.

    The order of fields in a message is free, so the weights follow the rest of the graph, and the graph the rest of
    the model. Takes ``proto`` apart.
    """
    pieces: list[bytes | str] = []
    graph_nbytes = 0
    for tensor in proto.graph.initializer:
        payload_nbytes = nbytes.get(tensor.name, 0)
        if payload_nbytes:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        message = tensor.SerializeToString(deterministic=True)
        if payload_nbytes:
            message += _header(_RAW_DATA, payload_nbytes)
        message = _header(_INITIALIZER, len(message) + payload_nbytes) + message
        pieces.append(message)
        if payload_nbytes:
            pieces.append(tensor.name)
        graph_nbytes += len(message) + payload_nbytes
    proto.graph.ClearField("initializer")
    graph = proto.graph.SerializeToString(deterministic=True)
    graph_nbytes += len(graph)
    proto.ClearField("graph")
    start = proto.SerializeToString(deterministic=True) + _header(_GRAPH, graph_nbytes)
    return Streamed((start, graph, *pieces), len(start) + graph_nbytes)


def _header(number: int, nbytes: int) -> bytes:
    """Tag and length of a field of bytes."""
    return _encoded(number << 3 | _BYTES) + _encoded(nbytes)


def _encoded(number: int) -> bytes:
    """A non-negative number in base 128, lowest digits first; the top bit of a byte says that more follow."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
