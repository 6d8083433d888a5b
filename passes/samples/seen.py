"""Which samples a repair has seen, in the metadata of a file: what comes later may not call them held out.

onnx.load("small.onnx").metadata_props  # spa.seen: four characters for each sample, of its SHA-256
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from spa.passes.samples.calibrate import Calibration, Recorded

KEY = "spa.seen"

WIDTH = 4
"""Characters of a mark, 24 bits: by chance one in 16,000 samples has one of a thousand, and is not held out then."""


def marks_of(data: Calibration, batch: Mapping[str, np.ndarray]) -> list[str]:
    """A mark for each sample of a batch.

    Args:
        data: the samples that the batch is of.
    """
    names = sorted(batch if isinstance(data, Recorded) else data.samples)
    marks = []
    for number in range(data.count(batch)):
        digest = hashlib.sha256()
        for name in names:
            array = batch[name]
            if not isinstance(data, Recorded):
                array = np.take(array, number, axis=data.axes.get(name, 0))
            if not array.size:  # a cache before the first token, as wide as the heads that a cut has left
                continue
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
        marks.append(base64.b64encode(digest.digest())[:WIDTH].decode())
    return marks


def note_seen(model: ir.Model, marks: Iterable[str]) -> None:
    """Write marks into a model, beside those of earlier repairs."""
    known = seen_by(model)
    model.metadata_props[KEY] = "".join(sorted(known | set(marks)))


def seen_by(model: ir.Model) -> set[str]:
    """The marks of all samples that repairs of a model have seen; empty where there was none."""
    written = model.metadata_props.get(KEY, "")
    return {written[at : at + WIDTH] for at in range(0, len(written), WIDTH)}
