"""All that is known of onnxruntime: whether it is there, sessions and runs, and valid random inputs.

>>> from spa import runtime
>>> feeds = runtime.random_feeds(model, shapes={"x": (2, 3, 8, 8)}, seed=0)
>>> results = runtime.run(runtime.session(model, optimize=False), feeds)
"""

from __future__ import annotations

from spa.runtime.inputs import is_mask, random_feeds
from spa.runtime.installed import CPU, CUDA, available, has_cuda, newest_versions, require, works
from spa.runtime.sessions import run, session
from spa.runtime.weights import LARGE_NBYTES, large_weights, serialized_without

__all__ = [
    "CPU", "CUDA", "LARGE_NBYTES", "available", "has_cuda", "is_mask", "large_weights", "newest_versions",
    "random_feeds", "require", "run", "serialized_without", "session", "works",
]  # fmt: skip
