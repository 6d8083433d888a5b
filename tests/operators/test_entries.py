"""One home for what is said of operators: their entries, and rows for every kind of note."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx_ir as ir

import spa.operators  # noqa: F401  (fills the registry)
from spa.notation.operation import Entry, entry_of, registered, rule_of
from spa.notation.parsing import parse
from spa.notation.rule import Observed, Positions, Rule, Sizes
from spa.operators.applied import applied
from tests.benchmarks import applied as script
from tests.rows import ROWS
from tests.soundness import Case

ROOT = Path(__file__).parents[2]

SEQUENCES = "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength"
ELSEWHERE: dict[str, tuple[str, str]] = {
    # file or folder: (operators that it names, or * for as many as there are, why)
    "spa/gradients/operators/": ("*", "an implementation in torch of each operator, by its name"),
    "spa/gradients/integers.py": ("*", "operators on integers alone, that have no gradient"),
    "spa/gradients/__init__.py": ("Split", "a class of that name"),
    "spa/analysis/group.py": ("Slice", "a class of that name, listed in __all__"),
    "spa/runtime/installed.py": ("Neg", "makes the smallest model there is"),
    "frontends/exporting/exported.py": ("Squeeze", "finds nodes of an exporter that say no axes"),
    "frontends/exporting/keras.py": ("Erf Sub", "writes what an exporter has no operator for"),
    "frontends/exporting/torch_exporters.py": ("BatchNormalization", "finds what torch.s exporter folds otherwise"),
    "frontends/exporting/torch_rebuild.py": ("GRU LSTM", "modules of torch of these names"),
    "passes/normalize/assignments.py": (
        "Concat Gather GatherND Scatter ScatterElements ScatterND Slice",
        "writes assignments at constant positions with other operators",
    ),
    "passes/normalize/sequences.py": (
        f"{SEQUENCES} Concat ConcatFromSequence Split SplitToSequence Squeeze Unsqueeze",
        "writes lists of tensors with other operators",
    ),
    "passes/normalize/builder.py": ("Identity Slice Split Squeeze Unsqueeze", "makes nodes, by opset"),
    "passes/cut/masking.py": ("Where", "makes a node that reads removed positions as zero"),
    "passes/cut/forwarding.py": ("Add Identity Sum", "makes the sum of what is left of one, and a name for it"),
    "passes/repair/gates.py": ("Mul", "makes a node that shuts a branch off"),
    "passes/cut/slicing.py": ("Mul Div", "makes nodes that correct a size computed when the graph runs"),
    "passes/normalize/fold.py": ("Identity", "makes a node that hands on what the branch taken gives"),
    "passes/repair/biases.py": ("Add", "makes a node that adds a bias"),
    "passes/repair/quantised.py": (
        "Conv ConvInteger DequantizeLinear Gemm MatMul MatMulInteger QGemm QLinearConv QLinearMatMul QuantizeLinear",
        "writes products of integers as plain ones, and back",
    ),
    "passes/repair/packed.py": (
        "Add MatMul MatMulNBits",
        "writes products with weights of few bits as plain ones, and back",
    ),
}


def texts() -> Iterator[tuple[str, int, str]]:
    """(file, line, text) of every string in the code but in the operators' own."""
    for room in ("spa", "passes", "frontends"):
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if path.is_relative_to(ROOT / room / "operators") or (room == "spa" and name.split("/")[1] in LINKED):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield name, node.lineno, node.value


LINKED = ("passes", "frontends")  # links to the folders beside


def test_no_operator_is_named_outside_its_entry() -> None:
    names = {name for _, name in registered()}
    named: dict[str, set[str]] = {}
    for path, _, text in texts():
        if text.split() and set(text.split()) <= names:
            home = next((where for where in ELSEWHERE if where.endswith("/") and path.startswith(where)), path)
            named.setdefault(home, set()).update(text.split())
    allowed = {where: named.get(where) if said == "*" else set(said.split()) for where, (said, _) in ELSEWHERE.items()}
    assert named == allowed, "say it in the operator's entry, in spa/operators; what makes nodes is listed above"


# --------------------------------------------------------------------------------------------- rows for notes
def rules() -> list[Rule]:
    return [parse(row.rule) for row in ROWS if not row.refused]


def test_every_note_has_a_row() -> None:
    said = rules()
    for field in fields(Rule):
        assert any(getattr(rule, field.name) for rule in said), f"no row has {field.name}"
    for kind in (Sizes, Positions, Observed):
        assert any(isinstance(follow, kind) for rule in said for follow in rule.follows), kind
    products = [product for rule in said for product in rule.products]
    for name in ("window", "steps", "inside", "symmetric"):
        assert any(getattr(product, name) not in (None, False) for product in products), f"no row has {name}"


def test_every_fact_of_an_entry_is_some_operators() -> None:
    entries = registered().values()
    plain = Entry(lambda _: rules()[0])
    for field in fields(Entry):
        if field.name != "rule":
            assert any(getattr(entry, field.name) != getattr(plain, field.name) for entry in entries), field.name


def test_printed_rules_are_those_that_rows_get() -> None:
    assert script.FILE.read_text("utf-8") == script.text(), "run python tests/benchmarks/applied.py"
    printed = applied()
    assert printed.keys() == {f"{domain}::{name}" if domain else name for domain, name in registered()}
    assert {line for lines in printed.values() for line in lines} <= {row.rule for row in ROWS}


def test_notes_in_the_docs_are_notes() -> None:
    section = (ROOT / "docs" / "rules.md").read_text("utf-8").partition("## Notes")[2].partition("## Facts")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    notes = [note for cell in cells for note in cell.split("`")[1::2] if "..." not in note]
    assert len(notes) > 15
    for note in notes:
        text = f"a -> a | {note}"
        assert str(parse(text)) == text


# ------------------------------------------------------------------------------------- facts against operators
def test_what_only_moves_elements_makes_none() -> None:
    """Every element of a result is an element of what is moved, whatever it holds."""
    seen = set()
    for row in ROWS:
        if row.refused or not row.engine or entry_of(node_of(row.operator)).moves is None:
            continue
        case = Case(row)
        if all(case.dense[at].dtype.kind == "f" for at in (0,)):
            given = np.concatenate([array.reshape(-1) for array in case.dense.values() if array.dtype.kind == "f"])
            for result in case.run(case.model(case.dense), case.dense):
                assert np.isin(result, given).all(), row
            seen.add(row.operator)
    assert seen == {name for (domain, name), entry in registered().items() if entry.moves is not None and not domain}


def test_what_continues_an_operand_depends_on_it_and_is_as_large_or_longer() -> None:
    seen = set()
    for row in ROWS:
        if row.refused or not row.engine:
            continue
        case = Case(row)
        for operand, result in entry_of(node_of(row.operator)).continues:
            made = case.run(case.model(case.dense), case.dense)
            if operand not in case.dense or result >= len(made):
                continue
            past, present = case.dense[operand], made[result]
            assert len(past.shape) == len(present.shape), row
            longer = [(left, right) for left, right in zip(past.shape, present.shape, strict=True) if left != right]
            assert len(longer) <= 1, row
            assert all(left < right for left, right in longer), row
            other = {**case.dense, operand: past + np.ones((), past.dtype)}
            assert not np.array_equal(case.run(case.model(other), other)[result], present), row
            seen.add((row.operator, operand))
    assert len(seen) > 8


def test_what_scales_and_shifts_last_does_so() -> None:
    """Twice the scale and twice the shift, and a half more: twice the result, and a half."""
    seen = set()
    for row in ROWS:
        affine = entry_of(node_of(row.operator)).affine
        if row.refused or not row.engine or affine is None or affine[0] not in (case := Case(row)).dense:
            continue
        scale, shift = affine
        if "(g c), g, g" in row.rule:  # one number a group
            continue
        shifted = shift is not None and shift in case.dense
        other = {**case.dense, scale: 2 * case.dense[scale]}
        if shift is not None and shifted:
            other[shift] = (2 * case.dense[shift] + 0.5).astype(case.dense[shift].dtype)
        before, after = (case.run(case.model(dense), dense)[0] for dense in (case.dense, other))
        np.testing.assert_allclose(after, 2 * before + 0.5 * shifted, rtol=1e-3, atol=1e-3, err_msg=str(row))
        seen.add(row.operator)
    assert len(seen) >= 6


def test_an_unknown_operator_has_no_facts() -> None:
    entry = entry_of(node_of("Mystery", "com.example"))
    assert all(getattr(entry, field.name) in (None, False, "", ()) for field in fields(Entry) if field.name != "rule")


def node_of(name: str, domain: str = "") -> ir.Node:
    return ir.Node(domain or ("com.microsoft" if name.startswith("com.microsoft") else ""), name.split("::")[-1], [])


def test_rules_are_told_by_the_entry() -> None:
    for row in ROWS:
        if not row.refused:
            operation = Case(row).operation()
            assert rule_of(operation) == entry_of(node_of(row.operator)).rule(operation)
            break
