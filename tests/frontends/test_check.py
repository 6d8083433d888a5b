from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spa.errors import ModelError
from spa.frontends.files import check
from spa.frontends.files.onnx_file import load
from spa.runtime import newest_versions, require
from tests.small import linear, text_model, write

require()  # versions are those that onnxruntime takes, where it is in use
NEWEST_IR, NEWEST_OPSET = newest_versions()

Make = Callable[[Path], object]  # a model or its path, given a folder to put it in


def _changed(change: Callable[[onnx.ModelProto], object]) -> Make:
    def make(_: Path) -> object:
        proto = linear()
        change(proto)
        return proto

    return make


def _external(**entries: str) -> Make:
    """A model whose external data has some entries changed."""

    def make(folder: Path) -> object:
        write(folder, linear(), external=True)
        proto = onnx.load(folder / "model.onnx", load_external_data=False)
        for entry in proto.graph.initializer[0].external_data:
            entry.value = entries.get(entry.key, entry.value)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        return folder / "model.onnx"

    return make


def _file(content: bytes) -> Make:
    def make(folder: Path) -> object:
        (folder / "model.onnx").write_bytes(content)
        return folder / "model.onnx"

    return make


def _link_out(folder: Path) -> object:
    path = _external()(folder)
    outside = folder.parent / f"{folder.name}.outside"
    (folder / "weights.bin").rename(outside)
    (folder / "weights.bin").symlink_to(outside)
    return path


def _fifo(folder: Path) -> object:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


def _nested(depth: int) -> onnx.ModelProto:
    proto = text_model("y = Abs(x)")
    graph = proto.graph
    for level in range(depth):  # in place: protobuf copies no messages that are nested as deep
        node = graph.node.add(op_type="If", input=["x"], output=[f"y{level}"])
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    return proto


def _calls(depth: int, width: int, *, back: bool = False) -> onnx.ModelProto:
    """Functions that each call the next one some times; the last calls the first, or nothing."""
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("local", 1)]
    functions = []
    for level in range(depth):
        last = level == depth - 1
        callee, domain = ("Abs", "") if last and not back else (f"f{(level + 1) % depth}", "local")
        names = ["x", *(f"v{index}" for index in range(width - 1)), "y"]
        nodes = [
            onnx.helper.make_node(callee, [source], [target], domain=domain)
            for source, target in itertools.pairwise(names)
        ]
        functions.append(onnx.helper.make_function("local", f"f{level}", ["x"], ["y"], nodes, opsets))
    proto = text_model("y = Abs(x)")
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "f0", "local"
    proto.functions.extend(functions)
    proto.opset_import.append(opsets[1])
    return proto


def _tensor(**fields: Any) -> Make:
    """A model whose weight has some fields changed; None clears one."""

    def change(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        for name, value in fields.items():
            tensor.ClearField(name)
            if value is not None:
                tensor.MergeFrom(onnx.TensorProto(**{name: value}))

    return _changed(change)


BAD: dict[str, tuple[Make, str]] = {
    "missing file": (lambda folder: folder / "model.onnx", "cannot read .*No such file"),
    "null byte in the path": (lambda _: "model\0.onnx", "cannot read .*null byte"),
    "path too long": (lambda _: "m" * 5000, "cannot read .*too long"),
    "directory": (lambda folder: folder, "is a folder without a graph"),
    "pipe": (_fifo, "is not a regular file"),
    "empty": (_file(b""), "is empty"),
    "text": (_file(b"version https://git-lfs.github.com/spec/v1\noid 0"), "text, not an ONNX model: .*git-lfs"),
    "truncated": (_file(linear().SerializeToString()[:1500]), "truncated or damaged: the field at byte"),
    "truncated in a small field": (_file(linear().SerializeToString()[:3]), "truncated or damaged"),
    "zeros": (_file(bytes(4096)), "not an ONNX model|truncated or damaged"),
    "an image": (_file(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8), "damaged"),
    "another protobuf": (_file(onnx.TensorProto(dims=[1], data_type=1).SerializeToString()), "no graph"),
    "no graph": (_changed(lambda proto: proto.ClearField("graph")), "it holds no graph"),
    "no opset": (_changed(lambda proto: proto.ClearField("opset_import")), "does not say which opset"),
    "old opset": (
        _changed(lambda proto: setattr(proto.opset_import[0], "version", 8)),
        f"expected opset 9 to {NEWEST_OPSET} .*found 8",
    ),
    "new opset": (
        _changed(lambda proto: setattr(proto.opset_import[0], "version", 99)),
        f"9 to {NEWEST_OPSET} .*found 99",
    ),
    "new IR": (
        _changed(lambda proto: setattr(proto, "ir_version", 99)),
        f"IR version from 3 to {NEWEST_IR} .*found 99",
    ),
    "old IR": (_changed(lambda proto: setattr(proto, "ir_version", 2)), f"IR version from 3 to {NEWEST_IR} .*found 2"),
    "data missing": (_external(location="gone.bin"), "'gone.bin' is missing in "),
    "data absolute": (_external(location="/etc/passwd"), "a path relative to the model, found '/etc/passwd'"),
    "data absolute on Windows": (_external(location="C:\\weights.bin"), "a path relative to the model"),
    "data above": (_external(location="../weights.bin"), "'../weights.bin' climbs out of the model's folder"),
    "data above and back": (_external(location="a/../../a/weights.bin"), "climbs out of the model's folder"),
    "data by backslashes": (_external(location="..\\weights.bin"), "climbs out of the model's folder"),
    "data with a null byte": (_external(location="weights\0.bin"), "climbs out|null"),
    "data unnamed": (_external(location=""), "a path relative to the model, found ''"),
    "data is the folder": (_external(location="."), "is a directory"),
    "data behind a link": (_link_out, "is a link out of the model's folder"),
    "data past the end": (_external(offset="4"), "bytes 4 to 2052 of 'weights.bin', which has 2048 bytes"),
    "data before the start": (_external(offset="-4"), "(not a valid model: .*|bytes )-4"),
    "data too long": (_external(length="4096"), r"shape \[32, 16\] takes 2048 bytes, found 4096"),
    "data without numbers": (_external(offset="four"), "not a valid model: .*four"),
    "raw data too short": (_tensor(raw_data=bytes(2044)), "'weight' .*takes 2048 bytes, found 2044"),
    "raw data too long": (_tensor(raw_data=bytes(2052)), "takes 2048 bytes, found 2052"),
    "no data": (_tensor(raw_data=None), "takes 512 entries in float_data, found 0"),
    "too few numbers": (_tensor(raw_data=None, float_data=[1.0]), "512 entries in float_data, found 1"),
    "numbers of another type": (_tensor(raw_data=None, int64_data=[1] * 512), "512 entries in float_data, found 0"),
    "negative axis": (_tensor(dims=[-32, -16]), "negative length"),
    "absurd axes": (_tensor(dims=[2**31, 2**31, 2**31], raw_data=None), "more than 2\\^63 entries in float_data"),
    "absurdly many axes": (_tensor(dims=[2**62] * 4000), "4000 axes; the limit is 64"),
    "absurd raw data": (_tensor(dims=[2**62] * 64), "takes more than 2\\^63 bytes, found 2048"),
    "unknown element type": (_tensor(data_type=99), "not a valid model: 99"),
    "undefined element type": (_tensor(data_type=0), "of type UNDEFINED cannot be stored"),
    "cycle": (
        lambda _: text_model("a = Abs(b) b = Relu(a) y = Add(x, a)"),
        "a cycle: .*Abs.* -> .*Relu|a cycle: .*Relu",
    ),
    "node reads itself": (lambda _: text_model("y = Abs(y)"), "a cycle: Abs node 'y'"),
    "value defined twice": (lambda _: text_model("y = Abs(x) y = Relu(x)"), "'y' is redeclared"),
    "input defined twice": (
        lambda _: text_model("y = Abs(x)", inputs="float[2] x, float[2] x"),
        "value 'x' is defined twice",
    ),
    "initializer defined twice": (
        _changed(lambda proto: proto.graph.initializer.append(proto.graph.initializer[0])),
        "initializer 'weight' is defined twice in graph 'linear'",
    ),
    "undefined operand": (
        lambda _: text_model("y = Add(x, nowhere)"),
        "Add node 'y' reads value 'nowhere', which nothing",
    ),
    "undefined output": (lambda _: text_model("z = Abs(x)"), "output 'y' .* nothing defines"),
    "line break in a name": (lambda _: _renamed("no\nwhere"), r"reads value 'no\\nwhere'"),
    "sparse initializer": (
        _changed(lambda proto: proto.graph.sparse_initializer.add(values=onnx.TensorProto(name="few"))),
        "'few' is a sparse tensor",
    ),
    "function defined twice": (
        _changed(lambda proto: proto.functions.append(proto.functions[0])),
        "function 'local:shift:' is defined twice",
    ),
    "function calls itself": (lambda _: _calls(3, 1, back=True), "functions call themselves: 'f0' -> 'f1' -> 'f2'"),
    "functions grow without bound": (lambda _: _calls(60, 10), r"would have 1e\+60 nodes; the limit is 2000000"),
    "functions too deep": (lambda _: _calls(600, 1), "more than 500 levels deep"),
    "subgraphs too deep": (lambda _: _nested(40), "nested deeper than 32 levels"),
}


def _renamed(name: str) -> onnx.ModelProto:
    proto = text_model("y = Add(x, nowhere)")
    proto.graph.node[0].input[1] = name
    return proto


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_line(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = BAD[case]
    source = make(tmp_path)
    line = refusal(source)
    assert re.search(message, line)
    if isinstance(source, Path):
        assert str(source) in line
    if isinstance(source, onnx.ModelProto):  # and the same model in a file, where protobuf has its own limits
        (tmp_path / "model.onnx").write_bytes(source.SerializeToString())
        assert re.search(f"{message}|not an ONNX model, or truncated or damaged", refusal(tmp_path / "model.onnx"))
    assert capfd.readouterr() == ("", "")


def refusal(source: object) -> str:
    with pytest.raises(ModelError) as caught:
        load(source)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 6000
    return line


def test_longest_chain_of_calls_that_is_accepted() -> None:
    assert len(load(_calls(check.MAX_CALL_DEPTH, 1)).functions) == check.MAX_CALL_DEPTH


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), length=st.floats(0.5, 2))
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, edits: list[tuple[float, int]], length: float, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(linear().SerializeToString())
    for position, byte in edits:
        content[int(position * (len(content) - 1))] = byte
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(length * len(content))])
    try:
        outcome = f"{str(path)!r}: read {len(load(path).graph)} nodes"
    except ModelError as error:
        outcome = str(error)
    assert outcome.startswith(repr(str(path)))
    assert "\n" not in outcome
    assert capfd.readouterr() == ("", "")
