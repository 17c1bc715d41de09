"""Traceable regions of a network: all of it, or the largest modules torch.fx can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from halut.inference.base import InferenceLayer
from halut.inference.trace import Arguments, arguments, traced
from halut.inference.verify import answer_of, copied, same
from halut.sites.calls import Call
from halut.sites.modules import set_module
from halut.sites.operator import ReplacedLayer

Convert = Callable[[fx.GraphModule, Sequence[Arguments]], nn.Module]
"""What a graph becomes, verified on its calls."""
Pair = tuple[nn.Module, nn.Module]
"""A module, and what was made of it."""


@dataclass
class Region:
    """A module that torch.fx follows, its graph, and the arguments of its calls."""

    name: str
    module: nn.Module
    graph: fx.GraphModule
    calls: list[Arguments]


def faithful(network: nn.Module, calls: Sequence[Arguments]) -> tuple[fx.GraphModule | None, str]:
    """The graph of `network` if it answers all calls bit for bit as that does, else why not."""
    # Tracing runs the network's own code, on stand-ins: whatever that raises is the reason.
    try:
        graph = traced(network, calls)
        for call in calls:
            if not same(graph(*copied(call)), network(*copied(call))):
                return None, "it takes another path when traced"
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return graph, ""


def converted(
    network: nn.Module,
    batches: Sequence[Call],
    worthwhile: Callable[[nn.Module], bool],
    convert: Convert,
) -> tuple[nn.Module, int, str]:
    """(the network, the largest modules it has that torch.fx follows replaced by what `convert`
    makes of them, how many those are, and why the network is not one of them, if it is not).

    Changes `network`. A module stays as it is where the code around it wants more than its answers.
    """
    whole: list[Arguments] = []
    try:
        whole = [arguments(network, call.args, call.kwargs) for call in batches]
        graph, reason = faithful(network, whole)
    except TypeError as error:
        graph, reason = None, str(error)
    root = [] if graph is None else [Region("", network, graph, whole)]
    regions = list(root)
    if graph is None or holds_opaque(graph, worthwhile):
        calls = _calls(network, batches, worthwhile)
        for name, module in network.named_modules():
            if name not in calls or any(_within(name, region) for region in regions):
                continue
            graph, _ = faithful(module, calls[name])
            if graph is not None:
                regions.append(Region(name, module, graph, calls[name]))
    inner = regions[len(root) :]
    expected = [answer_of(network, call) for call in batches] if inner else []
    pairs: list[Pair] = []
    for region in reversed(inner):  # what lies within the opaque parts of another comes first
        replacement = convert(region.graph, region.calls)
        set_module(network, network.get_submodule(region.name), replacement)
        pairs.append((region.module, replacement))
    _keep_what_answers(network, batches, expected, pairs)
    if not root:
        return network, len(pairs), reason
    return convert(root[0].graph, whole), len(pairs) + 1, reason


def _keep_what_answers(
    network: nn.Module, batches: Sequence[Call], expected: Sequence[Any], pairs: list[Pair]
) -> None:
    """Put back what the code around it does not take, and strike it from `pairs`."""
    if _answers(network, batches, expected, pairs):
        return
    for module, replacement in pairs:
        set_module(network, replacement, module)
    for module, replacement in list(pairs):
        set_module(network, module, replacement)
        if not _answers(network, batches, expected, [(module, replacement)]):
            set_module(network, replacement, module)
            pairs.remove((module, replacement))


def holds_opaque(graph: fx.GraphModule, worthwhile: Callable[[nn.Module], bool]) -> bool:
    """Whether the graph calls modules whole that might be regions themselves, or hold some."""
    steps = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    modules = (graph.get_submodule(str(step)) for step in steps)
    return any(not _is_step(module) and worthwhile(module) for module in modules)


def _calls(
    network: nn.Module, batches: Sequence[Call], worthwhile: Callable[[nn.Module], bool]
) -> dict[str, list[Arguments]]:
    """The arguments of every call of the modules that might be regions, by name."""
    calls: dict[str, list[Arguments]] = {}
    failures: set[str] = set()

    def noting(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            try:
                calls.setdefault(name, []).append(copied(arguments(module, args, kwargs)))
            except TypeError:
                failures.add(name)

        return note

    handles = [
        module.register_forward_pre_hook(noting(name), with_kwargs=True)
        for name, module in network.named_modules()
        if name and not _is_step(module) and worthwhile(module)
    ]
    try:
        for call in batches:
            answer_of(network, call)
    finally:
        for handle in handles:
            handle.remove()
    return {name: inputs for name, inputs in calls.items() if name not in failures}


def _is_step(module: nn.Module) -> bool:
    """Whether a module's code is nothing to look into: of this library, or torch's own layer."""
    own = isinstance(module, InferenceLayer | ReplacedLayer | nn.BatchNorm2d)
    torchs = type(module).__module__.startswith("torch.nn") and type(module) is not nn.Sequential
    return own or torchs


def _within(name: str, region: Region) -> bool:
    """Whether a module is part of a region, and not of what that calls whole."""
    if region.name and not name.startswith(f"{region.name}."):
        return False
    inner = name.removeprefix(f"{region.name}.") if region.name else name
    steps = {str(node.target) for node in region.graph.graph.nodes if node.op == "call_module"}
    return not any(inner.startswith(f"{step}.") for step in steps)


def _answers(
    network: nn.Module,
    batches: Sequence[Call],
    expected: Sequence[Any],
    pairs: Sequence[Pair],
) -> bool:
    """Whether the code around regions does with them as with the modules they were made of.

    The regions' values are verified elsewhere: here each hands on what its module answers.
    """
    with _forced(pairs):
        try:
            pairs_of = zip(batches, expected, strict=True)
            return all(same(answer_of(network, call), y) for call, y in pairs_of)
        except Exception:
            return False


@contextmanager
def _forced(pairs: Sequence[Pair]) -> Iterator[None]:
    handles = []

    def force(module: nn.Module) -> tuple[Any, Any]:
        waiting: list[Any] = []

        def before(replacement: nn.Module, args: Any, kwargs: Any) -> None:
            waiting.append(copied((args, kwargs)))

        def after(replacement: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            args, kwargs = waiting.pop()
            expected = module(*args, **kwargs)
            return expected if same(output, expected, float("inf")) else output

        return before, after

    for module, replacement in pairs:
        before, after = force(module)
        handles.append(replacement.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(replacement.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
