"""Files of numpy that are damaged, or are none: one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import spa
from spa.errors import DataError, UsageError
from spa.feeds import read
from tests import models


def truncated(path: Path) -> None:
    np.savez(path, x=np.zeros((64, 3, 8, 8), np.float32))
    path.write_bytes(path.read_bytes()[:2000])


def changed(path: Path) -> None:
    np.savez(path, x=np.zeros((64, 3, 8, 8), np.float32))
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(bytes(content))


def compressed(path: Path) -> None:
    np.savez_compressed(path, x=np.arange(9999.0))
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(bytes(content))


def text(path: Path) -> None:
    path.write_text("hello")


def objects(path: Path) -> None:
    np.savez(path, x=np.array([{"a": 1}, None], object), allow_pickle=True)


@pytest.mark.parametrize("damage", [truncated, changed, compressed, text, objects])
def test_a_damaged_file_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    damage(path := tmp_path / "samples.npz")
    with pytest.raises(DataError, match=r"calibration data .*samples.npz: this is no .npz of plain arrays") as raised:
        spa.prune(models.residual_cnn(), ratio=0.3, data=path)
    assert "pickle" not in str(raised.value)
    with pytest.raises(DataError, match=r"samples.npz: this is no .npz"):
        spa.prune(models.residual_cnn(), ratio=0.3, data=tmp_path)
    with pytest.raises(UsageError, match=r"feed 'x': cannot read arrays from .*samples.npz"):
        read(path, "x")


def test_an_array_and_an_archive_are_told_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((4, 3, 8, 8), np.float32))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match=r"expected an .npz of arrays by input name, found one array"):
        spa.prune(models.residual_cnn(), ratio=0.3, data=tmp_path / "one.npz")


@pytest.mark.parametrize("dtype", [np.complex64, "datetime64[s]"])
def test_numbers_that_an_input_cannot_hold(dtype: str) -> None:
    samples = np.zeros((8, 3, 8, 8), dtype)
    with pytest.raises(DataError, match="input 'x' is FLOAT, found"):
        spa.prune(models.residual_cnn(), ratio=0.3, data={"x": samples})
