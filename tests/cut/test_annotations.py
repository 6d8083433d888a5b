from __future__ import annotations

import numpy as np

from spa import pipeline
from tests import models


def test_what_is_written_beside_tensors_and_outputs_stays() -> None:
    """Doc strings and metadata, by weights, by a repair that adds a bias behind the output, and by a plan."""
    proto = models.build("(float[n,8] x) => (float[n,5] y) { a=MatMul(x,w) r=Relu(a) y=MatMul(r,v) }",
                         {"w": (8, 32), "v": (32, 5)})  # fmt: skip
    stored = proto.graph.initializer[0]
    stored.doc_string = "first"
    stored.metadata_props.add(key="unit", value="metre")
    proto.graph.output[0].doc_string = "the answer"
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32) + 1
    by_weights = pipeline.prune(proto, ratio=0.3, weights=True)
    results = [by_weights, pipeline.prune(proto, ratio=0.3, data={"x": x}), pipeline.apply_plan(proto, by_weights.plan)]
    for result in results:
        pruned = result.to_proto()
        tensor = next(tensor for tensor in pruned.graph.initializer if tensor.name == stored.name)
        assert tensor.dims != stored.dims
        assert tensor.doc_string == "first"
        assert {entry.key: entry.value for entry in tensor.metadata_props} == {"unit": "metre"}
        assert pruned.graph.output[0].doc_string == "the answer"
        assert [value.name for value in pruned.graph.value_info if value.doc_string == "the answer"] == []
