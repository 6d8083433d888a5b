from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models import folder as toy
from spa.errors import DataError, UsageError
from spa.frontends import texts
from spa.frontends.texts import TextOptions

pytest.importorskip("tokenizers", reason="the extra text is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.build(tmp_path_factory.mktemp("toy"), toy.Sizes(layers=1))


def _windows(folder: Path, source: object, **options: object) -> texts.Windows:
    return texts.windows(source, folder=folder, options=TextOptions(**options), most=256)  # type: ignore[arg-type]


def test_windows_begin_as_a_text_does_and_hold_it_in_order(folder: Path) -> None:
    windows = _windows(folder, ["abcdefgh" * 20], length=9)
    assert (windows.fitted[:, 0] == toy.BEGIN).all()
    text = bytes(windows.fitted[:, 1:].reshape(-1).astype(np.uint8)).decode()
    assert ("abcdefgh" * 20).startswith(text)
    assert len(text) == 136


def test_whole_texts_are_held_out_where_there_are_many(folder: Path) -> None:
    windows = _windows(folder, [letter * 40 for letter in "abcdefghijklmnop"], length=11)
    letters = [
        {chr(token) for token in part[:, 1:].reshape(-1)} - {"\n"} for part in (windows.fitted, windows.held_out)
    ]
    assert letters[1] == {"h", "p"}
    assert not letters[0] & letters[1]


def test_the_end_of_a_text_alone_is_held_out(folder: Path) -> None:
    windows = _windows(folder, ["a" * 700 + "b" * 100], length=11)
    assert not np.any(windows.fitted == ord("b"))
    assert set(windows.held_out[:, 1:].reshape(-1)) <= {ord("b"), ord("\n")}


def test_lengths_follow_the_config_and_the_amount(folder: Path, tmp_path: Path) -> None:
    assert _windows(folder, ["a" * 40_000]).fitted.shape[1] == toy.Sizes().length
    assert _windows(folder, ["a" * 640]).fitted.shape[1] == 35
    assert _windows(tmp_path, ["a" * 40_000], tokenizer=folder).fitted.shape[1] == texts.LONGEST
    assert texts.windows(["a" * 999], folder=folder, options=TextOptions(), length=48).fitted.shape[1] == 48


def test_lengths_that_the_model_does_not_take(folder: Path) -> None:
    most = toy.Sizes().length
    with pytest.raises(UsageError, match=f"takes {most} tokens at most"):
        _windows(folder, ["a" * 40_000], length=most + 1)
    with pytest.raises(UsageError, match="takes texts of 48 tokens alone"):
        texts.windows(["a" * 999], folder=folder, options=TextOptions(length=49), length=48)


@pytest.mark.parametrize("line", ['{"text": "abc"}', '"abc"', '{"id": 1, "content": "abc"}'])
def test_lines_of_json(folder: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "texts.jsonl").write_text(f"{line}\n\n" * 60)
    assert texts.are_texts(tmp_path / "texts.jsonl")
    assert texts.are_texts(tmp_path)
    assert chr(_windows(folder, tmp_path, length=8).fitted[0, 1]) == "a"


def test_lines_end_at_line_feeds_alone_and_a_byte_order_mark_is_no_text(folder: Path, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False) + "\n" for _ in range(60))
    (tmp_path / "texts.jsonl").write_text(lines, encoding="utf-8-sig")
    plain = tmp_path / "plain.jsonl"
    plain.write_text(lines, encoding="utf-8")
    marked, unmarked = (_windows(folder, tmp_path / name, length=8) for name in ("texts.jsonl", "plain.jsonl"))
    np.testing.assert_array_equal(marked.fitted, unmarked.fitted)


def test_what_are_no_texts(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat")
    assert texts.are_texts(tmp_path)
    (tmp_path / "cat.png").touch()
    assert not texts.are_texts(tmp_path)
    others = ["m" * 5000, "package.module:function", {"x": 1}, [], [1], tmp_path / "no.txt"]
    assert not any(map(texts.are_texts, others))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{", "line 1: this is no JSON"), ('{"words": "a"}', "line 1: expected a text"), ("", "there is no text"),
     ('"abc"', "do not fill one sample")],
)  # fmt: skip
def test_texts_that_are_refused(folder: Path, tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "texts.jsonl").write_text(content)
    with pytest.raises(DataError, match=expected):
        _windows(folder, tmp_path / "texts.jsonl")


def test_no_tokenizer_and_a_broken_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer\.json beside the model"):
        _windows(tmp_path, ["abc"])
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(DataError, match="is no tokenizer"):
        _windows(tmp_path, ["abc"])
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(DataError, match="cannot be read as text"):
        _windows(folder, tmp_path / "latin.txt")
