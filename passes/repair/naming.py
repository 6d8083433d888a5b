"""Pickles in which what belongs to a network stands by name: a layer is its number, a group and a value its name.

Read with another network that was made of the same model, they hold that network's own layers, groups and values.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from spa.analysis.coupling import Coupling
from spa.analysis.group import Group
from spa.notation.dims import ONE, Factor, leaves
from spa.passes.layers.consumers import Layer
from spa.passes.repair.network import Network

NAMED = frozenset({Network, ir.Model, Coupling, Layer, Group, ir.Node, ir.Value, Factor})
"""Types of what is called by its name, and never pickled; anything else may have a name too."""


class Names:
    """What is called by a name in pickles.

    Attributes:
        known: by name.
        names: by identity.
    """

    def __init__(self, known: Mapping[tuple[Any, ...], Any]) -> None:
        self.known = dict(known)
        self.names = {id(thing): name for name, thing in reversed([*known.items()])}

    @classmethod
    def of(cls, network: Network) -> Names:
        """What belongs to a network."""
        graph = network.model.graph
        values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        known: dict[tuple[Any, ...], Any] = {
            ("network",): network, ("model",): network.model, ("coupling",): network.coupling, ("one",): ONE,
        }  # fmt: skip
        known |= {("layer", number): layer for number, layer in enumerate(network.layers)}
        known |= {("group", group.name): group for group in network.groups}
        known |= {("node", number): node for number, node in enumerate(graph)}
        known |= {("value", value.name): value for value in values}
        for value in values:
            for axis, dim in enumerate(network.coupling.axes.get(value, ())):
                known |= {
                    ("leaf", value.name, axis, at): leaf for at, leaf in enumerate(leaves(dim)) if leaf is not ONE
                }
        return cls(known)

    @classmethod
    def several(cls, parts: Sequence[Names]) -> Names:
        """The names of all parts, each behind the number of its part."""
        return cls({(at, *name): thing for at, part in enumerate(parts) for name, thing in part.known.items()})

    def add(self, name: str, thing: Any) -> None:
        """One name more."""
        self.known[name,] = thing
        self.names[id(thing)] = (name,)

    def dump(self, thing: Any) -> tuple[bytes, list[np.ndarray]]:
        """Pickled, and the bytes of the arrays in it beside that, which are no copies.

        Raises:
            pickle.PicklingError: something in it belongs to another network.
        """
        body, arrays = io.BytesIO(), list[np.ndarray]()

        def keep(buffer: pickle.PickleBuffer) -> None:
            arrays.append(np.frombuffer(buffer.raw(), np.uint8))

        _Pickler(self, body, keep).dump(thing)
        return body.getvalue(), arrays

    def load(self, body: bytes, arrays: Sequence[np.ndarray]) -> Any:
        """What was pickled; its arrays are views of those beside it."""
        return _Unpickler(self, body, arrays).load()


class _Pickler(pickle.Pickler):
    def __init__(self, names: Names, file: io.BytesIO, keep: Callable[[pickle.PickleBuffer], None]) -> None:
        super().__init__(file, 5, buffer_callback=keep)
        self.names = names.names

    def persistent_id(self, thing: Any) -> Any:
        """The name of what has one."""
        name = self.names.get(id(thing))
        if name is None and type(thing) in NAMED:
            raise pickle.PicklingError(f"{thing!r} does not belong to the network")
        return name


class _Unpickler(pickle.Unpickler):
    def __init__(self, names: Names, body: bytes, arrays: Sequence[np.ndarray]) -> None:
        super().__init__(io.BytesIO(body), buffers=arrays)
        self.known = names.known

    def persistent_load(self, name: Any) -> Any:
        """What is called so in this network."""
        return self.known[name]


def digest_of(network: Network) -> str:
    """Of the layers and groups of a network: their names, sizes and what they read."""
    layers = [(v.name, v.data.name, v.block_count, v.width, v.output_width) for v in network.layers]
    groups = [(group.name, group.kind, group.size) for group in network.groups]
    return hashlib.sha256(repr((layers, groups)).encode()).hexdigest()
