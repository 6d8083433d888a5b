"""Texts as calibration data: read from files, and cut into windows of tokens by the tokenizer beside a model.

| source | texts |
|---|---|
| .txt | the whole file |
| .jsonl | each line: a text in quotes, or an object with it at text, content, prompt or instruction |
| a folder of these | all of their texts, in the order of the names |
| a list of str | each one |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spa.errors import DataError, MissingExtra, UsageError
from spa.fields import Options, about, at_least
from spa.frontends.samples import IMAGES, ImageOptions

SUFFIXES = frozenset({".txt", ".jsonl"})
_KEYS = ("text", "content", "prompt", "instruction")
_CONFIGS = ("config.json", "genai_config.json")
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "context_length")

LONGEST, SHORTEST, LEAST_WINDOWS = 512, 16, 16
"""Tokens of a window, and the windows for whose sake they become shorter."""

TOKENS = 1 << 15
"""As many as are fitted on, unless a preset takes all."""

EVERY = 8
"""One text in so many is held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions(Options):
    """How texts become samples."""

    length: int | None = field(
        default=None,
        metadata=about(
            "tokens of a sample of text",
            metavar="N",
            flag="--text-length",
            check=at_least(2, what="a whole number of at least 2"),
            unset=f"{LONGEST} or what the model's config takes, less where that leaves few samples",
        ),
    )
    tokenizer: str | os.PathLike[str] | None = field(
        default=None,
        metadata=about("a folder with tokenizer.json, or that file", metavar="FOLDER", unset="the model's folder"),
    )


@dataclass(frozen=True, slots=True)
class Windows:
    """Texts as windows of tokens, all of one length.

    Attributes:
        fitted, held_out: (windows, tokens); the second are of other texts, or of the last part of one text.
    """

    fitted: np.ndarray
    held_out: np.ndarray


def are_texts(source: Any) -> bool:
    """Whether calibration data are texts."""
    if isinstance(source, (str, os.PathLike)):
        return bool(_files(Path(source)))
    return isinstance(source, (list, tuple)) and bool(source) and all(isinstance(text, str) for text in source)


def may_be_texts(source: Any) -> bool:
    """Whether calibration data are texts, or are called as if they were, where there is no such file."""
    named = isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() in SUFFIXES
    return are_texts(source) or named


def check_readings(data: Any, images: ImageOptions | None, texts: TextOptions | None) -> None:
    """Refuse options of reading that nothing heeds; data: what was given, None for nothing.

    Raises:
        UsageError: images without a file or folder, or texts without texts.
    """
    if images is not None and data is None:
        raise UsageError("images has no effect without samples: give data")
    if images is not None and not isinstance(data, (str, os.PathLike)):
        raise UsageError("images has no effect: how images become samples is asked where data is a file or folder")
    if texts is not None and not may_be_texts(data):
        raise UsageError("texts has no effect without texts: give data that are texts, .txt or .jsonl")


def windows(
    source: Any,
    *,
    folder: Path | None,
    options: TextOptions,
    length: int | None = None,
    most: int | None = None,
) -> Windows:
    """Texts as tokens.

    Args:
        source: what `are_texts` knows.
        folder: of the model; None: it came from elsewhere.
        length: what the model takes, if it takes one length only.
        most: windows at most; None: all.

    Raises:
        DataError: there are no texts, too few tokens, or no tokenizer.
        UsageError: a length was asked for that the model does not take.
        MissingExtra: tokenizers is not installed.
    """
    context = _context(folder)
    if options.length is not None:
        _check_length(options.length, length, context)
    texts = _read(Path(source)) if isinstance(source, (str, os.PathLike)) else list(source)
    tokenizer = _Tokenizer.of(folder, options)
    streams = _apart([tokenizer.tokens(text) for text in texts])
    longest = length or options.length or min(LONGEST, context or LONGEST)
    if length is None and options.length is None:
        longest = min(longest, max(SHORTEST, len(streams[0]) // LEAST_WINDOWS))
    fitted, held_out = (tokenizer.cut(stream, longest) for stream in streams)
    if not len(fitted):
        raise DataError(
            f"calibration data: texts of {len(streams[0])} tokens do not fill one sample of {longest}; give more text, "
            "or a smaller --text-length"
        )
    count = None if most is None else min(most, max(LEAST_WINDOWS, TOKENS // longest))
    return Windows(_drawn(fitted, count), _drawn(held_out, None if count is None else max(1, count // 4)))


def _check_length(asked: int, only: int | None, most: int | None) -> None:
    """Refuse samples that are longer than a model takes, or have another length than the only one that it takes."""
    if only is not None and asked != only:
        raise UsageError(f"--text-length {asked}: the model takes texts of {only} tokens alone; leave the option out")
    if most is not None and asked > most:
        raise UsageError(f"--text-length {asked}: the model's config says that it takes {most} tokens at most")


def _drawn(rows: np.ndarray, most: int | None) -> np.ndarray:
    """At most so many rows, drawn evenly."""
    if most is None or len(rows) <= most:
        return rows
    chosen = np.linspace(0, len(rows) - 1, most).round().astype(int)
    return np.asarray(rows[chosen])


def _apart(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens to fit on and tokens to hold out: of every eighth text, or of the last eighth where there are fewer."""
    if len(texts) >= EVERY:
        parts = ([t for at, t in enumerate(texts) if (at % EVERY == EVERY - 1) == out] for out in (False, True))
        fitted, held_out = (np.array([token for text in part for token in text], np.int64) for part in parts)
        return fitted, held_out
    stream = np.array([token for text in texts for token in text], np.int64)
    at = len(stream) - len(stream) // EVERY
    return stream[:at], stream[at:]


# ------------------------------------------------------------------------------------------------------ reading
def _files(path: Path) -> list[Path]:
    """The files of texts at a path: itself, or those in a folder that holds no others that could be samples."""
    if os.path.isfile(path):  # noqa: PTH113 - is_file raises for names that no file can have
        return [path] if path.suffix.lower() in SUFFIXES else []
    if not os.path.isdir(path):  # noqa: PTH112
        return []
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if any(file.suffix.lower() in (IMAGES | {".npy", ".npz"}) for file in files):
        return []
    return [file for file in files if file.suffix.lower() in SUFFIXES]


def _read(path: Path) -> list[str]:
    texts = [text for file in _files(path) for text in _texts_of(file) if text.strip()]
    if not texts:
        raise DataError(f"calibration data {path}: there is no text in it")
    return texts


def _texts_of(file: Path) -> Iterable[str]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"calibration data {file}: cannot be read as text: {error}") from error
    if file.suffix.lower() == ".txt":
        return [content]
    return [_line(file, number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]


def _line(file: Path, number: int, line: str) -> str:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise DataError(f"calibration data {file}, line {number}: this is no JSON: {error}") from error
    if isinstance(parsed, dict):
        parsed = next((parsed[key] for key in _KEYS if isinstance(parsed.get(key), str)), None)
    if not isinstance(parsed, str):
        raise DataError(
            f"calibration data {file}, line {number}: expected a text, or an object with one at {', '.join(_KEYS)}"
        )
    return parsed


def _context(folder: Path | None) -> int | None:
    """How many tokens a model takes, as the configs in its folder say."""
    for name in _CONFIGS:
        path = None if folder is None else folder / name
        if path is None or not path.is_file():
            continue
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for section in (config, config.get("model", {}), config.get("text_config", {})):
            for key in _LENGTHS:
                if isinstance(section, dict) and type(section.get(key)) is int:
                    return int(section[key])
    return None


# -------------------------------------------------------------------------------------------------- tokenising
@dataclass(frozen=True, slots=True)
class _Tokenizer:
    """A tokenizer, and the tokens that it puts before and behind a text."""

    tokenizer: Any
    before: tuple[int, ...]
    behind: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path | None, options: TextOptions) -> _Tokenizer:
        place = folder if options.tokenizer is None else Path(options.tokenizer)
        path = place if place is None or place.is_file() else place / "tokenizer.json"
        if path is None or not path.is_file():
            where = "beside the model" if options.tokenizer is None else f"at {str(options.tokenizer)!r}"
            raise DataError(
                f"calibration data: texts need a tokenizer, and there is no tokenizer.json {where}; give a folder that "
                "has one with --tokenizer, or tokens as an .npz"
            )
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtra("texts need the library tokenizers: pip install 'spa-onnx[text]'") from None
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise DataError(f"{str(path)!r} is no tokenizer: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        plain, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        at = next((k for k in range(len(whole) - len(plain) + 1) if whole[k : k + len(plain)] == plain), 0)
        return cls(tokenizer, tuple(whole[:at]), tuple(whole[at + len(plain) :]))

    def tokens(self, text: str) -> Sequence[int]:
        """A text and a blank line, without what begins and ends a sample."""
        ids: Sequence[int] = self.tokenizer.encode(f"{text}\n\n", add_special_tokens=False).ids
        return ids

    def cut(self, stream: np.ndarray, length: int) -> np.ndarray:
        """(windows, length): each begins and ends as a text does."""
        inner = max(1, length - len(self.before) - len(self.behind))
        count = len(stream) // inner
        parts = stream[: count * inner].reshape(count, inner)
        edges = [np.tile(np.array(edge, np.int64), (count, 1)) for edge in (self.before, self.behind)]
        return np.concatenate([edges[0], parts, edges[1]], axis=1)[:, :length]
