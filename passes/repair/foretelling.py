"""Measure how well language models foretell texts, before and after a cut."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from spa import runtime
from spa.passes.repair.memory import Memory
from spa.passes.samples.perplexity import Perplexity, foretells, log_likelihood
from spa.shapes.decoder import Decoder


def perplexity(dense: ir.Model, pruned: ir.Model, ids: np.ndarray) -> Perplexity | None:
    """How well two language models foretell windows of text, (windows, tokens); None: they foretell no tokens."""
    perplexities = []
    for model in (dense, pruned):
        decoder, fits = Decoder.of(model.graph), Memory.of().holds(model)  # else weights stay in a file that is mapped
        run = partial(runtime.run, runtime.session(model, optimize=fits, prepack=fits, spill=not fits))
        if decoder is None or not foretells(run, decoder, ids):
            return None
        perplexities.append(float(np.exp(-log_likelihood(run, decoder, ids))))
    return Perplexity(dense=perplexities[0], pruned=perplexities[1], tokens=ids[:, 1:].size, length=ids.shape[1])
