"""Read samples that a caller gave, as a model takes them: arrays, an .npz, a folder of images, texts.

calibration, beside = checked("labelled.npz", model)         # the inputs, and what lies beside them: labels
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.errors import DataError
from spa.frontends import texts
from spa.frontends.files import onnx_file
from spa.frontends.samples import ImageOptions, read_samples
from spa.frontends.texts import TextOptions
from spa.passes.samples.beside import apart
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.checking import check_samples
from spa.shapes.decoder import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How what was given becomes samples.

    Attributes:
        most: samples at most, of a folder or of texts; None: all.
    """

    images: ImageOptions | None = None
    texts: TextOptions | None = None
    most: int | None = None


def checked(
    given: Any,
    model: ir.Model,
    reading: Reading | None = None,
    *,
    labels: str | None = None,
    everything: bool = False,
) -> tuple[Calibration, dict[str, np.ndarray]]:
    """Samples that fit a model, and what lies beside them, by name.

    Args:
        labels: the entry that holds labels; by default "labels", where there is one and no input of that name.
        everything: whether every entry that is no input lies beside.

    Raises:
        DataError: they cannot be read, or do not fit the model.
        MissingExtra: tokenizers or Pillow is not installed.
    """
    reading = reading or Reading()
    if texts.are_texts(given):
        if labels is not None:
            raise DataError(f"labels: expected an entry {labels!r} in the data, and texts have none: leave labels out")
        decoder, windows = _windows(given, model, reading)
        calibration = check_samples(decoder.feeds(windows.fitted), model)
        held_out = windows.held_out if decoder.scores is not None and len(windows.held_out) else None
        return replace(calibration, held_out=held_out), {}
    declared = _declared(model)
    if isinstance(given, (str, os.PathLike)):
        given = read_samples(given, declared, images=reading.images, most=reading.most)
    inputs, beside = apart(given, declared, labels=labels, everything=everything)
    return check_samples(inputs, model), beside


def _windows(given: Any, model: ir.Model, reading: Reading) -> tuple[Decoder, texts.Windows]:
    """The inputs of a language model, and texts as tokens.

    Raises:
        DataError: it is none, or the texts cannot be read.
    """
    decoder = Decoder.of(model.graph)
    if decoder is None:
        names = ", ".join(map(repr, _declared(model)))
        raise DataError(
            f"calibration data: texts are for models of tokens, masks, positions and caches of keys and values; this "
            f"one takes {names}: give an .npz with an array for each"
        )
    origin = onnx_file.origin_of(model)
    folder = origin.folder or (None if origin.path is None else origin.path.parent)
    options = reading.texts or TextOptions()
    return decoder, texts.windows(given, folder=folder, options=options, length=decoder.length, most=reading.most)


def _declared(model: ir.Model) -> Mapping[str, list[int | None]]:
    """The shape of each input that a user gives, None for an open axis."""
    return {
        str(value.name): [size if isinstance(size, int) else None for size in value.shape or ()]
        for value in model.graph.inputs
        if not value.is_initializer()
    }
