"""Read calibration samples from files and functions, as arrays; `spa.passes.samples` checks whether they fit a model.

    read_samples("photographs", {"image": (None, 3, 224, 224)})        {"image": (count, 3, 224, 224) float32}

A folder of images needs a model of one input.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spa import arrays
from spa.errors import DataError, MissingExtra, UsageError
from spa.fields import Options, about, function_of
from spa.frontends.addresses import refuse_address

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})

Declared = Mapping[str, Sequence[int | None]]
"""Shape of each input of the model, None for an open axis; axis 0 counts samples."""


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas.

    Raises:
        UsageError: the text is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r}: expected numbers separated by commas") from None


def _is_size(value: Any) -> str | None:
    fine = len(value) == 2 and all(side >= 1 and side == int(side) for side in value)
    return None if fine else "a height and a width such as 224,224"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions(Options):
    """How an image becomes a sample: (value / 255 - mean) / std for each channel.

    Raises:
        UsageError: a standard deviation is zero, or the size is no height and width.
    """

    mean: tuple[float, ...] = field(
        default=(0.0,),
        metadata=about(
            "subtracted from images, whose values are 0 to 1: a number, or one for each channel",
            metavar="R,G,B",
            flag="--image-mean",
            parse=numbers,
        ),
    )
    std: tuple[float, ...] = field(
        default=(1.0,),
        metadata=about(
            "what images are divided by then",
            metavar="R,G,B",
            flag="--image-std",
            parse=numbers,
            check=lambda value: None if all(value) else "numbers other than zero",
        ),
    )
    size: tuple[int, int] | None = field(
        default=None,
        metadata=about(
            "height and width of images, where the model's input leaves them open",
            metavar="H,W",
            parse=lambda text: tuple(int(side) if side == int(side) else side for side in numbers(text)),
            check=_is_size,
        ),
    )


def read_samples(
    source: str | os.PathLike[str], declared: Declared, *, images: ImageOptions | None = None, most: int | None = None
) -> Mapping[str, np.ndarray] | Iterable[Any]:
    """Read samples from `source`.

    Args:
        source: an .npz keyed by input name, an .npy, a folder of images, .npy or .npz, or 'module:function', which is
            called without arguments and returns a mapping, an array or an iterable of samples.
        declared: the shape of each input by name, None for an open axis.
        images: how images become samples.
        most: of the files in a folder, evenly chosen.

    Returns:
        Arrays by input name, (samples, ...) along the first axis, images as float32 laid out like the input; or what
        the function returned; or, of a folder of .npz that are whole feeds, one mapping for each.

    Raises:
        DataError: the source is not there, or is none of these.
        UsageError: it is a web address.
        MissingExtra: images need Pillow.
    """
    path = Path(source)
    refuse_address(source)
    if images is not None and not _holds_images(path):
        raise DataError(f"{source}: it holds no images, so mean, std and size of images have no effect: leave them out")
    if path.is_dir():
        return _folder(path, declared, images or ImageOptions(), most)
    if path.is_file():
        return _file(path, declared, images or ImageOptions())
    module, colon, function = str(source).partition(":")
    if colon and module.replace(".", "").isidentifier() and function.isidentifier():
        return _call(module, function)
    raise DataError(
        f"calibration data {str(source)!r}: there is no such file or folder; a function is given as module:function"
    )


def _holds_images(path: Path) -> bool:
    files = path.rglob("*") if path.is_dir() else [path]
    try:
        return any(file.suffix.lower() in IMAGES for file in files)
    except OSError:  # it is told when the folder is read
        return True


def _call(module: str, function: str) -> Mapping[str, np.ndarray] | Iterable[Any]:
    try:
        target = function_of(f"{module}:{function}")
    except UsageError as error:
        raise DataError(f"calibration data {module}:{function}: {error}") from error
    try:
        data: Mapping[str, np.ndarray] | Iterable[Any] = target()
    except Exception as error:  # somebody's code
        reason = " ".join(str(error).split())[:200]
        raised = f"{type(error).__name__} ({reason})" if reason else type(error).__name__
        raise DataError(f"calibration data {module}:{function}: the function raised {raised}") from error
    return data


def _file(path: Path, declared: Declared, images: ImageOptions) -> dict[str, np.ndarray]:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _arrays(path)
    if suffix == ".npy":
        return {_only_input(declared, path): _array(path)}
    if suffix in IMAGES:
        name = _only_input(declared, path)
        return {name: _image(path, declared[name], images)[None]}
    raise DataError(
        f"calibration data {path}: expected .npz, .npy, an image, texts (.txt, .jsonl) or a folder of them, found "
        f"{suffix or 'no suffix'}"
    )


def _folder(
    folder: Path, declared: Declared, images: ImageOptions, most: int | None
) -> dict[str, np.ndarray] | list[dict[str, np.ndarray]]:
    known = {".npz", ".npy"} | IMAGES
    try:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known and path.is_file())
    except OSError as error:  # it may not be read, or files come and go
        where = f" ({error.filename})" if error.filename else ""
        raise DataError(f"calibration data {folder}: the folder cannot be read: {error.strerror}{where}") from error
    if not files:
        raise DataError(f"calibration data {folder}: the folder holds no .npy, .npz, image or text (.txt, .jsonl)")
    kinds = {"image" if path.suffix.lower() in IMAGES else path.suffix.lower() for path in files}
    if len(kinds) > 1:
        raise DataError(f"calibration data {folder}: expected files of one kind, found {', '.join(sorted(kinds))}")
    if most is not None and most < len(files):
        files = [files[at] for at in np.linspace(0, len(files) - 1, most).round().astype(int)]
    if kinds == {".npz"}:
        parts = [_arrays(path) for path in files]
        samples = {
            name: [_sample(part, name, path) for part, path in zip(parts, files, strict=True)] for name in parts[0]
        }
        if any(name in declared and arrays[0].ndim == len(declared[name]) for name, arrays in samples.items()):
            return parts  # whole feeds, or batches, of as many axes as the model takes
        return {name: _join(arrays, name, declared) for name, arrays in samples.items()}
    name = _only_input(declared, folder)
    if kinds == {".npy"}:
        return {name: _join([_array(path) for path in files], name, declared)}
    return {name: np.stack([_image(path, declared[name], images) for path in files])}


def _sample(arrays: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if name not in arrays:
        raise DataError(
            f"calibration data {path}: expected an array {name!r} as in the other files, found {', '.join(arrays)}"
        )
    return arrays[name]


def _join(parts: Sequence[np.ndarray], name: str, declared: Declared) -> np.ndarray:
    """Files that hold a sample each are stacked, files that hold several are put one behind the other."""
    shapes = {part.shape for part in parts}
    whole = name in declared and all(part.ndim == len(declared[name]) for part in parts)
    if whole and len({shape[1:] for shape in shapes}) == 1:
        return np.concatenate(parts)
    if len(shapes) > 1:
        raise DataError(
            f"calibration data: all samples of {name!r} must have one shape, "
            f"found {', '.join(map(str, sorted(shapes)[:4]))}"
        )
    return np.stack(parts)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    content = _loaded(path, "no .npz of plain arrays")
    if isinstance(content, np.ndarray):
        raise DataError(f"calibration data {path}: expected an .npz of arrays by input name, found one array (.npy)")
    return content


def _array(path: Path) -> np.ndarray:
    content = _loaded(path, "no .npy of a plain array")
    if not isinstance(content, np.ndarray):
        raise DataError(f"calibration data {path}: expected an .npy of one array, found an archive: call it .npz")
    return content


def _loaded(path: Path, otherwise: str) -> np.ndarray | dict[str, np.ndarray]:
    try:
        return arrays.load(path)
    except arrays.UnreadableError as error:
        raise DataError(f"calibration data {path}: this is {otherwise}: {error}") from error


def _only_input(declared: Declared, path: Path) -> str:
    if len(declared) != 1:
        names = ", ".join(map(repr, declared))
        raise DataError(
            f"calibration data {path}: the model has the inputs {names}; give an .npz with an array for each"
        )
    return next(iter(declared))


def _image(path: Path, shape: Sequence[int | None], options: ImageOptions) -> np.ndarray:
    """One image, laid out as the input is, without the axis of samples."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("reading images needs Pillow: pip install 'spa-onnx[images]'") from None
    if len(shape) != 4:
        raise DataError(f"calibration data {path}: an image needs an input of four axes, this model's has {len(shape)}")
    last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels, height, width = (shape[3], shape[1], shape[2]) if last else (shape[1], shape[2], shape[3])
    height, width = (height, width) if options.size is None else options.size
    try:
        with Image.open(path) as image:
            colours = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # whatever formats raise for damaged files
        raise DataError(f"calibration data {path}: this is no image that can be read: {error}") from error
    if height is not None and width is not None:
        colours = colours.resize((width, height))
    elif options.size is None:
        raise DataError(f"calibration data {path}: the input's height and width are open; give the size of the images")
    values = np.asarray(colours, np.float32).reshape(colours.height, colours.width, -1) / np.float32(255)
    mean, std = (np.array(numbers, np.float32) for numbers in (options.mean, options.std))
    normal = np.asarray((values - mean) / std, np.float32)
    return normal if last else np.ascontiguousarray(normal.transpose(2, 0, 1))
