"""The soundness oracle: whether a rule tells the truth about its operator, found out by running the operator.

A row is one node.  The node is coupled as a graph of its own, and for every factor that its rule leaves free one or two
positions are cut by `spa.passes.cut.slicing`.  What the smaller node computes has to be what the whole node computes,
with the cut positions deleted from its results, after operand positions that the node sums over were set to zero.

One file: coupling, cutting, zeroing and comparing are one argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from spa.analysis.application import Application
from spa.analysis.couple import couple
from spa.analysis.coupling import Coupling
from spa.analysis.group import keep_mask
from spa.notation.dims import ONE, Factor, leaves
from spa.notation.operation import Operation
from spa.notation.patterns import names_of
from spa.passes.cut.masking import mask_consumers
from spa.passes.cut.slicing import slice_model
from spa.shapes import Shapes
from tests.definitions import DEFINED

RELATIVE = 1e-5  # of the largest number in a result
IR_VERSION = 10


class Unsound(AssertionError):
    """A rule does not describe what its operator does; says which factor shows it."""


# ----------------------------------------------------------------------------------------------------- rows
@dataclass(frozen=True, slots=True)
class Tensor:
    """An operand: its content, and whether it is a constant, or at least known to the analysis."""

    array: np.ndarray
    constant: bool = False
    known: bool = False


Given = tuple[int, ...] | Tensor | None


@dataclass(frozen=True, slots=True)
class Row:
    """One node and the rule it should get.

    operator: its name, with "domain::" before it where it is not one of onnx
    operands: a tuple is the shape of a random float input, None an operand left out
    rule: the expected text; "refused: ..." where the node gets no rule
    results: how many results are asked for; 0: as many as the rule has
    engine: what runs the node: onnxruntime; reference (onnx's own implementation, or that of `tests.definitions`); or
        "": the text is checked alone
    shapes: of the results, where nothing can run or infer them
    why: why nothing here can run any node of this operator
    singles: single positions of the first operand may go
    """

    operator: str
    operands: Sequence[Given]
    rule: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 20
    results: int = 0
    engine: str = "onnxruntime"
    shapes: Sequence[tuple[int, ...]] = ()
    why: str = ""
    singles: bool = False

    @property
    def domain(self) -> str:
        return self.operator.rpartition("::")[0]

    @property
    def name(self) -> str:
        return self.operator.rpartition("::")[2]

    @property
    def outputs(self) -> int:
        return self.results or self.rule.split(" | ")[0].partition("->")[2].count(",") + 1

    @property
    def refused(self) -> bool:
        return self.rule.startswith("refused: ")

    def __str__(self) -> str:
        shapes = ",".join("" if given is None else "x".join(map(str, _shape(given))) or "()" for given in self.operands)
        attributes = "".join(f",{name}={value}" for name, value in self.attributes.items())
        return f"{self.operator}-{self.opset}[{shapes}{attributes}]".replace(" ", "")


def row(operator: str, operands: Sequence[Given], rule: str, *, opset: int = 20, results: int = 0,
        engine: str = "onnxruntime", shapes: Sequence[tuple[int, ...]] = (), why: str = "", singles: bool = False,
        **attributes: Any) -> Row:  # fmt: skip
    """A row of the table; keywords are the node's attributes."""
    return Row(operator, operands, rule, attributes, opset, results, "" if why else engine, shapes, why, singles)


def weight(*shape: int, dtype: Any = np.float32) -> Tensor:
    """A constant with random content."""
    return Tensor(_random(shape, dtype), constant=True)


def constant(content: Any, dtype: Any = np.int64) -> Tensor:
    """A constant with this content."""
    return Tensor(np.array(content, dtype=dtype), constant=True)


def given(content: Any, dtype: Any = np.int64) -> Tensor:
    """An input of the graph that happens to have this content."""
    return Tensor(np.array(content, dtype=dtype))


def bound(content: Any, dtype: Any = np.int64) -> Tensor:
    """An input of the graph whose content is known under the binding of the symbolic axes."""
    return Tensor(np.array(content, dtype=dtype), known=True)


def random(*shape: int, dtype: Any = np.float32) -> Tensor:
    """An input of the graph with random content of a type."""
    return Tensor(_random(shape, dtype))


def _random(shape: Sequence[int], dtype: Any, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(crc32(f"{shape}{dtype}{seed}".encode()))
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return generator.random(shape) > 0.5
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return np.asarray(generator.integers(max(limits.min, -100), min(limits.max, 100), shape, endpoint=True), kind)
    return np.asarray(generator.uniform(0.2, 1.5, shape) * generator.choice([-1, 1], shape), kind)


def _shape(operand: tuple[int, ...] | Tensor) -> tuple[int, ...]:
    return operand.array.shape if isinstance(operand, Tensor) else operand


# ------------------------------------------------------------------------------------------------- one node
class Case:
    """A row as a model, with the content of its operands."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.tensors = {
            position: operand if isinstance(operand, Tensor) else Tensor(_random(operand, np.float32, position))
            for position, operand in enumerate(row.operands)
            if operand is not None
        }
        self.dense = {position: tensor.array for position, tensor in self.tensors.items()}
        self.shapes: list[tuple[int, ...]] | None = None

    def model(self, arrays: Mapping[int, np.ndarray]) -> ir.Model:
        """The node as a graph: results go through an Identity, so that somebody uses them."""
        names = ["" if operand is None else f"x{k}" for k, operand in enumerate(self.row.operands)]
        results = [f"y{k}" for k in range(self.row.outputs)]
        node = onnx.helper.make_node(
            self.row.name, names, results, name="node", domain=self.row.domain, **self.row.attributes
        )
        ends = [onnx.helper.make_node("Identity", [name], [f"{name}out"]) for name in results]
        inputs, constants = [], []
        for k, array in arrays.items():
            if self.tensors[k].constant:
                constants.append(onnx.numpy_helper.from_array(array, f"x{k}"))
            else:
                element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                inputs.append(onnx.helper.make_tensor_value_info(f"x{k}", element, array.shape))
        # The results themselves are outputs too, so that no kernel may write them over its operands: the MoE of
        # onnxruntime 1.31 does, and reads the operands after that.
        outputs = [onnx.ValueInfoProto(name=name) for name in (*(f"{name}out" for name in results), *results)]
        graph = onnx.helper.make_graph([node, *ends], "row", inputs, outputs, constants)
        imports = [onnx.helper.make_opsetid("", self.row.opset)]
        if self.row.domain:
            imports.append(onnx.helper.make_opsetid(self.row.domain, 1))
        model = onnx.helper.make_model(graph, opset_imports=imports)
        model.ir_version = IR_VERSION if self.row.opset < 24 else IR_VERSION + 3
        return ir.serde.deserialize_model(model)

    def run(self, model: ir.Model, arrays: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """The results of a model on what of `arrays` is an input."""
        proto = ir.serde.serialize_model(model)
        feeds = {f"x{k}": array for k, array in arrays.items() if not self.tensors[k].constant}
        if self.row.engine == "reference":
            return list(ReferenceEvaluator(proto, new_ops=DEFINED).run(None, feeds))[: self.row.outputs]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return list(session.run(None, feeds))[: self.row.outputs]

    def operation(self) -> Operation:
        """What the rule sees of the node."""
        row = self.row
        shapes = self.result_shapes()
        return Operation(
            row.name,
            row.domain,
            1 if row.domain else row.opset,
            [None if operand is None else _shape(operand) for operand in row.operands],
            shapes,
            {name: value.encode() if isinstance(value, str) else value for name, value in row.attributes.items()},
            {k: tensor.array for k, tensor in self.tensors.items() if tensor.constant},
            frozenset(k for k, tensor in self.tensors.items() if tensor.constant),
            {k: tensor.array for k, tensor in self.tensors.items() if tensor.constant or tensor.known},
            frozenset(k for k, tensor in self.tensors.items() if tensor.array.dtype.kind == "f"),
            row.singles,
        )

    def result_shapes(self) -> list[tuple[int, ...]]:
        """Found out by running the node; onnx's inference tells where nothing can run it."""
        if self.shapes is None:
            if self.row.shapes:
                self.shapes = list(self.row.shapes)
            elif self.row.engine:
                self.shapes = [result.shape for result in self.run(self.model(self.dense), self.dense)]
            else:
                self.shapes = _inferred(ir.serde.serialize_model(self.model(self.dense)), self.row.outputs)
        return self.shapes

    def couple(self) -> tuple[ir.Model, Shapes, Coupling, Application]:
        """The model, and what the rules say of it."""
        model = self.model(self.dense)
        node = next(node for node in model.graph if node.name == "node")
        of = {value: self.dense[k].shape for k, value in enumerate(node.inputs) if value is not None}
        for value, end, shape in zip(node.outputs, model.graph.outputs, self.result_shapes(), strict=False):
            of[value] = of[end] = shape
        told = {k: tensor.array for k, tensor in self.tensors.items() if tensor.constant or tensor.known}
        values = {value: told[k] for k, value in enumerate(node.inputs) if value is not None and k in told}
        shapes = Shapes(of, values, {})
        coupling = couple(model, shapes)
        applications = [application for application in coupling.applications if application.node is node]
        if not applications:
            reasons = {str(reason) for reason in coupling.frozen.values() if "graph" not in reason.text}
            raise Unsound(f"{self.row}: the rule cannot be applied: {'; '.join(reasons)}")
        return model, shapes, coupling, applications[0]


def _inferred(model: onnx.ModelProto, results: int) -> list[tuple[int, ...]]:
    known = {info.name: info for info in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
    return [tuple(dim.dim_value for dim in known[f"y{k}"].type.tensor_type.shape.dim) for k in range(results)]


# ---------------------------------------------------------------------------------------------- the oracle
def check(row: Row) -> int:
    """Cut every free factor of a row; how many cuts were compared.

    Raises:
        Unsound: the smaller node does not run, or computes something else.
    """
    case = Case(row)
    *_, coupling, application = case.couple()
    count = 0
    for number, leaf in enumerate(_free(coupling, application)):
        for removed in _choices(leaf.size):
            _compare(case, number, removed)
            count += 1
    return count


def _values(application: Application) -> Iterator[ir.Value]:
    yield from (value for value in (*application.node.inputs, *application.node.outputs) if value is not None)


def _free(coupling: Coupling, application: Application) -> list[Factor]:
    """The leaves of a node's tensors that its own rule does not freeze, in order."""
    rule, node = application.rule, application.node
    frozen = _leaves_of(application, rule.frozen)
    for value, pattern in (*zip_longest(node.inputs, rule.operands), *zip_longest(node.outputs, rule.results)):
        if value is not None and pattern is None:
            frozen.update(leaf for dim in coupling.axes.get(value, ()) for leaf in leaves(dim))
    candidates = dict.fromkeys(
        leaf for value in _values(application) for dim in coupling.axes.get(value, ()) for leaf in leaves(dim)
    )
    return [leaf for leaf in candidates if leaf is not ONE and leaf.size > 1 and leaf not in frozen]


def _leaves_of(application: Application, names: Any) -> set[Factor]:
    return {leaf for name in names for dim in application.named(name) for leaf in leaves(dim)}


def _choices(size: int) -> list[tuple[int, ...]]:
    """One position, and two where something is left after that."""
    return [(size // 2,)] if size == 2 else [(0,), (size // 2, size - 1)]


def _compare(case: Case, number: int, removed: tuple[int, ...]) -> None:
    model, shapes, coupling, application = case.couple()
    leaf = _free(coupling, application)[number]
    mask = np.ones(leaf.size, bool)
    mask[list(removed)] = False
    masks = {leaf: mask}
    values = application.node.inputs
    zeroed = _zeroed(case, coupling, application, leaf, masks)
    axes = [coupling.axes.get(value, ()) for value in application.node.outputs]
    expected = [
        _cut(array, dims, masks) for array, dims in zip(case.run(case.model(zeroed), zeroed), axes, strict=True)
    ]
    smaller = {
        k: array if (value := values[k]) is None else _cut(array, coupling.axes.get(value, ()), masks)
        for k, array in case.dense.items()
    }
    what = f"{case.row}: position {removed} of a factor of size {leaf.size} in {application.rule}"
    slice_model(model, coupling, shapes, masks)
    try:
        results = case.run(model, smaller)
    except Exception as error:  # onnxruntime's exceptions share no base
        raise Unsound(f"{what}: the smaller node does not run: {error}") from error
    moves = leaf in _leaves_of(application, application.rule.statistic)
    for k, (wanted, actual) in enumerate(zip(expected, results, strict=True)):
        if wanted.shape != actual.shape:
            raise Unsound(f"{what}: result {k} has shape {actual.shape}, expected {wanted.shape}")
        if not moves and not _close(wanted, actual):
            raise Unsound(f"{what}: result {k} is {actual}, expected {wanted}")
    if not moves:
        _compare_masked(case, number, mask, results, what)


def _compare_masked(case: Case, number: int, mask: np.ndarray, results: Sequence[np.ndarray], what: str) -> None:
    """The reference that verification uses for whole models has to say the same."""
    model, _, coupling, application = case.couple()
    masks = {_free(coupling, application)[number]: mask}
    axes = [coupling.axes.get(value, ()) for value in application.node.outputs]
    mask_consumers(model, coupling, masks)
    for k, (masked, dims) in enumerate(zip(case.run(model, case.dense), axes, strict=True)):
        if not _close(_cut(masked, dims, masks), results[k]):
            raise Unsound(f"{what}: result {k} of the masked node is {masked}, expected {results[k]}")


def _cut(array: np.ndarray, axes: Sequence[Factor], masks: Mapping[Factor, np.ndarray]) -> np.ndarray:
    for axis, dim in enumerate(axes):
        mask = keep_mask(dim, masks)
        if mask is not None:
            array = np.compress(mask, array, axis=axis)
    return array


def _zeroed(
    case: Case, coupling: Coupling, application: Application, leaf: Factor, masks: Mapping[Factor, np.ndarray]
) -> dict[int, np.ndarray]:
    """The operands with removed positions set to zero where the node sums over them."""
    rule = application.rule
    arrays = {k: array.copy() for k, array in case.dense.items()}
    for position, value in enumerate(application.node.inputs):
        for axis, term in enumerate(application.operand_axes(position)):
            assert value is not None
            names = {name.name for name in names_of(term)}
            summed = {name for name in names if name.split(".")[0] in rule.contracted}
            for read in rule.reads:
                if (read.operand, read.axis) == (position, axis):
                    summed |= names.intersection(read.names) if read.names else names
            if leaf not in _leaves_of(application, summed):
                continue
            mask = keep_mask(coupling.axes[value][axis], masks)
            if mask is not None and position in arrays:
                zero = np.broadcast_to(_zero_point(case, application, position), arrays[position].shape)
                np.moveaxis(arrays[position], axis, 0)[~mask] = np.moveaxis(zero, axis, 0)[~mask]
    return arrays


def _zero_point(case: Case, application: Application, position: int) -> np.ndarray:
    """What stands for zero in an operand, its axes put where the operand has the axes of the same terms."""
    point = dict(application.rule.zeros).get(position)
    if point is None or point not in case.dense:
        return np.zeros(())
    array, terms = case.dense[point], application.operand_axes(point)
    shape = [1] * len(application.operand_axes(position))
    for at, term in enumerate(terms):
        if array.shape[at] != 1:
            shape[application.operand_axes(position).index(term)] = array.shape[at]
    return array.reshape(shape)


def _close(expected: np.ndarray, actual: np.ndarray) -> bool:
    if expected.dtype != actual.dtype:
        return False
    if expected.dtype.kind not in "fc" or not expected.size:
        return bool(np.array_equal(expected, actual))
    scale = np.max(np.abs(expected), where=np.isfinite(expected), initial=1e-3)
    return bool(np.allclose(expected, actual, rtol=0, atol=RELATIVE * float(scale), equal_nan=True))
