"""Kills processes that save a model, and says what each left behind: the old model, the new one, or neither.

Run as a script by the tests of faults, in a process of its own that can fork. Prints JSON: one word a kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx

from spa.frontends.files.onnx_file import load, save

_SHAPE = (512, 512)  # 1 MiB: long enough a write to be killed in
_KINDS = {"old": ("Abs", 1.0), "new": ("Neg", 2.0)}


def write(folder: Path, kind: str, *, external: bool) -> Path:
    """A model whose operator and weights both tell which one it is."""
    operator, value = _KINDS[kind]
    weight = onnx.numpy_helper.from_array(np.full(_SHAPE, value, np.float32), "weight")
    vector = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, _SHAPE)
    output = onnx.ValueInfoProto(name="y", type=vector)
    graph = onnx.helper.make_graph([onnx.helper.make_node(operator, ["weight"], ["y"])], "g", [], [output], [weight])
    proto = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    path = folder / f"{kind}.onnx"
    onnx.save(proto, path, save_as_external_data=external, location=f"{kind}.bin")
    return path


def found(target: Path) -> str:
    """Which model is in place, complete and right."""
    try:
        proto = onnx.load(target)
        onnx.checker.check_model(target)
        weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    except Exception as error:  # noqa: BLE001 - whatever it is, the model cannot be read
        return f"broken: {error}"
    for kind, (operator, value) in _KINDS.items():
        if proto.graph.node[0].op_type == operator and weight.shape == _SHAPE and np.all(weight == value):
            return kind
    return "mixed"


def in_child(action: Callable[[], object]) -> int:
    """The process that does this, forked so that it starts at once."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return child


def before_each_step(folder: Path, *, external: bool) -> list[str]:
    """Kill before the first, second, ... file that a save creates, renames or removes, until none is left."""
    target = folder / "target.onnx"
    old, new = (load(write(folder, kind, external=external)) for kind in _KINDS)
    outcomes = []
    for last in range(1, 100):
        save(old, target)

        def save_until(last: int = last) -> None:
            seen = 0

            def step(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal seen
                if event in {"open", "os.rename", "os.remove", "os.chmod"} and str(folder) in str(arguments):
                    seen += 1
                    if seen == last:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(step)
            save(new, target)

        _, status = os.waitpid(in_child(save_until), 0)
        outcomes.append(found(target))
        if not os.WIFSIGNALED(status):
            return outcomes
    return [*outcomes, "never done"]


def at_random(folder: Path, *, external: bool, kills: int) -> list[str]:
    """Kill at random moments while one model replaces the other again and again."""
    target = folder / "target.onnx"
    models = [load(write(folder, kind, external=external)) for kind in _KINDS]
    moments = random.Random(0)

    def alternate() -> NoReturn:
        while True:
            for model in models:
                save(model, target)

    save(models[0], target)
    outcomes = []
    for _ in range(kills):
        child = in_child(alternate)
        time.sleep(moments.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        outcomes.append(found(target))
    return outcomes


if __name__ == "__main__":
    place, layout, count = Path(sys.argv[1]), sys.argv[2] == "external", int(sys.argv[3])
    result = at_random(place, external=layout, kills=count) if count else before_each_step(place, external=layout)
    print(json.dumps(result))
