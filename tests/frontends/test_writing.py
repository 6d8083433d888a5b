from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from spa.errors import ModelError, UsageError
from spa.frontends.files import writing
from spa.frontends.files.onnx_file import load, save
from tests.small import WEIGHT, array, contents, entries, everything, linear, write


@pytest.mark.parametrize("external", [False, True])
def test_what_was_read_is_what_is_written(tmp_path: Path, external: bool) -> None:
    source = write(tmp_path, everything(), external=external)
    target = tmp_path / "out.onnx"
    save(load(source), target)
    written = onnx.load(target)
    assert contents(written) == contents(onnx.load(source))
    assert written.ir_version == 10
    assert [opset.version for opset in written.opset_import] == [20, 1]
    assert [(prop.key, prop.value) for prop in written.metadata_props] == [("key", "value")]
    assert {tensor.doc_string for tensor in written.graph.initializer if "_" in tensor.name} == {"documented"}
    data = ["out.onnx.data", "weights.bin"] if external else []
    assert entries(tmp_path) == ["model.onnx", "out.onnx", *data]


def test_external_data_is_aligned_and_small_tensors_are_inline(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    save(load(write(tmp_path, everything(), external=True)), target)
    locations: dict[str, dict[str, str]] = {}
    for tensor in onnx.load(target, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            locations[tensor.name] = {entry.key: entry.value for entry in tensor.external_data}
    assert {"weight", "FLOAT_2051", "INT4_2051"} <= locations.keys()
    assert not {"FLOAT_3", "words"} & locations.keys()
    assert all(int(entry["offset"]) % 64 == 0 for entry in locations.values())
    assert {entry["location"] for entry in locations.values()} == {"out.onnx.data"}


def test_source_in_several_files_becomes_one(tmp_path: Path) -> None:
    onnx.save(everything(), tmp_path / "model.onnx", save_as_external_data=True, all_tensors_to_one_file=False)
    before = entries(tmp_path)
    assert len(before) > 5
    save(load(tmp_path / "model.onnx"), tmp_path / "out.onnx")
    assert sorted(set(entries(tmp_path)) - set(before)) == ["out.onnx", "out.onnx.data"]
    assert contents(onnx.load(tmp_path / "out.onnx")) == contents(everything())


def test_model_too_large_for_one_message_gets_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, linear())
    monkeypatch.setattr(writing, "_MAX_MESSAGE_NBYTES", 2500)
    save(load(source), tmp_path / "fits.onnx")
    assert not (tmp_path / "fits.onnx.data").exists()
    monkeypatch.setattr(writing, "_MAX_MESSAGE_NBYTES", 2100)
    save(load(source), tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").stat().st_size == 2048
    assert contents(onnx.load(tmp_path / "large.onnx")) == contents(linear())


def test_new_weights_are_written_as_they_are(tmp_path: Path) -> None:
    """Views that are not contiguous, and a model that keeps its tensors."""
    model = load(write(tmp_path, linear()))
    cut = ir.Tensor(array(model, "weight")[::2, ::2], name="weight")
    model.graph.initializers["weight"].const_value = cut
    save(model, tmp_path / "out.onnx")
    (written,) = onnx.load(tmp_path / "out.onnx").graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(written), WEIGHT[::2, ::2])
    assert model.graph.initializers["weight"].const_value is cut


@pytest.mark.parametrize("external", [False, True])
def test_same_model_gives_the_same_bytes(tmp_path: Path, external: bool) -> None:
    source = write(tmp_path, everything(), external=external)
    target = tmp_path / "out.onnx"
    written = []
    for _ in range(3):  # over a file that is not there, and twice over one that is
        save(load(source), target)
        written.append({name: (tmp_path / name).read_bytes() for name in entries(tmp_path)})
    assert written[0] == written[1] == written[2]


def test_clone_knows_where_the_model_came_from(tmp_path: Path) -> None:
    model = load(write(tmp_path, linear(), external=True)).clone()
    save(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()


def test_replacing_removes_the_data_that_only_the_old_model_used(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    model = load(write(tmp_path, linear(), external=True))
    save(model, target)
    model.graph.initializers["weight"].const_value = ir.Tensor(WEIGHT + 1, name="weight")
    save(model, target)
    sources = {"model.onnx", "weights.bin"}
    (data,) = set(entries(tmp_path)) - {"out.onnx", *sources}
    assert data.startswith("out.onnx.")
    assert data != "out.onnx.data", "the old model needed its data until the new one was in place"
    assert np.array_equal(onnx.numpy_helper.to_array(onnx.load(target).graph.initializer[0]), WEIGHT + 1)
    save(load(linear()), target)
    assert set(entries(tmp_path)) == {"out.onnx", *sources}


def test_replacing_leaves_files_of_others(tmp_path: Path) -> None:
    source = write(tmp_path, linear(), external=True)
    target = tmp_path / "out.onnx"
    shutil.copy(source, target)  # refers to weights.bin, which the source needs
    (tmp_path / "out.onnx.data").write_bytes(b"somebody's")
    save(load(source), target)
    assert (tmp_path / "weights.bin").stat().st_size == 2048
    assert (tmp_path / "out.onnx.data").read_bytes() == b"somebody's"
    assert contents(onnx.load(target)) == contents(linear())


def test_target_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    model = load(write(tmp_path, linear()))
    real, link = tmp_path / "real.onnx", tmp_path / "link.onnx"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    save(model, link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert contents(onnx.load(real)) == contents(linear())
    umask = os.umask(0o022)
    os.umask(umask)
    save(model, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").stat().st_mode & 0o777 == 0o666 & ~umask


def _link(folder: Path) -> Path:
    (folder / "link.onnx").symlink_to(folder / "model.onnx")
    return folder / "link.onnx"


def _hard_link(folder: Path) -> Path:
    os.link(folder / "model.onnx", folder / "link.onnx")
    return folder / "link.onnx"


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


TARGETS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the source": (lambda folder: folder / "model.onnx", "the model was read from it"),
    "the source, another way": (
        lambda folder: folder / ".." / folder.name / "model.onnx",
        "the model was read from it",
    ),
    "the source's data": (lambda folder: folder / "weights.bin", "the model was read from it"),
    "a link to the source": (_link, "the model was read from it"),
    "a hard link to the source": (_hard_link, "the model was read from it"),
    "a folder": (lambda folder: folder, "it is a folder"),
    "a pipe": (_pipe, "not a regular file"),
    "in no folder": (lambda folder: folder / "nowhere" / "out.onnx", "there is no folder"),
    "in a file": (lambda folder: folder / "model.onnx" / "out.onnx", "there is no folder"),
    "a name too long": (lambda folder: folder / ("o" * 300), "too long"),
    "a null byte": (lambda folder: folder / "o\0.onnx", "null"),
    "where nobody may write": (lambda _: Path("/proc/out.onnx"), "cannot write '/proc/out.onnx': "),
}


@pytest.mark.parametrize("case", TARGETS)
def test_target_that_cannot_be(tmp_path: Path, case: str) -> None:
    make, message = TARGETS[case]
    model = load(write(tmp_path, linear(), external=True))
    target = make(tmp_path)
    before = {name: (tmp_path / name).stat() for name in entries(tmp_path)}
    with pytest.raises(UsageError, match=message) as caught:
        save(model, target)
    assert "\n" not in str(caught.value)
    assert {name: (tmp_path / name).stat() for name in entries(tmp_path)} == before


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("change", ["longer", "newer", "gone"])
def test_source_that_changed_since_it_was_read(tmp_path: Path, external: bool, change: str) -> None:
    source = write(tmp_path, linear(), external=external)
    model = load(source)
    changed = tmp_path / ("weights.bin" if external else "model.onnx")
    if change == "longer":
        with changed.open("ab") as file:
            file.write(b"\0")
    elif change == "newer":
        os.utime(changed, ns=(0, 10**18))
    else:
        changed.unlink()
    before = entries(tmp_path)
    with pytest.raises(ModelError, match="changed while the model was in use; load it again"):
        save(model, tmp_path / "out.onnx")
    assert entries(tmp_path) == before


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_interruption_leaves_nothing_behind(
    tmp_path: Path, external: bool, interruption: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(write(tmp_path, linear(), external=external))
    tensor = model.graph.initializers["weight"].const_value
    before = entries(tmp_path)

    def interrupt(_: object) -> memoryview:
        raise interruption

    monkeypatch.setattr(writing, "_payload", interrupt)
    with pytest.raises(interruption):
        save(model, tmp_path / "out.onnx")
    assert entries(tmp_path) == before
    assert model.graph.initializers["weight"].const_value is tensor
