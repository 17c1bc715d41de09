"""A whole network with 8-bit activations: tables, and oneDNN's INT8 products for exact layers.

From the graph of a network whose batch norms are folded: convolutions, exact or by tables, answer
uint8 and take a ReLU and the addition of a residual branch into themselves. Pooling stays in uint8:
max pooling, and the mean of whole maps. Linear layers answer float32, and everything that is not
here runs in float32 as it did. Ranges of activations are those of a calibration batch. Without a
layer by tables this is a plain INT8 network: what tables have to be compared with.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from halut.errors import HalutError
from halut.inference import onednn
from halut.inference.fold import RELU_FUNCTIONS, RELU_METHODS, is_addition
from halut.inference.int8_steps import Int8Tables, MaxPool, MeanPool, averages, reads_bytes
from halut.inference.onednn import Grid, Int8Product
from halut.inference.packed import PackedConv2d, PackedLayer
from halut.sites import unsupported_reason

KEEPS_VALUES = (nn.Identity, nn.Dropout, nn.Flatten)
FLATTENS = (torch.flatten, "flatten")


def int8_network(
    network: fx.GraphModule, example: Tensor, bytes_in: bool = False
) -> tuple[fx.GraphModule, Grid]:
    """(the network to float32, the grid of its input); ranges are those of `example`.

    It takes float32, or with `bytes_in` uint8 on that grid, as images come. Raises HalutError off
    the CPU, where oneDNN has no products.
    """
    for value in (example, *network.parameters(), *network.buffers()):
        if value.device.type != "cpu":
            raise HalutError(
                f"INT8 networks run by oneDNN, on the CPU alone: the network or its example is on "
                f"{value.device}; use network.cpu() and example.cpu()"
            )
    ranges = _Ranges(network)
    ranges.run(example)
    return _Conversion(network, ranges, bytes_in).convert(), ranges.grid(ranges.first)


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
    """What a node of the old graph is in the new one: uint8 on a grid, float32, or both.

    `planes`: the same as `q`, as tables prefer maps to lie; oneDNN wants them by pixel.
    """

    q: fx.Node | None = None
    grid: Grid | None = None
    plain: Any = None
    planes: fx.Node | None = None


class _Conversion:
    def __init__(self, network: fx.GraphModule, ranges: _Ranges, bytes_in: bool) -> None:
        self.old, self.ranges, self.bytes_in = network, ranges, bytes_in
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
            x = self.graph.placeholder("x")
            return _Value(x, self.ranges.grid(node)) if self.bytes_in else _Value(plain=x)
        if isinstance(module, PackedLayer) and module.form != "encoder":
            return self.tables(node, module)
        if module is not None and _is_product(module):
            return self.product(node, module)
        source = self.values[node.all_input_nodes[0]] if node.all_input_nodes else _Value()
        return self.in_bytes(node, module, source) or self.as_it_was(node, module)

    def in_bytes(self, node: fx.Node, module: nn.Module | None, source: _Value) -> _Value | None:
        """A step from bytes to bytes that is no product; None for what is no such step."""
        if source.q is None or source.grid is None:
            return None
        if isinstance(module, nn.MaxPool2d) and _pools(module):
            return self.pooled(node, module, source)
        if averages(module):
            assert module is not None
            to = self.ranges.grid(node)
            return _Value(self.module(node, MeanPool(module, source.grid, to), source.q), to)
        if isinstance(module, KEEPS_VALUES):
            return _Value(self.module(node, module, source.q), source.grid)
        if module is None and node.target in FLATTENS:
            return _Value(self.graph.node_copy(node, lambda _: source.q), source.grid)
        return None

    def pooled(self, node: fx.Node, module: nn.MaxPool2d, source: _Value) -> _Value:
        """Max pooling, by plane if all that read it do."""
        readers = [self.modules.get(str(n.target)) for n in node.users if n.op == "call_module"]
        by_plane = bool(readers) and all(isinstance(r, PackedConv2d) for r in readers)
        assert source.q is not None
        step = self.module(node, MaxPool(module, by_plane), source.q)
        return _Value(step, source.grid, planes=step if by_plane else None)

    def product(self, node: fx.Node, module: nn.Module) -> _Value:
        """A convolution or linear layer, with the addition and the ReLU after it if they fit."""
        (source,) = node.all_input_nodes
        x, grid = self.quantised(source)
        shape = self.ranges.shapes[source]
        if isinstance(module, nn.Linear):
            made = Int8Product(module, grid, None, shape)
            return _Value(plain=self.module(node, made, x))
        last, other, relu = self.after(node, overwrites=True)
        to, arguments, other_grid = self.ranges.grid(last), [x], None
        if other is not None:
            q, other_grid = self.quantised(other)
            arguments.append(q)
        made = Int8Product(module, grid, to, shape, relu, other_grid)  # type: ignore[arg-type]
        return self.done(node, last, _Value(self.module(node, made, *arguments), to))

    def tables(self, node: fx.Node, layer: PackedLayer) -> _Value:
        """A layer by tables, which reads bytes where they are there, and floats where not."""
        (source,) = node.all_input_nodes
        value = self.values[source]
        last, other, relu = self.after(node, overwrites=False)
        to = self.ranges.grid(last) if isinstance(layer, PackedConv2d) else None
        grid = value.grid if value.q is not None else None
        if grid is not None and not reads_bytes(layer, grid):
            grid = None
        arguments = [self.floating(source) if grid is None else self.by_plane(value)]
        other_grid = None
        if other is not None:
            _, other_grid = self.quantised(other)
            arguments.append(self.by_plane(self.values[other]))
        made = Int8Tables(layer, grid, to, relu, other_grid)
        step = self.module(node, made, *arguments)
        answer = _Value(plain=step) if to is None else _Value(step, to, planes=step)
        return self.done(node, last, answer)

    def by_plane(self, value: _Value) -> fx.Node:
        assert value.q is not None
        if value.planes is None:
            value.planes = self.graph.call_method("contiguous", (value.q,))
        return value.planes

    def after(self, node: fx.Node, overwrites: bool) -> tuple[fx.Node, fx.Node | None, bool]:
        """(the last node that a product can do itself, what it adds, whether there is a ReLU)."""
        last, other = self.addition(node, overwrites)
        relu = self.only_user(last)
        if relu is not None and self.is_relu(relu):
            return relu, other, True
        return last, other, False

    def done(self, node: fx.Node, last: fx.Node, value: _Value) -> _Value:
        """`value` is also what the nodes up to `last` are, done with this one."""
        while last is not node:
            self.values[last] = value
            last = last.all_input_nodes[0] if self.is_relu(last) else node
        return value

    def addition(self, node: fx.Node, overwrites: bool) -> tuple[fx.Node, fx.Node | None]:
        """(the sum, its other term) if the product's only user adds a tensor that is free then."""
        user = self.only_user(node)
        if user is None or not is_addition(user) or len(user.all_input_nodes) != 2:
            return node, None
        other = next(n for n in user.all_input_nodes if n is not node)
        if other not in self.values or self.values[other].q is None or other is node:
            return node, None
        # oneDNN overwrites the other term: nobody may read it later, nor may it be the input.
        last_reader = max(self.place[n] for n in other.users)
        if overwrites and (last_reader > self.place[user] or other is self.ranges.first):
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
    if not onednn.available():
        return False
    known = isinstance(module, nn.Conv2d | nn.Linear) and unsupported_reason(module) is None
    return known and not isinstance(getattr(module, "padding", 0), str)


def _pools(module: nn.MaxPool2d) -> bool:
    return module.dilation == 1 and not module.ceil_mode and not module.return_indices
