"""An ONNX graph, written node by node.

torch's exporters trace the network, in seconds and with warnings, and leave slices and shapes to be
folded away; ACT at inference has static shapes and some 150 nodes, so it is written as what it is,
the same bytes each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
"""Of ONNX; 17 brought LayerNormalization."""

IR_VERSION = 10
"""Of the file; the newest that ONNX Runtime 1.18 and later read."""


class Graph:
    """Nodes and constants, in the order in which they are added.

    A value is known by its name. Each node is named after its one output.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._names: Counter[str] = Counter()

    def _named(self, wish: str) -> str:
        self._names[wish] += 1
        count = self._names[wish]
        return wish if count == 1 else f"{wish}.{count}"

    def input(self, name: str, kind: int, shape: Sequence[int]) -> str:
        """A value that the caller gives, of a type of TensorProto."""
        self._inputs.append(helper.make_tensor_value_info(self._named(name), kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, shape: Sequence[int]) -> None:
        """A value that the caller gets, under a name of its own."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=self._named(name)))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, array: NDArray[Any], name: str) -> str:
        """A constant; floats are stored in float32, whatever precision they were computed in."""
        stored = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = self._named(name)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(stored), name))
        return name

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node of one output; returns the output's name."""
        return self.split(kind, *inputs, name=name, outputs=1, **attributes)[0]

    def split(
        self, kind: str, *inputs: str, name: str = "", outputs: int, **attributes: Any
    ) -> list[str]:
        """A node of several outputs; returns their names."""
        name = self._named(name or kind.lower())
        names = [name] if outputs == 1 else [f"{name}:{at}" for at in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, name=name, **attributes)
        self._nodes.append(node)
        return names

    def reshape(self, value: str, *shape: int) -> str:
        """The same numbers in another shape."""
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64), "shape"))

    def model(self, name: str) -> onnx.ModelProto:
        """The whole, checked."""
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, initializer=self._constants
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        model.producer_name = "imitact"
        onnx.checker.check_model(model)
        return model
