"""Construction of the body of a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, NodeProto, helper, numpy_helper

DOMAIN = "halut"
VERSION = 1
"""Of the domain: what its functions take, and answer."""


class Body:
    """Nodes of a function, added one after the other.

    Functions hold no initializers: what is small and fixed are Constant nodes, what a layer learned
    comes by the inputs.

    >>> body = Body("Double", ["x"], opset=17)
    >>> body.function(body("Add", "x", "x")).name
    'Double'
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[str],
        opset: int,
        attributes: Sequence[str] = (),
        domain: str = DOMAIN,
    ) -> None:
        self.name, self.inputs, self.opset = name, list(inputs), opset
        self.attributes, self.domain = list(attributes), domain
        self.nodes: list[NodeProto] = []

    def __call__(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node of one output; the output's name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A tensor of fixed values."""
        return self("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def attribute(self, name: str) -> str:
        """The node's attribute `name`, a list of integers, as a tensor int64."""
        output = self("Constant")
        reference = AttributeProto(name="value_ints", ref_attr_name=name, type=AttributeProto.INTS)
        self.nodes[-1].attribute.append(reference)
        return output

    def size(self, x: str, start: int, end: int | None = None) -> str:
        """The sizes of axes start..end-1 of x, int64."""
        bounds: dict[str, Any] = {"start": start} if end is None else {"start": start, "end": end}
        return self("Shape", x, **bounds)

    def entry(self, x: str, index: int) -> str:
        """Entry `index` of a vector, a scalar."""
        return self("Gather", x, self.constant(index))

    def function(self, output: str) -> FunctionProto:
        """The function that answers `output`."""
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        return helper.make_function(
            self.domain,
            self.name,
            self.inputs,
            ["y"],
            self.nodes,
            [helper.make_opsetid("", self.opset)],
            self.attributes,
        )
