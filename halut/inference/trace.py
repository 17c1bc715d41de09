"""Graphs of networks by torch.fx; what it cannot follow stays one module."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Collection, Sequence
from typing import Any

from torch import fx, nn

from halut.inference.base import InferenceLayer
from halut.inference.table_layers import PackedLayer
from halut.sites.operator import ReplacedLayer

Arguments = tuple[Any, ...]
"""The arguments of one call of a module, in the order of its forward's parameters."""


def foldable(network: nn.Module) -> bool:
    """True if there is anything that folding might save."""
    kinds = (nn.BatchNorm2d, PackedLayer)
    return any(isinstance(module, kinds) for module in network.modules())


class _Value(fx.Proxy):
    """A stand-in that is changed in place by what changes tensors in place.

    torch.fx makes x += y a sum of its own; whoever else holds x would not see it change.
    """

    def _in_place(self, name: str, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place("iadd", other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place("isub", other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place("imul", other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place("itruediv", other)

    def __ipow__(self, other: Any) -> fx.Proxy:
        return self._in_place("ipow", other)


class Tracer(fx.Tracer):
    """Layers of this library, and norms whoever made them, are steps, not code to look into.

    Nor are modules of `opaque`, and those that hold nothing to fold: the less is traced, the less
    can go wrong. `culprit` is the innermost module whose code could not be followed; None for the
    network itself.
    """

    def __init__(self, opaque: Collection[nn.Module] = ()) -> None:
        super().__init__()
        self.opaque = opaque
        self.culprit: nn.Module | None = None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = (InferenceLayer, ReplacedLayer, nn.BatchNorm2d)
        if isinstance(m, whole) or m in self.opaque or not foldable(m):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.culprit is None and not self.is_leaf_module(m, self.path_of_module(m)):
                self.culprit = m
            raise


def traced(network: nn.Module, calls: Sequence[Arguments] = ()) -> fx.GraphModule:
    """The graph of `network`: what torch.fx cannot follow within it is a step, called whole.

    Optional arguments stay at their defaults, which calls of the graph check, unless one of `calls`
    passes something else. Whatever the code of the network itself raises, is raised.
    """
    opaque: set[nn.Module] = set()
    while True:
        tracer = Tracer(opaque)
        try:
            graph = tracer.trace(network, concrete_args=_defaults(network, calls) or None)
        except Exception:
            if tracer.culprit is None:
                raise
            opaque.add(tracer.culprit)
            continue
        _restore_names(graph, network)
        for node in graph.nodes:  # layer(input=x) as layer(x): what folds reads positions
            if node.op == "call_module" and list(node.kwargs) == ["input"] and not node.args:
                node.args, node.kwargs = (node.kwargs["input"],), {}
        return fx.GraphModule(tracer.root, graph, type(network).__name__)


def arguments(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """The arguments of a call by position. Raises TypeError for code of any number of them."""
    signature = inspect.signature(network.forward)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in signature.parameters.values()):
        raise TypeError(f"{type(network).__name__} takes any number of arguments")
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return tuple(bound.arguments.values())


def _defaults(network: nn.Module, calls: Sequence[Arguments]) -> dict[str, Any]:
    """Optional arguments that no call passes, by name."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    return {
        p.name: p.default
        for i, p in enumerate(parameters)
        if p.default is not p.empty and all(call[i] is p.default for call in calls)
    }


def _restore_names(graph: fx.Graph, network: nn.Module) -> None:
    """torch.fx numbers the arguments it fixes; callers know them by their names."""
    names = list(inspect.signature(network.forward).parameters)
    places = [node for node in graph.nodes if node.op == "placeholder"]
    if len(places) == len(names):
        for node, name in zip(places, names, strict=True):
            if not str(node.target).startswith("*"):
                node.target = name
