"""Batch norms, additions and ReLUs folded into layers, on the graph of a traced network."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from halut.inference.packed import PackedConv2d, PackedLayer
from halut.operators import ReplacedLayer
from halut.sites import unsupported_reason

RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
RELU_METHODS = ("relu", "relu_")
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)
NOTHING_AT_INFERENCE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class _Tracer(fx.Tracer):
    """Layers of this library, and norms whoever made them, are steps, not code to look into.

    Nor is code that holds neither: the less is traced, the less can go wrong.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = (PackedLayer, ReplacedLayer, nn.BatchNorm2d)
        if isinstance(m, whole) or not foldable(m):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def foldable(network: nn.Module) -> bool:
    """True if there is anything that folding might save."""
    kinds = (nn.BatchNorm2d, PackedLayer)
    return any(isinstance(module, kinds) for module in network.modules())


def traced(network: nn.Module) -> fx.GraphModule:
    """The graph of `network` with its optional arguments at their defaults, which calls check."""
    parameters = inspect.signature(network.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    tracer = _Tracer()
    graph = tracer.trace(network, concrete_args=defaults or None)
    for node in graph.nodes:  # layer(input=x) as layer(x): what folds reads positions
        if node.op == "call_module" and list(node.kwargs) == ["input"] and not node.args:
            node.args, node.kwargs = (node.kwargs["input"],), {}
    return fx.GraphModule(tracer.root, graph, type(network).__name__)


def fold(network: fx.GraphModule, example: Tensor | None = None) -> fx.GraphModule:
    """Fold what can be folded; changes and returns `network`.

    With an example, an addition of a tensor of the same shape becomes part of a packed convolution.
    """
    graph = network.graph
    modules = dict(network.named_modules(remove_duplicate=False))
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], NOTHING_AT_INFERENCE):
            _bypass(node)
    calls: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            key = id(modules[node.target])
            calls[key] = calls.get(key, 0) + 1
    for node in list(graph.nodes):
        if node.op == "call_module" and calls[id(modules[node.target])] == 1:
            _fold_norm(network, node, modules)
            _fold_relu(node, modules)
    if example is not None:
        shapes = _Shapes(network).of(example)
        for node in list(graph.nodes):
            if node.op == "call_module" and calls.get(id(modules[node.target])) == 1:
                _fold_addition(node, modules, shapes)
    graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _bypass(node: fx.Node) -> None:
    """Take a node out of its graph."""
    node.replace_all_uses_with(node.all_input_nodes[0])
    node.graph.erase_node(node)


def _only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one's answer, and reads nothing else."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    return user if user.all_input_nodes == [node] else None


def _fold_norm(network: fx.GraphModule, node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Make the batch norm after a convolution part of it."""
    user = _only_user(node)
    if user is None or user.op != "call_module":
        return
    layer, norm = modules[str(node.target)], modules[str(user.target)]
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
        return
    activation = _activation(norm)
    if activation is None:
        return
    if isinstance(layer, PackedConv2d):
        layer.scale_and_shift(*_affine(norm))
    elif isinstance(layer, nn.Conv2d) and unsupported_reason(layer) is None:
        fused = fuse_conv_bn_eval(layer, norm).requires_grad_(False)
        modules[str(node.target)] = fused
        network.set_submodule(str(node.target), fused)
    else:
        return
    if activation:
        user.target = f"{user.target}.{activation}"
        modules[user.target] = network.get_submodule(user.target)
        if isinstance(modules[user.target], NOTHING_AT_INFERENCE):
            _bypass(user)
    else:
        _bypass(user)


def _activation(norm: nn.BatchNorm2d) -> str | None:
    """The child that acts on the norm's answer, "" if there is none; None if that is unknown."""
    if type(norm) is nn.BatchNorm2d:
        return ""
    # timm's, told by name: the core does without importing timm.
    if type(norm).__name__ == "BatchNormAct2d" and type(norm).__module__.startswith("timm."):
        return "act" if isinstance(norm.drop, NOTHING_AT_INFERENCE) else None
    return None


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """factor, shift float32 [M] of the norm in evaluation mode: factor * y + shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.float() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.float()
    shift = -norm.running_mean.float() * factor
    return factor, shift if norm.bias is None else shift + norm.bias.float()


def _fold_relu(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Let a packed layer clamp its answers itself."""
    layer, user = modules[str(node.target)], _only_user(node)
    if isinstance(layer, PackedLayer) and user is not None and _is_relu(user, modules):
        layer.low = 0.0
        _bypass(user)


class _Shapes(fx.Interpreter):
    """Runs the network and keeps every tensor's shape."""

    def of(self, example: Tensor) -> dict[fx.Node, torch.Size]:
        """The shapes of all tensors made from the example, by node."""
        self.found: dict[fx.Node, torch.Size] = {}
        with torch.no_grad():
            self.run(example)
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = value.shape
        return value


def _fold_addition(
    node: fx.Node, modules: dict[str, nn.Module], shapes: dict[fx.Node, torch.Size]
) -> None:
    """Let a packed convolution add the other term of the sum it is in, and do the ReLU after it."""
    layer = modules[str(node.target)]
    if not isinstance(layer, PackedConv2d) or layer.low is not None or len(node.users) != 1:
        return
    user = next(iter(node.users))
    terms = user.all_input_nodes
    if not is_addition(user) or len(terms) != 2:
        return
    other = terms[0] if terms[1] is node else terms[1]
    if shapes[other] != shapes[node] or _overwritten_between(node, user, modules):
        return
    with node.graph.inserting_before(user):
        whole = node.graph.call_module(str(node.target), (node.args[0], other))
    shapes[whole] = shapes[node]
    user.replace_all_uses_with(whole)
    node.graph.erase_node(user)
    node.graph.erase_node(node)
    reader = next(iter(whole.users)) if len(whole.users) == 1 else None
    if reader is not None and reader.all_input_nodes == [whole] and _is_relu(reader, modules):
        layer.low = 0.0
        _bypass(reader)


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two values and does nothing else."""
    return node.op != "call_module" and node.target in ADDITIONS and not node.kwargs


def _overwritten_between(first: fx.Node, last: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a step between two nodes works in place: on what the first one reads, perhaps."""
    node = first.next
    while node is not last:
        if node.op == "call_module":
            parts = modules[str(node.target)].modules()
            in_place = any(getattr(part, "inplace", False) for part in parts)
        else:
            name = getattr(node.target, "__name__", str(node.target))
            in_place = name.endswith("_") or node.target in IN_PLACE
        if in_place or node.kwargs.get("inplace"):
            return True
        node = node.next
    return False


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    if node.op == "call_method":
        return node.target in RELU_METHODS
    return node.op == "call_function" and node.target in RELU_FUNCTIONS
