"""Keep what people wrote beside stored tensors: doc strings and metadata.

said = written(model)
...                                  # the model is cut and refitted: new tensors under the old names
annotate(model, said)
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

Said = tuple[str | None, dict[str, str]]


def written(model: ir.Model) -> dict[str, Said]:
    """(doc string, metadata) of each stored tensor that has some, by name."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    said = {name: (t.doc_string, dict(t.metadata_props)) for name, t in tensors.items() if t is not None}
    return {name: each for name, each in said.items() if any(each)}


def annotate(model: ir.Model, said: Mapping[str, Said]) -> None:
    """Say it of the tensors that have these names and say nothing."""
    present = written(model)
    for name, (text, properties) in said.items():
        value = model.graph.initializers.get(name)
        if value is not None and value.const_value is not None and name not in present:
            value.const_value.doc_string = text
            value.const_value.metadata_props.update(properties)
