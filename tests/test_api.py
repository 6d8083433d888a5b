"""What docs/api.md shows and `spa.__all__` names says what a caller asks: what goes in, and what can go wrong.

Read from the sources, so that no framework is needed: a docstring names every parameter, or the parameter is an option
whose field says what it is; `Raises:` lists what the function raises itself, and is there where what it calls raises.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest

import spa
from spa import errors

ROOT = Path(__file__).resolve().parent.parent
Documented = ast.FunctionDef | ast.ClassDef
SHOWN = re.findall(r"^::: (spa\.[\w.]+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
NAMES = sorted({*SHOWN, *(f"{home}.{name}" for name, home in spa._HOMES.items())} - {"spa.errors"})
KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}


# ------------------------------------------------------------------------------------------------ reading sources
def path_of(module: str) -> Path | None:
    """The file of a module of spa; None: it is none."""
    place = ROOT.joinpath(*module.split("."))
    paths = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()]
    return paths[0] if paths and module.split(".")[0] == "spa" else None


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def names_of(path: Path) -> tuple[dict[str, Documented], dict[str, tuple[str, str]]]:
    """What a module defines by name, and of what it imports by name the module and the name there."""
    imports = {
        (name.asname or name.name): (node.module, name.name)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in node.names
    }
    return {node.name: node for node in tree_of(path).body if isinstance(node, Documented)}, imports


def resolved(path: Path, name: str) -> tuple[Path, Documented] | None:
    """What a name stands for in a module, where it is a function or a class of spa."""
    while True:
        defined, imported = names_of(path)
        if name in defined:
            return path, defined[name]
        module, name = imported.get(name, ("", ""))
        other = path_of(module)
        if other is None or other == path:
            return None
        path = other


def found_at(dotted: str) -> tuple[Path, Documented]:
    """What is public under a name."""
    module, _, name = dotted.rpartition(".")
    path = path_of(module)
    entry = None if path is None else resolved(path, name)
    assert entry is not None, dotted
    return entry


def functions_of(node: Documented) -> Iterator[tuple[str, ast.FunctionDef]]:
    """A function, or a class's way to be made and its public methods."""
    if isinstance(node, ast.FunctionDef):
        yield node.name, node
        return
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and (member.name == "__init__" or not member.name.startswith("_")):
            yield f"{node.name}.{member.name}", member


PUBLIC = [
    pytest.param(path, owner, function, id=f"{dotted.rpartition('.')[0]}:{name}")
    for dotted in NAMES
    for path, owner in [found_at(dotted)]
    for name, function in functions_of(owner)
]


# ----------------------------------------------------------------------------------------------------- docstrings
def said(owner: Documented, function: ast.FunctionDef) -> str:
    """What is said of a function; of how an object is made, its class says it too."""
    text = ast.get_docstring(function) or ""
    return f"{ast.get_docstring(owner) or ''}\n{text}" if function.name == "__init__" else text


def parameters(function: ast.FunctionDef) -> set[str]:
    """By name; `**options` stands for options, whose fields say what they are."""
    given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {parameter.arg for parameter in given} - {"self", "cls"}


def raised(function: ast.FunctionDef) -> set[str]:
    """The errors of spa that a function raises itself."""
    calls = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
    names = {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    return names & KINDS.keys()


def listed(text: str) -> set[str]:
    """The errors that a docstring lists."""
    named: set[str] = set()
    for section in re.findall(r"Raises:\n((?:[ ]{4}.*\n?|\n)+)", text):
        for line in re.findall(r"^    (\w[\w, .]*):", section, re.MULTILINE):
            named |= set(line.split(", "))
    return named


def called_by(path: Path, call: ast.Call) -> Documented | None:
    """The function or class of spa that is called by its name, or as a module's."""
    entry = None
    if isinstance(call.func, ast.Name):
        entry = resolved(path, call.func.id)
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        module = path_of(".".join(names_of(path)[1].get(call.func.value.id, ("", ""))))
        entry = None if module is None else resolved(module, call.func.attr)
    return None if entry is None else entry[1]


def calls_that_raise(path: Path, function: ast.FunctionDef) -> set[str]:
    """The functions of spa that a function calls, not within a `try`, and whose docstrings list errors."""
    guarded = {
        inner
        for node in ast.walk(function)
        if isinstance(node, ast.Try)
        for part in node.body
        for inner in ast.walk(part)
    }
    names = set()
    for node in ast.walk(function):
        called = called_by(path, node) if isinstance(node, ast.Call) and node not in guarded else None
        if called is not None and listed(ast.get_docstring(called) or ""):
            names.add(called.name)
    return names


def test_there_is_something_to_look_at() -> None:
    assert len(PUBLIC) > 60
    text = "Do.\n\nRaises:\n    ModelError, UsageError: no.\n    DataError: no.\n"
    assert listed(text) == {"ModelError", "UsageError", "DataError"}


@pytest.mark.parametrize("dotted", NAMES)
def test_is_said_what_it_is(dotted: str) -> None:
    assert ast.get_docstring(found_at(dotted)[1]), "say in a line what it is or does"


@pytest.mark.parametrize(("path", "owner", "function"), PUBLIC)
def test_function_says_what_goes_in_and_what_goes_wrong(
    path: Path, owner: Documented, function: ast.FunctionDef
) -> None:
    text = said(owner, function)
    assert text, "say in a line what it does"
    unnamed = {name for name in parameters(function) if not re.search(rf"\b{name}\b", text)}
    assert not unnamed, "name them under Args"
    missing = {
        name
        for name in raised(function)
        if not any(issubclass(KINDS[name], KINDS[kind]) for kind in listed(text) & KINDS.keys())
    }
    assert not missing, "list them under Raises"
    assert listed(text) or not calls_that_raise(path, function), "list under Raises what these raise"


@pytest.mark.parametrize("dotted", [name for name in NAMES if isinstance(found_at(name)[1], ast.ClassDef)])
def test_class_says_what_its_fields_are(dotted: str) -> None:
    """A field has a line under Attributes, or a string behind it, or is an option."""
    _, owner = found_at(dotted)
    text = ast.get_docstring(owner) or ""
    for field, behind in zip_longest(owner.body, owner.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            constant = field.target.id.isupper() or field.target.id.startswith("_")
            option = field.value is not None and "about(" in ast.unparse(field.value)
            told = isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)
            assert constant or option or told or re.search(rf"\b{field.target.id}\b", text), field.target.id
