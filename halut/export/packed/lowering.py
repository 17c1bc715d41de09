"""The integer network of a trained one: batch norms folded, ranges of a calibration batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import fx, nn

from halut.errors import HalutError
from halut.export.packed.from_layers import Answer, mean_of, product_of, tables_of
from halut.export.packed.network import IntegerNetwork, Step, Value
from halut.export.packed.operations import Add, Flatten, MaxPool, Operation, Relu
from halut.inference.base import InferenceLayer
from halut.inference.fold import Folding, hooked, is_addition, is_relu, works_in_place
from halut.inference.int8 import FLATTENS, KEEPS_VALUES, Ranges, pools
from halut.inference.int8_steps import MaxPool as BytePool
from halut.inference.int8_steps import averages
from halut.inference.prepare import with_packed_layers
from halut.inference.regions import faithful
from halut.inference.table_layers import PackedConv2d, PackedLayer
from halut.inference.trace import arguments
from halut.ops import ConvGeometry
from halut.sites.calls import Call
from halut.sites.find import site_of
from halut.sites.replaceable import unsupported_reason

KNOWN = (
    "layers by tables, Conv2d, Linear, ReLU, sums of two tensors of one shape, MaxPool2d, means "
    "and maxima of whole maps, and flatten"
)
"""What has an integer form, in words."""


@torch.no_grad()
def integer_network(network: nn.Module, example: Call) -> IntegerNetwork:
    """The integer-only form of `network`, whose ranges are those of the batch `example`.

    Raises HalutError for a network of several inputs or answers, one that torch.fx cannot follow,
    and, by name, for a step that has no integer form.
    """
    ready = with_packed_layers(copy.deepcopy(network).cpu().eval()).requires_grad_(False)
    call = arguments(ready, example.args, example.kwargs)
    graph, reason = faithful(ready, [call])
    if graph is None:
        raise HalutError(
            f"an integer network needs one that torch.fx can follow, {type(network).__name__} is "
            f"none: {reason}"
        )
    merges = [("merge", node.name) for node in graph.graph.nodes]
    folded = Folding(graph, omitted=merges).network
    return _Lowering(folded, Ranges(folded, [call])).network()


class _Lowering:
    """The steps of a folded network, node by node."""

    def __init__(self, folded: fx.GraphModule, ranges: Ranges) -> None:
        self.nodes: Sequence[fx.Node] = list(folded.graph.nodes)
        self.modules = dict(folded.named_modules(remove_duplicate=False))
        self.ranges = ranges
        self.values: dict[fx.Node, Value] = {}
        self.steps: list[Step] = []

    def network(self) -> IntegerNetwork:
        inputs = [node for node in self.nodes if node.op == "placeholder" and node.users]
        if len(inputs) != 1 or not self.ranges.has_range(inputs[0]):
            raise HalutError(
                "an integer network has one input, a tensor of finite floats: this one takes "
                f"{len(inputs)}"
            )
        self.values[inputs[0]] = self.value("input", inputs[0])
        for node in self.nodes:
            if node.op not in ("placeholder", "output") and node not in self.values:
                self.lower(node)
        (answer,) = self.nodes[-1].args
        value = self.values.get(answer) if isinstance(answer, fx.Node) else None
        if not self.steps or value != self.steps[-1].output:
            raise HalutError("an integer network answers what its last step does, one tensor")
        return IntegerNetwork(self.values[inputs[0]], self.steps)

    def lower(self, node: fx.Node) -> None:
        """Take the node, and what it can do itself of the nodes behind it."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        self.check(node, module)
        source = node.all_input_nodes[0]
        if isinstance(module, PackedLayer) or _is_product(module):
            assert isinstance(module, PackedLayer | nn.Conv2d | nn.Linear)
            self.product(node, source, module)
        elif is_addition(node):
            self.addition(node)
        elif is_relu(node, self.modules):
            self.step(node, Relu(self.values[source].grid.zero_point), grid_of=source)
        elif isinstance(module, nn.Flatten) or node.target in FLATTENS:
            if self.ranges.shapes[node][0][1:] != (math.prod(self.values[source].shape),):
                raise self.refusal(node, "it flattens other dimensions than those behind the first")
            self.step(node, Flatten(self.values[source].grid.zero_point), grid_of=source)
        elif type(module) in KEEPS_VALUES:
            self.values[node] = self.values[source]
        else:
            self.pool(node, source, module)

    def check(self, node: fx.Node, module: nn.Module | None) -> None:
        """Raise HalutError unless the node reads bytes that nobody changes, and answers floats."""
        if module is not None and hooked(module):
            raise self.refusal(node, "hooks listen to it")
        reads = node.all_input_nodes
        if not reads or any(source not in self.values for source in reads):
            raise self.refusal(node, f"integer forms are those of {KNOWN}")
        if not self.ranges.has_range(node):
            raise self.refusal(node, "its answer is no tensor of finite floats")
        if self.overwrites(node):
            raise self.refusal(node, "it changes in place what is read again")

    def product(
        self, node: fx.Node, source: fx.Node, module: PackedLayer | nn.Conv2d | nn.Linear
    ) -> None:
        """A layer by tables or an exact one, with the addition and the ReLU after it."""
        folded = isinstance(module, PackedLayer) and module.low is not None
        last, other, relu = (node, None, True) if folded else self.after(node)
        answer, read = self.answer(last, other, relu), self.values[source]
        operation: Operation
        if isinstance(module, PackedLayer):
            window = module.geometry if isinstance(module, PackedConv2d) else None
            operation = tables_of(module, read.grid, answer, _padded(window, read.shape))
        else:
            window = site_of(str(node.target), module, 1).geometry
            operation = product_of(module, read.grid, answer, _padded(window, read.shape))
        inputs = [source] if other is None else [source, other]
        self.step(node, operation, last, inputs)

    def addition(self, node: fx.Node) -> None:
        """A sum of two values, neither of which is the answer of a step that could add it."""
        first, second = node.all_input_nodes if len(node.all_input_nodes) == 2 else [None, None]
        if first is None or second is None or not self.alike(first, second):
            raise self.refusal(node, "it adds other than two tensors of one shape")
        relu = self.relu_after(node)
        last = node if relu is None else relu
        answer, grid = self.answer(last, second, relu is not None), self.values[first].grid
        scale, bias = torch.tensor([grid.scale]), torch.zeros(1)
        operation = Add(grid.zero_point, answer.requantization(scale, bias))
        self.step(node, operation, last, [first, second])

    def pool(self, node: fx.Node, source: fx.Node, module: nn.Module | None) -> None:
        """Max pooling, or the mean of whole maps."""
        read = self.values[source]
        window = _max_window(module, read.shape)
        if window is not None:
            self.step(node, MaxPool(read.grid.zero_point, window), grid_of=source)
        elif averages(module):
            assert module is not None
            answer, pixels = self.answer(node, None, False), read.shape[1] * read.shape[2]
            self.step(node, mean_of(module, read.grid, answer, pixels))
        else:
            raise self.refusal(node, f"integer forms are those of {KNOWN}")

    def answer(self, last: fx.Node, other: fx.Node | None, relu: bool) -> Answer:
        """How the value of the node `last` is written in bytes."""
        residual = None if other is None else self.values[other].grid
        return Answer(self.ranges.grid(last), relu, residual)

    def after(self, node: fx.Node) -> tuple[fx.Node, fx.Node | None, bool]:
        """(the last node that a product does itself, what it adds, whether there is a ReLU)."""
        last, other, user = node, None, _only_user(node)
        if user is not None and is_addition(user) and not self.overwrites(user):
            others = [term for term in user.all_input_nodes if term is not node]
            if others and others[0] in self.values and self.alike(node, others[0]):
                last, other = user, others[0]
        relu = self.relu_after(last)
        return (last, other, False) if relu is None else (relu, other, True)

    def overwrites(self, node: fx.Node) -> bool:
        """Whether a step in place changes what others read as well."""
        return works_in_place(node, self.modules) and len(node.all_input_nodes[0].users) > 1

    def alike(self, first: fx.Node, second: fx.Node) -> bool:
        return self.ranges.shapes[first] == self.ranges.shapes[second]

    def relu_after(self, node: fx.Node) -> fx.Node | None:
        """The ReLU that alone reads the node."""
        user = _only_user(node)
        return user if user is not None and is_relu(user, self.modules) else None

    def value(self, name: str, node: fx.Node, grid_of: fx.Node | None = None) -> Value:
        grid = self.ranges.grid(node) if grid_of is None else self.values[grid_of].grid
        return Value(name, grid, tuple(self.ranges.shapes[node][0][1:]))

    def step(
        self,
        node: fx.Node,
        operation: Operation,
        last: fx.Node | None = None,
        inputs: Sequence[fx.Node] | None = None,
        grid_of: fx.Node | None = None,
    ) -> None:
        """A step from `node` on that answers what `last` does, on the grid of `grid_of` if told."""
        sources = tuple(self.values[each] for each in inputs or node.all_input_nodes)
        output = self.value(self.name(node), last or node, grid_of)
        self.steps.append(Step(operation, sources, output))
        self.values[node] = output
        while last is not None and last is not node:
            self.values[last] = output
            last = last.all_input_nodes[0] if is_relu(last, self.modules) else node

    def name(self, node: fx.Node) -> str:
        """The layer's name, or the node's where that is taken."""
        name = str(node.target) if node.op == "call_module" else node.name
        taken = {"input", *(step.name for step in self.steps)}
        return name if name not in taken else f"{node.name}_{len(self.steps)}"

    def refusal(self, node: fx.Node, reason: str) -> HalutError:
        name = str(node.target) if node.op == "call_module" else node.name
        kind = self.modules[name] if node.op == "call_module" else node.target
        kind = type(kind).__name__ if isinstance(kind, nn.Module) else _called(kind)
        return HalutError(f"{name} ({kind}) has no integer form: {reason}; export it to onnx")


def _is_product(module: nn.Module | None) -> bool:
    exact = isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module, InferenceLayer)
    return exact and unsupported_reason(module) is None  # type: ignore[arg-type]


def _max_window(module: nn.Module | None, shape: tuple[int, ...]) -> ConvGeometry | None:
    """The window of a max pool on maps of a shape; None for what is none."""
    if type(module) is nn.MaxPool2d and pools(module):
        return BytePool(module, contiguous=True).geometry
    if type(module) is nn.AdaptiveMaxPool2d and module.output_size in (1, (1, 1)):
        return ConvGeometry((shape[1], shape[2])) if not module.return_indices else None
    return None


def _padded(window: ConvGeometry | None, shape: tuple[int, ...]) -> ConvGeometry | None:
    """The window on maps of a shape, its padding in pixels."""
    return None if window is None else window.on(torch.empty(1, *shape, device="meta"))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _called(target: object) -> str:
    return getattr(target, "__name__", str(target))
