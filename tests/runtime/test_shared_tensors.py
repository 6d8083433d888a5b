"""Models of several threads that share tensors under different names."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
from onnx import numpy_helper

from spa import runtime
from tests.small import text_model


class _Slow(ir.Tensor):
    """A tensor that waits, once it was named, for another thread to name it too."""

    again = threading.Event()

    @property
    def name(self) -> str | None:
        return self.__dict__.get("called")

    @name.setter
    def name(self, name: str | None) -> None:
        if self.__dict__.get("called") not in (None, name):
            self.again.set()
        self.__dict__["called"] = name
        if threading.current_thread() is not threading.main_thread():
            self.again.wait(0.2)


def test_sessions_of_several_threads_share_a_tensor() -> None:
    shared = _Slow(np.full(2, 3.0, np.float32))
    models = []
    for name in ("left", "right"):
        proto = text_model(f"y = Mul (x, {name})")
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), name))
        model = ir.from_proto(proto)
        value = model.graph.initializers[name]
        value._const_value = shared  # as normalised models have it: the setter would name the tensor
        models.append(model)
    with ThreadPoolExecutor(2) as pool:
        sessions = list(pool.map(lambda model: runtime.session(model, optimize=False), models))
    for session in sessions:
        assert runtime.run(session, {"x": np.ones(2, np.float32)})["y"].tolist() == [3.0, 3.0]
