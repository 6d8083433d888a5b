"""What the words of a command stand for: sizes, numbers, targets, plans. Each is refused in a line that names it."""

from __future__ import annotations

from pathlib import Path

from spa.analysis.plan import Plan
from spa.errors import ModelError, UsageError
from spa.frontends import sources
from spa.frontends.files import onnx_file
from spa.frontends.samples import ImageOptions


def beside(source: Path, ending: str) -> Path:
    """Where a result goes by default: beside a file; for package.module:factory, into the working directory."""
    if not source.exists() and sources.is_framework(source):
        return Path(f"{str(source).partition(':')[2]}.{ending}")
    return source.parent / f"{source.stem}.{ending}"


def target(model: Path, output: Path | None, word: str) -> Path:
    """Where a result goes: as told, or beside the model under another word."""
    return output or model.parent / f"{model.stem}.{word}.onnx"


def check_targets(target: Path | None, *others: Path | None) -> None:
    """Refuse a target that cannot be written, or that is another file of the command, before any work."""
    if target is None:
        return
    if any(other is not None and target.resolve() == other.resolve() for other in others):
        raise UsageError(f"cannot write {str(target)!r}: the command reads or writes it already; choose another name")
    onnx_file.check_target(target)


def images(mean: str, std: str, size: str | None) -> ImageOptions:
    """How pictures become samples."""
    means, stds = numbers(mean, "--image-mean"), numbers(std, "--image-std")
    sides = None if size is None else numbers(size, "--size")
    if sides is not None and (len(sides) != 2 or any(side < 1 or side != int(side) for side in sides)):
        raise UsageError(f"--size {size!r}: expected a height and a width such as 224,224")
    if not all(stds):
        raise UsageError(f"--image-std {std!r}: expected numbers other than zero")
    return ImageOptions(tuple(means), tuple(stds), None if sides is None else (int(sides[0]), int(sides[1])))


def numbers(text: str, option: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text!r}: expected numbers separated by commas") from None


def shapes(items: list[str] | None) -> dict[str, list[int]]:
    """The shapes of inputs, each NAME=SIZES."""
    shapes = {}
    for item in items or ():
        name, equals, text = item.rpartition("=")
        try:
            shapes[name] = [int(size) for size in text.split(",") if size]
        except ValueError:
            equals = ""
        if not equals or not name or any(size < 1 for size in shapes[name]):
            raise UsageError(f"--input {item!r}: expected NAME=SIZES such as pixels=1,3,224,224")
    return shapes


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read the plan {str(path)!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot read the plan {str(path)!r}: it is no text") from error
    except ModelError as error:
        raise ModelError(f"{str(path)!r}: {error}") from error
