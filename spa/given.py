"""Samples that a caller gave: read from where they are, and checked against a model."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from spa.errors import DataError
from spa.frontends import texts
from spa.frontends.files import onnx_file
from spa.frontends.samples import read_samples
from spa.frontends.texts import TextOptions
from spa.passes.samples.beside import apart
from spa.passes.samples.calibrate import Calibration
from spa.passes.samples.checking import check_samples
from spa.presets import PRESETS
from spa.repair import RepairOptions
from spa.shapes.decoder import Decoder


def calibration(options: RepairOptions, model: ir.Model, *, labels: str | None = None) -> Calibration:
    """Calibration samples that were given, for a normalised model.

    Args:
        labels: the entry that holds labels, which is left out; by default "labels", where there is one.

    Raises:
        DataError: they do not fit the model.
    """
    if texts.are_texts(options.data):
        decoder, windows = _windows(options, model)
        held_out = windows.held_out if decoder.scores is not None and len(windows.held_out) else None
        return replace(check_samples(decoder.feeds(windows.fitted), model), held_out=held_out)
    inputs = _declared(model)
    return check_samples(apart(given_samples(options, model), inputs, labels=labels)[0], model)


def given_samples(options: RepairOptions, model: ir.Model) -> Any:
    """What was given as data; of a file or a folder what it holds.

    Raises:
        DataError: it cannot be read.
    """
    given: Any = options.data
    if texts.are_texts(given):
        decoder, windows = _windows(options, model)
        return decoder.feeds(windows.fitted)
    if isinstance(given, (str, os.PathLike)):
        given = read_samples(given, _declared(model), images=options.images, most=PRESETS[options.preset].samples)
    return given


def _windows(options: RepairOptions, model: ir.Model) -> tuple[Decoder, texts.Windows]:
    """The inputs of a language model, and texts as tokens.

    Raises:
        DataError: it is none, or the texts cannot be read.
    """
    decoder = Decoder.of(model.graph)
    if decoder is None:
        names = ", ".join(repr(str(value.name)) for value in model.graph.inputs if not value.is_initializer())
        raise DataError(
            f"calibration data: texts are for models of tokens, masks, positions and caches of keys and values; this "
            f"one takes {names}: give an .npz with an array for each"
        )
    origin, asked = onnx_file.origin_of(model), options.texts or TextOptions()
    folder = origin.folder or (None if origin.path is None else origin.path.parent)
    most = PRESETS[options.preset].samples
    return decoder, texts.windows(options.data, folder=folder, options=asked, length=decoder.length, most=most)


def _declared(model: ir.Model) -> dict[str, list[int | None]]:
    """The shape of each input that a user gives, None for an open axis."""
    return {
        str(value.name): [size if isinstance(size, int) else None for size in value.shape or ()]
        for value in model.graph.inputs
        if not value.is_initializer()
    }
