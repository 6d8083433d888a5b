"""Compare two graphs node by node and number by number, whatever their values are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from spa.errors import VerificationError
from spa.mapped import release
from spa.notation.operation import entry_of

_CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class Likeness:
    """What was compared: stored tensors number by number, and by their digests."""

    kept: int
    refitted: int


def check_same(expected: ir.Model, actual: ir.Model, digests: Mapping[str, str]) -> Likeness:
    """Walk both graphs from their outputs, which have the same names, back to inputs and stored tensors.

    Args:
        digests: of stored tensors that are not what `expected` holds, by their names there.

    Raises:
        VerificationError: names the first node or stored tensor that differs.
    """
    walk = _Walk(digests)
    for left, right in zip(expected.graph.outputs, actual.graph.outputs, strict=True):
        walk.follow(left, right)
    extra = [node for node in actual.graph if node not in walk.met and not entry_of(node).holds]
    if len(extra) > sum(node not in walk.made and not entry_of(node).holds for node in expected.graph):
        raise VerificationError(f"{_name(extra[0])} is not in what the plan makes of the dense model")
    return Likeness(len(walk.kept), len(walk.refitted))


@dataclass(slots=True)
class _Walk:
    digests: Mapping[str, str]
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    made: dict[ir.Node, ir.Node] = field(default_factory=dict)
    met: set[ir.Node] = field(default_factory=set)
    kept: set[ir.Value] = field(default_factory=set)
    refitted: set[ir.Value] = field(default_factory=set)

    def follow(self, left: ir.Value | None, right: ir.Value | None, *, where: str = "an output") -> None:
        pending: list[tuple[ir.Value | None, ir.Value | None, str]] = [(left, right, where)]
        while pending:
            planned, pruned, reader = pending.pop()
            if planned is None or pruned is None:
                if planned is not pruned:
                    raise VerificationError(f"{reader} has another number of operands than the plan makes")
                continue
            if planned in self.values:
                if self.values[planned] is not pruned and stored(planned) is None:
                    raise VerificationError(f"{reader} reads {pruned.name!r}, where the plan has another value")
                if self.values[planned] is pruned:
                    continue
            self.values[planned] = pruned
            pending += self.pair(planned, pruned, reader)

    def pair(
        self, planned: ir.Value, pruned: ir.Value, reader: str
    ) -> list[tuple[ir.Value | None, ir.Value | None, str]]:
        """Compare what makes two values; the values that are to be compared next."""
        left, right = stored(planned), stored(pruned)
        if left is not None or right is not None:
            if left is None or right is None:
                raise VerificationError(f"{reader} reads {pruned.name!r}, which only one of the models stores")
            self.same_tensor(planned, left, right, str(pruned.name))
            return []
        before, after = planned.producer(), pruned.producer()
        if before is None or after is None:
            if before is not after or planned.name != pruned.name:
                raise VerificationError(f"{reader} reads {pruned.name!r}, where the plan has {planned.name!r}")
            return []
        if planned.index() != pruned.index():
            raise VerificationError(f"{reader} reads another result of {_name(after)} than the plan makes")
        if before in self.made:
            if self.made[before] is not after:
                raise VerificationError(f"{reader} reads {_name(after)}, where the plan has {_name(before)}")
            return []
        self.made[before] = after
        self.met.add(after)
        self.same_node(before, after)
        operands = zip(_operands(before), _operands(after), strict=True)
        return [(*pair, _name(after)) for pair in operands]

    def same_node(self, before: ir.Node, after: ir.Node) -> None:
        if before.op_identifier() != after.op_identifier():
            kinds = " and ".join(f"{node.domain or 'ai.onnx'}::{node.op_type}" for node in (after, before))
            raise VerificationError(f"{_name(after)} differs from what the plan makes: {kinds}")
        if len(_operands(before)) != len(_operands(after)):
            raise VerificationError(f"{_name(after)} has another number of operands than the plan makes")
        left, right = (dict(node.attributes.items()) for node in (before, after))
        for name in sorted({*left, *right}):
            if name not in left or name not in right or left[name].type != right[name].type:
                raise VerificationError(f"{_name(after)}: attribute {name!r} is in one of the models only")
            if left[name].type == ir.AttributeType.GRAPH:
                self.same_body(left[name].as_graph(), right[name].as_graph(), after)
            elif _bytes(left[name]) != _bytes(right[name]):
                raise VerificationError(
                    f"{_name(after)}: attribute {name!r} is {_short(right[name])}, where the plan has "
                    f"{_short(left[name])}"
                )

    def same_body(self, before: ir.Graph, after: ir.Graph, node: ir.Node) -> None:
        if (len(before.inputs), len(before.outputs)) != (len(after.inputs), len(after.outputs)):
            raise VerificationError(f"{_name(node)}: a body has other inputs or outputs than the plan makes")
        self.values.update(zip(before.inputs, after.inputs, strict=True))
        for left, right in zip(before.outputs, after.outputs, strict=True):
            self.follow(left, right, where=_name(node))

    def same_tensor(self, value: ir.Value, left: ir.TensorProtocol, right: ir.TensorProtocol, name: str) -> None:
        what = f"stored tensor {name!r}"
        if left.dtype != right.dtype or left.shape != right.shape:
            raise VerificationError(
                f"{what} is {right.dtype.name} {right.shape}, where the plan has {left.dtype.name} {left.shape}"
            )
        wanted = self.digests.get(str(value.name))
        off = None if wanted else different(left, right)
        if wanted and digest(right) != wanted:
            plain = different(left, right) == 0
            reason = "the dense model's own, cut as `spa apply` cuts it" if plain else "another"
            raise VerificationError(f"{what} is {reason}: the plan expects the one that the repair refitted")
        if off:
            raise VerificationError(
                f"{what} differs in {off} of {left.size} numbers from what the plan makes of the dense model"
            )
        (self.refitted if wanted else self.kept).add(value)
        release(right)


def stored(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor that a value is: an initializer, or what a Constant node holds."""
    node = value.producer()
    if node is not None and entry_of(node).holds and "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    return value.const_value if node is None and value.is_initializer() else None


def digest(tensor: ir.TensorProtocol) -> str:
    """SHA-256 of a tensor's type, shape and numbers."""
    hasher = hashlib.sha256(f"{tensor.dtype.name} {list(tensor.shape.numpy())}\n".encode())
    for part in _parts(tensor):
        hasher.update(part.data)
    return f"sha256:{hasher.hexdigest()}"


def different(left: ir.TensorProtocol, right: ir.TensorProtocol) -> int:
    """How many numbers of two tensors of one type and shape differ; of those below a byte, how many bytes."""
    size = 1 if left.dtype == ir.DataType.STRING else max(1, left.dtype.bitwidth // 8)
    pairs = zip(_parts(left), _parts(right), strict=True)
    return sum(int((first != second).reshape(-1, size).any(axis=1).sum()) for first, second in pairs)


def _parts(tensor: ir.TensorProtocol) -> Iterator[np.ndarray]:
    """The bytes of a tensor, some at a time."""
    if tensor.dtype == ir.DataType.STRING:
        text = b"\0".join(bytes(each) for each in np.asarray(tensor.numpy(), object).reshape(-1))
        yield np.frombuffer(text, np.uint8)
        return
    if tensor.dtype.bitwidth < 8:
        flat = np.frombuffer(tensor.tobytes(), np.uint8)
    else:
        flat = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]


def _operands(node: ir.Node) -> list[ir.Value | None]:
    """Operands without the absent ones at the end."""
    operands = list(node.inputs)
    while operands and operands[-1] is None:
        operands.pop()
    return operands


def _bytes(attribute: ir.Attr) -> bytes:
    proto = ir.serde.serialize_attribute(attribute)
    proto.ClearField("doc_string")
    return bytes(proto.SerializeToString(deterministic=True))


def _short(attribute: ir.Attr) -> str:
    return str(attribute.value)[:60]


def _name(node: ir.Node) -> str:
    return f"node {node.name or node.outputs[0].name!r} ({node.op_type})"
