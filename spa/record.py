"""A device profile: what each part of a model took at several widths, on one device; JSON both ways.

`docs/howto/time.md` describes the file, and `spa/profile.schema.json` defines it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spa.errors import ModelError
from spa.ondevice import FORMAT, dumps

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """What a profile holds for.

    Attributes:
        cores: that the process may use.
        block: channels that the provider's kernels compute at once: kept widths are multiples of it.
        provider: onnxruntime's name.
        threads: inside an operator.
        onnxruntime: its version.
    """

    processor: str
    machine: str
    cores: int
    block: int
    provider: str
    threads: int
    onnxruntime: str

    @property
    def in_words(self) -> str:
        """``CPUExecutionProvider of AMD EPYC, 1 thread``."""
        return f"{self.provider} of {self.processor}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Unit:
    """A fused unit: what the optimised graph runs as one node.

    Attributes:
        name: of the node in the optimised graph.
        inputs, outputs: the shapes that it worked on, stored tensors included where onnxruntime tells them.
        milliseconds: of one run of the model, under the profiler.
    """

    name: str
    operator: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Variant:
    """The model at some widths.

    Attributes:
        removed: how many units are gone, by group; those that go are spread evenly
            (`spa.passes.latency.variants.spread`).
        milliseconds: of a run, without the profiler.
    """

    removed: Mapping[str, int]
    milliseconds: float
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """The times of a model on a device.

    Attributes:
        model: its name, the type of most of its numbers, the shapes of its inputs, and the units of its groups.
        variants: the dense model first.
    """

    model: Mapping[str, Any]
    device: Device
    variants: Sequence[Variant]

    @property
    def milliseconds(self) -> float:
        """Of a run of the dense model."""
        return self.variants[0].milliseconds

    def to_json(self) -> str:
        """The profile as text."""
        return dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Profile:
        """The profile that a `record` holds, as JSON knows it.

        Raises:
            ModelError: it is none; says what is missing.
        """
        try:
            if record["format"] != FORMAT:
                raise ModelError(f"expected a profile of format {FORMAT!r}, found {record['format']!r}")
            device = record["device"]
            return cls(
                dict(record["model"]),
                Device(**{name: kind(device[name]) for name, kind in _DEVICE.items()}),
                tuple(variant_of(entry) for entry in record["variants"]),
            )
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"no profile of format {FORMAT!r}: {type(error).__name__} at {error}; `spa profile` writes one"
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """The profile that `to_json` wrote, or the script on another machine.

        Raises:
            ModelError: the text is no profile.
        """
        try:
            record = json.loads(text)
        except ValueError as error:
            raise ModelError(f"no profile of format {FORMAT!r}: this is no JSON; `spa profile` writes one") from error
        return cls.of(record)


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """The profile in the file at a `path`.

    Raises:
        ModelError: there is none.
    """
    try:
        return Profile.from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read the profile {str(path)!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot read the profile {str(path)!r}: it is no text") from error
    except ModelError as error:
        raise ModelError(f"{str(path)!r}: {error}") from error


_DEVICE: Mapping[str, Any] = {
    "processor": str,
    "machine": str,
    "cores": int,
    "block": int,
    "provider": str,
    "threads": int,
    "onnxruntime": str,
}


def variant_of(entry: Mapping[str, Any]) -> Variant:
    """The times of a setting that JSON holds."""
    removed = {str(name): int(count) for name, count in entry["removed"].items()}
    return Variant(removed, float(entry["milliseconds"]), tuple(map(_unit, entry["units"])))


def _unit(entry: Mapping[str, Any]) -> Unit:
    return Unit(
        str(entry["name"]),
        str(entry["operator"]),
        tuple(tuple(map(int, shape)) for shape in entry["inputs"]),
        tuple(tuple(map(int, shape)) for shape in entry["outputs"]),
        float(entry["milliseconds"]),
    )
