"""Folders that hold a graph among other files: of onnxruntime-genai, and as optimum writes them.

    graph_of("llama-onnx")               llama-onnx/model.onnx, which genai_config.json names, or the only graph there
    save(pruned, "llama-smaller")        all of llama-onnx, with the smaller graph and configs that say its sizes

A folder appears whole or not at all: it is written beside its place under another name, and renamed at the end.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

import onnx_ir as ir

from spa.errors import ModelError, UsageError
from spa.frontends.files import configs
from spa.frontends.files.layers import rename
from spa.frontends.files.weights import Origin, origin_of
from spa.frontends.files.writing import save as save_file
from spa.frontends.files.writing import terminated_by_exception

GENAI, CONFIG = "genai_config.json", "config.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")
"""Weights of frameworks."""

_PLACES = ("*.onnx", "onnx/*.onnx")
"""Where graphs lie in a folder, as patterns."""


def is_onnx_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder whose model is a graph: it says so, or has graphs and no framework's weights."""
    folder = Path(path)
    if not os.path.isdir(path):  # noqa: PTH112 - is_dir raises for names that no file can have
        return False
    if (folder / GENAI).is_file():
        return True
    if not (folder / CONFIG).is_file():
        return False
    frameworks = any(file.suffix in _WEIGHTS for file in folder.iterdir() if file.is_file())
    return bool(_graphs(folder)) and not frameworks


def holds(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> bool:
    """Whether what is made of a source becomes a folder: the source is one, and the target is no name of a graph."""
    return Path(target).suffix != ".onnx" and is_onnx_folder(source)


def graph_of(folder: Path) -> Path:
    """The graph of a folder.

    Raises:
        ModelError: there is none, or there are several and no word which one it is.
    """
    path = folder / GENAI
    if path.is_file():
        return _named_in(path)
    graphs = _graphs(folder)
    if len(graphs) == 1:
        return graphs[0]
    if not graphs:
        raise ModelError(
            f"{str(folder)!r} is a folder without a graph: expected one file .onnx beside config.json, or a {GENAI} "
            "that names one"
        )
    names = ", ".join(str(graph.relative_to(folder)) for graph in graphs)
    raise ModelError(
        f"{str(folder)!r} holds {len(graphs)} graphs ({names}), which one cut would leave at odds: give one of them, "
        f"such as {str(graphs[0])!r}, or a folder with one"
    )


def _graphs(folder: Path) -> list[Path]:
    return [path for pattern in _PLACES for path in sorted(folder.glob(pattern)) if path.is_file()]


def _named_in(path: Path) -> Path:
    """The graph of the decoder that a config of onnxruntime-genai names."""
    decoder = _section(read_json(path), "model", "decoder")
    if decoder.get("pipeline"):
        raise ModelError(f"{str(path)!r}: the decoder consists of several graphs (pipeline): give one of them")
    name = decoder.get("filename")
    if not isinstance(name, str):
        raise ModelError(f"{str(path)!r}: expected the name of the graph at model.decoder.filename, found {name!r}")
    graph = path.parent / name
    windows = PureWindowsPath(os.path.normpath(name))
    inside = not (windows.drive or windows.root or windows.parts[:1] == (os.pardir,))  # a link may lead elsewhere
    if not inside or not graph.is_file():
        raise ModelError(f"{str(path)!r}: model.decoder.filename is {name!r}: there is no such file in the folder")
    return graph


def _section(config: Any, *names: str) -> dict[str, Any]:
    for name in names:
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ModelError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is no JSON: {error}") from error


# ------------------------------------------------------------------------------------------------------ writing
def check_target(target: str | os.PathLike[str], source: str | os.PathLike[str] | None = None) -> None:
    """Refuse a folder that could not be written, before the work that comes first.

    Raises:
        UsageError: it holds files already, lies in the source, or its own folder is missing or read-only.
    """
    path = Path(target)
    whole, shown = path.resolve(), repr(str(target))
    if path.exists() and not path.is_dir():
        raise UsageError(f"cannot write the folder {shown}: it is a file; give another name, or one that ends in .onnx")
    if path.is_dir() and next(path.iterdir(), None) is not None:
        raise UsageError(f"cannot write the folder {shown}: it holds files already; choose another name, or remove it")
    if source is not None and whole.is_relative_to(Path(source).resolve()):
        raise UsageError(f"cannot write the folder {shown}: it lies in the one that is read; choose another place")
    if not whole.parent.is_dir():
        raise UsageError(f"cannot write the folder {shown}: there is no folder {str(whole.parent)!r}")
    if not os.access(whole.parent, os.W_OK):
        raise UsageError(f"cannot write the folder {shown}: {str(whole.parent)!r} is read-only")


@contextmanager
def staged(target: str | os.PathLike[str], source: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A new folder to fill, which becomes the target at the end, and goes if anything fails before.

    Raises:
        UsageError: see `check_target`, or it cannot be written.
    """
    check_target(target, source)
    whole = Path(target).resolve()
    place = whole.with_name(f".{whole.name}.{secrets.token_hex(8)}.tmp")
    with terminated_by_exception():
        try:
            place.mkdir()
            yield place
            if whole.exists():
                whole.rmdir()  # it is empty
            place.rename(whole)
        except OSError as error:
            raise UsageError(f"cannot write the folder {str(target)!r}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(place, ignore_errors=True)


def save(model: ir.Model, target: str | os.PathLike[str]) -> None:
    """Write the folder that a model was read from, with this model in place of that one.

    Everything else is copied but hidden files and frameworks' weights, which would be those of the model before;
    configs say the sizes that the model has now (`spa.frontends.files.configs`).

    Raises:
        UsageError: the target cannot be written.
        ModelError: a file that was read has changed since, or a config is no JSON.
    """
    origin = origin_of(model)
    assert origin.folder is not None
    assert origin.path is not None
    with staged(target, origin.folder) as place:
        _copy(origin, place)
        for name in (GENAI, CONFIG):
            if (place / name).is_file():
                edited, _ = configs.edited(read_json(place / name), origin.sizes, origin.depth)
                (place / name).write_text(json.dumps(edited, indent=2) + "\n", encoding="utf-8")
        graph = place / origin.path.relative_to(origin.folder)
        graph.parent.mkdir(parents=True, exist_ok=True)
        save_file(_renumbered(model, origin), graph)


def _renumbered(model: ir.Model, origin: Origin) -> ir.Model:
    """The model with the caches numbered as its runtime counts them."""
    if origin.depth.renamed:
        model = model.clone()
        rename(model, origin.depth.renamed)
    return model


def notes(origin: Origin) -> list[str]:
    """What changes in the configs of a folder, and what they cannot say, in lines; none for a model from elsewhere."""
    if origin.folder is None:
        return []
    lines = []
    for name in (GENAI, CONFIG):
        if (origin.folder / name).is_file():
            _, said = configs.edited(read_json(origin.folder / name), origin.sizes, origin.depth)
            lines += [f"{name}: {line}" for line in said]
    renamed = origin.depth.renamed
    if renamed:
        before, after = next(iter(renamed.items()))
        lines.append(f"in the folder, {len(renamed)} caches are numbered anew: {before} is {after}")
    left = [path.name for path in sorted(origin.folder.iterdir()) if path.suffix in _WEIGHTS]
    if left:
        lines.append(f"not copied into a folder, as these are the weights before: {', '.join(left)}")
    return lines


def _copy(origin: Origin, place: Path) -> None:
    """Copy what is neither the graph nor its weights, those of frameworks, nor hidden."""
    assert origin.folder is not None
    read = {known.path.resolve() for known in origin.files} | {known.path for known in origin.files}

    def unwanted(folder: str, names: list[str]) -> set[str]:
        paths = {name: Path(folder) / name for name in names}
        return {
            name
            for name, path in paths.items()
            if name.startswith(".")
            or path.suffix in _WEIGHTS
            or path in read
            or path.resolve() in read
            or not (path.is_file() or path.is_dir())  # pipes, and links that lead nowhere
        }

    shutil.copytree(origin.folder, place, ignore=unwanted, dirs_exist_ok=True)
