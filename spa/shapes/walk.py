"""One walk over a graph, subgraphs included, that collects the types and contents of its values.

One file: loops, branches and plain nodes call one another, and share what is known of values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from spa.notation.bodies import Runs
from spa.notation.operation import Lists, Moves, entry_of
from spa.notation.partial import Dim
from spa.shapes.binding import Binding, evaluate_symbol, next_prime, symbol_of
from spa.shapes.content import SMALL, Content, evaluate, evaluate_partly
from spa.shapes.node import NodeInference
from spa.shapes.order import in_order
from spa.shapes.types import Call, Type, constant_tensor

_MOST_ROUNDS = 1024  # of a loop that are followed to learn how often it runs
_SETTLING_ROUNDS = 4  # an axis that a loop carries changes once at most, from a number to unknown
_GRAPH = ir.AttributeType.GRAPH
_COUNTER, _CONDITION = Type(ir.DataType.INT64, ()), Type(ir.DataType.BOOL, ())  # what a loop's body begins with


class _Impatience(Exception):
    """As many contradictions as with another binding."""


class Walk:
    """What one walk finds; ``binding=None`` leaves axes symbolic and trusts no declared shape.

    Axes whose size the data decides get the number ``counted``, or a prime each where that is None.

    types, contents: of the values, as far as known
    contradictions: how many nodes the binding does not suit
    fault: the first node that cannot take its operands, in words; empty where there is none
    misfits: axes whose size the data decides, and whose number contradicts some node
    finished: False if ``patience`` was lost over contradictions
    """

    def __init__(
        self,
        model: ir.Model,
        inference: NodeInference,
        binding: Binding | None,
        *,
        patience: float = math.inf,
        uncounted: Collection[str] = (),
        counted: int | None = None,
    ) -> None:
        self.types: dict[ir.Value, Type] = {}
        self.contents: dict[ir.Value, Content] = {}
        self.contradictions = 0
        self.fault = ""
        self.misfits: set[str] = set()
        self.finished = True
        self._inference = inference
        self._trusting = binding is not None
        self._binding = binding or Binding({}, {})
        self._overriding = binding is None and (model.ir_version or 0) >= 4  # then inputs may replace initializers
        self._patience = patience
        self._uncounted = uncounted
        self._count = counted
        self._counts: dict[str, int] = {}  # axis whose size the data decides -> number that stands for it
        self.counted: set[tuple[ir.Value, int]] = set()  # these axes
        self._symbols: list[str] = []
        try:
            for value in model.graph.inputs:
                declared = self._declared(value, trusted=True)
                self.types[value] = declared._replace(dims=self._binding.inputs.get(value.name or "", declared.dims))
            self._graph(model.graph)
        except _Impatience:
            self.finished = False

    @property
    def numbers(self) -> dict[str, int]:
        """Symbolic axis -> number."""
        return {**self._binding.numbers, **self._counts}

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """Symbolic axis -> those that it is as long as together."""
        return self._binding.ties

    def _declared(self, value: ir.Value, *, trusted: bool) -> Type:
        """The type that the model states; its dims only where ``trusted``."""
        if value.type is None:
            return Type()
        if not isinstance(value.type, ir.TensorType):
            return Type.read(ir.serde.serialize_type(value.type))
        dims = tuple(map(self._dim, value.shape)) if trusted and value.shape is not None else None
        return Type(int(value.type.dtype), dims)

    def _dim(self, dim: int | ir.SymbolicDim) -> Dim:
        if isinstance(dim, int):
            return dim if dim >= 0 else None
        if not self._trusting or dim.value is None:
            return dim.value
        return evaluate_symbol(dim.value, self._binding.numbers)

    def _graph(self, graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            if value.const_value is None:
                self.types.setdefault(value, self._declared(value, trusted=True))
            else:
                self._constant(value, value.const_value, followed=not (self._overriding and value.is_graph_input()))
        for node in in_order(graph):
            if entry_of(node).holds and (tensor := constant_tensor(node)) is not None:
                self._constant(node.outputs[0], tensor, followed=True)
            elif any(attribute.type in (_GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()):
                self._control_flow(node)
            else:
                self._plain(node)
            if self.contradictions >= self._patience:
                raise _Impatience

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol, *, followed: bool) -> None:
        self.types[value] = Type.of(tensor)
        if followed and tensor.size <= SMALL and tensor.dtype != ir.DataType.STRING:
            self.contents[value] = Content(tensor.numpy())

    def _plain(self, node: ir.Node) -> None:
        types = [None if value is None else self.types.get(value, Type()) for value in node.inputs]
        contents = [None if value is None else self.contents.get(value) for value in node.inputs]
        call = self._inference.call(node)
        answer = self._inference.infer(call, types, contents)
        if answer.contradiction:
            self.contradictions += 1
            self._blame_counts(types)
        if answer.fault and not self.fault:
            operands = " and ".join(str(type_) for type_ in types if type_ is not None)
            where = f"{node.op_type} {node.name or node.outputs[0].name!r}"
            self.fault = f"{where} cannot take its operands, {operands}: {answer.fault}"
        results = None if answer.contradiction else self._evaluate(call, answer.types, types, contents)
        counted = (
            self._trusting
            and entry_of(node).counts
            and all(type_ is None or type_.static is not None for type_ in types)
        )
        for position, (value, type_) in enumerate(zip(node.outputs, answer.types, strict=True)):
            named = self._trusting and not call.standard and value.is_graph_output()  # by the model: a total length
            content = results[position] if results else None
            if content is not None and type_.dims is None:
                type_ = type_._replace(dims=content.array.shape)
            self._assign(value, self._counted(value, type_, named=named) if counted or named else type_, content)

    def _assign(self, value: ir.Value, type_: Type, content: Content | None = None) -> None:
        self.types[value] = type_ = self._completed(value, type_)
        if content is not None and type_.describes(content.array):
            self.contents[value] = content
        else:
            self.contents.pop(value, None)  # of an earlier round of a loop

    def _evaluate(
        self, call: Call, results: Sequence[Type], types: Sequence[Type | None], contents: Sequence[Content | None]
    ) -> Sequence[Content] | None:
        """Contents of the results, as far as known."""
        entry, source = entry_of(call), types[0] if types else None
        if source and entry.lists is Lists.SIZES and source.dims is not None:
            start, end = call.attribute("start", 0), call.attribute("end", len(source.dims))
            return [Content.sizes(source.dims[start:end], self._symbols)]
        if source and entry.lists is Lists.COUNT and source.static is not None:
            return [Content(np.array(math.prod(source.static), dtype=np.int64))]
        if any(math.prod(type_.static or ()) > SMALL for type_ in results) or not any(contents):
            return None
        if entry.moves is Moves.ALL:
            contents = [content or _unknown_sizes(type_) for type_, content in zip(types, contents, strict=True)]
        if entry.casts:  # of what comes behind the first operand the type alone is read
            contents = [*contents[:1], *map(_nothing_of, types[1:])]
        if any(type_ is not None and content is None for type_, content in zip(types, contents, strict=True)):
            return None
        if not all(content is None or content.complete for content in contents):
            return evaluate_partly(call.payload, call.version, entry, contents)
        arrays = evaluate(call.payload, call.version, [content.array if content else None for content in contents])
        return None if arrays is None else [Content(array) for array in arrays]

    def _counted(self, value: ir.Value, type_: Type, *, named: bool = False) -> Type:
        """The type with numbers in place of how many elements the data will select, or of what only the model names."""
        dims = list(type_.dims or ())
        for axis, dim in enumerate(dims):
            name = (self._symbol(value, axis) if named else None) or f"{value.name}[{axis}]"
            if not isinstance(dim, int) and name not in self._uncounted:
                dims[axis] = self._counts.setdefault(name, self._count or next_prime(self.numbers.values()))
                self.counted.add((value, axis))
        return type_ if type_.dims is None else type_._replace(dims=tuple(dims))

    @staticmethod
    def _symbol(value: ir.Value, axis: int) -> str | None:
        """What a model calls an axis of an output."""
        return None if value.shape is None or axis >= len(value.shape) else symbol_of(value.shape[axis])

    def _blame_counts(self, types: Sequence[Type | None]) -> None:
        sizes = [dim for type_ in types if type_ for dim in type_.dims or () if isinstance(dim, int) and dim > 0]
        self.misfits.update(name for name, count in self._counts.items() if any(size % count == 0 for size in sizes))

    def _completed(self, value: ir.Value, type_: Type) -> Type:
        """The inferred type, with what only the model states where that agrees with it."""
        if type_.static is not None or type_.other:
            return type_
        declared = self._declared(value, trusted=self._trusting)
        if not type_.element or type_.dims is None:
            return declared if type_.element in (0, declared.element) else type_
        if declared.dims is None or len(declared.dims) != len(type_.dims):
            return type_
        pairs = list(zip(type_.dims, declared.dims, strict=True))
        if any(
            isinstance(inferred, int) and isinstance(stated, int) and inferred != stated for inferred, stated in pairs
        ):
            return type_
        return type_._replace(
            dims=tuple(inferred if isinstance(inferred, int) else stated or inferred for inferred, stated in pairs)
        )

    # Control flow. Branches and bodies see the outer values, since all values are in one table.

    def _control_flow(self, node: ir.Node) -> None:
        graphs = {name: attribute.as_graph() for name, attribute in node.attributes.items() if attribute.type == _GRAPH}
        bodies = entry_of(node).bodies
        if bodies is None:
            for graph in graphs.values():
                self._body(graph, [Type()] * len(graph.inputs))
            self._assign_all(node, [Type()] * len(node.outputs))
            return
        inside = [graphs[name] for name in bodies.names]
        match bodies.runs:
            case Runs.BRANCH:
                self._branch(node, *inside)
            case Runs.ROUNDS:
                self._repeated(node, *inside)
            case Runs.SEQUENCE:
                self._scanned(node, *inside)

    def _assign_all(self, node: ir.Node, types: Sequence[Type]) -> None:
        for value, type_ in zip(node.outputs, types, strict=True):
            self._assign(value, type_)

    def _results(self, graph: ir.Graph) -> list[Type]:
        return [self.types.get(value, Type()) for value in graph.outputs]

    def _operands(self, node: ir.Node) -> list[Type]:
        return [self.types.get(value, Type()) if value is not None else Type() for value in node.inputs]

    def _branch(self, node: ir.Node, then_branch: ir.Graph, else_branch: ir.Graph) -> None:
        condition = self.contents.get(node.inputs[0]) if node.inputs[0] is not None else None
        taken = None
        if condition is not None and condition.complete:
            taken = then_branch if condition.array.all() else else_branch
        patience, self._patience = self._patience, math.inf  # a branch that is not taken may contradict itself
        for branch in (then_branch, else_branch):
            count = self.contradictions
            self._graph(branch)
            if taken is not None and branch is not taken:
                self.contradictions = count
        self._patience = patience
        if taken is None:
            branches = zip(self._results(then_branch), self._results(else_branch), strict=True)
            self._assign_all(node, [then_type.join(else_type) for then_type, else_type in branches])
            return
        for value, result, type_ in zip(node.outputs, taken.outputs, self._results(taken), strict=True):
            self._assign(value, type_, self.contents.get(result))

    def _body(self, graph: ir.Graph, types: Sequence[Type], contents: Sequence[Content | None] = ()) -> None:
        for value, type_, content in itertools.zip_longest(graph.inputs, types, contents):
            self._assign(value, type_, content)
        self._graph(graph)

    def _settled(self, body: ir.Graph, carried: list[Type], before: list[Type], after: list[Type]) -> list[Type]:
        """Types of what a body carries from round to round, such that one more round changes none of them.

        before, after: types of the body's inputs to either side of the carried ones
        """
        start = 1 if before else 0  # of what is carried among the results, after a loop's condition
        for _ in range(_SETTLING_ROUNDS):
            count = self.contradictions
            self._body(body, [*before, *carried, *after])
            results = self._results(body)[start : start + len(carried)]
            joined = [earlier.join(later) for earlier, later in zip(carried, results, strict=True)]
            if joined == carried:
                break
            self.contradictions, carried = count, joined
        return carried

    def _repeated(self, node: ir.Node, body: ir.Graph) -> None:
        carried = self._operands(node)[2:]
        rounds = self._rounds(node, body, carried)
        carried = self._settled(body, carried, [_COUNTER, _CONDITION], [])
        scanned = self._results(body)[1 + len(carried) :]
        self._assign_all(node, [*carried, *(type_.stacked(rounds, 0) for type_ in scanned)])

    def _rounds(self, node: ir.Node, body: ir.Graph, types: Sequence[Type]) -> int | None:
        """How often the loop runs, found by running what decides it; None where that is open."""
        limit, condition, *carried = (None if value is None else self.contents.get(value) for value in node.inputs)
        for value, content in zip(node.inputs[:2], (limit, condition), strict=True):
            if value is not None and (content is None or not content.complete):
                return None
        last = math.inf if limit is None else int(limit.array.item())
        going = condition is None or bool(condition.array.all())
        done, count = 0, self.contradictions
        while going and done < last:
            if done == _MOST_ROUNDS:
                return None
            scalars = [Content(np.array(done, dtype=np.int64)), Content(np.array(True))]
            self._body(body, [_COUNTER, _CONDITION, *types], [*scalars, *carried])
            self.contradictions = count
            decision = self.contents.get(body.outputs[0])
            if decision is None or not decision.complete:
                return None
            going = bool(decision.array.all())
            types = self._results(body)[1 : 1 + len(carried)]
            carried = [self.contents.get(value) for value in body.outputs[1 : 1 + len(carried)]]
            done += 1
        return done

    def _scanned(self, node: ir.Node, body: ir.Graph) -> None:
        count = node.attributes["num_scan_inputs"].as_int()
        operands = self._operands(node)
        carried, sequences = operands[:-count], operands[-count:]
        axes = node.attributes.get_ints("scan_input_axes", [0] * count)
        lengths = {type_.dims[axis] for type_, axis in zip(sequences, axes, strict=True) if type_.dims}
        slices = [type_.sliced(axis) for type_, axis in zip(sequences, axes, strict=True)]
        carried = self._settled(body, carried, [], slices)
        scanned = self._results(body)[len(carried) :]
        length = lengths.pop() if len(lengths) == 1 else None
        axes = node.attributes.get_ints("scan_output_axes", [0] * len(scanned))
        stacked = [type_.stacked(length, axis) for type_, axis in zip(scanned, axes, strict=True)]
        self._assign_all(node, [*carried, *stacked])


def _unknown_sizes(type_: Type | None) -> Content | None:
    if type_ is None or type_.element != ir.DataType.INT64 or type_.static is None or math.prod(type_.static) > SMALL:
        return None
    return Content.open(type_.static)


def _nothing_of(type_: Type | None) -> Content | None:
    """No elements, of a known type."""
    if type_ is None or type_.element in (0, ir.DataType.STRING):
        return None
    return Content(np.empty(0, ir.DataType(type_.element).numpy()))
