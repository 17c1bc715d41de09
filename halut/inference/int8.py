"""Conversion of a network to 8-bit activations: tables, and oneDNN's INT8 products.

From the graph of a network whose batch norms are folded: convolutions, exact or by tables, answer
uint8 and take a ReLU and the addition of a residual branch into themselves. Pooling stays in uint8:
max pooling, and the mean of whole maps. Linear layers answer float32, and everything that is not
here runs in float32 as it did. Ranges of activations are those of a calibration batch. Without a
layer by tables this is a plain INT8 network: what tables have to be compared with.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from halut.errors import HalutError
from halut.inference import onednn
from halut.inference.fold import ADDITIONS_IN_PLACE, hooked, is_addition, is_relu, works_in_place
from halut.inference.int8_steps import Int8Tables, MaxPool, MeanPool, averages, reads_bytes
from halut.inference.onednn import Dequantize, Grid, Int8Product, Quantize
from halut.inference.table_layers import PackedConv2d, PackedLayer
from halut.inference.trace import Arguments
from halut.inference.verify import Recorder, copied, same

MAX_INT8_ERROR = 0.25
"""Distance of a step's answer from the floats', ||y - y'|| / ||y'||, that bytes may have: eight
bits of inputs, weights and answers take a tenth of it, codes of tables that flip some more."""
KEEPS_VALUES = (nn.Identity, nn.Dropout, nn.Flatten)
IN_FLOATS = "_halut_in_floats"
"""The attribute of layers that stay in floats, whatever bytes would do."""
FLATTENS = (torch.flatten, "flatten")


def int8_network(
    network: fx.GraphModule, example: Tensor, bytes_in: bool = False
) -> tuple[fx.GraphModule, Grid]:
    """(the network to float32, the grid of its input); ranges are those of `example`.

    It takes float32, or with `bytes_in` uint8 on that grid, as images come. Nothing is verified.
    Raises HalutError off the CPU, where oneDNN has no products.
    """
    require_cpu(network, example)
    ranges = Ranges(network, [(example,)])
    return _Conversion(network, ranges, bytes_in).convert(), ranges.grid(ranges.first)


def require_cpu(network: nn.Module, inputs: Tensor) -> None:
    """Raise HalutError unless all lies on the CPU: elsewhere oneDNN has no products."""
    for value in (inputs, *network.parameters(), *network.buffers()):
        if value.device.type != "cpu":
            raise HalutError(
                f"INT8 networks run by oneDNN, on the CPU alone: the network or its inputs are on "
                f"{value.device}; use network.cpu() and inputs.cpu()"
            )


def verified_int8(
    network: fx.GraphModule, calls: Sequence[Arguments]
) -> tuple[fx.GraphModule, list[str]]:
    """(the network with 8-bit activations, the nodes that stay in floats as bytes are too far off).

    Ranges are those of all calls. Every step is verified on the values that the network has there.
    """
    ranges = Ranges(network, calls)
    omitted: set[str] = set()
    while True:
        conversion = _Conversion(network, ranges, omitted=omitted)
        converted = conversion.convert()
        wrong = set()
        for call in calls:
            names = {name for name, _ in conversion.stands_for.values()}
            recorder = Recorder(network, names)
            expected = recorder.run(*copied(call))
            forced = _Forced(converted, conversion, network, recorder.values)
            try:
                output = forced.run(*copied(call))
            except Exception:
                output = None
            wrong |= forced.failed
            if not forced.failed and not same(output, expected, MAX_INT8_ERROR):
                return network, sorted({node.name for node in conversion.started.values()})
        if not wrong - omitted:
            return converted, sorted(omitted)
        omitted |= wrong


class Ranges:
    """The range of every tensor of the network over its calls, and the shapes, one for each."""

    def __init__(self, network: fx.GraphModule, calls: Sequence[Arguments]) -> None:
        self.bounds: dict[fx.Node, tuple[float, float]] = {}
        self.shapes: dict[fx.Node, list[torch.Size]] = {}
        self.first = next(node for node in network.graph.nodes if node.op == "placeholder")
        for call in calls:
            _Range(network, self).run(*copied(call))

    def note(self, node: fx.Node, value: Tensor) -> None:
        low, high = (float(bound) for bound in torch.aminmax(value.detach()))
        before = self.bounds.get(node, (low, high))
        self.bounds[node] = min(low, before[0]), max(high, before[1])
        self.shapes.setdefault(node, []).append(value.shape)

    def has_range(self, node: fx.Node) -> bool:
        """Whether the node is a tensor of finite floats in every call."""
        return node in self.bounds and all(map(math.isfinite, self.bounds[node]))

    def grid(self, node: fx.Node) -> Grid:
        return Grid.of(*self.bounds[node])


class _Range(fx.Interpreter):
    """Runs the network and notes the range and shape of every tensor."""

    def __init__(self, network: fx.GraphModule, ranges: Ranges) -> None:
        super().__init__(network)
        self.ranges = ranges

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        # Taken at once: an operation in place may change the tensor later.
        if isinstance(value, Tensor) and value.dtype == torch.float32 and value.numel():
            self.ranges.note(n, value)
        return value


class _Forced(fx.Interpreter):
    """Runs a network of bytes; every step answers what the network of floats has there instead.

    failed: the nodes of the latter at which a step's own answer is far off.
    """

    def __init__(
        self,
        converted: fx.GraphModule,
        conversion: _Conversion,
        network: fx.GraphModule,
        values: dict[str, Any],
    ) -> None:
        super().__init__(converted)
        self.floats = fx.Interpreter(network)
        self.sources = conversion.sources
        self.stands_for, self.started, self.values = (
            conversion.stands_for,
            conversion.started,
            values,
        )
        self.failed: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.stands_for:
            return super().run_node(n)
        name, grid = self.stands_for[n.name]
        exact = self.values[name]
        q = exact if grid is None else grid.quantize(exact)
        try:
            expected = self.in_floats(n)
            value = super().run_node(n)
        except Exception:
            value = None
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (q.shape, q.dtype):
            self.failed.add(self.started[n.name].name)
            return q.clone()
        y = value if grid is None else grid.dequantize(value)
        if grid is not None:
            expected = grid.dequantize(grid.quantize(expected))
        product = isinstance(self.fetch_attr(str(n.target)), Int8Product)
        for reference in (expected, exact) if product else (expected,):
            if not (y - reference).norm() <= MAX_INT8_ERROR * reference.norm() + 1e-30:
                self.failed.add(self.started[n.name].name)
        return value.copy_(q)

    def in_floats(self, n: fx.Node) -> Tensor:
        """What the floats' steps answer to the numbers that a step's bytes stand for."""
        node, env = self.started[n.name], {}
        for arg, (source, grid) in zip(n.args, self.sources[n.name], strict=True):
            assert isinstance(arg, fx.Node)
            value = self.env[arg]
            env[source] = value.clone() if grid is None else grid.dequantize(value)
        self.floats.env = env
        while True:
            env[node] = self.floats.run_node(node)
            if node.name == self.stands_for[n.name][0]:
                return env[node]
            node = next(iter(node.users))


_Operands = list[tuple[fx.Node, Any, Grid | None]]
"""A step's arguments: nodes of the old graph and of the new one, and the grids, where in bytes."""


@dataclass
class _Value:
    """What a node of the old graph is in the new one: uint8 on a grid, float32, or both.

    `planes`: the same as `q`, as tables prefer maps to lie; oneDNN wants them channels_last.
    """

    q: fx.Node | None = None
    grid: Grid | None = None
    plain: Any = None
    planes: fx.Node | None = None


class _Conversion:
    """The graph of bytes, step by step.

    stands_for: by name of a step's node, the node of the old graph whose value it answers, and the
    grid if it does so in bytes. started: the node that the step began with, which can be left out.
    sources: the nodes of the old graph that a step's arguments are, and their grids.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        ranges: Ranges,
        bytes_in: bool = False,
        omitted: Collection[str] = (),
    ) -> None:
        self.omitted = omitted
        self.stands_for: dict[str, tuple[str, Grid | None]] = {}
        self.started: dict[str, fx.Node] = {}
        self.sources: dict[str, list[tuple[fx.Node, Grid | None]]] = {}
        self.old, self.ranges, self.bytes_in = network, ranges, bytes_in
        self.modules = dict(network.named_modules(remove_duplicate=False))
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
        if node is self.ranges.first and self.bytes_in:
            return _Value(self.graph.node_copy(node), self.ranges.grid(node))
        has_range = len(node.all_input_nodes) == 1 and self.ranges.has_range(node)
        if not has_range or node.name in self.omitted or (module is not None and hooked(module)):
            return self.as_it_was(node, module)
        (source,) = node.all_input_nodes
        if self.ranges.has_range(source):
            if isinstance(module, PackedLayer) and module.form != "encoder":
                return self.tables(node, module)
            if module is not None and is_product(module):
                return self.product(node, module)
        return self.in_bytes(node, module, self.values[source]) or self.as_it_was(node, module)

    def in_bytes(self, node: fx.Node, module: nn.Module | None, source: _Value) -> _Value | None:
        """A step from bytes to bytes that is no product; None for what is no such step."""
        if source.q is None or source.grid is None:
            return None
        if type(module) is nn.MaxPool2d and pools(module):
            return self.pooled(node, module, source)
        if averages(module):
            assert module is not None
            to = self.ranges.grid(node)
            operands = self.operands(node, source)
            return self.step(node, node, MeanPool(module, source.grid, to), to, operands)
        if module is not None and type(module) in KEEPS_VALUES:
            return _Value(self.module(node, module, source.q), source.grid)
        if module is None and node.target in FLATTENS:
            return _Value(self.graph.node_copy(node, lambda _: source.q), source.grid)
        return None

    def operands(self, node: fx.Node, source: _Value) -> _Operands:
        """What a step of one argument reads."""
        return [(node.all_input_nodes[0], source.q, source.grid)]

    def pooled(self, node: fx.Node, module: nn.MaxPool2d, source: _Value) -> _Value:
        """Max pooling, contiguous if all that read it are."""
        readers = [self.modules.get(str(n.target)) for n in node.users if n.op == "call_module"]
        contiguous = bool(readers) and all(isinstance(r, PackedConv2d) for r in readers)
        assert source.q is not None
        operands = self.operands(node, source)
        value = self.step(node, node, MaxPool(module, contiguous), source.grid, operands)
        value.planes = value.q if contiguous else None
        return value

    def product(self, node: fx.Node, module: nn.Module) -> _Value:
        """A convolution or linear layer, with the addition and the ReLU after it if they fit."""
        (source,) = node.all_input_nodes
        x, grid = self.quantized(source)
        operands: _Operands = [(source, x, grid)]
        shape = self.ranges.shapes[source][0]
        if isinstance(module, nn.Linear):
            return self.step(node, node, Int8Product(module, grid, None, shape), None, operands)
        last, other, relu = self.after(node, overwrites=True)
        to, other_grid = self.ranges.grid(last), None
        if other is not None:
            q, other_grid = self.quantized(other)
            operands.append((other, q, other_grid))
        layer = Int8Product(module, grid, to, shape, relu, other_grid)  # type: ignore[arg-type]
        return self.done(node, last, self.step(node, last, layer, to, operands))

    def tables(self, node: fx.Node, layer: PackedLayer) -> _Value:
        """A layer by tables, which reads bytes where they are there, and floats where not."""
        (source,) = node.all_input_nodes
        value = self.values[source]
        alone = (node, None, False)  # what a ReLU has been folded into adds nothing behind it
        last, other, relu = alone if layer.low is not None else self.after(node, overwrites=False)
        to = self.ranges.grid(last) if isinstance(layer, PackedConv2d) else None
        grid = value.grid if value.q is not None else None
        if grid is not None and not reads_bytes(layer, grid):
            grid = None
        x = self.floating(source) if grid is None else self.contiguous(value)
        operands: _Operands = [(source, x, grid)]
        other_grid = None
        if other is not None:
            _, other_grid = self.quantized(other)
            operands.append((other, self.contiguous(self.values[other]), other_grid))
        step = Int8Tables(layer, grid, to, relu, other_grid)
        result = self.step(node, last, step, to, operands)
        result.planes = result.q
        return self.done(node, last, result)

    def contiguous(self, value: _Value) -> fx.Node:
        assert value.q is not None
        if value.planes is None:
            value.planes = self.graph.call_method("contiguous", (value.q,))
        return value.planes

    def after(self, node: fx.Node, overwrites: bool) -> tuple[fx.Node, fx.Node | None, bool]:
        """(the last node that a product can do itself, what it adds, whether there is a ReLU)."""
        last, other = self.addition(node, overwrites)
        relu = self.only_user(last)
        if relu is not None and self.ranges.has_range(relu) and is_relu(relu, self.modules):
            return relu, other, True
        return last, other, False

    def done(self, node: fx.Node, last: fx.Node, value: _Value) -> _Value:
        """`value` is also what the nodes up to `last` are, done with this one."""
        while last is not node:
            self.values[last] = value
            last = last.all_input_nodes[0] if is_relu(last, self.modules) else node
        return value

    def addition(self, node: fx.Node, overwrites: bool) -> tuple[fx.Node, fx.Node | None]:
        """(the sum, its other term) if the product's only user adds a tensor that is free then."""
        user = self.only_user(node)
        if user is None or not is_addition(user) or len(user.all_input_nodes) != 2:
            return node, None
        other = next(n for n in user.all_input_nodes if n is not node)
        if user.target in ADDITIONS_IN_PLACE and user.args[0] is not node and len(other.users) > 1:
            return node, None  # who reads the other term later reads the sum
        if other not in self.values or self.values[other].q is None or other is node:
            return node, None
        # oneDNN overwrites the other term: nobody may read it later, nor may it be the input.
        last_reader = max(self.place[n] for n in other.users)
        read = last_reader > self.place[user] or other in node.all_input_nodes
        if overwrites and (read or other is self.ranges.first):
            return node, None
        alike = self.ranges.shapes[other] == self.ranges.shapes[node]
        return (user, other) if alike and self.ranges.has_range(user) else (node, None)

    def only_user(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def quantized(self, node: fx.Node) -> tuple[fx.Node, Grid]:
        value = self.values[node]
        if value.q is None:
            value.grid = self.ranges.grid(node)
            value.q = self.module(node, Quantize(value.grid), value.plain, prefix="quantize")
        assert value.grid is not None
        return value.q, value.grid

    def floating(self, node: fx.Node) -> Any:
        value = self.values[node]
        if value.plain is None and value.grid is not None:
            step = Dequantize(value.grid)
            value.plain = self.module(node, step, value.q, prefix="dequantize")
        return value.plain

    def as_it_was(self, node: fx.Node, module: nn.Module | None) -> _Value:
        new = self.graph.node_copy(node, self.floating)
        if works_in_place(node, self.modules):
            for source in node.all_input_nodes:  # the bytes are what it was before
                self.values[source].q = self.values[source].planes = None
        if module is not None:
            new.target = self.keep(node, module)
        elif node.op == "get_attr":
            new.target = f"constant_{self.place[node]}"
            value = operator.attrgetter(str(node.target))(self.old)
            if isinstance(value, Tensor):
                self.root.register_buffer(new.target, value.detach())
            else:
                setattr(self.root, new.target, value)
        return _Value(plain=new)

    def step(
        self,
        node: fx.Node,
        last: fx.Node,
        module: nn.Module,
        grid: Grid | None,
        arguments: _Operands,
    ) -> _Value:
        """A step from `node` on that answers what `last` does, in bytes if there is a grid."""
        new = self.module(node, module, *(value for _, value, _ in arguments))
        self.stands_for[new.name], self.started[new.name] = (last.name, grid), node
        self.sources[new.name] = [(source, of) for source, _, of in arguments]
        return _Value(plain=new) if grid is None else _Value(new, grid)

    def module(
        self, node: fx.Node, module: nn.Module, *arguments: Any, prefix: str = "step"
    ) -> fx.Node:
        return self.graph.call_module(self.keep(node, module, prefix), arguments)

    def keep(self, node: fx.Node, module: nn.Module, prefix: str = "step") -> str:
        name = f"{prefix}_{self.place[node]}"
        self.root.add_module(name, module)
        return name


def is_product(module: nn.Module) -> bool:
    """Whether oneDNN has the module's product: torch's own code on floats, zeros around maps."""
    if not onednn.available() or hooked(module) or getattr(module, IN_FLOATS, False):
        return False
    if isinstance(module, nn.Conv2d):
        kind = type(module)
        own = kind.forward, kind._conv_forward
        if own != (nn.Conv2d.forward, nn.Conv2d._conv_forward):
            return False
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return False
    elif not isinstance(module, nn.Linear) or type(module).forward is not nn.Linear.forward:
        return False
    return module.weight.dtype == torch.float32


def keep_in_floats(module: nn.Module) -> None:
    """Mark an exact layer, of which copies and folded forms keep the mark, to stay in floats."""
    setattr(module, IN_FLOATS, True)


def holds_products(network: nn.Module) -> bool:
    """Whether any of the network can run in bytes."""
    return any(isinstance(m, PackedLayer) or is_product(m) for m in network.modules())


def pools(module: nn.MaxPool2d) -> bool:
    return module.dilation == 1 and not module.ceil_mode and not module.return_indices
