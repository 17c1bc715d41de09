"""A whole network in INT8 by oneDNN's operators: what tables have to be compared with.

From the graph of a network whose batch norms are folded: convolutions answer uint8, take a ReLU and
the addition of a residual branch into themselves, and max pooling stays in uint8. Linear layers
answer float32, and everything that is not here runs in float32 as it did. Ranges of activations are
those of a calibration batch. The network's input is uint8 already, as images come.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from halut.bench.onednn import Grid, Int8Product
from halut.inference.fold import RELU_FUNCTIONS, RELU_METHODS
from halut.sites import unsupported_reason

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
KEEPS_VALUES = (nn.Identity, nn.Dropout, nn.Flatten)


def int8_network(network: fx.GraphModule, example: Tensor) -> tuple[fx.GraphModule, Grid]:
    """(the network from uint8 to float32, the grid of its input); calibrated on `example`."""
    ranges = _Ranges(network)
    ranges.run(example)
    return _Conversion(network, ranges).convert(), ranges.grid(ranges.first)


class _Ranges(fx.Interpreter):
    """Runs the network and keeps the range and shape of every tensor."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.bounds: dict[fx.Node, tuple[float, float]] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.first = next(node for node in network.graph.nodes if node.op == "placeholder")

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        # Taken at once: an operation in place may change the tensor later.
        if isinstance(value, Tensor) and value.is_floating_point():
            self.bounds[n] = float(value.min()), float(value.max())
            self.shapes[n] = value.shape
        return value

    def grid(self, node: fx.Node) -> Grid:
        return Grid.of(*self.bounds[node])


@dataclass
class _Value:
    """What a node of the old graph is in the new one: uint8 on a grid, float32, or both."""

    q: fx.Node | None = None
    grid: Grid | None = None
    plain: Any = None


class _Conversion:
    def __init__(self, network: fx.GraphModule, ranges: _Ranges) -> None:
        self.old, self.ranges = network, ranges
        self.modules = dict(network.named_modules())
        self.root, self.graph = nn.Module(), fx.Graph()
        self.values: dict[fx.Node, _Value] = {}
        self.place = {node: i for i, node in enumerate(network.graph.nodes)}

    def convert(self) -> fx.GraphModule:
        for node in self.old.graph.nodes:
            if node not in self.values:  # a ReLU or an addition may be done by now
                self.values[node] = self.converted(node)
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def converted(self, node: fx.Node) -> _Value:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if node is self.ranges.first:
            return _Value(self.graph.placeholder("x"), self.ranges.grid(node))
        if module is not None and _is_product(module):
            return self.product(node, module)
        if module is not None and node.all_input_nodes:
            source = self.values[node.all_input_nodes[0]]
            if isinstance(module, nn.MaxPool2d) and source.q is not None and _pools(module):
                return _Value(self.module(node, MaxPool(module), source.q), source.grid)
            if isinstance(module, KEEPS_VALUES) and source.q is not None:
                return _Value(self.module(node, module, source.q), source.grid)
        return self.as_it_was(node, module)

    def product(self, node: fx.Node, module: nn.Module) -> _Value:
        """A convolution or linear layer, with the addition and the ReLU after it if they fit."""
        (source,) = node.all_input_nodes
        x, grid = self.quantised(source)
        shape = self.ranges.shapes[source]
        if isinstance(module, nn.Linear):
            made = Int8Product(module, grid, None, shape)
            return _Value(plain=self.module(node, made, x))
        last, other = self.addition(node)
        relu = self.only_user(last)
        if relu is not None and self.is_relu(relu):
            last = relu
        to = self.ranges.grid(last)
        arguments = [x]
        other_grid = None
        if other is not None:
            q, other_grid = self.quantised(other)
            arguments.append(q)
        with_relu = last is relu
        made = Int8Product(module, grid, to, shape, with_relu, other_grid)  # type: ignore[arg-type]
        value = _Value(self.module(node, made, *arguments), to)
        while last is not node:  # the nodes that are done with this one
            self.values[last] = value
            last = last.all_input_nodes[0] if self.is_relu(last) else node
        return value

    def addition(self, node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
        """(the sum, its other term) if the product's only user adds a tensor that is free then."""
        user = self.only_user(node)
        if user is None or user.target not in ADDITIONS or len(user.all_input_nodes) != 2:
            return node, None
        other = next(n for n in user.all_input_nodes if n is not node)
        ready = other in self.values and self.values[other].q is not None
        # Adding overwrites the other term: nobody may read it later, nor may it be the input.
        last_reader = max(self.place[n] for n in other.users)
        if not ready or last_reader > self.place[user] or other is self.ranges.first:
            return node, None
        same = self.ranges.shapes[other] == self.ranges.shapes[node]
        return (user, other) if same else (node, None)

    def only_user(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def is_relu(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self.modules[str(node.target)], nn.ReLU)
        return node.target in RELU_FUNCTIONS or (
            node.op == "call_method" and node.target in RELU_METHODS
        )

    def quantised(self, node: fx.Node) -> tuple[fx.Node, Grid]:
        value = self.values[node]
        if value.q is None:
            value.grid = self.ranges.grid(node)
            value.q = self.graph.call_function(value.grid.quantise, (value.plain,))
        assert value.grid is not None
        return value.q, value.grid

    def floating(self, node: fx.Node) -> Any:
        value = self.values[node]
        if value.plain is None and value.grid is not None:
            value.plain = self.graph.call_function(value.grid.dequantise, (value.q,))
        return value.plain

    def as_it_was(self, node: fx.Node, module: nn.Module | None) -> _Value:
        new = self.graph.node_copy(node, self.floating)
        if module is not None:
            new.target = self.keep(node, module)
        elif node.op == "get_attr":
            new.target = f"constant_{self.place[node]}"
            value = operator.attrgetter(str(node.target))(self.old)
            self.root.register_buffer(new.target, value.detach())
        return _Value(plain=new)

    def module(self, node: fx.Node, module: nn.Module, *arguments: fx.Node) -> fx.Node:
        return self.graph.call_module(self.keep(node, module), arguments)

    def keep(self, node: fx.Node, module: nn.Module) -> str:
        name = f"step_{self.place[node]}"
        self.root.add_module(name, module)
        return name


def _is_product(module: nn.Module) -> bool:
    known = isinstance(module, nn.Conv2d | nn.Linear) and unsupported_reason(module) is None
    return known and not isinstance(getattr(module, "padding", 0), str)


def _pools(module: nn.MaxPool2d) -> bool:
    return module.dilation == 1 and not module.ceil_mode and not module.return_indices


class MaxPool(nn.Module):
    """Max pooling of uint8 maps, which torch has not: maxima of shifted maps, rows first.

    The padding is zero, the least there is.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.size, self.stride, self.padding = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (pool.kernel_size, pool.stride, pool.padding)
        )

    def forward(self, x: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8 [B, C, OH, OW]."""
        top, left = self.padding
        padded = F.pad(x, (left, left, top, top)) if top or left else x
        for dim, size, stride in zip((2, 3), self.size, self.stride, strict=True):
            count = (padded.shape[dim] - size) // stride + 1
            parts = [
                padded.narrow(dim, i, (count - 1) * stride + 1)[_every(dim, stride)]
                for i in range(size)
            ]
            padded = parts[0]
            for part in parts[1:]:
                padded = torch.maximum(padded, part)
        return padded


def _every(dim: int, stride: int) -> tuple[slice, ...]:
    return (*[slice(None)] * dim, slice(None, None, stride))
