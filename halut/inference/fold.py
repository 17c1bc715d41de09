"""Folding of batch norms, additions and ReLUs into layers of a traced network.

Every step has a name and can be left out; which value of the traced network a node of the folded
one answers is kept, so that each step can be verified by itself (halut.inference.verify).
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from halut.inference.merge import concat_layers, replace_uses, same_encoding
from halut.inference.table_layers import PackedConv2d, PackedLayer
from halut.sites.find import unsupported_reason

RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
RELU_METHODS = ("relu", "relu_")
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
ADDITIONS_IN_PLACE = (operator.iadd, "add_")
IN_PLACE = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow),
    operator.setitem,
)
NOTHING_AT_INFERENCE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
KINDS = ("norm", "relu", "merge", "addition")
"""Kinds of steps, in the order in which they are taken."""

Step = tuple[str, str]
"""Its kind, and the node of the traced graph that it changes."""
Shapes = Mapping[str, Sequence[tuple[torch.Size, torch.dtype]]]
"""Shape and dtype of the tensors of a traced graph, by node, of several calls."""


class Folding:
    """The folded form of a traced network, whose modules are not changed, as are no shared ones.

    network: the result. steps: by node of its graph, what was done to it. stands_for: by node, the
    node of the traced graph whose value it answers, if not its namesake's; None: nobody's.
    """

    def __init__(
        self,
        traced: fx.GraphModule,
        shapes: Shapes | None = None,
        omitted: Collection[Step] = (),
    ) -> None:
        """With shapes, an addition of a tensor of the same shape becomes part of a layer."""
        self.network = fx.GraphModule(traced, copy.deepcopy(traced.graph))
        self.graph = self.network.graph
        self.modules = dict(self.network.named_modules(remove_duplicate=False))
        self.omitted = omitted
        self.steps: dict[fx.Node, list[Step]] = {}
        self.stands_for: dict[fx.Node, str | None] = {}
        self.own: set[str] = set()
        self._bypass_what_does_nothing()
        self.uses = self._uses()
        for node in self._calls_of_one_user():
            self._fold_norm(node)
            self._fold_relu(node)
        self._merge()
        if shapes is not None:
            for node in self._calls_of_one_user():
                self._fold_addition(node, shapes)
        self.graph.lint()
        self.network = fx.GraphModule(self.network, self.graph, type(traced).__name__)

    # -- bookkeeping ------------------------------------------------------------------------

    def answers(self, node: fx.Node) -> str | None:
        """The node of the traced graph whose value this node's is."""
        return self.stands_for.get(node, node.name)

    def _take(self, node: fx.Node, *steps: Step) -> None:
        self.steps.setdefault(node, []).extend(steps)

    def _uses(self) -> Counter[int]:
        """How many nodes run or read a module, by identity."""
        uses: Counter[int] = Counter()
        for node in self.graph.nodes:
            if node.op == "call_module":
                uses.update({id(part) for part in self.modules[str(node.target)].modules()})
            elif node.op == "get_attr":
                owner = self.modules.get(str(node.target).rpartition(".")[0])
                uses[id(owner)] += 1
        return uses

    def _calls_of_one_user(self) -> list[fx.Node]:
        """Calls of modules that nothing else uses, and nobody listens to."""
        return [node for node in self.graph.nodes if self._alone(node)]

    def _alone(self, node: fx.Node) -> bool:
        if node.op != "call_module":
            return False
        module = self.modules[str(node.target)]
        return self.uses[id(module)] == 1 and not hooked(module)

    def _owned(self, node: fx.Node) -> nn.Module:
        """The node's module, as this network's own."""
        name = str(node.target)
        if name not in self.own:
            self._put(name, copy.deepcopy(self.modules[name]))
        return self.modules[name]

    def _put(self, name: str, module: nn.Module) -> None:
        self.network.set_submodule(name, module)
        self.modules[name] = module
        self.uses[id(module)] = 1
        self.own.add(name)

    def _bypass(self, node: fx.Node) -> None:
        """Take a node out of its graph."""
        node.replace_all_uses_with(node.all_input_nodes[0])
        self.graph.erase_node(node)

    def _become(self, node: fx.Node, user: fx.Node) -> None:
        """`node` answers what `user` did, which is gone then."""
        self.stands_for[node] = self.answers(user)
        self._take(node, *self.steps.pop(user, ()))
        self._bypass(user)

    # -- steps ------------------------------------------------------------------------------

    def _bypass_what_does_nothing(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "call_module" and len(node.all_input_nodes) == 1:
                module = self.modules[str(node.target)]
                if type(module) in NOTHING_AT_INFERENCE and not hooked(module):
                    self._bypass(node)

    def _fold_norm(self, node: fx.Node) -> None:
        """Make the batch norm after a convolution part of it."""
        step, user = ("norm", node.name), _only_user(node)
        if step in self.omitted or user is None or user.op != "call_module":
            return
        name, layer = str(node.target), self.modules[str(node.target)]
        norm = self.modules[str(user.target)]
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or hooked(norm):
            return
        activation = _activation(norm)
        if activation is None:
            return
        if isinstance(layer, PackedConv2d) and layer.low is None:
            owned = self._owned(node)
            assert isinstance(owned, PackedConv2d)
            owned.scale_and_shift(*_affine(norm))
        elif isinstance(layer, nn.Conv2d) and unsupported_reason(layer) is None:
            self._put(name, fuse_conv_bn_eval(layer, norm).requires_grad_(False))
        else:
            return
        act = norm.get_submodule(activation) if activation else None
        if act is None or (type(act) in NOTHING_AT_INFERENCE and not hooked(act)):
            self._take(node, step)
            self._become(node, user)
            return
        user.target = f"{user.target}.{activation}"
        self.modules[str(user.target)] = act
        self.stands_for[node] = None
        self._take(user, step)

    def _fold_relu(self, node: fx.Node) -> None:
        """Let a packed layer clamp its answers itself."""
        step, user = ("relu", node.name), _only_user(node)
        if not isinstance(self.modules[str(node.target)], PackedLayer) or step in self.omitted:
            return
        if user is not None and is_relu(user, self.modules):
            owned = self._owned(node)
            assert isinstance(owned, PackedLayer)
            owned.low = 0.0
            self._take(node, step)
            self._become(node, user)

    def _merge(self) -> None:
        """Join packed layers of one input and one encoder, see halut.inference.merge."""
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.op != "call_module" or node.kwargs or len(node.all_input_nodes) != 1:
                continue
            module = self.modules[str(node.target)]
            if ("merge", node.name) in self.omitted or not isinstance(module, PackedLayer):
                continue
            if not hooked(module):
                readers.setdefault(node.all_input_nodes[0], []).append(node)
        for nodes in readers.values():
            while nodes:
                first = self.modules[str(nodes[0].target)]
                like = [n for n in nodes if same_encoding(first, self.modules[str(n.target)])]
                if len(like) > 1:
                    self._join(like)
                nodes = [n for n in nodes if n not in like]

    def _join(self, nodes: list[fx.Node]) -> None:
        """One layer called where the first of them was, and a slice of its answer for each."""
        modules = (self.modules[str(node.target)] for node in nodes)
        layers = [module for module in modules if isinstance(module, PackedLayer)]
        whole = concat_layers(layers)
        names = [str(node.target) for node in nodes]
        parent = names[0].rpartition(".")[0]
        name = "_".join(name.rpartition(".")[2] for name in names)
        target = f"{parent}.{name}" if parent else name
        while target in self.modules:
            target += "_"
        self.network.add_submodule(target, whole)
        self._put(target, whole)
        axis = 1 if isinstance(whole, PackedConv2d) else -1
        start = 0
        with self.graph.inserting_before(nodes[0]):
            whole_output = self.graph.call_module(target, (nodes[0].all_input_nodes[0],))
        self.stands_for[whole_output] = None
        last = whole_output
        for node, layer in zip(nodes, layers, strict=True):
            with self.graph.inserting_after(last):
                last = self.graph.call_function(
                    torch.narrow, (whole_output, axis, start, layer.site.M)
                )
            part, start = last, start + layer.site.M
            self.stands_for[part] = self.answers(node)
            self._take(part, *self.steps.pop(node, ()), ("merge", node.name))
            replace_uses(node, part)

    def _fold_addition(self, node: fx.Node, shapes: Shapes) -> None:
        """Let a packed convolution add the other term of its sum, and do the ReLU after it."""
        step, layer = ("addition", node.name), self.modules[str(node.target)]
        if not isinstance(layer, PackedConv2d) or layer.low is not None or len(node.users) != 1:
            return
        user = next(iter(node.users))
        terms = user.all_input_nodes
        if step in self.omitted or not is_addition(user) or len(terms) != 2 or node.kwargs:
            return
        other = terms[0] if terms[1] is node else terms[1]
        ours, theirs = shapes.get(self.answers(node) or ""), shapes.get(self.answers(other) or "")
        if ours is None or ours != theirs or _overwritten_between(node, user, self.modules):
            return
        if user.target in ADDITIONS_IN_PLACE and user.args[0] is not node:
            return  # who reads the other term later reads the sum
        with self.graph.inserting_before(user):
            whole = self.graph.call_module(str(node.target), (node.args[0], other))
        self.stands_for[whole] = self.answers(user)
        self._take(whole, *self.steps.pop(node, ()), step)
        user.replace_all_uses_with(whole)
        self.graph.erase_node(user)
        self.graph.erase_node(node)
        reader = _only_user(whole)
        if reader is not None and is_relu(reader, self.modules):
            owned = self._owned(whole)
            assert isinstance(owned, PackedConv2d)
            owned.low = 0.0
            self._become(whole, reader)


def fold(network: fx.GraphModule) -> fx.GraphModule:
    """What of a traced network folds whatever the input, folded; `network` stays as it is."""
    return Folding(network).network


def hooked(module: nn.Module) -> bool:
    """Whether somebody listens to the module, or changes what it reads or answers."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one's answer, and reads nothing else."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    return user if user.all_input_nodes == [node] else None


def _activation(norm: nn.BatchNorm2d) -> str | None:
    """The child that acts on the norm's answer, "" if there is none; None if that is unknown."""
    if type(norm) is nn.BatchNorm2d:
        return ""
    # timm's, told by name: the core does without importing timm.
    if type(norm).__name__ == "BatchNormAct2d" and type(norm).__module__.startswith("timm."):
        return "act" if type(norm.drop) in NOTHING_AT_INFERENCE else None
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


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two values and does nothing else."""
    return node.op != "call_module" and node.target in ADDITIONS and not node.kwargs


def _overwritten_between(first: fx.Node, last: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a step between two nodes works in place: on what the first one reads, perhaps."""
    node = first.next
    while node is not last:
        if works_in_place(node, modules):
            return True
        node = node.next
    return False


def works_in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node changes what it reads, perhaps."""
    if node.op == "call_module":
        parts = modules[str(node.target)].modules()
        return any(getattr(part, "inplace", False) for part in parts)
    name = getattr(node.target, "__name__", str(node.target))
    in_place = node.op.startswith("call") and (name.endswith("_") or node.target in IN_PLACE)
    return in_place or bool(node.kwargs.get("inplace")) or "out" in node.kwargs


def is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node takes the larger of its input and zero."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return type(module) is nn.ReLU and not hooked(module)
    if node.op == "call_method":
        return node.target in RELU_METHODS
    return node.op == "call_function" and node.target in RELU_FUNCTIONS
