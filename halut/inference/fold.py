"""Batch norms and ReLUs folded into the layers before them, on the graph of a traced network."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from halut.inference.packed import PackedConv2d, PackedLayer
from halut.operators import ReplacedLayer
from halut.sites import unsupported_reason

RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
RELU_METHODS = ("relu", "relu_")
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
    return fx.GraphModule(tracer.root, graph, type(network).__name__)


def fold(network: fx.GraphModule) -> fx.GraphModule:
    """Fold what can be folded; changes and returns `network`."""
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


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    if node.op == "call_method":
        return node.target in RELU_METHODS
    return node.op == "call_function" and node.target in RELU_FUNCTIONS
