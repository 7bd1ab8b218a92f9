"""ONNX graph builder: adds nodes and constants one by one, and gives the same bytes each time.

torch's exporters trace the network, which takes seconds, warns, and leaves slices and shapes to be
folded. ACT at inference has static shapes and some 150 nodes, so the graph is built directly.
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
"""ONNX operator set; LayerNormalization needs at least 17."""

IR_VERSION = 10
"""Version of the file format; the newest that ONNX Runtime 1.18 reads."""


class Graph:
    """Nodes and constants, in the order in which they are added.

    Methods take and return values by name. A node has the name of its only output.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._names: Counter[str] = Counter()

    def _named(self, stem: str) -> str:
        self._names[stem] += 1
        count = self._names[stem]
        return stem if count == 1 else f"{stem}.{count}"

    def input(self, name: str, kind: int, shape: Sequence[int]) -> str:
        """Add an input of the graph; `kind` is a type of TensorProto."""
        self._inputs.append(helper.make_tensor_value_info(self._named(name), kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, shape: Sequence[int]) -> None:
        """Make a value an output of the graph, under `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=self._named(name)))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, array: NDArray[Any], name: str) -> str:
        """Add a constant; floats of any precision are stored in float32."""
        stored = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = self._named(name)
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(stored), name))
        return name

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        return self.split(kind, *inputs, name=name, outputs=1, **attributes)[0]

    def split(
        self, kind: str, *inputs: str, name: str = "", outputs: int, **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; return their names."""
        name = self._named(name or kind.lower())
        names = [name] if outputs == 1 else [f"{name}:{at}" for at in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, name=name, **attributes)
        self._nodes.append(node)
        return names

    def reshape(self, value: str, *shape: int) -> str:
        """Add a reshape of a value."""
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64), "shape"))

    def model(self, name: str) -> onnx.ModelProto:
        """Return the graph as a model, checked."""
        graph = helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, initializer=self._constants
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        model.producer_name = "imitact"
        onnx.checker.check_model(model)
        return model
